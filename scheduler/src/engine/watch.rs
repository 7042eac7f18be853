//! Who watches which job, and what they see: always the newest, never a queue.
//!
//! A watcher gets one slot that the engine overwrites, so a slow reader costs one message and skips to the present; each
//! message includes everything up to its sequence, so skipping loses nothing. Ends are shown at once, other changes at
//! most every [`QUIET_NS`].

use std::collections::BTreeMap;
use std::sync::Arc;

use gangsaw_core::id::JobId;
use gangsaw_proto::jobs::v1 as wire;
use tokio::sync::watch;

/// Least time between two pictures of a job that has not ended: rendering must not cost more than deciding.
pub(super) const QUIET_NS: u64 = 20_000_000;

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
    dirty: bool,
    shown_ns: u64,
}

/// Every watched job.
#[derive(Debug, Default)]
pub(super) struct Watches {
    jobs: BTreeMap<JobId, Watched>,
    dirty: usize,
}

impl Watches {
    /// Watches a job whose present picture is `seen`.
    pub(super) fn subscribe(&mut self, job: JobId, seen: Seen) -> watch::Receiver<Arc<Seen>> {
        if let Some(watched) = self.jobs.get(&job).filter(|watched| watched.picture.receiver_count() > 0) {
            watched.picture.send_replace(Arc::new(seen));
            return watched.picture.subscribe();
        }
        let (picture, receiver) = watch::channel(Arc::new(seen));
        self.jobs.insert(job, Watched { picture, dirty: false, shown_ns: 0 });
        receiver
    }

    /// Returns how many jobs are watched.
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Notes that a job changed.
    pub(super) fn touch(&mut self, job: JobId) {
        if let Some(watched) = self.jobs.get_mut(&job).filter(|watched| !watched.dirty) {
            watched.dirty = true;
            self.dirty += 1;
        }
    }

    /// Says whether a change waits to be shown.
    pub(super) fn waiting(&self) -> bool {
        self.dirty > 0
    }

    /// Shows what changed and is due, and lets go of what nobody watches any more.
    pub(super) fn show(&mut self, now_ns: u64, ended: impl Fn(JobId) -> bool, render: impl Fn(JobId) -> Seen) {
        if self.dirty == 0 {
            return;
        }
        let mut left = 0;
        self.jobs.retain(|job, watched| {
            if watched.picture.receiver_count() == 0 {
                return false;
            }
            if watched.dirty && (now_ns.saturating_sub(watched.shown_ns) >= QUIET_NS || ended(*job)) {
                watched.dirty = false;
                watched.shown_ns = now_ns;
                watched.picture.send_replace(Arc::new(render(*job)));
            }
            left += usize::from(watched.dirty);
            true
        });
        self.dirty = left;
    }
}
