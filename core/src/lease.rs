//! Leases and gangs: the scheduler's promise that one node, and no other, may run a chunk of elements.
//!
//! A lease of one-rank elements covers `first..=last`, run in order on `slots` slots. A gang is one element of several
//! ranks: one lease per node, prepared, then started together.
//!
//! Invariants: an element is live in at most one lease that is not fenced (a gang: in one lease per node of the gang);
//! a lease holds its amounts and devices until nothing in it is live; a fenced lease counts for nothing, and still
//! holds what it holds until its node confirmed that its processes are gone.

use std::collections::BTreeMap;

use crate::id::{Attempt, DeviceId, Index, JobId, LeaseId, NodeId, Rank};
use crate::job::record::{Exit, Outcome, TaskRecord};
use crate::ranges::RangeSet;
use crate::resources::Demand;
use crate::time::{Millis, Time};

/// A chunk of elements, or the ranks of a gang's element, on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub id: LeaseId,
    /// Whose elements.
    pub job: JobId,
    /// Who may run them.
    pub node: NodeId,
    /// The first index it was granted with.
    pub first: Index,
    /// The last index it was granted with.
    pub last: Index,
    /// The attempt of each of its elements.
    pub attempt: Attempt,
    /// Elements that run at once.
    pub slots: u32,
    /// Which alternative of the job's demands.
    pub alternative: u32,
    /// That alternative, kept so that its amounts can be returned.
    pub demand: Demand,
    /// Elements that have neither ended nor come back. A gang's: its element while a rank is live.
    pub live: RangeSet,
    /// Ranks on this node, ascending; rank 0 alone if this is no gang.
    pub ranks: Vec<RankHold>,
    /// Its place in a gang.
    pub gang: Option<GangPlace>,
    /// The job's time limit when it was granted.
    pub time_limit: Option<Millis>,
    /// When it was granted.
    pub granted_at: Time,
    /// The node has reported something under it.
    pub begun: bool,
    /// The port the node prepared.
    pub port: Option<u16>,
    /// A gang's Start was given.
    pub started: bool,
    /// Greatest mean run time its node reported, rounded up to three significant bits; zero: none.
    pub mean_us: u64,
    /// Tasks that reported Started or ended, while their element is live.
    pub tasks: BTreeMap<(Index, Rank), TaskRecord>,
    /// What was revoked.
    pub revoke: Option<Revoking>,
    /// All of it was taken back because its node drains.
    pub preempted: bool,
    /// Its unstarted elements were asked back.
    pub trimmed: bool,
    /// It counts for nothing any more; its node must stop it.
    pub fenced: bool,
}

impl Lease {
    /// Says whether processes of it may exist.
    pub fn is_live(&self) -> bool {
        match self.gang {
            Some(_) => self.ranks.iter().any(|hold| hold.live),
            None => !self.live.is_empty(),
        }
    }

    /// Returns how many elements were granted.
    pub fn width(&self) -> u64 {
        u64::from(self.last - self.first) + 1
    }

    /// Says whether an element of it was revoked.
    pub fn revokes(&self, index: Index) -> bool {
        self.revoke.as_ref().is_some_and(|revoking| revoking.elements.contains(index))
    }

    /// Says whether a task of it may exist.
    pub fn runs(&self, index: Index, rank: Rank) -> bool {
        self.live.contains(index)
            && self.ranks.iter().any(|hold| hold.rank == rank && (self.gang.is_none() || hold.live))
    }

    /// Says whether it may hold elements that have not started.
    pub fn has_unstarted(&self) -> bool {
        self.gang.is_none() && self.is_live() && (self.width() > 1 || self.tasks.is_empty())
    }

    /// Returns what it holds: in 1/1000 of a core, and in bytes.
    pub fn held(&self) -> (u64, u64) {
        let times = match self.gang {
            Some(_) => self.ranks.iter().filter(|hold| hold.live).count() as u64,
            None if self.live.is_empty() => 0,
            None => u64::from(self.slots),
        };
        (self.demand.milli_cpus.saturating_mul(times), self.demand.memory_bytes.saturating_mul(times))
    }

    /// Yields the devices it holds.
    pub fn devices(&self) -> impl Iterator<Item = &DeviceId> {
        let live = self.is_live();
        self.ranks.iter().filter(move |hold| live && hold.live).flat_map(|hold| hold.gpu_uuids.iter())
    }

    /// Returns how many of its elements run at once.
    pub fn running(&self) -> u64 {
        self.live.len().min(u64::from(self.slots))
    }
}

/// Rounds a run time up to three significant bits: enough for the size of a chunk, and the same for like elements.
pub(crate) fn coarse(us: u64) -> u64 {
    let shift = (u64::BITS - us.leading_zeros()).saturating_sub(3);
    let unit = 1_u64 << shift;
    us.checked_next_multiple_of(unit).unwrap_or(u64::MAX)
}

/// Returns the record of a rank that has reported nothing.
pub(crate) fn new_task(lease: &Lease, rank: Rank) -> TaskRecord {
    let hold = lease.ranks.iter().find(|hold| hold.rank == rank);
    TaskRecord {
        rank,
        node: lease.node,
        gpu_uuids: hold.map(|hold| hold.gpu_uuids.clone()).unwrap_or_default(),
        started: None,
        exit: None,
        ended_at: None,
    }
}

/// A rank's hold on devices.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RankHold {
    /// Its number in the element.
    pub rank: Rank,
    /// Its devices.
    pub gpu_uuids: Vec<DeviceId>,
    /// Its processes may exist.
    pub live: bool,
}

/// A node's place in a gang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GangPlace {
    /// Its number among the gang's nodes.
    pub node_rank: u32,
    /// How many nodes the gang has.
    pub nodes: u32,
    /// How many ranks the gang has.
    pub world_size: u32,
}

/// What of a lease was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoking {
    /// Why.
    pub reason: RevokeReason,
    /// Which elements.
    pub elements: RangeSet,
}

/// Why a lease, or a part of it, is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RevokeReason {
    /// Its owner cancelled it.
    Cancelled,
    /// Another attempt may have begun, or the lease is unknown.
    Fenced,
    /// Another rank of the gang ended.
    Gang,
    /// Its node is drained and waits no longer; it is tried again elsewhere.
    Preempted,
}

/// The element of several ranks that is live now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gang {
    /// Whose element.
    pub job: JobId,
    /// Which.
    pub index: Index,
    /// Its attempt.
    pub attempt: Attempt,
    /// Which alternative of the job's demands.
    pub alternative: u32,
    /// When it was granted.
    pub granted_at: Time,
    /// Its leases, by node rank.
    pub leases: Vec<LeaseId>,
    /// All must be prepared by then.
    pub deadline: Time,
    /// Start was given, with where rank 0 listens.
    pub started: Option<Master>,
    /// The attempt is over and the other ranks are being stopped.
    pub stopping: Option<Stopping>,
    /// Its owner cancelled it.
    pub cancelled: bool,
    /// Tasks of it that are gone.
    pub tasks: Vec<TaskRecord>,
}

/// Where the ranks of a gang meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// Address of the first node.
    pub address: String,
    /// The port it prepared.
    pub port: u16,
}

/// How a gang's attempt ended, before all of its ranks are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopping {
    /// Outcome of the first rank to fail.
    pub outcome: Outcome,
    /// How that rank ended.
    pub exit: Exit,
}
