//! A job as it came over the wire: nothing checked, everything optional as in `gangsaw.jobs.v1.JobSpec`.
//!
//! `rpc` fills it field by field; `JobSpec::try_from` is the only way on from here and reports all faults at once.

use std::collections::BTreeMap;

/// Mirrors `jobs.v1.JobSpec`. Durations are in milliseconds and may be negative, which is a fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobDraft {
    /// Empty: named after what runs.
    pub name: String,
    /// Empty: `default`.
    pub queue: String,
    /// Absent: 0.
    pub priority: Option<i32>,
    /// For people.
    pub labels: BTreeMap<String, String>,
    /// Absent is a fault.
    pub work: Option<WorkDraft>,
    /// Empty: one alternative of one core.
    pub demands: Vec<DemandDraft>,
    /// Absent: one element.
    pub array: Option<ArrayDraft>,
    /// Zero: 1.
    pub replicas: u32,
    /// True: RENDEZVOUS_PER_PROCESS. False: per node.
    pub per_process_rendezvous: bool,
    /// What must be met before.
    pub after: Vec<DependencyDraft>,
    /// Absent: no limit.
    pub time_limit_ms: Option<i64>,
    /// How often to try again.
    pub retry: RetryDraft,
    /// The task's environment.
    pub env: BTreeMap<String, String>,
    /// What the submitter's shell had.
    pub exported_env: BTreeMap<String, String>,
    /// Empty: the attempt directory.
    pub workdir: String,
    /// Empty: a directory per attempt.
    pub output_dir: String,
    /// Absent: 10 s.
    pub grace_ms: Option<i64>,
    /// True: ON_DISCONNECT_STOP. False: keep.
    pub stop_on_disconnect: bool,
    /// Absent: 10 min.
    pub lost_after_ms: Option<i64>,
    /// Required with `stop_on_disconnect`, a fault without.
    pub stop_after_ms: Option<i64>,
    /// Exit codes that requeue.
    pub requeue_on: Vec<u32>,
    /// Submit in HELD.
    pub hold: bool,
    /// Who is told when it has ended. Empty: nobody.
    pub notify: String,
    /// Its name within one Submit. Empty: none.
    pub alias: String,
}

/// What runs, unchecked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkDraft {
    /// For `sh -c`.
    Shell(String),
    /// Executed as it is.
    Argv(Vec<String>),
    /// A built-in training recipe.
    Recipe {
        /// For example `cnn`.
        name: String,
        /// One JSON object, or empty.
        settings_json: String,
    },
}

/// Mirrors `jobs.v1.Demand`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DemandDraft {
    /// Zero: 1,000.
    pub milli_cpus: u64,
    /// Zero: none.
    pub memory_bytes: u64,
    /// Zero: none.
    pub gpus: u32,
    /// Empty: any.
    pub gpu_model: String,
    /// Zero: any.
    pub gpu_memory_bytes: u64,
}

/// Mirrors `jobs.v1.Array`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArrayDraft {
    /// Ascending, not overlapping.
    pub ranges: Vec<StepRange>,
    /// Zero: no limit.
    pub running_max: u32,
}

/// `first, first + step, …` up to `last`. Mirrors `jobs.v1.IndexRange`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepRange {
    /// The first index.
    pub first: u32,
    /// No index is above it.
    pub last: u32,
    /// Zero: 1.
    pub step: u32,
}

/// Mirrors `jobs.v1.Dependency`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DependencyDraft {
    /// Absent is a fault.
    pub kind: Option<super::spec::DependencyKind>,
    /// Absent is a fault.
    pub job: Option<JobRefDraft>,
}

/// The job a dependency means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobRefDraft {
    /// A job that exists.
    Id(u64),
    /// The alias of a job in the same Submit.
    Alias(String),
}

/// Mirrors `jobs.v1.Retry`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryDraft {
    /// Absent: 0.
    pub failure: Option<u32>,
    /// Absent: 10.
    pub infra: Option<u32>,
    /// Absent: no limit.
    pub preempted: Option<u32>,
    /// Absent: 0.
    pub oom: Option<u32>,
    /// Absent: 1 s.
    pub backoff_ms: Option<i64>,
}
