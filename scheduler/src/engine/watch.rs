//! Who watches which job, and what they see: always the newest, never a queue.
//!
//! A watcher gets one slot that the engine overwrites, so a slow reader costs one message and skips to the present; each
//! message includes everything up to its sequence, so skipping loses nothing. Ends are shown at once, other changes at
//! most fifty times a second, and mere progress ten times.

use std::collections::BTreeMap;
use std::sync::Arc;

use gangsaw_core::id::JobId;
use gangsaw_proto::jobs::v1 as wire;
use tokio::sync::watch;

/// Least time between two pictures of a job that has not ended: rendering must not cost more than deciding.
const QUIET_NS: u64 = 20_000_000;
/// Least time between a picture and the next that shows only progress.
const PROGRESS_QUIET_NS: u64 = 100_000_000;

/// A picture of a job.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Sequence of the last event it includes.
    pub(crate) seq: u64,
    /// The job; absent once it was forgotten.
    pub(crate) job: Option<wire::Job>,
    /// Tasks that said something of themselves.
    pub(crate) tasks: Vec<wire::Task>,
    /// Nothing follows.
    pub(crate) ended: bool,
}

#[derive(Debug)]
struct Watched {
    picture: watch::Sender<Arc<Seen>>,
    /// BOOTTIME in ns when the next picture is due; absent if nothing changed.
    due_ns: Option<u64>,
    shown_ns: u64,
}

/// Every watched job.
#[derive(Debug, Default)]
pub(super) struct Watches {
    jobs: BTreeMap<JobId, Watched>,
    /// The earliest due picture.
    due_ns: Option<u64>,
}

impl Watches {
    /// Watches a job whose present picture is `seen`.
    pub(super) fn subscribe(&mut self, job: JobId, seen: Seen) -> watch::Receiver<Arc<Seen>> {
        if let Some(watched) = self.jobs.get(&job).filter(|watched| watched.picture.receiver_count() > 0) {
            watched.picture.send_replace(Arc::new(seen));
            return watched.picture.subscribe();
        }
        let (picture, receiver) = watch::channel(Arc::new(seen));
        self.jobs.insert(job, Watched { picture, due_ns: None, shown_ns: 0 });
        receiver
    }

    /// Returns how many jobs are watched.
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Notes that a job changed.
    pub(super) fn touch(&mut self, job: JobId) {
        self.due(job, QUIET_NS);
    }

    /// Notes that a job's tasks said something of themselves.
    pub(super) fn touch_progress(&mut self, job: JobId) {
        self.due(job, PROGRESS_QUIET_NS);
    }

    fn due(&mut self, job: JobId, quiet_ns: u64) {
        let Some(watched) = self.jobs.get_mut(&job) else { return };
        let due = watched.shown_ns + quiet_ns;
        watched.due_ns = Some(watched.due_ns.map_or(due, |earlier| earlier.min(due)));
        self.due_ns = Some(self.due_ns.map_or(due, |earlier| earlier.min(due)));
    }

    /// Returns when the next picture is due.
    pub(super) fn next_due_ns(&self) -> Option<u64> {
        self.due_ns
    }

    /// Shows what changed and is due, and lets go of what nobody watches any more.
    pub(super) fn show(&mut self, now_ns: u64, ended: impl Fn(JobId) -> bool, render: impl Fn(JobId) -> Seen) {
        if self.due_ns.is_none() {
            return;
        }
        let mut next: Option<u64> = None;
        self.jobs.retain(|job, watched| {
            if watched.picture.receiver_count() == 0 {
                return false;
            }
            let Some(due) = watched.due_ns else { return true };
            if due <= now_ns || ended(*job) {
                watched.due_ns = None;
                watched.shown_ns = now_ns;
                watched.picture.send_replace(Arc::new(render(*job)));
            } else {
                next = Some(next.map_or(due, |earlier| earlier.min(due)));
            }
            true
        });
        self.due_ns = next;
    }
}
