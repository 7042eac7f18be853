//! Why elements wait, each reason from the code that refused, with its numbers.

use std::fmt;

use crate::id::{JobId, Tenant};
use crate::resources::{Bytes, Cores, Demand};
use crate::time::Time;

/// A reason to wait. `Display` is the sentence for people, [`Reason::code`] is stable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No node was ever registered, or all were forgotten.
    NoNodes,
    /// Every node that could is silent.
    NodesSilent {
        /// How many.
        nodes: u64,
    },
    /// Every node that could is cordoned or draining.
    NodesCordoned {
        /// How many.
        nodes: u64,
    },
    /// Every node that could is ending tasks from before it was removed or restored.
    NodesClearing {
        /// How many.
        nodes: u64,
    },
    /// Every node that could says that it takes no work.
    NodesWithheld {
        /// How many.
        nodes: u64,
        /// What one of them says.
        why: String,
    },
    /// The best node lacks cores.
    InsufficientCpus {
        /// Asked by one rank, in 1/1000.
        needed: u64,
        /// Most that is free on one node, in 1/1000.
        free: u64,
    },
    /// The best node lacks memory.
    InsufficientMemory {
        /// Asked by one rank.
        needed: u64,
        /// Most that is free on one node that has the cores.
        free: u64,
    },
    /// The best node lacks GPUs.
    InsufficientGpus {
        /// Asked by one rank.
        needed: u32,
        /// What kind.
        model: Option<String>,
        /// Most that are free on one node that has cores and memory.
        free: u32,
    },
    /// No node ever had such a GPU.
    NoSuchGpuModel {
        /// What kind.
        model: String,
    },
    /// Nodes had such GPUs, and none has one now.
    GpusGone {
        /// What kind.
        model: Option<String>,
        /// How many nodes had one.
        nodes: u64,
    },
    /// No node is large enough, even empty.
    NodesTooSmall(Lack),
    /// Each rank fits somewhere, all of them together do not.
    InsufficientForGang {
        /// Ranks of the gang.
        ranks: u32,
        /// Ranks that fit now.
        fit: u64,
    },
    /// What is free is kept for a job that is ahead in the line.
    GangReserved {
        /// That job.
        ahead: JobId,
    },
    /// The queue runs as many elements as it may.
    QueueLimit {
        /// `running_max` or `gpus_max`.
        limit: &'static str,
        /// Its value.
        max: u64,
        /// What is used.
        used: u64,
    },
    /// The tenant runs as many elements as it may, in all of its queues together.
    TenantLimit {
        /// Which tenant.
        tenant: Tenant,
        /// `running_max` or `gpus_max`.
        limit: &'static str,
        /// Its value.
        max: u64,
        /// What is used.
        used: u64,
    },
    /// The array runs as many elements as it may.
    ArrayLimit {
        /// Its `running_max`.
        max: u32,
    },
    /// Its owner holds it.
    Held,
    /// Another job must end first.
    Dependency {
        /// That job.
        on: JobId,
    },
    /// A dependency cannot be met; the job ends in the next round.
    DependencyFailed {
        /// That job.
        on: JobId,
    },
    /// Elements wait before their next attempt.
    Backoff {
        /// How many.
        elements: u64,
        /// The first may start then.
        until: Time,
    },
    /// The job is kept from every node it could run on.
    NodeExcluded {
        /// How many nodes.
        nodes: u64,
        /// What one of them said last.
        last: String,
    },
    /// It fits now: the next round places it.
    NextRound,
}

/// What no node owns enough of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Cores.
    Cpus {
        /// Asked by one rank, in 1/1000.
        needed: u64,
        /// Most that one node owns.
        largest: u64,
    },
    /// Memory.
    Memory {
        /// Asked by one rank.
        needed: u64,
        /// Most that one node owns.
        largest: u64,
    },
    /// GPUs of a kind.
    Gpus {
        /// Asked by one rank.
        needed: u32,
        /// The kind, for people.
        of: String,
        /// Most that one node owns.
        largest: u32,
    },
    /// Each amount is owned by some node, and by no node all of them.
    Together {
        /// What one rank asks for.
        demand: Demand,
    },
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lack::Cpus { needed, largest } => {
                write!(f, "needs {} CPUs on one node, and the largest node has {}", Cores(*needed), Cores(*largest))
            }
            Lack::Memory { needed, largest } => {
                write!(f, "needs {} on one node, and the largest node has {}", Bytes(*needed), Bytes(*largest))
            }
            Lack::Gpus { needed, of, largest } => {
                write!(f, "needs {needed} × {of} on one node, and the largest node has {largest}")
            }
            Lack::Together { demand } => write!(f, "needs {demand} on one node, and no node has all of it"),
        }
    }
}

impl Reason {
    /// Returns the stable word of the reason.
    pub fn code(&self) -> &'static str {
        match self {
            Reason::NoNodes => "no-nodes",
            Reason::NodesSilent { .. } => "nodes-silent",
            Reason::NodesCordoned { .. } => "nodes-cordoned",
            Reason::NodesClearing { .. } => "nodes-clearing",
            Reason::NodesWithheld { .. } => "nodes-withheld",
            Reason::InsufficientCpus { .. } => "insufficient-cpus",
            Reason::InsufficientMemory { .. } => "insufficient-memory",
            Reason::InsufficientGpus { .. } => "insufficient-gpus",
            Reason::NoSuchGpuModel { .. } => "no-such-gpu-model",
            Reason::GpusGone { .. } => "gpus-gone",
            Reason::NodesTooSmall(_) => "nodes-too-small",
            Reason::InsufficientForGang { .. } => "insufficient-for-gang",
            Reason::GangReserved { .. } => "gang-reserved",
            Reason::QueueLimit { .. } => "queue-limit",
            Reason::TenantLimit { .. } => "tenant-limit",
            Reason::ArrayLimit { .. } => "array-limit",
            Reason::Held => "held",
            Reason::Dependency { .. } => "dependency",
            Reason::DependencyFailed { .. } => "dependency-failed",
            Reason::Backoff { .. } => "backoff",
            Reason::NodeExcluded { .. } => "node-excluded",
            Reason::NextRound => "next-round",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoNodes => write!(f, "no node is registered"),
            Reason::NodesSilent { nodes } => {
                write!(f, "{nodes} node(s) could run it and none of them is heard")
            }
            Reason::NodesCordoned { nodes } => write!(f, "{nodes} node(s) could run it and none of them takes work"),
            Reason::NodesClearing { nodes } => {
                write!(f, "{nodes} node(s) could run it and still end tasks that nobody here gave them")
            }
            Reason::NodesWithheld { nodes, why } => {
                write!(f, "{nodes} node(s) could run it and none of them takes work: {why}")
            }
            Reason::InsufficientCpus { needed, free } => {
                write!(f, "needs {} CPUs on one node, and at most {} are free", Cores(*needed), Cores(*free))
            }
            Reason::InsufficientMemory { needed, free } => {
                write!(f, "needs {} on one node, and at most {} are free", Bytes(*needed), Bytes(*free))
            }
            Reason::InsufficientGpus { needed, model, free } => {
                let model = model.as_deref().unwrap_or("GPU");
                write!(f, "needs {needed} × {model} on one node, and at most {free} are free")
            }
            Reason::NoSuchGpuModel { model } => {
                write!(f, "no node ever had a GPU `{model}`")
            }
            Reason::GpusGone { model, nodes } => {
                let model = model.as_deref().unwrap_or("GPU");
                write!(f, "{nodes} node(s) had a {model} and none of them has one now")
            }
            Reason::NodesTooSmall(lack) => lack.fmt(f),
            Reason::InsufficientForGang { ranks, fit } => {
                write!(f, "needs room for {ranks} ranks together, and {fit} fit now")
            }
            Reason::GangReserved { ahead } => {
                write!(f, "what is free is kept for job {ahead}, which is ahead")
            }
            Reason::QueueLimit { limit, max, used } => {
                write!(f, "the queue's {limit} is {max}, and {used} are in use")
            }
            Reason::TenantLimit { tenant, limit, max, used } => {
                write!(f, "the {limit} of tenant {tenant}, for all of its queues, is {max}, and {used} are in use")
            }
            Reason::ArrayLimit { max } => write!(f, "the array may run {max} elements at once"),
            Reason::Held => write!(f, "held by its owner"),
            Reason::Dependency { on } => write!(f, "waits for job {on}"),
            Reason::DependencyFailed { on } => write!(f, "job {on} ended otherwise than it was to"),
            Reason::Backoff { elements, until } => {
                write!(f, "{elements} element(s) wait before their next attempt, the first until {until}")
            }
            Reason::NodeExcluded { nodes, last } => write!(f, "kept from {nodes} node(s): {last}"),
            Reason::NextRound => write!(f, "fits now and starts in the next round"),
        }
    }
}
