//! Dense indices that `apply` maintains, so that a placement round costs what changed.
//!
//! - `lines`: jobs that may start something now, by queue and shape, in order. A shape is what decides where a job fits:
//!   jobs of one shape are refused together.
//! - `free`: nodes that take work, by what is free.
//! - `wakes`: when jobs become startable by time alone.
//! - `changes`: what happened since the last round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::id::{Index, JobId, LeaseId, NodeId};
use crate::queue::{QueueKey, Usage};
use crate::resources::Demand;
use crate::time::Time;

/// What decides where a job fits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub(crate) demands: Vec<Demand>,
    pub(crate) replicas: u32,
    pub(crate) excluded: Vec<NodeId>,
}

/// Jobs of one queue and one shape.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Line {
    pub(crate) queue: QueueKey,
    pub(crate) shape: Arc<Shape>,
}

/// A job's place: less is earlier. Priority ages: each minute of waiting is worth one point, for everybody alike, so
/// the order between two jobs never changes and need not be computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) key: i64,
    pub(crate) job: JobId,
}

/// What the indices hold for one job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) line: Option<(Line, Place)>,
    pub(crate) wake: Option<Time>,
    pub(crate) usage: Usage,
    pub(crate) queue: Option<QueueKey>,
}

/// What happened since the last round.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Something may fit now that did not before: look at every line.
    pub(crate) relaxed: bool,
    /// Lines that got a job.
    pub(crate) lines: BTreeSet<Line>,
}

/// The indices.
#[derive(Clone, Debug, Default)]
pub(crate) struct Indexed {
    pub(crate) lines: BTreeMap<Line, BTreeSet<Place>>,
    pub(crate) free: BTreeMap<u32, BTreeSet<(u64, u64, NodeId)>>,
    pub(crate) wakes: BTreeSet<(Time, JobId)>,
    pub(crate) changes: Changes,
    pub(crate) dependents: BTreeMap<JobId, BTreeSet<JobId>>,
    pub(crate) doomed: BTreeSet<JobId>,
    pub(crate) preparing: BTreeSet<(Time, JobId, Index)>,
    pub(crate) silent: BTreeSet<NodeId>,
    pub(crate) ended: BTreeSet<(Time, JobId)>,
    pub(crate) keys: BTreeSet<(Time, crate::id::Tenant, crate::id::IdempotencyKey)>,
    pub(crate) chunks: BTreeMap<NodeId, BTreeSet<LeaseId>>,
}
