//! Inputs: everything that comes from outside, as data. `decide` says what each means.

use crate::access::Reach;
use crate::id::{
    Actor, IdempotencyKey, Index, JobId, LeaseId, NodeId, NodeName, QueueName, Rank, RequestId, Tenant, TokenId,
};
use crate::job::record::Exit;
use crate::job::spec::JobSpec;
use crate::node::NodeMode;
use crate::ranges::RangeSet;
use crate::resources::Inventory;
use crate::time::Millis;
use crate::token::TokenDraft;

/// One input and who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub actor: Actor,
    /// Whose jobs and queues are meant.
    pub tenant: Tenant,
    /// Whose jobs it may touch.
    pub reach: Reach,
    /// Which request; the reply carries it.
    pub request_id: RequestId,
    /// What is asked.
    pub input: Input,
}

/// What is asked, or what happened outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Store these jobs, all or none.
    Submit(Submit),
    /// End what has not ended. `None`: all elements.
    Cancel {
        /// Which job.
        job: JobId,
        /// Which of its elements.
        elements: Option<RangeSet>,
    },
    /// Keep pending elements from starting.
    Hold {
        /// Which job.
        job: JobId,
    },
    /// End a hold.
    Release {
        /// Which job.
        job: JobId,
    },
    /// Put ended elements back. `None`: those that did not complete.
    Retry {
        /// Which job.
        job: JobId,
        /// Which of its elements.
        elements: Option<RangeSet>,
    },
    /// Change a job that has not ended. Absent stays.
    Update {
        /// Which job.
        job: JobId,
        /// -1000..=1000.
        priority: Option<i32>,
        /// Its new line.
        queue: Option<QueueName>,
        /// For attempts leased from now on.
        time_limit: Option<Millis>,
    },
    /// A node says who it is and what it holds. After its events are applied, the engine sends what `owed` gives.
    NodeHello(NodeHello),
    /// A node was not heard for its time to live (`liveness` says so).
    NodeSilent {
        /// Which.
        node: NodeId,
    },
    /// A node reports facts. It does not end a silence: only a Hello does.
    NodeReport {
        /// Who.
        node: NodeId,
        /// Number of the report in the agent's state folder. It rises, and jumps at each start of the agent, which sends
        /// the next report only after this one was acknowledged.
        seq: u64,
        /// What happened, in order.
        facts: Vec<Fact>,
    },
    /// A node's inventory changed.
    NodeInventory {
        /// Whose.
        node: NodeId,
        /// All of it.
        inventory: Inventory,
    },
    /// Drain, cordon or resume a node.
    SetNode {
        /// Which.
        name: NodeName,
        /// Whether it takes work.
        mode: NodeMode,
        /// Why, for people.
        reason: String,
        /// With draining: what runs longer than this is taken down and tried again elsewhere. `None`: it is waited for.
        evict_after: Option<Millis>,
    },
    /// Remove a silent node.
    ForgetNode {
        /// Which.
        name: NodeName,
    },
    /// Make a queue or change its limits.
    SetQueue {
        /// Which.
        name: QueueName,
        /// Elements that may be leased.
        running_max: Change,
        /// Elements that may wait.
        queued_max: Change,
        /// GPUs that may be held.
        gpus_max: Change,
    },
    /// Make an API token for the request's tenant.
    CreateToken(TokenDraft),
    /// End an API token.
    RevokeToken {
        /// Which.
        token: TokenId,
    },
    /// Change the limits of a tenant across all of its queues.
    SetTenant {
        /// Which.
        name: Tenant,
        /// Elements that may be leased.
        running_max: Change,
        /// Elements that may wait.
        queued_max: Change,
        /// GPUs that may be held.
        gpus_max: Change,
    },
    /// Time passed: gang deadlines, lost nodes, old keys and old jobs.
    Tick,
}

/// Jobs to store together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submit {
    /// The client's name for this submit.
    pub key: IdempotencyKey,
    /// The submitting person's operating system user.
    pub user: String,
    /// At least one; `after` may use their aliases.
    pub jobs: Vec<JobSpec>,
}

/// A change of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// It stays.
    #[default]
    Keep,
    /// It goes.
    Unlimited,
    /// It becomes this.
    Set(u64),
}

/// Who a node is and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeHello {
    /// Unique in the cluster.
    pub name: NodeName,
    /// Made once in the agent's state folder.
    pub uuid: String,
    /// Kernel boot id.
    pub boot_id: String,
    /// For people.
    pub agent_version: String,
    /// What it owns.
    pub inventory: Inventory,
    /// Every lease it holds or has not been acknowledged for.
    pub leases: Vec<HeldLease>,
}

/// A lease an agent holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLease {
    /// Which.
    pub lease: LeaseId,
    /// How far it is.
    pub phase: Phase,
    /// The last index it will still start.
    pub last_index: Index,
}

/// How far a lease is on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// A gang's that waits for Start.
    Prepared,
    /// It runs.
    Running,
    /// Every process of it is gone; its last report may be unacknowledged.
    Ended,
}

/// Something that happened under a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Which lease.
    pub lease: LeaseId,
    /// What.
    pub kind: FactKind,
}

/// What happened. Mirrors `node.v1.Fact`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactKind {
    /// A gang's lease is ready to start.
    Prepared {
        /// Rendezvous port bound there.
        port: u16,
    },
    /// Nothing started. A gang's lease before Start: all of it is over. Else only this element and rank.
    StartFailed {
        /// Which element.
        index: Index,
        /// Which rank.
        rank: Rank,
        /// True: the job's fault, never retried.
        users_fault: bool,
        /// For people.
        detail: String,
    },
    /// A process runs.
    Started {
        /// Which element.
        index: Index,
        /// Which rank.
        rank: Rank,
        /// Its process id.
        pid: u32,
        /// Field 22 of /proc/PID/stat.
        start_ticks: u64,
        /// Where its files are.
        output_dir: String,
        /// Microseconds since the agent received the grant.
        spawn_us: u64,
    },
    /// A run of elements exited 0.
    Succeeded {
        /// The first.
        first: Index,
        /// The last.
        last: Index,
        /// Mean run time.
        mean_us: u64,
    },
    /// A process is gone, and all of its tree.
    Ended {
        /// Which element.
        index: Index,
        /// Which rank.
        rank: Rank,
        /// How. `Cause::StartUser` and `Cause::StartInfra` do not occur here.
        exit: Exit,
    },
    /// Unstarted elements came back.
    Returned {
        /// The first.
        first: Index,
        /// The last.
        last: Index,
    },
}
