//! Which task of a lease sent a datagram.
//!
//! A lease with one task has one answer. For a chunk or the ranks of a gang the message may name its task
//! (`task`, as `gangsaw progress` does); else the sender's pid, which the kernel attests, leads to its environment.
//! A sender that is gone by then cannot be told, and its message is dropped.

use std::collections::BTreeMap;

use super::TaskKey;

/// Pids that are remembered for a lease; beyond it all are forgotten.
const PIDS_MAX: usize = 1_024;

/// The tasks that share a lease's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tasks {
    pub(crate) lease: u64,
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// At least one.
    pub(crate) ranks: Vec<u32>,
}

/// Finds the task of each message of one lease.
#[derive(Debug)]
pub(super) struct Senders {
    tasks: Tasks,
    known: BTreeMap<u32, TaskKey>,
}

impl Senders {
    pub(super) fn new(tasks: Tasks) -> Senders {
        Senders { tasks, known: BTreeMap::new() }
    }

    /// Returns the task, or nothing when it cannot be told.
    pub(super) fn find(&mut self, named: Option<&str>, pid: Option<u32>) -> Option<TaskKey> {
        let only_rank = self.tasks.ranks.first().copied().unwrap_or(0);
        if self.tasks.first == self.tasks.last && self.tasks.ranks.len() <= 1 {
            return Some(TaskKey { lease: self.tasks.lease, index: self.tasks.first, rank: only_rank });
        }
        if let Some(name) = named {
            return self.task(name);
        }
        let pid = pid?;
        if let Some(key) = self.known.get(&pid) {
            return Some(*key);
        }
        let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let name = environ.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(b"GANGSAW_TASK_ID="))?;
        let key = self.task(std::str::from_utf8(name).ok()?)?;
        if self.known.len() >= PIDS_MAX {
            self.known.clear();
        }
        self.known.insert(pid, key);
        Some(key)
    }

    /// Parses `JOB`, `JOB[INDEX]`, `JOB.RANK` or `JOB[INDEX].RANK` of this lease.
    fn task(&self, name: &str) -> Option<TaskKey> {
        let (head, rank) = match name.rsplit_once('.') {
            Some((head, rank)) => (head, rank.parse().ok()?),
            None => (name, self.tasks.ranks.first().copied().unwrap_or(0)),
        };
        let index = match head.split_once('[') {
            Some((_, index)) => index.strip_suffix(']')?.parse().ok()?,
            None => self.tasks.first,
        };
        let known_rank = self.tasks.ranks.is_empty() || self.tasks.ranks.contains(&rank);
        let inside = (self.tasks.first..=self.tasks.last).contains(&index) && known_rank;
        inside.then_some(TaskKey { lease: self.tasks.lease, index, rank })
    }
}
