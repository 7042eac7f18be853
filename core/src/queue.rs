//! Queues: ordered lines of one tenant's jobs, with limits.
//!
//! A queue exists from its first use or from `SetQueue`, without limits at first. Use is derived from the jobs. A tenant
//! has limits of its own across all of its queues, and both must hold.

use crate::id::{QueueName, Tenant};

/// A queue's name in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueKey {
    /// Who pays.
    pub tenant: Tenant,
    /// Its name among the tenant's queues.
    pub name: QueueName,
}

/// What a queue may use at most. Absent: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Elements that may be leased.
    pub running_max: Option<u64>,
    /// Elements that may wait.
    pub queued_max: Option<u64>,
    /// GPUs that may be held.
    pub gpus_max: Option<u64>,
}

/// What a queue, or a job, uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Elements that are leased.
    pub running: u64,
    /// Elements that wait, held ones among them.
    pub queued: u64,
    /// GPUs that are held.
    pub gpus: u64,
}

impl Usage {
    pub(crate) fn grow(&mut self, more: Usage) {
        self.running += more.running;
        self.queued += more.queued;
        self.gpus += more.gpus;
    }

    pub(crate) fn shrink(&mut self, less: Usage) {
        self.running -= less.running;
        self.queued -= less.queued;
        self.gpus -= less.gpus;
    }
}

/// A queue, or all queues of a tenant together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// What it may use.
    pub limits: Limits,
    /// What it uses.
    pub usage: Usage,
}

impl Queue {
    /// Returns how many more elements that hold `gpus` each may run beside what runs and `more`.
    pub(crate) fn room(&self, more: Usage, gpus: u64) -> u64 {
        let running = self.usage.running + more.running;
        let by_running = self.limits.running_max.map_or(u64::MAX, |max| max.saturating_sub(running));
        let by_gpus = self.limits.gpus_max.filter(|_| gpus > 0);
        let by_gpus = by_gpus.map_or(u64::MAX, |max| max.saturating_sub(self.usage.gpus + more.gpus) / gpus);
        by_running.min(by_gpus)
    }
}
