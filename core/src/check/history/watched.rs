//! What one watcher of a job saw, over all of its connections.

use super::Check;
use crate::check::ensure;

/// The pictures of a job, in the order they came. Nobody retries the job meanwhile.
///
/// A picture includes every event up to its sequence, so pictures may be skipped; what must never be is one that is
/// older than another before it, one after the last, or a job of which fewer elements have ended than before. Only a
/// connection that goes on after a broken one may say the last picture once more: nobody knows whether it had arrived.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watched {
    seq: u64,
    ended: u64,
    over: bool,
    resumed: bool,
}

impl Watched {
    /// Returns the sequence to go on after.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Says whether the job's end was seen.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// A connection begins, after [`Watched::seq`].
    pub fn resumes(&mut self) {
        self.resumed = true;
    }

    /// Takes the next picture: of `all` elements, `ended` have.
    ///
    /// # Errors
    /// It cannot follow the one before.
    pub fn saw(&mut self, seq: u64, ended: u64, all: u64) -> Check {
        let before = *self;
        *self = Watched { seq, ended, over: ended == all, resumed: false };
        let again = before.resumed && ended == before.ended && ended == all;
        let follows = seq >= before.seq && ended >= before.ended && (!before.over || again) && ended <= all;
        ensure(follows, || format!("a watcher saw event {seq} with {ended} of {all} ended after {before:?}"))
    }
}
