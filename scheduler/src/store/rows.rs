//! The rows that people and history queries read: jobs, attempts, nodes and usage, in words and numbers.
//!
//! Rows are projected from the events of a batch (`project`) and become durable with it, so whoever opens the database
//! sees the cluster as it was at one moment. They are the same in every kind of store, so that one can be made of the
//! other; a store says how each is written. Columns are for reading: states are words, times are wall times in ms since
//! 1970, absent is null.
//!
//! Invariants: the log is the truth, so a row that is lost or changed by hand decides nothing and can be written again;
//! a batch writes each job, attempt and node once at most; elements that ended well in their first attempt have no row
//! of their own.

use std::borrow::Cow;
use std::sync::Arc;

use gangsaw_core::id::{JobName, NodeName, QueueName, Tenant};

/// Returns a number as every kind of store can hold it: what a node claims beyond the largest signed one is that.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns a text as every kind of store can hold it: with every character but one.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// One change of what people read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Row {
    /// A job as it is now. Replaces the row with the same number.
    Job(Box<JobRow>),
    /// A job that left the state, whole. Replaces the row with the same number.
    OldJob(OldJobRow),
    /// Tasks of such a job that look alike, of one rank.
    OldTasks { job_id: u64, first: u32, last: u32, rank: u32, task: Vec<u8> },
    /// An attempt that runs, or that deviates. Replaces the row with the same key.
    Attempt(Box<AttemptRow>),
    /// An attempt that ended well at once, or never began: it has no row.
    AttemptGone { job_id: u64, element: u32, attempt: u32 },
    /// A node as it is now. Replaces the row with the same number.
    Node(Box<NodeRow>),
    /// A node that was removed.
    NodeGone { node_id: u32 },
    /// What was used since the batch before. Adds to the row with the same key.
    Usage(UsageRow),
}

/// A job, live or forgotten.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JobRow {
    pub(crate) job_id: u64,
    pub(crate) tenant: Tenant,
    pub(crate) queue: QueueName,
    pub(crate) user: String,
    pub(crate) name: JobName,
    pub(crate) priority: i32,
    /// As `gangsaw ps` prints it.
    pub(crate) state: &'static str,
    pub(crate) elements: u64,
    /// Elements that wait or are held.
    pub(crate) waiting: u64,
    /// Elements that are starting, running or stopping.
    pub(crate) active: u64,
    /// Elements that ended as COMPLETED, FAILED, CANCELLED, TIMEOUT, OUT_OF_MEMORY and NODE_FAIL.
    pub(crate) ended: [u64; 6],
    pub(crate) retries: u64,
    pub(crate) exit_code: Option<i32>,
    /// `cpu` or `gpu`; absent before the first placement.
    pub(crate) device: Option<&'static str>,
    pub(crate) submitted_wall_ms: u64,
    pub(crate) started_wall_ms: Option<u64>,
    pub(crate) ended_wall_ms: Option<u64>,
    /// When the scheduler let it go from memory.
    pub(crate) forgotten_wall_ms: Option<u64>,
}

/// A job as history answers for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OldJobRow {
    pub(crate) job_id: u64,
    /// A `gangsaw.jobs.v1.Job`.
    pub(crate) job: Vec<u8>,
    /// A `gangsaw.jobs.v1.JobSpec`.
    pub(crate) spec: Vec<u8>,
}

/// One try at an element.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttemptRow {
    pub(crate) job_id: u64,
    pub(crate) element: u32,
    pub(crate) attempt: u32,
    /// STARTING, RUNNING, COMPLETING or ENDED.
    pub(crate) state: &'static str,
    /// How it ended.
    pub(crate) outcome: Option<&'static str>,
    /// The node of its first task.
    pub(crate) node: Option<NodeName>,
    /// Nodes it is on.
    pub(crate) nodes: u32,
    /// GPUs it holds or held.
    pub(crate) gpus: u32,
    /// Process id of its first task.
    pub(crate) pid: Option<u32>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// One sentence for people.
    pub(crate) detail: String,
    pub(crate) leased_wall_ms: u64,
    pub(crate) started_wall_ms: Option<u64>,
    pub(crate) ended_wall_ms: Option<u64>,
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeRow {
    pub(crate) node_id: u32,
    pub(crate) name: NodeName,
    /// `active`, `cordoned` or `draining`.
    pub(crate) mode: &'static str,
    pub(crate) reason: String,
    /// Since when it is silent; absent while it is heard.
    pub(crate) silent_wall_ms: Option<u64>,
    pub(crate) milli_cpus: u64,
    pub(crate) milli_cpus_free: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) memory_bytes_free: u64,
    /// Devices it owns, those that are withheld among them.
    pub(crate) gpus: u32,
    pub(crate) gpus_free: u32,
    pub(crate) leases: u32,
    pub(crate) agent_version: String,
}

/// What one person used of one queue on one day (UTC). Time counts from the lease to its end, for what was held.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct UsageRow {
    pub(crate) tenant: Tenant,
    pub(crate) queue: QueueName,
    pub(crate) user: String,
    /// `2026-11-23`.
    pub(crate) day: Arc<str>,
    /// Core-milliseconds held.
    pub(crate) cpu_ms: u64,
    /// GPU-milliseconds held.
    pub(crate) gpu_ms: u64,
    /// Attempts that ended well.
    pub(crate) attempts_ok: u64,
    /// Attempts that ended in any other way.
    pub(crate) attempts_lost: u64,
}
