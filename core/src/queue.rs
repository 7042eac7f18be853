//! Queues: ordered lines of one tenant's jobs, with limits.
//!
//! A queue exists from its first use or from `SetQueue`, without limits at first. Use is derived from the jobs.

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

/// A queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// What it may use.
    pub limits: Limits,
    /// What it uses.
    pub usage: Usage,
}
