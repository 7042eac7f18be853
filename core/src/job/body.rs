//! A job in the state: its durable body, and what is derived from it.
//!
//! Every element is in exactly one place: `pending`, a record, an ended range, or (first attempt of an array's element)
//! only in the lease that holds it. A queued array of a million is one range, and a finished one almost so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::id::{Actor, Index, JobId, LeaseId, NodeId, QueueName, RequestId, Tenant};
use crate::job::notice::Notice;
use crate::job::record::{ElementRecord, EndState, EndedRange};
use crate::job::spec::{DependencyKind, JobSpec};
use crate::ranges::RangeSet;
use crate::rare::Rare;
use crate::state::index::{Entry, Shape};
use crate::time::{Millis, Time};

/// The durable part of a job; a snapshot holds it as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobBody {
    /// Its number.
    pub id: JobId,
    /// Who pays.
    pub tenant: Tenant,
    /// Who submitted it.
    pub actor: Actor,
    /// The submit it came with.
    pub request_id: RequestId,
    /// The submitting person's operating system user.
    pub user: Arc<str>,
    /// As submitted.
    pub spec: Arc<JobSpec>,
    /// Its line now.
    pub queue: QueueName,
    /// Its priority now.
    pub priority: i32,
    /// Its time limit now, for attempts that have not been leased.
    pub time_limit: Option<Millis>,
    /// Kept from starting by its owner.
    pub held: bool,
    /// Its dependencies, resolved.
    pub after: Rare<Vec<After>>,
    /// When it was stored.
    pub submitted_at: Time,
    /// First exec of any task.
    pub started_at: Option<Time>,
    /// When the last element ended; absent again after a retry.
    pub ended_at: Option<Time>,
    /// Elements that were never leased.
    pub pending: RangeSet,
    /// Elements that deviate.
    pub records: Rare<BTreeMap<Index, ElementRecord>>,
    /// Elements that ended like their neighbours, by first index.
    pub ended: Rare<BTreeMap<Index, EndedRange>>,
    /// Elements a slot gets with the next chunk.
    pub chunk: u32,
    /// Nodes this job is kept from.
    pub excluded: Rare<BTreeMap<NodeId, Excluded>>,
    /// Latest starts that failed through a node's fault.
    pub infra_starts: Rare<BTreeMap<NodeId, Vec<Time>>>,
    /// Further attempts begun after the first, all elements together.
    pub retries: u64,
    /// What its newest placed element got, and why.
    pub device: Option<Box<DeviceChoice>>,
    /// The highest exit code among ended elements.
    pub exit_code: Option<i32>,
    /// Why elements were cancelled, the latest cause.
    pub cancelled: Option<CancelCause>,
    /// How far the notice of its end is. Boxed, for most jobs have none.
    pub notice: Option<Box<Notice>>,
}

/// A resolved dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// What the other job must have come to.
    pub kind: DependencyKind,
    /// The other job.
    pub job: JobId,
    /// Where that stands. Once met it stays met, whatever happens to the other job later.
    pub standing: Standing,
}

/// Where a dependency stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The other job has not ended.
    Open,
    /// It came to what was asked.
    Met,
    /// It cannot be met any more: the job is cancelled in the next round.
    Failed,
}

/// Why elements were cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelCause {
    /// Somebody asked.
    Asked,
    /// A dependency cannot be met.
    DependencyFailed {
        /// The job it was on.
        on: JobId,
    },
}

/// Why a job is kept from a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excluded {
    /// It may be tried again then.
    pub until: Time,
    /// What the node said last.
    pub reason: String,
}

/// The device an element got.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeviceChoice {
    /// True: GPU. False: CPU.
    pub gpu: bool,
    /// Why.
    pub code: DeviceCode,
    /// One sentence for people.
    pub detail: String,
}

/// Why a job with alternatives got the device it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceCode {
    /// `only-choice`.
    OnlyChoice,
    /// `default-rule`: GPU if one is free now, else CPU.
    DefaultRule,
}

/// A job with what is derived from its body, its leases and its place in the line.
#[derive(Clone, Debug)]
pub struct Job {
    /// The durable part.
    pub body: JobBody,
    /// Leases of its elements, fenced ones not among them.
    pub leases: Rare<BTreeSet<LeaseId>>,
    /// Elements that wait for their back-off, by its end.
    pub(crate) waiting: Rare<BTreeSet<(Time, Index)>>,
    /// Elements under a lease.
    pub active: u64,
    /// Elements that run at once under its leases.
    pub(crate) running: u64,
    /// GPUs its leases hold.
    pub(crate) gpus: u64,
    /// Ended elements by state.
    pub ended_counts: Rare<BTreeMap<EndState, u64>>,
    /// What decides where it fits.
    pub(crate) shape: Arc<Shape>,
    /// What the indices hold for it.
    pub(crate) entry: Entry,
}
