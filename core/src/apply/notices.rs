//! Notices of jobs' ends: owed from the end on, until sent or given up.

use crate::event::NoticeChange;
use crate::id::JobId;
use crate::job::notice::{Notice, NoticeStanding};
use crate::state::State;
use crate::time::Time;

impl State {
    /// Notes how far a job's notice is; `None`: it owes none.
    pub(super) fn set_notice(&mut self, id: JobId, notice: Option<Notice>) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        if let Some(NoticeStanding::Owed { not_before }) = job.body.notice.as_deref().map(|notice| notice.standing) {
            self.index.notices.remove(&(not_before, id));
        }
        if let Some(NoticeStanding::Owed { not_before }) = notice.as_ref().map(|notice| notice.standing) {
            self.index.notices.insert((not_before, id));
            self.index.notices_made += 1;
        }
        job.body.notice = notice.map(Box::new);
    }

    /// Notes that a job's end is to be told from now on, if anybody is to be told.
    pub(super) fn owe_notice(&mut self, at: Time, id: JobId) {
        if self.jobs.get(&id).is_some_and(|job| job.body.spec.notify.is_some()) {
            let standing = NoticeStanding::Owed { not_before: at };
            self.set_notice(id, Some(Notice { tries: 0, standing, why: String::new() }));
        }
    }

    pub(super) fn notice_changed(&mut self, id: JobId, tries: u32, change: &NoticeChange) {
        let (standing, why) = match change {
            NoticeChange::Sent => (NoticeStanding::Sent, None),
            NoticeChange::Failed { not_before, why } => {
                (NoticeStanding::Owed { not_before: *not_before }, Some(why.as_str()))
            }
            NoticeChange::GivenUp { why } => (NoticeStanding::GivenUp, Some(why.as_str())),
        };
        let before = self.jobs.get(&id).and_then(|job| job.body.notice.as_deref()).map(|notice| notice.why.clone());
        let why = why.map(str::to_owned).or(before).unwrap_or_default();
        self.set_notice(id, Some(Notice { tries, standing, why }));
    }

    /// Yields the jobs whose end is still to be told, by when they may be told of.
    pub fn notices(&self) -> impl Iterator<Item = (Time, JobId)> {
        self.index.notices.iter().copied()
    }

    /// Returns how often a notice became owed, or owed again, since this process began: when it has changed, whoever
    /// tells of ends has something new to look at.
    pub fn notices_made(&self) -> u64 {
        self.index.notices_made
    }
}
