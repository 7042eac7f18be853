//! What people may ask of the state. Pure reads; each costs what it returns.

use std::collections::BTreeMap;

use crate::id::{Attempt, DeviceId, Index, JobId, NodeId, Rank};
use crate::job::record::{ElementState, Outcome};
use crate::ranges::RangeSet;
use crate::reason::Reason;
use crate::state::State;
use crate::time::Time;

/// One rank of one element in its newest attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// Its element.
    pub index: Index,
    /// Its number in the element.
    pub rank: Rank,
    /// Where its element stands.
    pub state: ElementState,
    /// From 1; 0 before the first.
    pub attempt: Attempt,
    /// Where it runs or ran.
    pub node: Option<NodeId>,
    /// Its process id; absent when it does not run or no record was kept.
    pub pid: Option<u32>,
    /// Absent unless it exited by itself.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Outcome of the newest ended attempt.
    pub outcome: Option<Outcome>,
    /// One sentence for people.
    pub detail: String,
    /// When it was leased.
    pub leased_at: Option<Time>,
    /// When it started.
    pub started_at: Option<Time>,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// Its devices.
    pub gpu_uuids: Vec<DeviceId>,
    /// Where its files are on its node.
    pub output_dir: String,
    /// Grant received → executed.
    pub spawn_us: Option<u64>,
    /// Executed → exited.
    pub ran_us: Option<u64>,
    /// Newest complete checkpoint.
    pub checkpoint: Option<String>,
}

/// A page of tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskPage {
    /// In order of index and rank.
    pub tasks: Vec<TaskView>,
    /// Where the next page begins; absent at the end.
    pub next: Option<(Index, Rank)>,
}

/// Who holds a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Whose element.
    pub job: JobId,
    /// Which.
    pub index: Index,
    /// Which rank.
    pub rank: Rank,
}

impl State {
    /// Returns how many elements a job has in each state, zeros left out. Empty for an unknown job.
    pub fn element_counts(&self, _job: JobId) -> BTreeMap<ElementState, u64> {
        BTreeMap::new()
    }

    /// Returns a job's state: RUNNING while any element is STARTING, RUNNING or COMPLETING; else PENDING or HELD while
    /// any is not terminal; else the first present of FAILED, TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, CANCELLED, COMPLETED.
    pub fn job_state(&self, _job: JobId) -> Option<ElementState> {
        None
    }

    /// Returns up to `limit` tasks of a job from `from` on, only of `elements` if given.
    pub fn tasks(
        &self,
        _job: JobId,
        _elements: Option<&RangeSet>,
        _from: (Index, Rank),
        _limit: usize,
    ) -> TaskPage {
        TaskPage::default()
    }

    /// Returns every reason why elements of a job wait, the deciding one first. Empty when none waits.
    pub fn wait_reasons(&self, _job: JobId, _now: Time) -> Vec<Reason> {
        Vec::new()
    }

    /// Returns who holds a device of a node.
    pub fn device_holder(&self, _node: NodeId, _device: &DeviceId) -> Option<Holder> {
        None
    }

    /// Says whether a placement round at `now` could decide something; the engine calls `place` then.
    pub fn wants_round(&self, _now: Time) -> bool {
        false
    }

    /// Returns when time alone next changes something: feed `Tick`, and call `place`, at that time.
    pub fn next_wake(&self) -> Option<Time> {
        None
    }
}
