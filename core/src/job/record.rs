//! What became of elements: states, outcomes, and the records of those that deviate.
//!
//! An element that ended like its neighbours is part of an [`EndedRange`]; one that was tried more than once, failed,
//! or whose details people look at has an [`ElementRecord`].

use crate::id::{Attempt, DeviceId, Index, NodeId, Rank};
use crate::time::Time;

/// Where an element (or a job, or a task) stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ElementState {
    /// Waits, for any reason but a hold.
    Pending,
    /// Waits because its owner said so.
    Held,
    /// Leased, and not known to run.
    Starting,
    /// Runs.
    Running,
    /// Told to stop, and not known to have stopped.
    Completing,
    /// Ended well.
    Completed,
    /// Its command failed.
    Failed,
    /// Its owner, or a dependency, ended it.
    Cancelled,
    /// Ran longer than its time limit.
    Timeout,
    /// Killed for memory, retries used up.
    OutOfMemory,
    /// Its nodes failed, retries used up.
    NodeFail,
}

/// The states an element ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndState {
    /// Ended well.
    Completed,
    /// Its command failed.
    Failed,
    /// Its owner, or a dependency, ended it.
    Cancelled,
    /// Ran longer than its time limit.
    Timeout,
    /// Killed for memory, retries used up.
    OutOfMemory,
    /// Its nodes failed or took it down, retries used up.
    NodeFail,
}

impl From<EndState> for ElementState {
    fn from(state: EndState) -> Self {
        match state {
            EndState::Completed => ElementState::Completed,
            EndState::Failed => ElementState::Failed,
            EndState::Cancelled => ElementState::Cancelled,
            EndState::Timeout => ElementState::Timeout,
            EndState::OutOfMemory => ElementState::OutOfMemory,
            EndState::NodeFail => ElementState::NodeFail,
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Exit code 0.
    Ok,
    /// Another exit code, a signal, or a command that cannot start.
    Failed,
    /// Killed for memory.
    Oom,
    /// Killed for time.
    Timeout,
    /// The node took it down for its operator (agent told to stop its tasks).
    Preempted,
    /// Node, agent or supervisor failed.
    Infra,
    /// Revoked because its owner cancelled it.
    Cancelled,
    /// Its node was silent longer than `lost_after`; retried like `Infra`.
    Fenced,
}

/// Which retry budget an ended attempt used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RetryClass {
    /// `retry.failure`.
    Failure,
    /// `retry.oom`.
    Oom,
    /// `retry.infra`.
    Infra,
    /// `retry.preempted`.
    Preempted,
    /// An exit code of `requeue_on`.
    Requeue,
}

/// What follows an ended attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another attempt, not before a time.
    Retry {
        /// The budget it used.
        class: RetryClass,
        /// Back-off.
        not_before: Time,
    },
    /// Nothing: the element's one terminal state.
    End(EndState),
}

/// Why a process, or a start, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// By itself.
    Exit,
    /// Killed for memory.
    Oom,
    /// Killed for time.
    TimeLimit,
    /// After a Revoke, or (without one) because the agent was told to stop its tasks.
    Revoked,
    /// The supervisor died, the node rebooted, the disk failed.
    Infra,
    /// Stopped by the node itself after `stop_after` of silence.
    Disconnected,
    /// It never started, through the job's fault (no such command, bad workdir).
    StartUser,
    /// It never started, through the node's fault.
    StartInfra,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Why.
    pub cause: Cause,
    /// Absent unless it exited by itself.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// One sentence for people. May be empty.
    pub detail: String,
    /// How long it ran.
    pub ran_us: u64,
    /// Newest complete checkpoint of the attempt.
    pub checkpoint: Option<String>,
    /// Its greatest memory use; zero when not known.
    pub max_rss_bytes: u64,
}

/// How many retries of each class an element has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Of `retry.failure`.
    pub failure: u32,
    /// Of `retry.oom`.
    pub oom: u32,
    /// Of `retry.infra`.
    pub infra: u32,
    /// Of `retry.preempted`.
    pub preempted: u32,
    /// Of [`crate::decide::REQUEUES_MAX`].
    pub requeue: u32,
}

/// Where a record's element is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordStatus {
    /// Pending, and not to start before a time.
    Waiting {
        /// Back-off ends then.
        not_before: Time,
    },
    /// Under a lease (or a gang) with attempt `attempts`.
    Leased,
    /// Ended.
    Ended {
        /// Its terminal state.
        state: EndState,
        /// When.
        at: Time,
    },
}

/// A checkpoint an attempt left on its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where it lies.
    pub node: NodeId,
    /// Its folder there.
    pub path: String,
}

/// An element that deviates from its neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementRecord {
    /// Attempts begun so far; the newest one's number.
    pub attempts: Attempt,
    /// Retries used.
    pub used: Used,
    /// Where it is now.
    pub status: RecordStatus,
    /// Newest complete checkpoint of any attempt.
    pub checkpoint: Option<Checkpoint>,
    /// The newest ended attempt.
    pub last: Option<Box<Ended>>,
}

/// An attempt that ended, with what people ask about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its number.
    pub attempt: Attempt,
    /// How it ended.
    pub outcome: Outcome,
    /// Which alternative of the demands it had.
    pub alternative: u32,
    /// When it was leased.
    pub leased_at: Time,
    /// When its end became known.
    pub ended_at: Time,
    /// The end that decided it: the task's, or the first rank's to fail.
    pub exit: Exit,
    /// Its tasks, by rank.
    pub tasks: Vec<TaskRecord>,
}

/// One task (a process of one rank) as its node reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRecord {
    /// Its number in the element.
    pub rank: Rank,
    /// Where.
    pub node: NodeId,
    /// Its devices.
    pub gpu_uuids: Vec<DeviceId>,
    /// What Started said; absent before it.
    pub started: Option<Started>,
    /// How it ended; absent before it.
    pub exit: Option<Exit>,
    /// When its end became known.
    pub ended_at: Option<Time>,
}

/// A process that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// When it became known.
    pub at: Time,
    /// Its process id on the node.
    pub pid: u32,
    /// Field 22 of /proc/PID/stat.
    pub start_ticks: u64,
    /// Where its files are.
    pub output_dir: String,
    /// Microseconds since the agent received the grant.
    pub spawn_us: u64,
}

/// Neighbouring elements that ended alike. The first index is the key it is kept under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedRange {
    /// The last index.
    pub last: Index,
    /// Where they ran; absent if they never did.
    pub node: Option<NodeId>,
    /// Their last attempt; 0 if they never ran.
    pub attempt: Attempt,
    /// Their terminal state.
    pub state: EndState,
    /// Outcome of the last attempt, absent if they never ran.
    pub outcome: Option<Outcome>,
    /// Their exit code.
    pub exit_code: Option<i32>,
    /// The signal that ended them.
    pub signal: Option<i32>,
}
