//! What events carry, and which jobs an event is about.

use std::sync::Arc;

use crate::event::Event;
use crate::id::{Actor, Attempt, IdempotencyKey, JobId, LeaseId, NodeId, RequestId, Tenant, TokenId};
use crate::job::body::{After, JobBody};
use crate::job::spec::JobSpec;
use crate::join::JoinRestored;
use crate::lease::{Gang, Lease, RankHold};
use crate::node::NodeBody;
use crate::queue::{Limits, QueueKey};
use crate::time::Time;
use crate::token::{ApiToken, Tokens};

/// One event in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// Cluster time.
    pub at: Time,
    /// Wall time in ms since 1970, for people only.
    pub wall_ms: u64,
    /// What happened.
    pub event: Event,
}

/// What became of the notice of a job's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoticeChange {
    /// Somebody was told.
    Sent,
    /// A try failed; another follows.
    Failed {
        /// When the next may begin.
        not_before: Time,
        /// What it came to.
        why: String,
    },
    /// Nobody tries any more.
    GivenUp {
        /// What the last try came to.
        why: String,
    },
}

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
            | Event::Notice { job, .. }
            | Event::JobForgotten(job)
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
            Event::KeysExpired(_)
            | Event::ClusterRestored { .. }
            | Event::NodeRegistered { .. }
            | Event::NodeReturned { .. }
            | Event::NodeInventoryChanged { .. }
            | Event::NodeSilenced(_)
            | Event::NodeModeSet { .. }
            | Event::NodeEvicted(_)
            | Event::NodeClearing { .. }
            | Event::NodeForgotten { .. }
            | Event::QueueSet { .. }
            | Event::TenantSet { .. }
            | Event::RoundDecided { .. }
            | Event::ReportTaken { .. }
            | Event::Join(_)
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

/// With which numbers a restored state goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raised {
    /// Who asked for the restore.
    pub by: By,
    /// How often the state was restored.
    pub epoch: u64,
    /// The next job's number.
    pub job: u64,
    /// The next lease's number.
    pub lease: u64,
    /// The next node's number.
    pub node: u32,
    /// Every attempt from now on has a higher number.
    pub attempt_base: Attempt,
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
    /// Who may join, and who has.
    Join(Box<JoinRestored>),
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
        /// Every attempt has a higher number.
        attempt_base: Attempt,
        /// How often the state was restored from a backup.
        epoch: u64,
    },
}
