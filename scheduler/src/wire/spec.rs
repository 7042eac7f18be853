//! A job's spec: from what people sent to a draft, from a checked spec to its message, and back from the log.

use std::collections::HashMap;
use std::sync::Arc;

use gangsaw_core::id::{JobId, JobName, QueueName};
use gangsaw_core::job::draft::{
    ArrayDraft, DemandDraft, DependencyDraft, JobDraft, JobRefDraft, RetryDraft, StepRange, WorkDraft,
};
use gangsaw_core::job::spec::{Array, Dependency, DependsOn, JobSpec, OnDisconnect, Rendezvous, Retry, Work};
use gangsaw_core::ranges::{IndexRange, RangeSet};
use gangsaw_core::resources::Demand;
use gangsaw_core::time::Millis;
use gangsaw_proto::jobs::v1 as wire;
use gangsaw_proto::jobs::v1::dependency::Job as OnWire;
use gangsaw_proto::jobs::v1::job_spec::Work as WorkWire;

use super::{Malformed, need, terms};

/// Copies what people sent, unchecked.
pub(crate) fn draft(spec: wire::JobSpec) -> JobDraft {
    let stop = spec.on_disconnect() == wire::OnDisconnect::Stop;
    let per_process_rendezvous = spec.rendezvous() == wire::Rendezvous::PerProcess;
    JobDraft {
        name: spec.name,
        queue: spec.queue,
        priority: spec.priority,
        labels: spec.labels.into_iter().collect(),
        work: spec.work.map(work_draft),
        demands: spec.demands.into_iter().map(demand_draft).collect(),
        array: spec.array.map(|array| ArrayDraft {
            ranges: array.ranges.into_iter().map(step_range).collect(),
            running_max: array.running_max,
        }),
        replicas: spec.replicas,
        per_process_rendezvous,
        after: spec.after.into_iter().map(dependency_draft).collect(),
        time_limit_ms: spec.time_limit.map(|span| ms(&span)),
        retry: spec.retry.map(retry_draft).unwrap_or_default(),
        env: spec.env.into_iter().collect(),
        exported_env: spec.exported_env.into_iter().collect(),
        workdir: spec.workdir,
        output_dir: spec.output_dir,
        grace_ms: spec.grace.map(|span| ms(&span)),
        stop_on_disconnect: stop,
        lost_after_ms: spec.lost_after.map(|span| ms(&span)),
        stop_after_ms: spec.stop_after.map(|span| ms(&span)),
        requeue_on: spec.requeue_on,
        hold: spec.hold,
        notify: spec.notify,
        alias: spec.alias,
    }
}

fn work_draft(work: WorkWire) -> WorkDraft {
    match work {
        WorkWire::Shell(line) => WorkDraft::Shell(line),
        WorkWire::Argv(argv) => WorkDraft::Argv(argv.args),
        WorkWire::Recipe(recipe) => WorkDraft::Recipe { name: recipe.name, settings_json: recipe.settings_json },
    }
}

fn demand_draft(demand: wire::Demand) -> DemandDraft {
    DemandDraft {
        milli_cpus: demand.milli_cpus,
        memory_bytes: demand.memory_bytes,
        gpus: demand.gpus,
        gpu_model: demand.gpu_model,
        gpu_memory_bytes: demand.gpu_memory_bytes,
    }
}

fn dependency_draft(dependency: wire::Dependency) -> DependencyDraft {
    DependencyDraft {
        kind: terms::kind_from(dependency.kind),
        job: dependency.job.map(|job| match job {
            OnWire::JobId(id) => JobRefDraft::Id(id),
            OnWire::Alias(alias) => JobRefDraft::Alias(alias),
        }),
    }
}

fn retry_draft(retry: wire::Retry) -> RetryDraft {
    RetryDraft {
        failure: retry.failure,
        infra: retry.infra,
        preempted: retry.preempted,
        oom: retry.oom,
        backoff_ms: retry.backoff.map(|span| ms(&span)),
    }
}

fn step_range(range: wire::IndexRange) -> StepRange {
    StepRange { first: range.first, last: range.last, step: range.step }
}

/// Returns milliseconds, saturating; a fraction counts as nothing.
pub(crate) fn ms(span: &prost_types::Duration) -> i64 {
    span.seconds.saturating_mul(1_000).saturating_add(i64::from(span.nanos) / 1_000_000)
}

/// Returns the message of a span.
pub(crate) fn span(millis: Millis) -> prost_types::Duration {
    let seconds = i64::try_from(millis.0 / 1_000).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: i32::try_from(millis.0 % 1_000).unwrap_or(0) * 1_000_000 }
}

fn millis(span: &prost_types::Duration) -> Millis {
    Millis(u64::try_from(ms(span)).unwrap_or(0))
}

/// Returns the message of a checked spec.
pub(crate) fn message(spec: &JobSpec) -> wire::JobSpec {
    let (on_disconnect, stop_after) = match spec.on_disconnect {
        OnDisconnect::Keep => (wire::OnDisconnect::Keep, None),
        OnDisconnect::Stop { after } => (wire::OnDisconnect::Stop, Some(span(after))),
    };
    let rendezvous = match spec.rendezvous {
        Rendezvous::PerNode => wire::Rendezvous::PerNode,
        Rendezvous::PerProcess => wire::Rendezvous::PerProcess,
    };
    wire::JobSpec {
        name: spec.name.to_string(),
        queue: spec.queue.to_string(),
        priority: Some(spec.priority),
        labels: spec.labels.clone().into_iter().collect(),
        work: Some(work(&spec.work)),
        demands: spec.demands.iter().map(demand).collect(),
        array: spec
            .array
            .as_ref()
            .map(|array| wire::Array { ranges: ranges(&array.indices), running_max: array.running_max.unwrap_or(0) }),
        replicas: spec.replicas,
        rendezvous: rendezvous.into(),
        after: spec.after.iter().map(dependency).collect(),
        time_limit: spec.time_limit.map(span),
        retry: Some(wire::Retry {
            failure: Some(spec.retry.failure),
            infra: Some(spec.retry.infra),
            preempted: spec.retry.preempted,
            oom: Some(spec.retry.oom),
            backoff: Some(span(spec.retry.backoff)),
        }),
        env: hash(&spec.env),
        exported_env: hash(&spec.exported_env),
        workdir: spec.workdir.clone().unwrap_or_default(),
        output_dir: spec.output_dir.clone().unwrap_or_default(),
        grace: Some(span(spec.grace)),
        on_disconnect: on_disconnect.into(),
        lost_after: Some(span(spec.lost_after)),
        stop_after,
        requeue_on: spec.requeue_on.iter().map(|code| u32::from(*code)).collect(),
        hold: spec.hold,
        notify: spec.notify.clone().unwrap_or_default(),
        alias: spec.alias.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn hash(map: &std::collections::BTreeMap<String, String>) -> HashMap<String, String> {
    map.clone().into_iter().collect()
}

fn work(work: &Work) -> WorkWire {
    match work {
        Work::Shell(line) => WorkWire::Shell(line.clone()),
        Work::Argv(args) => WorkWire::Argv(wire::Argv { args: args.clone() }),
        Work::Recipe { name, settings_json } => {
            WorkWire::Recipe(wire::Recipe { name: name.clone(), settings_json: settings_json.clone() })
        }
    }
}

/// Returns the message of a demand.
pub(crate) fn demand(demand: &Demand) -> wire::Demand {
    wire::Demand {
        milli_cpus: demand.milli_cpus,
        memory_bytes: demand.memory_bytes,
        gpus: demand.gpus,
        gpu_model: demand.gpu_model.clone().unwrap_or_default(),
        gpu_memory_bytes: demand.gpu_memory_bytes,
    }
}

/// Reads a demand this scheduler wrote.
pub(crate) fn demand_from(demand: wire::Demand) -> Demand {
    Demand {
        milli_cpus: demand.milli_cpus,
        memory_bytes: demand.memory_bytes,
        gpus: demand.gpus,
        gpu_model: filled(demand.gpu_model),
        gpu_memory_bytes: demand.gpu_memory_bytes,
    }
}

fn dependency(dependency: &Dependency) -> wire::Dependency {
    let job = match &dependency.on {
        DependsOn::Job(id) => OnWire::JobId(id.0),
        DependsOn::Alias(alias) => OnWire::Alias(alias.to_string()),
    };
    wire::Dependency { kind: terms::kind(dependency.kind).into(), job: Some(job) }
}

/// Returns the ranges of a set.
pub(crate) fn ranges(set: &RangeSet) -> Vec<wire::IndexRange> {
    set.iter().map(|range| wire::IndexRange { first: range.first, last: range.last, step: 1 }).collect()
}

/// Returns `None` for an empty text.
pub(crate) fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Reads a spec this scheduler wrote.
pub(crate) fn from_message(spec: wire::JobSpec) -> Result<JobSpec, Malformed> {
    let on_disconnect = match spec.on_disconnect() {
        wire::OnDisconnect::Stop => {
            OnDisconnect::Stop { after: need(spec.stop_after.as_ref().map(millis), "stop_after")? }
        }
        wire::OnDisconnect::Keep | wire::OnDisconnect::Unspecified => OnDisconnect::Keep,
    };
    let rendezvous = match spec.rendezvous() {
        wire::Rendezvous::PerProcess => Rendezvous::PerProcess,
        wire::Rendezvous::PerNode | wire::Rendezvous::Unspecified => Rendezvous::PerNode,
    };
    let retry = spec.retry.unwrap_or_default();
    Ok(JobSpec {
        name: JobName::new(&spec.name).map_err(|_| Malformed("name"))?,
        queue: QueueName::new(&spec.queue).map_err(|_| Malformed("queue"))?,
        priority: spec.priority.unwrap_or(0),
        labels: spec.labels.into_iter().collect(),
        work: Arc::new(work_from(need(spec.work, "work")?)),
        demands: spec.demands.into_iter().map(demand_from).collect(),
        array: spec.array.map(array_from).transpose()?,
        replicas: spec.replicas,
        rendezvous,
        after: spec.after.into_iter().map(dependency_from).collect::<Result<_, _>>()?,
        time_limit: spec.time_limit.as_ref().map(millis),
        retry: retry_from(&retry),
        env: Arc::new(spec.env.into_iter().collect()),
        exported_env: Arc::new(spec.exported_env.into_iter().collect()),
        workdir: filled(spec.workdir),
        output_dir: filled(spec.output_dir),
        grace: millis(&need(spec.grace, "grace")?),
        on_disconnect,
        lost_after: millis(&need(spec.lost_after, "lost_after")?),
        requeue_on: spec.requeue_on.into_iter().filter_map(|code| u8::try_from(code).ok()).collect(),
        hold: spec.hold,
        notify: filled(spec.notify),
        alias: match spec.alias.as_str() {
            "" => None,
            alias => Some(JobName::new(alias).map_err(|_| Malformed("alias"))?),
        },
    })
}

fn work_from(work: WorkWire) -> Work {
    match work {
        WorkWire::Shell(line) => Work::Shell(line),
        WorkWire::Argv(argv) => Work::Argv(argv.args),
        WorkWire::Recipe(recipe) => Work::Recipe { name: recipe.name, settings_json: recipe.settings_json },
    }
}

fn array_from(array: wire::Array) -> Result<Array, Malformed> {
    if array.ranges.iter().any(|range| range.first > range.last) {
        return Err(Malformed("array"));
    }
    let range = |range: wire::IndexRange| IndexRange { first: range.first, last: range.last };
    let running_max = (array.running_max > 0).then_some(array.running_max);
    Ok(Array { indices: array.ranges.into_iter().map(range).collect(), running_max })
}

fn dependency_from(dependency: wire::Dependency) -> Result<Dependency, Malformed> {
    let on = match need(dependency.job, "after")? {
        OnWire::JobId(id) => DependsOn::Job(JobId(id)),
        OnWire::Alias(alias) => DependsOn::Alias(JobName::new(&alias).map_err(|_| Malformed("after"))?),
    };
    Ok(Dependency { kind: need(terms::kind_from(dependency.kind), "after")?, on })
}

fn retry_from(retry: &wire::Retry) -> Retry {
    let default = Retry::default();
    Retry {
        failure: retry.failure.unwrap_or(default.failure),
        infra: retry.infra.unwrap_or(default.infra),
        preempted: retry.preempted,
        oom: retry.oom.unwrap_or(default.oom),
        backoff: retry.backoff.as_ref().map_or(default.backoff, millis),
    }
}
