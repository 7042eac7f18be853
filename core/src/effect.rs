//! Effects: what the outside must do, after the events it came with are durable.
//!
//! All are level-triggered: losing one is repaired by `owed` when the node says Hello, and each is safe to get twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::{Attempt, Index, JobId, JobName, LeaseId, NodeId, RequestId};
use crate::job::spec::{Fault, Rendezvous, Work};
use crate::lease::{GangPlace, RankHold, RevokeReason};
use crate::ranges::RangeSet;
use crate::resources::Demand;
use crate::time::Millis;
use crate::token::ApiToken;

/// What the outside must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Answer the caller.
    Reply {
        /// Which request.
        request_id: RequestId,
        /// The answer.
        reply: Reply,
    },
    /// Give a node a lease.
    Grant(Grant),
    /// Let a prepared gang run.
    Start {
        /// Who.
        node: NodeId,
        /// Under which lease.
        lease: LeaseId,
        /// Where rank 0 listens.
        master_addr: String,
        /// Its port.
        master_port: u16,
    },
    /// Take a lease, or elements of it, back.
    Revoke {
        /// From whom.
        node: NodeId,
        /// Which lease.
        lease: LeaseId,
        /// Why.
        reason: RevokeReason,
        /// Only these elements; empty: all.
        elements: RangeSet,
    },
    /// Ask for every unstarted element of a lease back. Mirrors `node.v1.Trim` with `keep_none`.
    Trim {
        /// From whom.
        node: NodeId,
        /// Which lease.
        lease: LeaseId,
    },
    /// A node's reports up to here are durable.
    AckReport {
        /// Whose.
        node: NodeId,
        /// The last one.
        seq: u64,
    },
}

/// A lease as its node gets it. Mirrors `node.v1.Grant`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who.
    pub node: NodeId,
    /// The lease's number.
    pub lease: LeaseId,
    /// Whose elements.
    pub job: JobId,
    /// The first.
    pub first: Index,
    /// The last.
    pub last: Index,
    /// The attempt of each.
    pub attempt: Attempt,
    /// Elements that run at once.
    pub slots: u32,
    /// Which alternative of the demands.
    pub alternative: u32,
    /// The ranks on this node.
    pub ranks: Vec<RankHold>,
    /// Its place in a gang: prepare, report, wait for Start.
    pub gang: Option<GangPlace>,
    /// What to run.
    pub task: Arc<TaskSpec>,
}

/// All a node needs to run a task of the job. Mirrors `node.v1.TaskSpec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSpec {
    /// For people.
    pub job_name: JobName,
    /// What runs.
    pub work: Arc<Work>,
    /// What each rank may use.
    pub demand: Demand,
    /// From the submitter's shell.
    pub exported_env: Arc<BTreeMap<String, String>>,
    /// Wins over it.
    pub env: Arc<BTreeMap<String, String>>,
    /// `None`: the attempt directory.
    pub workdir: Option<String>,
    /// `None`: a directory per attempt.
    pub output_dir: Option<String>,
    /// Counted from exec.
    pub time_limit: Option<Millis>,
    /// Between SIGTERM and SIGKILL.
    pub grace: Millis,
    /// `None`: keep running however long the scheduler is silent.
    pub stop_after: Option<Millis>,
    /// The operating system user.
    pub user: String,
    /// Count, least and greatest index, if there is an array.
    pub array: Option<(u64, Index, Index)>,
    /// Newest complete checkpoint of an earlier attempt on this node.
    pub resume_from: Option<String>,
    /// How ranks find each other.
    pub rendezvous: Rendezvous,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Jobs are stored.
    Submitted {
        /// In the order of the request.
        jobs: Vec<JobId>,
        /// The key had been used before with the same jobs.
        repeated: bool,
    },
    /// Nothing was stored, and why: all faults at once.
    Faults(Vec<SubmitFault>),
    /// The request was refused and changed nothing.
    Refused(Refusal),
    /// So many elements end because of the call.
    Cancelled {
        /// How many.
        elements: u64,
    },
    /// So many elements wait for another attempt.
    Retried {
        /// How many.
        elements: u64,
    },
    /// The token is made. Without its secret, which the caller of `decide` knows.
    TokenCreated(Box<ApiToken>),
    /// Done: hold, release, update, node and queue changes.
    Done,
    /// The node is known; the engine now sends Welcome and what `owed` gives.
    Welcome {
        /// Its number.
        node: NodeId,
        /// Reports up to here are durable.
        acked_report: u64,
    },
}

/// A fault of one job of a Submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubmitFault {
    /// Position in the request.
    pub job: u32,
    /// What is wrong.
    pub fault: Fault,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind, for a gRPC code.
    pub kind: RefusalKind,
    /// Stable, for example `unknown-job`.
    pub reason: &'static str,
    /// The facts, as a lowercase fragment.
    pub message: String,
    /// What to do. Empty: nothing to add.
    pub hint: String,
}

/// The kind of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// INVALID_ARGUMENT.
    Invalid,
    /// NOT_FOUND.
    NotFound,
    /// ALREADY_EXISTS.
    AlreadyExists,
    /// FAILED_PRECONDITION.
    Precondition,
    /// PERMISSION_DENIED.
    Denied,
    /// RESOURCE_EXHAUSTED.
    Exhausted,
}

/// What `decide` and `place` give: events to append, then effects to perform.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// To append and apply, in order, all or none.
    pub events: Vec<crate::event::Event>,
    /// To perform after that.
    pub effects: Vec<Effect>,
}
