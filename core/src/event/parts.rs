//! What events carry, and which jobs an event is about.

use std::sync::Arc;

use crate::event::Event;
use crate::id::{Actor, IdempotencyKey, JobId, LeaseId, NodeId, RequestId, Tenant, TokenId};
use crate::job::body::{After, JobBody};
use crate::job::spec::JobSpec;
use crate::lease::{Gang, Lease, RankHold};
use crate::node::NodeBody;
use crate::queue::{Limits, QueueKey};
use crate::time::Time;
use crate::token::{ApiToken, Tokens};

/// Who asked for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// Who.
    pub actor: Actor,
    /// With which request.
    pub request_id: RequestId,
}

impl Event {
    /// Returns the jobs an event is about, for those who watch them.
    pub fn jobs(&self) -> Vec<JobId> {
        match self {
            Event::JobsSubmitted { jobs, .. } => jobs.iter().map(|job| job.id).collect(),
            Event::JobCancelled { job, .. }
            | Event::JobHeld { job, .. }
            | Event::JobReleased { job, .. }
            | Event::ElementsRetried { job, .. }
            | Event::JobUpdated { job, .. }
            | Event::JobForgotten { job }
            | Event::ChunkLeased { job, .. }
            | Event::GangLeased { job, .. }
            | Event::LeasePrepared { job, .. }
            | Event::GangStarted { job, .. }
            | Event::TaskStarted { job, .. }
            | Event::ElementsSucceeded { job, .. }
            | Event::RankEnded { job, .. }
            | Event::GangStopping { job, .. }
            | Event::AttemptEnded { job, .. }
            | Event::ElementsReturned { job, .. }
            | Event::LeaseTrimmed { job, .. }
            | Event::LeasePreempted { job, .. }
            | Event::LeaseFenced { job, .. }
            | Event::FenceConfirmed { job, .. }
            | Event::NodeExcluded { job, .. } => vec![*job],
            Event::KeysExpired { .. }
            | Event::NodeRegistered { .. }
            | Event::NodeReturned { .. }
            | Event::NodeInventoryChanged { .. }
            | Event::NodeSilenced { .. }
            | Event::NodeModeSet { .. }
            | Event::NodeEvicted { .. }
            | Event::NodeClearing { .. }
            | Event::NodeForgotten { .. }
            | Event::QueueSet { .. }
            | Event::TenantSet { .. }
            | Event::RoundDecided { .. }
            | Event::ReportTaken { .. }
            | Event::Token(_)
            | Event::Restored(_) => Vec::new(),
        }
    }
}

/// A job as it is stored at submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJob {
    /// Its number.
    pub id: JobId,
    /// As submitted.
    pub spec: Arc<JobSpec>,
    /// Its dependencies, resolved, as they stand.
    pub after: Vec<After>,
}

/// A node's part of a gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GangPart {
    /// The lease's number.
    pub lease: LeaseId,
    /// Where.
    pub node: NodeId,
    /// Its ranks, ascending.
    pub ranks: Vec<RankHold>,
}

/// An API token came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenEvent {
    /// It was made.
    Created {
        /// Who asked.
        by: By,
        /// The token, without its secret.
        token: Box<ApiToken>,
    },
    /// It admits nobody any more.
    Revoked {
        /// Who asked.
        by: By,
        /// Which.
        token: TokenId,
    },
    /// Those that expire up to a time are gone.
    Expired {
        /// At or before.
        until: Time,
    },
}

/// A part of a snapshot: durable structures as they are, counters last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// A queue with limits.
    Queue {
        /// Which.
        queue: QueueKey,
        /// Its limits.
        limits: Limits,
    },
    /// A tenant with its limits across its queues.
    Tenant {
        /// Which.
        tenant: Tenant,
        /// Its limits.
        limits: Limits,
    },
    /// A node.
    Node(Box<NodeBody>),
    /// A job.
    Job(Box<JobBody>),
    /// A gang; its leases follow.
    Gang(Box<Gang>),
    /// A lease.
    Lease(Box<Lease>),
    /// A used idempotency key.
    Key {
        /// Whose.
        tenant: Tenant,
        /// Which.
        key: IdempotencyKey,
        /// When it was used.
        used_at: Time,
        /// Digest of the specs.
        digest: u64,
        /// The jobs it made.
        jobs: Vec<JobId>,
    },
    /// Every API token, and the next one's number.
    Tokens(Box<Tokens>),
    /// What the next ids are.
    Counters {
        /// Next job.
        job: u64,
        /// Next lease.
        lease: u64,
        /// Next node.
        node: u32,
        /// Rounds so far.
        round: u64,
    },
}
