//! Jobs, tasks, nodes and queues as people see them, rendered from the state.

use std::collections::BTreeMap;

use gangsaw_core::id::{Index, JobId, Rank, Tenant};
use gangsaw_core::job::body::{CancelCause, DeviceCode, Job};
use gangsaw_core::job::notice::Notice;
use gangsaw_core::job::record::ElementState;
use gangsaw_core::job::spec::JobSpec;
use gangsaw_core::node::Node;
use gangsaw_core::queue::{Queue, QueueKey};
use gangsaw_core::ranges::RangeSet;
use gangsaw_core::reason::Reason;
use gangsaw_core::state::State;
use gangsaw_core::state::view::TaskView;
use gangsaw_core::time::Time;
use gangsaw_proto::{admin, jobs};

use super::{spec, terms};

/// What people see instead of a value whose name says that it is secret.
const MASK: &str = "********";
/// Parts of names whose values are masked.
const SECRET_WORDS: [&str; 4] = ["TOKEN", "KEY", "SECRET", "PASSWORD"];

/// Now, in cluster time and on the wall.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) time: Time,
    pub(crate) wall_ms: u64,
}

impl Now {
    /// Returns the wall time of a moment in cluster time.
    pub(crate) fn wall(self, at: Time) -> prost_types::Timestamp {
        let (ago, ahead) = (self.time.since(at).0, at.since(self.time).0);
        timestamp(self.wall_ms.saturating_sub(ago).saturating_add(ahead))
    }
}

/// Returns the timestamp of a wall time in ms.
pub(crate) fn timestamp(wall_ms: u64) -> prost_types::Timestamp {
    let seconds = i64::try_from(wall_ms / 1_000).unwrap_or(i64::MAX);
    prost_types::Timestamp { seconds, nanos: i32::try_from(wall_ms % 1_000).unwrap_or(0) * 1_000_000 }
}

/// Returns a job's summary.
pub(crate) fn job(state: &State, job: &Job, now: Now) -> jobs::v1::Job {
    let body = &job.body;
    let device = body.device.as_ref();
    jobs::v1::Job {
        job_id: body.id.0,
        name: body.spec.name.to_string(),
        tenant: body.tenant.to_string(),
        queue: body.queue.to_string(),
        user: body.user.to_string(),
        priority: body.priority,
        state: state.job_state(body.id).map_or(0, |state| terms::state(state).into()),
        submitted_at: Some(now.wall(body.submitted_at)),
        started_at: body.started_at.map(|at| now.wall(at)),
        ended_at: body.ended_at.map(|at| now.wall(at)),
        element_counts: state
            .element_counts(body.id)
            .into_iter()
            .map(|(state, count)| jobs::v1::StateCount { state: terms::state(state).into(), count })
            .collect(),
        reasons: reasons(state, job, now),
        device: device.map_or("", |device| if device.gpu { "gpu" } else { "cpu" }).to_owned(),
        device_reason: device.map(|device| jobs::v1::DeviceReason {
            code: match device.code {
                DeviceCode::OnlyChoice => "only-choice".to_owned(),
                DeviceCode::DefaultRule => "default-rule".to_owned(),
            },
            detail: device.detail.clone(),
        }),
        labels: body.spec.labels.clone().into_iter().collect(),
        retries: body.retries,
        element_count: body.spec.element_count(),
        replicas: body.spec.replicas,
        command: body.spec.command(),
        exit_code: body.exit_code,
    }
}

/// Returns why elements wait, or why a cancelled job never started.
fn reasons(state: &State, job: &Job, now: Now) -> Vec<jobs::v1::WaitReason> {
    let mut reasons = state.wait_reasons(job.body.id, now.time);
    if let Some(CancelCause::DependencyFailed { on }) = job.body.cancelled
        && state.job_state(job.body.id) == Some(ElementState::Cancelled)
    {
        reasons.push(Reason::DependencyFailed { on });
    }
    let said = |reason: &Reason| {
        // Cluster time means nothing to people.
        if let Reason::Backoff { elements, until } = reason {
            let seconds = until.since(now.time).0.div_ceil(1_000);
            format!("{elements} element(s) wait before their next attempt, the first for {seconds} s more")
        } else {
            reason.to_string()
        }
    };
    reasons
        .iter()
        .map(|reason| jobs::v1::WaitReason { reason: reason.code().to_owned(), message: said(reason) })
        .collect()
}

/// Returns a spec as people see it: values that may be secret are masked.
pub(crate) fn shown_spec(job: &Job) -> jobs::v1::JobSpec {
    let mut shown = spec::message(&JobSpec { queue: job.body.queue.clone(), ..(*job.body.spec).clone() });
    shown.priority = Some(job.body.priority);
    shown.time_limit = job.body.time_limit.map(spec::span);
    shown.notify = shown_url(&shown.notify);
    for (name, value) in shown.env.iter_mut().chain(shown.exported_env.iter_mut()) {
        let upper = name.to_uppercase();
        if SECRET_WORDS.iter().any(|word| upper.contains(word)) {
            MASK.clone_into(value);
        }
    }
    shown
}

/// Returns a URL without what comes after its host: paths and queries of receivers are often secrets.
fn shown_url(url: &str) -> String {
    let host = url.find("://").map_or(0, |at| at + 3);
    match url[host..].find(['/', '?', '#']).map(|at| host + at) {
        Some(end) if end + 1 < url.len() => format!("{}/{MASK}", &url[..end]),
        Some(_) | None => url.to_owned(),
    }
}

/// Returns how far the notice of a job's end is.
pub(crate) fn notice(notice: &Notice) -> jobs::v1::Notice {
    let standing = terms::notice(notice.standing).into();
    jobs::v1::Notice { standing, tries: notice.tries, detail: notice.why.clone() }
}

/// Progress of tasks, as they last said it.
pub(crate) type ProgressMap = BTreeMap<(Index, Rank), jobs::v1::Progress>;

/// Returns one task.
pub(crate) fn task(state: &State, view: &TaskView, progress: Option<&ProgressMap>, now: Now) -> jobs::v1::Task {
    let node = view.node.and_then(|node| state.node(node));
    jobs::v1::Task {
        index: view.index,
        rank: view.rank,
        state: terms::state(view.state).into(),
        attempt: view.attempt,
        node: node.map(|node| node.body.name.to_string()).unwrap_or_default(),
        pid: view.pid.unwrap_or(0),
        exit_code: view.exit_code,
        signal: view.signal,
        outcome: view.outcome.map_or(0, |outcome| terms::outcome(outcome).into()),
        detail: view.detail.clone(),
        started_at: view.started_at.map(|at| now.wall(at)),
        ended_at: view.ended_at.map(|at| now.wall(at)),
        gpu_uuids: view.gpu_uuids.iter().map(ToString::to_string).collect(),
        output_dir: view.output_dir.clone(),
        progress: progress.and_then(|map| map.get(&(view.index, view.rank))).cloned(),
    }
}

/// Returns a page of a job's tasks, and where the next begins.
pub(crate) fn tasks(
    state: &State,
    job: JobId,
    elements: Option<&RangeSet>,
    (from, limit): ((Index, Rank), usize),
    progress: Option<&ProgressMap>,
    now: Now,
) -> (Vec<jobs::v1::Task>, Option<(Index, Rank)>) {
    let page = state.tasks(job, elements, from, limit);
    (page.tasks.iter().map(|view| task(state, view, progress, now)).collect(), page.next)
}

/// What a node said of itself that decides nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volatile {
    /// Wall time when it was last heard, in ms.
    pub(crate) heard_wall_ms: Option<u64>,
    /// The node's BOOTTIME in ms of its newest Hello.
    pub(crate) hello_ms: u64,
    /// Utilisation in percent and memory used, by device.
    pub(crate) devices: BTreeMap<String, (Option<u32>, Option<u64>)>,
}

/// Returns a node.
pub(crate) fn node(state: &State, node: &Node, volatile: &Volatile, now: Now) -> admin::v1::Node {
    let body = &node.body;
    let withheld = body.inventory.withheld.iter().map(|why| format!("takes no work: {why}"));
    admin::v1::Node {
        name: body.name.to_string(),
        mode: terms::mode(body.mode).into(),
        connected: node.connected(),
        reason: body.mode_reason.clone(),
        milli_cpus: body.inventory.milli_cpus,
        milli_cpus_free: node.free_milli_cpus,
        memory_bytes: body.inventory.memory_bytes,
        memory_bytes_free: node.free_memory_bytes,
        devices: body.inventory.devices.iter().map(|device| self::device(state, node, device, volatile)).collect(),
        agent_version: body.agent_version.clone(),
        last_heard_at: volatile.heard_wall_ms.map(timestamp),
        leases: u32::try_from(node.leases.len()).unwrap_or(u32::MAX),
        notes: withheld.chain(body.inventory.notes.clone()).collect(),
        evicts_at: body.evict_at.map(|at| now.wall(at)),
        foreign_leases: u32::try_from(body.foreign.len()).unwrap_or(u32::MAX),
    }
}

fn device(
    state: &State,
    node: &Node,
    device: &gangsaw_core::resources::Device,
    volatile: &Volatile,
) -> admin::v1::Device {
    let holder = state.device_holder(node.body.id, &device.uuid);
    let (utilisation, memory_used_bytes) = volatile.devices.get(device.uuid.as_str()).copied().unwrap_or_default();
    let withheld = device.withheld.clone().unwrap_or_default();
    let status = match withheld.as_str() {
        "" => "offered",
        why if why.starts_with("foreign-process") => "foreign-process",
        _ => "unknown",
    };
    admin::v1::Device {
        uuid: device.uuid.to_string(),
        model: device.model.clone(),
        memory_bytes: device.memory_bytes,
        status: status.to_owned(),
        detail: withheld,
        holder: holder.map(|by| format!("{}[{}].{}", by.job, by.index, by.rank)).unwrap_or_default(),
        utilisation,
        memory_used_bytes,
    }
}

/// Returns a tenant.
pub(crate) fn tenant(tenant: &Tenant, held: &Queue) -> admin::v1::Tenant {
    admin::v1::Tenant {
        name: tenant.to_string(),
        running_max: held.limits.running_max,
        queued_max: held.limits.queued_max,
        gpus_max: held.limits.gpus_max,
        running: held.usage.running,
        queued: held.usage.queued,
        gpus: held.usage.gpus,
    }
}

/// Returns a queue.
pub(crate) fn queue(key: &QueueKey, queue: &Queue) -> admin::v1::Queue {
    admin::v1::Queue {
        name: key.name.to_string(),
        tenant: key.tenant.to_string(),
        running_max: queue.limits.running_max,
        queued_max: queue.limits.queued_max,
        gpus_max: queue.limits.gpus_max,
        running: queue.usage.running,
        queued: queue.usage.queued,
        gpus: queue.usage.gpus,
    }
}
