//! What a try to tell of a job's end came to.
//!
//! A result counts only for the end it was about: a job that was retried since owes the notice of its next end.

use super::Decider;
use crate::effect::{Reply, Step};
use crate::event::{Event, NoticeChange};
use crate::id::JobId;
use crate::job::notice::{NOTICE_TRIES_MAX, NOTICE_WHY_MAX, NoticeStanding, Posted, wait_after};
use crate::time::Time;

impl Decider<'_> {
    pub(super) fn notice(&self, id: JobId, ended_at: Time, posted: &Posted) -> Step {
        let mut step = self.answer(Reply::Done);
        let job = self.state.jobs.get(&id).filter(|job| job.body.ended_at == Some(ended_at));
        let notice = job.and_then(|job| job.body.notice.as_deref());
        let Some(notice) = notice.filter(|notice| matches!(notice.standing, NoticeStanding::Owed { .. })) else {
            return step;
        };
        let tries = notice.tries + 1;
        let change = match posted {
            Posted::Taken => NoticeChange::Sent,
            Posted::Failed { again: true, why } if tries < NOTICE_TRIES_MAX => {
                NoticeChange::Failed { not_before: self.now + wait_after(tries), why: short(why) }
            }
            Posted::Failed { why, .. } => NoticeChange::GivenUp { why: short(why) },
        };
        step.events.push(Event::Notice { job: id, tries, change });
        step
    }
}

fn short(why: &str) -> String {
    why.chars().take(NOTICE_WHY_MAX).collect()
}
