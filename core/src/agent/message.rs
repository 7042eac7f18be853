//! What goes into the agent's machine and what comes out of it.
//!
//! Invariant: every [`Input`] may come twice, and every [`Order`] may be given to the supervisor twice.
//!
//! Neighbours: [`super`] turns one into the other; the agent process and the simulator carry them.

use crate::{Fact, LeaseId, Time};

/// What the machine must know of a grant. The task itself (command, environment, devices) stays with the process that
/// carries the grant; the machine only orders it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Names the promise; never reused.
    pub lease: LeaseId,
    /// First index of the chunk.
    pub first: u32,
    /// Last index of the chunk, as granted.
    pub last: u32,
    /// The ranks of the element on this node for a gang, ascending; empty for a chunk, whose tasks are rank 0.
    pub gang: Vec<u32>,
    /// Between SIGTERM and SIGKILL.
    pub grace_ms: u64,
    /// Silence after which the node stops the task by itself. Zero: never.
    pub stop_after_ms: u64,
}

/// A lease as a supervisor, or the spool that it left, shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The terms that came with Spawn or Prepare.
    pub terms: Terms,
    /// Everything the supervisor said about the lease, in order.
    pub facts: Vec<Fact>,
    /// The lowest index whose exec was never begun. The supervisor writes it to the spool before it forks; for a gang
    /// it is `first` before and `first + 1` after Start.
    pub begun: u32,
    /// The newest [`Order::Renew`] the supervisor had when it took the lease or since.
    pub renewed: Time,
}

/// Something that happened around the agent. The time of it is an argument of [`super::Agent::step`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A new control stream is open; nothing of an older one comes after it.
    Connected,
    /// The control stream is gone.
    Disconnected,
    /// The scheduler took the Hello.
    Welcomed {
        /// Reports up to here are durable.
        acked_report: u64,
        /// How often to send a heartbeat.
        heartbeat_ms: u64,
    },
    /// A heartbeat arrived at the scheduler.
    HeartbeatAcked {
        /// When that heartbeat was sent.
        sent: Time,
    },
    /// The scheduler counts other leases than the heartbeat said.
    Reconcile,
    /// The scheduler gave a lease. The carrier keeps the task by its lease id until [`Effect::ForgetLease`].
    Granted(Terms),
    /// Every node of the gang is prepared.
    StartRequested {
        /// The gang's lease on this node.
        lease: LeaseId,
        /// Where rank 0 listens.
        master_addr: String,
        /// And at which port.
        master_port: u16,
    },
    /// The scheduler ends a lease, or some elements of it.
    RevokeRequested {
        /// The lease.
        lease: LeaseId,
        /// Why.
        reason: StopReason,
        /// Which elements; empty means all.
        elements: Vec<u32>,
    },
    /// The scheduler takes unstarted elements back.
    TrimRequested {
        /// The lease.
        lease: LeaseId,
        /// The highest index that may still start; absent: none may.
        last: Option<u32>,
    },
    /// Reports up to `seq` are durable.
    ReportAcked {
        /// The newest durable report.
        seq: u64,
    },
    /// A living supervisor says what it holds: once after each connection to it, also when it holds nothing.
    SupervisorList(Vec<Adopted>),
    /// The supervisor is dead. What its spool holds; absent when the spool cannot be read.
    SupervisorLost(Option<Vec<Adopted>>),
    /// No process of the lease is left after [`Effect::KillLeftovers`].
    LeftoversGone {
        /// The lease.
        lease: LeaseId,
    },
    /// The supervisor says something of a lease.
    Fact(Fact),
    /// Time passed.
    Tick,
}

/// Why a task is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Its owner's wish.
    Cancelled,
    /// Taken for a better job or a drain.
    Preempted,
    /// Another attempt has begun.
    Fenced,
    /// Another rank of the gang ended.
    Gang,
    /// The scheduler was silent for longer than `stop_after_ms`.
    Disconnected,
}

/// What the agent tells the supervisor. Each is safe to give twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Run the chunk. Given once, in the same step as its grant came.
    Spawn {
        /// The lease.
        lease: LeaseId,
    },
    /// Make everything ready for the ranks of a gang and report the rendezvous port. Given as Spawn is.
    Prepare {
        /// The lease.
        lease: LeaseId,
    },
    /// Execute the prepared ranks.
    Start {
        /// The lease.
        lease: LeaseId,
        /// Where rank 0 listens.
        master_addr: String,
        /// And at which port.
        master_port: u16,
    },
    /// End processes, and return what has not begun.
    Stop {
        /// The lease.
        lease: LeaseId,
        /// Which elements; empty means all.
        elements: Vec<u32>,
        /// Between SIGTERM and SIGKILL.
        grace_ms: u64,
        /// Why; it decides the cause in the facts that follow.
        reason: StopReason,
    },
    /// Begin nothing above `last`, and return it.
    Trim {
        /// The lease.
        lease: LeaseId,
        /// The highest index that may still begin; absent: none may.
        last: Option<u32>,
    },
    /// Everything of the lease is durable elsewhere: its spool may go.
    AckExit {
        /// The lease.
        lease: LeaseId,
    },
    /// The scheduler was heard: leases with `stop_after_ms` count from here.
    Renew {
        /// When the acknowledged heartbeat was sent.
        heard: Time,
    },
}

/// How far a held lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A gang that has not been told to start.
    Prepared,
    /// Processes of it may exist.
    Running,
    /// No process of it is left; its last report may not be acknowledged yet.
    Ended,
}

/// One lease in a Hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLease {
    /// The lease.
    pub lease: LeaseId,
    /// How far it is.
    pub phase: Phase,
    /// The last index that may still begin; a Trim moves it down.
    pub last: u32,
}

/// What the machine wants done. All of it is volatile; the order within one step is the order to do it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Say it to the supervisor.
    ToSupervisor(Order),
    /// The first message on a stream, and the answer to Reconcile: everything held or not yet acknowledged.
    SendHello {
        /// By lease id.
        leases: Vec<HeldLease>,
    },
    /// Say that the node is there and how many leases it holds.
    SendHeartbeat {
        /// Comes back in the acknowledgement.
        sent: Time,
        /// Leases in a Hello sent now.
        lease_count: u32,
        /// [`crate::liveness::lease_hash`] of them.
        lease_hash: u64,
    },
    /// Say what happened. At most one report is unacknowledged.
    SendReport {
        /// Rises, also over restarts.
        seq: u64,
        /// At most [`super::REPORT_FACTS_MAX`].
        facts: Vec<Fact>,
    },
    /// Kill every process of the lease; its supervisor is dead. Answer with [`Input::LeftoversGone`].
    KillLeftovers {
        /// The lease.
        lease: LeaseId,
    },
    /// The scheduler has everything of the lease on disk: drop its grant.
    ForgetLease {
        /// The lease.
        lease: LeaseId,
    },
}
