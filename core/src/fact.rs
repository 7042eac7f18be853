//! What a node says of a lease: the words that a supervisor, an agent's report and the scheduler's inputs share.
//!
//! Every fact may be heard twice; it counts while what it settles is open under that lease.
//!
//! Neighbours: [`crate::agent`] carries facts; the scheduler's side takes them.

use crate::LeaseId;

/// One fact about one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The ranks of a gang are ready on this node.
    Prepared {
        /// The lease.
        lease: LeaseId,
        /// Rendezvous port bound here; only the first node's is used.
        port: u16,
    },
    /// A task could not start here. Before Start it settles all ranks of a gang's lease.
    StartFailed {
        /// The lease.
        lease: LeaseId,
        /// The element.
        index: u32,
        /// The rank.
        rank: u32,
        /// The job's fault (no such command): never retried. Else infra.
        users_fault: bool,
        /// One sentence.
        detail: String,
    },
    /// A task was executed.
    Started {
        /// The lease.
        lease: LeaseId,
        /// The element.
        index: u32,
        /// The rank.
        rank: u32,
        /// Its process id.
        pid: u32,
        /// Field 22 of its `/proc/PID/stat`.
        start_ticks: u64,
        /// Where its files are.
        output_dir: String,
        /// Microseconds since the grant was received.
        spawn_us: u64,
    },
    /// A run of elements that exited 0, in order. Tells their starts, too.
    Succeeded {
        /// The lease.
        lease: LeaseId,
        /// The first of them.
        first: u32,
        /// The last of them.
        last: u32,
        /// Mean run time.
        mean_us: u64,
    },
    /// A task ended, and its process tree is gone.
    Ended {
        /// The lease.
        lease: LeaseId,
        /// The element.
        index: u32,
        /// The rank.
        rank: u32,
        /// Its exit code, if it exited by itself.
        exit_code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// Why it ended.
        cause: Cause,
        /// One sentence.
        detail: String,
        /// How long it ran.
        ran_us: u64,
        /// Newest complete checkpoint; empty: none.
        checkpoint: String,
        /// Peak memory.
        max_rss_bytes: u64,
    },
    /// Elements that never began came back.
    Returned {
        /// The lease.
        lease: LeaseId,
        /// The first of them.
        first: u32,
        /// The last of them.
        last: u32,
    },
}

/// Why a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// By itself.
    Exit,
    /// Killed for memory.
    Oom,
    /// Its time limit.
    TimeLimit,
    /// After a Revoke.
    Revoked,
    /// The supervisor died, the node failed.
    Infra,
    /// Silence longer than `stop_after`.
    Disconnected,
}

impl Fact {
    /// Returns the lease it is about.
    pub fn lease(&self) -> LeaseId {
        match self {
            Self::Prepared { lease, .. }
            | Self::StartFailed { lease, .. }
            | Self::Started { lease, .. }
            | Self::Succeeded { lease, .. }
            | Self::Ended { lease, .. }
            | Self::Returned { lease, .. } => *lease,
        }
    }
}
