//! A job that was checked: everything in it is within its limits.
//!
//! `JobSpec::try_from(JobDraft)` (in `parse`) is the only way to make one from outside. A spec never changes; what
//! people may change of a job (priority, queue, time limit) is copied into `job::body` at submission.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::id::{JobId, JobName, QueueName};
use crate::ranges::RangeSet;
use crate::resources::Demand;
use crate::time::Millis;

/// What a job's owner asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JobSpec {
    /// What people call it.
    pub name: JobName,
    /// Its line at submission.
    pub queue: QueueName,
    /// -1000..=1000, higher first, at submission.
    pub priority: i32,
    /// For people.
    pub labels: BTreeMap<String, String>,
    /// What runs.
    pub work: Arc<Work>,
    /// At least one, best first.
    pub demands: Vec<Demand>,
    /// The elements; `None`: one, index 0.
    pub array: Option<Array>,
    /// Ranks of each element, at least 1.
    pub replicas: u32,
    /// How ranks find each other.
    pub rendezvous: Rendezvous,
    /// What must be met before an element may start.
    pub after: Vec<Dependency>,
    /// Counted from exec by the supervisor, at submission.
    pub time_limit: Option<Millis>,
    /// How often to try again.
    pub retry: Retry,
    /// Set over everything else.
    pub env: Arc<BTreeMap<String, String>>,
    /// From the submitter's shell; `env` wins over it.
    pub exported_env: Arc<BTreeMap<String, String>>,
    /// Absolute. `None`: the attempt directory.
    pub workdir: Option<String>,
    /// Absolute. `None`: a directory per attempt.
    pub output_dir: Option<String>,
    /// Between SIGTERM and SIGKILL.
    pub grace: Millis,
    /// What the node does when it cannot hear the scheduler.
    pub on_disconnect: OnDisconnect,
    /// Silence of a node after which a new attempt may be placed.
    pub lost_after: Millis,
    /// Exit codes that requeue an element.
    pub requeue_on: BTreeSet<u8>,
    /// Submitted in HELD.
    pub hold: bool,
    /// Who is told when it has ended: an http or https URL.
    pub notify: Option<String>,
    /// Its name within one Submit.
    pub alias: Option<JobName>,
}

impl JobSpec {
    /// Returns every index of the job.
    pub fn elements(&self) -> RangeSet {
        match &self.array {
            Some(array) => array.indices.clone(),
            None => RangeSet::range(0, 0),
        }
    }

    /// Returns how many elements the job has.
    pub fn element_count(&self) -> u64 {
        self.array.as_ref().map_or(1, |array| array.indices.len())
    }

    /// Says whether an element has several ranks, which start together or not at all.
    pub fn is_gang(&self) -> bool {
        self.replicas > 1
    }

    /// Returns what runs in one line, for people.
    pub fn command(&self) -> String {
        match &*self.work {
            Work::Shell(line) => line.clone(),
            Work::Argv(args) => args.join(" "),
            Work::Recipe { name, .. } => name.clone(),
        }
    }
}

/// What runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Passed to `sh -c`.
    Shell(String),
    /// Executed as it is; at least one.
    Argv(Vec<String>),
    /// A built-in training recipe.
    Recipe {
        /// For example `cnn`.
        name: String,
        /// One JSON object, or empty: the recipe's defaults.
        settings_json: String,
    },
}

/// The elements of an array.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Array {
    /// At least one.
    pub indices: RangeSet,
    /// Most elements that run at once.
    pub running_max: Option<u32>,
}

/// How the ranks of a gang find each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rendezvous {
    /// The command starts torchrun or the like.
    #[default]
    PerNode,
    /// The command is one rank itself.
    PerProcess,
}

/// What another job must have come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DependencyKind {
    /// Every element COMPLETED.
    Ok,
    /// Every element ended, however.
    Any,
    /// Ended, and at least one element not COMPLETED.
    Failed,
}

/// One thing that must be met before, as submitted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dependency {
    /// What the other job must have come to.
    pub kind: DependencyKind,
    /// The other job.
    pub on: DependsOn,
}

/// The job a dependency means. After the submit it is always resolved, see `job::body::After`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DependsOn {
    /// A job that exists.
    Job(JobId),
    /// A job of the same Submit.
    Alias(JobName),
}

/// How many further attempts an element gets, by what ended the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Retry {
    /// The command ended non-zero or by a signal.
    pub failure: u32,
    /// The node, agent or supervisor failed.
    pub infra: u32,
    /// The node took it down for its operator. `None`: no limit.
    pub preempted: Option<u32>,
    /// Killed for memory.
    pub oom: u32,
    /// Before the second attempt; doubles up to 10 min.
    pub backoff: Millis,
}

impl Default for Retry {
    fn default() -> Self {
        Self { failure: 0, infra: 10, preempted: None, oom: 0, backoff: Millis::seconds(1) }
    }
}

/// What the node does when it cannot hear the scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnDisconnect {
    /// Nothing: the task is fenced when the node returns too late.
    #[default]
    Keep,
    /// The node stops the task after so long.
    Stop {
        /// `after + 2 × grace + 10 % < lost_after` holds.
        after: Millis,
    },
}

/// One thing that is wrong with a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the spec key, for example `resources.gpus`. Empty: the whole job.
    pub path: String,
    /// Stable, for example `never-fits`.
    pub reason: &'static str,
    /// The facts, as a lowercase fragment.
    pub message: String,
    /// What to do. Empty: nothing to add.
    pub hint: String,
}

/// Everything that is wrong with a draft; at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} fault(s) in the job", .0.len())]
pub struct Faults(pub Vec<Fault>);
