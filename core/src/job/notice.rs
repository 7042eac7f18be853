//! Telling somebody outside that a job has ended: what is owed, and how far that is.
//!
//! A job with `notify` owes one notice from the moment its last element ends. Delivery is at least once: what came of a
//! try counts when its event is durable, so a crash between the two repeats the try, under the same number. Tries are
//! few and far apart; after the last one the notice is given up, which is on record.
//!
//! Elsewhere: when the debt begins is `apply::ends`, what follows a try is `decide::notice`; the scheduler's `notify`
//! does the talking.

use crate::time::{Millis, Time};

/// Tries of one notice.
pub const NOTICE_TRIES_MAX: u32 = 5;

/// Waits between two tries: a restart of the other side, a short outage, a longer one.
const WAITS: [Millis; 4] = [Millis::seconds(1), Millis::seconds(10), Millis::minutes(1), Millis::minutes(10)];

/// Characters of what a try came to.
pub const NOTICE_WHY_MAX: usize = 256;

/// How far the notice of a job's end is. A job that did not end, or tells nobody, has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Tries so far.
    pub tries: u32,
    /// Whether there is another.
    pub standing: NoticeStanding,
    /// What the last failed try came to. Empty: none failed.
    pub why: String,
}

/// Whether a notice is still owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeStanding {
    /// It is, and the next try is not before a time.
    Owed {
        /// Then.
        not_before: Time,
    },
    /// The other side took it.
    Sent,
    /// Nobody tries any more.
    GivenUp,
}

/// What a try came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Posted {
    /// The other side took it.
    Taken,
    /// It did not.
    Failed {
        /// Another try may come to something else.
        again: bool,
        /// For people.
        why: String,
    },
}

/// Returns the wait after so many failed tries.
pub(crate) fn wait_after(tries: u32) -> Millis {
    let at = usize::try_from(tries).unwrap_or(usize::MAX).saturating_sub(1);
    WAITS[at.min(WAITS.len() - 1)]
}
