//! What goes into the agent's machine and what comes out of it.
//!
//! Invariant: every [`Input`] may come twice, and every [`Order`] may be given to the supervisor twice.
//!
//! Neighbours: [`super`] turns one into the other; the agent process and the simulator carry them.

use crate::effect::Grant;
use crate::id::{Index, LeaseId, Rank};
use crate::input::{Fact, HeldLease};
use crate::lease::RevokeReason;
use crate::ranges::RangeSet;
use crate::time::{Millis, Time};

/// What the machine must know of a grant. The task itself (command, environment, devices) stays with the process that
/// carries the grant; the machine only orders it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Names the promise; never reused.
    pub lease: LeaseId,
    /// First index of the chunk.
    pub first: Index,
    /// Last index of the chunk, as granted.
    pub last: Index,
    /// The ranks of the element on this node for a gang, ascending; empty for a chunk, whose tasks are rank 0.
    pub gang: Vec<Rank>,
    /// Between SIGTERM and SIGKILL.
    pub grace: Millis,
    /// Silence after which the node stops the task by itself. `None`: never.
    pub stop_after: Option<Millis>,
}

impl From<&Grant> for Terms {
    fn from(grant: &Grant) -> Self {
        Self {
            lease: grant.lease,
            first: grant.first,
            last: grant.last,
            gang: if grant.gang.is_some() { grant.ranks.iter().map(|hold| hold.rank).collect() } else { Vec::new() },
            grace: grant.task.grace,
            stop_after: grant.task.stop_after,
        }
    }
}

/// A lease that a supervisor holds, or that it left facts about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The terms it was granted with.
    pub terms: Terms,
    /// The living supervisor holds it, or its Run is on the way to it. False: it died with an earlier supervisor (or
    /// never reached one), and the processes of what is open are still to be killed.
    pub held: bool,
    /// Its units (indices of a chunk, ranks of a gang) without an end by the supervisor's word. Of a dead supervisor:
    /// all that may be; one too many is harmless, for the scheduler drops what it knows.
    pub open: RangeSet,
    /// No element from here on was begun. A gang's is above its index once it was told to start. When in doubt, more.
    pub begun: u64,
    /// The newest [`Order::Renew`] the supervisor had when it took the lease or since; it counts for a lease that is
    /// held and stops when nobody is heard.
    pub renewed: Time,
}

/// A fact with its place in the supervisor's spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spooled {
    /// Rises, and never restarts on a node.
    pub seq: u64,
    /// What happened.
    pub fact: Fact,
}

/// What a supervisor holds, or what a dead one left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spool {
    /// Leases it holds or has facts about.
    pub leases: Vec<Adopted>,
    /// Facts that were not acknowledged to it, in order.
    pub facts: Vec<Spooled>,
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
        heartbeat: Millis,
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
        reason: RevokeReason,
        /// Which elements; empty means all.
        elements: RangeSet,
    },
    /// The scheduler takes every unstarted element back.
    TrimRequested {
        /// The lease.
        lease: LeaseId,
    },
    /// Reports up to `seq` are durable.
    ReportAcked {
        /// The newest durable report.
        seq: u64,
    },
    /// A living supervisor says what it holds: once after each connection to it, also when it holds nothing.
    SupervisorList(Spool),
    /// The supervisor is dead. What it left; `None` when its spool cannot be read.
    SupervisorLost(Option<Spool>),
    /// No process of the lease is left after [`Effect::KillLeftovers`].
    LeftoversGone {
        /// The lease.
        lease: LeaseId,
    },
    /// The supervisor says something of a lease.
    Fact(Spooled),
    /// The node's operator wants every task ended.
    StopTasks {
        /// At most this long between SIGTERM and SIGKILL.
        grace_max: Millis,
    },
    /// Time passed.
    Tick,
}

/// Why a task is stopped. It decides the cause in the facts that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The scheduler said so.
    Revoked(RevokeReason),
    /// The scheduler was silent for longer than the job's `stop_after`.
    Silence,
    /// The node's operator said so.
    Shutdown,
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
        elements: RangeSet,
        /// Between SIGTERM and SIGKILL.
        grace: Millis,
        /// Why.
        reason: StopReason,
    },
    /// Begin nothing more, and return it.
    Trim {
        /// The lease.
        lease: LeaseId,
    },
    /// Facts up to here are durable elsewhere: the spool may forget them.
    AckFacts {
        /// The last of them.
        seq: u64,
    },
    /// The scheduler was heard: leases with `stop_after` count from here.
    Renew {
        /// When the acknowledged heartbeat was sent.
        heard: Time,
    },
}

/// What the machine wants done. All of it is volatile; the order within one step is the order to do it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Say it to the supervisor.
    ToSupervisor(Order),
    /// Close the stream, take nothing more from it, and dial again.
    Redial,
    /// The first message on a stream: everything held or not yet acknowledged.
    SendHello {
        /// By lease id.
        leases: Vec<HeldLease>,
    },
    /// Say that the node is there and how many leases it holds.
    SendHeartbeat {
        /// Comes back in the acknowledgement.
        sent: Time,
        /// Leases that have not ended.
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
