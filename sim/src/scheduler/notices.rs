//! The scheduler's notifier: tells of ends that are due, one try at a time for each job, and loses all of it in a crash.
//!
//! Who is told answers when it likes and as it likes. What came of a try is an input like any other, so it may come too
//! late: after a crash the try is made again, after a retry of the job it counts for nothing.

use gangsaw_core::id::JobId;
use gangsaw_core::input::Input;
use gangsaw_core::job::notice::Posted;
use gangsaw_core::time::Time;

use super::{Asker, Scheduler};
use crate::world::{Happening, World};

impl Scheduler {
    /// When the next notice may be sent that is not being sent.
    pub(super) fn next_notice(&self) -> Option<Time> {
        self.state.notices().find(|(_, job)| !self.posting.contains_key(job)).map(|(due, _)| due)
    }
}

impl World {
    /// Begins a try for each notice that is due.
    pub(super) fn tell_ends(&mut self) {
        let now = self.now;
        let Some(scheduler) = &mut self.scheduler else { return };
        let clock = scheduler.clock(now);
        let due = scheduler.state.notices().take_while(|(due, _)| *due <= clock).map(|(_, job)| job);
        let due: Vec<JobId> = due.filter(|job| !scheduler.posting.contains_key(job)).collect();
        for job in due {
            let Some(ended_at) = scheduler.state.job(job).and_then(|job| job.body.ended_at) else { continue };
            scheduler.posting.insert(job, ended_at);
            let wait = self.rng.range(1, 3_000);
            let posted = Happening::Posted { scheduler: scheduler.start, job, ended_at };
            self.queue.add(now + wait, posted);
        }
    }

    /// A try came to something.
    pub(crate) fn on_posted(&mut self, start: u64, job: JobId, ended_at: Time) {
        let roll = self.rng.below(100);
        let Some(scheduler) = &mut self.scheduler else { return };
        if scheduler.start != start {
            return;
        }
        scheduler.posting.remove(&job);
        let posted = match roll {
            0..=39 => Posted::Taken,
            _ => Posted::Failed { again: roll < 90, why: String::from("nobody listens") },
        };
        self.ask(Asker::Engine, "scheduler", None, Input::Notice { job, ended_at, posted });
    }
}
