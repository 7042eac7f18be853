//! Events: what became true. The only thing that changes the state, and the whole of the log.
//!
//! Each carries what `apply` needs, so that folding asks no policy: outcomes and placements are decided once.

mod parts;

pub use parts::{By, GangPart, NewJob, NoticeChange, Raised, Record, Restored, TokenEvent};

use std::collections::BTreeSet;

use crate::id::{Attempt, IdempotencyKey, Index, JobId, LeaseId, NodeId, NodeName, QueueName, Rank, Tenant};
use crate::job::body::{After, CancelCause, DeviceChoice};
use crate::job::record::{Exit, Next, Outcome};
use crate::join::JoinEvent;
use crate::lease::{Master, RankHold};
use crate::node::NodeMode;
use crate::queue::{Limits, QueueKey};
use crate::ranges::RangeSet;
use crate::resources::Inventory;
use crate::time::{Millis, Time};

/// What became true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Jobs were stored together.
    JobsSubmitted {
        /// Who asked.
        by: By,
        /// Who pays.
        tenant: Tenant,
        /// The operating system user.
        user: String,
        /// The client's name for the submit.
        key: IdempotencyKey,
        /// Digest of the specs, so that the key cannot stand for others.
        digest: u64,
        /// In the order of the request; ids rise.
        jobs: Vec<NewJob>,
    },
    /// Keys used up to a time were forgotten.
    KeysExpired(Time),
    /// Pending elements ended CANCELLED, and active ones are being stopped.
    JobCancelled {
        /// Who asked.
        by: By,
        /// Which job.
        job: JobId,
        /// Which elements; none of them had ended.
        elements: RangeSet,
        /// Why.
        cause: CancelCause,
    },
    /// A job is kept from starting.
    JobHeld {
        /// Who asked.
        by: By,
        /// Which job.
        job: JobId,
    },
    /// A job is not kept from starting any more.
    JobReleased {
        /// Who asked.
        by: By,
        /// Which job.
        job: JobId,
    },
    /// Ended elements wait for another attempt; their retry budgets are full again.
    ElementsRetried {
        /// Who asked.
        by: By,
        /// Which job.
        job: JobId,
        /// Which elements.
        elements: RangeSet,
        /// The job's dependencies as they stand now.
        after: Vec<After>,
    },
    /// A job was changed. Absent stayed.
    JobUpdated {
        /// Who asked.
        by: By,
        /// Which job.
        job: JobId,
        /// Its new priority.
        priority: Option<i32>,
        /// Its new line.
        queue: Option<QueueName>,
        /// Its new time limit.
        time_limit: Option<Millis>,
    },
    /// A try to tell somebody that a job has ended came to something, or there is none any more.
    Notice {
        /// Which job.
        job: JobId,
        /// Tries so far.
        tries: u32,
        /// What became of the notice.
        change: NoticeChange,
    },
    /// An old ended job left the state; the log and its archive still have it.
    JobForgotten(JobId),
    /// A node came for the first time.
    NodeRegistered {
        /// Its number.
        node: NodeId,
        /// Unique.
        name: NodeName,
        /// Made once in its agent's state folder.
        uuid: String,
        /// Kernel boot id.
        boot_id: String,
        /// For people.
        agent_version: String,
        /// What it owns.
        inventory: Inventory,
    },
    /// A node came back, rebooted, or runs another version of its agent.
    NodeReturned {
        /// Which.
        node: NodeId,
        /// Kernel boot id.
        boot_id: String,
        /// For people.
        agent_version: String,
    },
    /// A node owns something else than before.
    NodeInventoryChanged {
        /// Which.
        node: NodeId,
        /// All of it.
        inventory: Inventory,
    },
    /// A node was not heard for its time to live.
    NodeSilenced(NodeId),
    /// A node was drained, cordoned or resumed.
    NodeModeSet {
        /// Who asked.
        by: By,
        /// Which.
        node: NodeId,
        /// Whether it takes work.
        mode: NodeMode,
        /// Why, for people.
        reason: String,
        /// When what still runs is taken down.
        evict_at: Option<Time>,
    },
    /// The time of a draining node was up; a LeasePreempted precedes for each lease that was left.
    NodeEvicted(NodeId),
    /// A node holds leases that this state did not grant: it takes no work until they are gone. Empty: they are.
    NodeClearing {
        /// Which.
        node: NodeId,
        /// All of them now.
        leases: BTreeSet<LeaseId>,
    },
    /// A node was removed.
    NodeForgotten {
        /// Who asked.
        by: By,
        /// Which.
        node: NodeId,
    },
    /// A queue was made or changed.
    QueueSet {
        /// Who asked.
        by: By,
        /// Which.
        queue: QueueKey,
        /// All of its limits now.
        limits: Limits,
    },
    /// A tenant's limits across all of its queues were changed.
    TenantSet {
        /// Who asked.
        by: By,
        /// Which.
        tenant: Tenant,
        /// All of them now.
        limits: Limits,
    },
    /// A placement round decided what the next `decisions` events say. It was computed from the state before it.
    RoundDecided {
        /// Its number, from 1.
        round: u64,
        /// When.
        now: Time,
        /// Version of the policy that decided.
        policy_version: u32,
        /// Digest of the decisions.
        decision_hash: u64,
        /// How many of the events that follow are its decisions.
        decisions: u32,
        /// It stopped at its limit: another round may place more.
        more: bool,
    },
    /// Elements of one rank were leased to a node.
    ChunkLeased {
        /// The lease's number.
        lease: LeaseId,
        /// Whose elements.
        job: JobId,
        /// The first.
        first: Index,
        /// The last.
        last: Index,
        /// The attempt of each.
        attempt: Attempt,
        /// Where.
        node: NodeId,
        /// Elements that run at once.
        slots: u32,
        /// Which alternative of the demands.
        alternative: u32,
        /// Its hold on devices: rank 0.
        hold: RankHold,
        /// The device, and why.
        device: DeviceChoice,
    },
    /// An element of several ranks was leased to its nodes.
    GangLeased {
        /// Whose element.
        job: JobId,
        /// Which.
        index: Index,
        /// Its attempt.
        attempt: Attempt,
        /// Which alternative of the demands.
        alternative: u32,
        /// By node rank.
        parts: Vec<GangPart>,
        /// All must be prepared by then.
        deadline: Time,
        /// The device, and why.
        device: DeviceChoice,
    },
    /// A gang's lease is ready to start.
    LeasePrepared {
        /// Which lease.
        lease: LeaseId,
        /// Whose.
        job: JobId,
        /// Rendezvous port bound there.
        port: u16,
    },
    /// Every lease of a gang is ready: it starts.
    GangStarted {
        /// Whose element.
        job: JobId,
        /// Which.
        index: Index,
        /// Where its ranks meet.
        master: Master,
    },
    /// A process runs.
    TaskStarted {
        /// Under which lease.
        lease: LeaseId,
        /// Whose element.
        job: JobId,
        /// Which.
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
    /// A run of elements COMPLETED.
    ElementsSucceeded {
        /// Under which lease.
        lease: LeaseId,
        /// Whose elements.
        job: JobId,
        /// The first.
        first: Index,
        /// The last.
        last: Index,
        /// Mean run time, rounded up to three significant bits, for the size of the next chunk.
        mean_us: u64,
    },
    /// A rank of a gang is gone.
    RankEnded {
        /// Under which lease.
        lease: LeaseId,
        /// Whose element.
        job: JobId,
        /// Which rank.
        rank: Rank,
        /// How.
        exit: Exit,
    },
    /// A gang's attempt is over; the ranks that are left are being stopped.
    GangStopping {
        /// Whose element.
        job: JobId,
        /// Which.
        index: Index,
        /// Outcome of the first rank to fail.
        outcome: Outcome,
        /// How it ended.
        exit: Exit,
        /// Nodes that were not prepared in time: each failed to start the job once.
        late: Vec<NodeId>,
    },
    /// An attempt ended, and what follows. For a gang: after its last rank is gone.
    AttemptEnded {
        /// Under which lease; a gang's: its first.
        lease: LeaseId,
        /// Whose element.
        job: JobId,
        /// Which.
        index: Index,
        /// Which attempt.
        attempt: Attempt,
        /// How.
        outcome: Outcome,
        /// The end that decided it.
        exit: Exit,
        /// What follows.
        next: Next,
    },
    /// Unstarted elements came back and used no attempt; cancelled ones end CANCELLED.
    ElementsReturned {
        /// Under which lease.
        lease: LeaseId,
        /// Whose elements.
        job: JobId,
        /// The first.
        first: Index,
        /// The last.
        last: Index,
    },
    /// Unstarted elements were asked back.
    LeaseTrimmed {
        /// Which lease.
        lease: LeaseId,
        /// Whose.
        job: JobId,
    },
    /// All of a lease is taken back because its node drains. Its attempts end PREEMPTED when their processes are gone.
    LeasePreempted {
        /// Which lease.
        lease: LeaseId,
        /// Whose.
        job: JobId,
    },
    /// A lease counts for nothing any more; AttemptEnded follows for each of its live elements.
    LeaseFenced {
        /// Which lease.
        lease: LeaseId,
        /// Whose.
        job: JobId,
    },
    /// Elements (or ranks) of a fenced lease are gone from its node, or the node is.
    FenceConfirmed {
        /// Which lease.
        lease: LeaseId,
        /// Whose.
        job: JobId,
        /// The first element.
        first: Index,
        /// The last element.
        last: Index,
        /// Only this rank; absent: all.
        rank: Option<Rank>,
    },
    /// A job is kept from a node that failed to start it several times.
    NodeExcluded {
        /// Which job.
        job: JobId,
        /// Which node.
        node: NodeId,
        /// It may be tried again then.
        until: Time,
        /// What the node said last.
        reason: String,
    },
    /// A node's report is durable with the events before this one.
    ReportTaken {
        /// Whose.
        node: NodeId,
        /// Its number.
        seq: u64,
    },
    /// Somebody was let in, or may be.
    Join(JoinEvent),
    /// An API token came or went.
    Token(TokenEvent),
    /// A backup was restored: what happened since it was made is not known. See [`crate::restore`].
    ClusterRestored(Raised),
    /// A part of a snapshot.
    Restored(Restored),
}
