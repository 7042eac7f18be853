//! Notices of ends: tries are counted one by one, and end with the first that came to something.

use super::{Check, History};
use crate::check::ensure;
use crate::event::NoticeChange;
use crate::id::JobId;
use crate::job::notice::NOTICE_TRIES_MAX;

/// How far the notice of a job's end is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NoticeTrack {
    tries: u32,
    settled: bool,
}

impl History {
    /// A try counts once. A job that is forgotten first gives up without one.
    pub(super) fn noticed(&mut self, job: JobId, tries: u32, change: &NoticeChange) -> Check {
        let owes = self.jobs.get(&job).is_some_and(|track| track.tells && track.open == 0);
        let notice = self.notices.entry(job).or_default();
        let before = *notice;
        let (settled, without) = match change {
            NoticeChange::Sent => (true, false),
            NoticeChange::Failed { .. } => (false, false),
            NoticeChange::GivenUp { .. } => (true, before.tries == tries),
        };
        *notice = NoticeTrack { tries, settled };
        let next = without || before.tries + 1 == tries;
        let counts = owes && !before.settled && next && tries <= NOTICE_TRIES_MAX;
        ensure(counts, || format!("job {job}: try {tries} of its notice follows {before:?}"))
    }
}
