//! How jobs, attempts and nodes of the state become rows. Each costs the same, however large the job.

use std::sync::Arc;

use gangsaw_core::id::{Attempt, Index, JobId, LeaseId, NodeId, NodeName};
use gangsaw_core::job::record::{EndState, Outcome, TaskRecord};
use gangsaw_core::lease::Lease;
use gangsaw_core::node::NodeMode;
use gangsaw_core::state::State;
use gangsaw_core::time::Time;
use jiff::Timestamp;

use super::super::rows::{AttemptRow, JobRow, NodeRow, Row};
use crate::wire::terms;
use crate::wire::view::Now;

/// Elements of one job whose ended attempts have rows, as the state keeps records of no more.
const DEVIATING_MAX: usize = 10_000;

/// The order of [`JobRow::ended`].
const ENDS: [EndState; 6] = [
    EndState::Completed,
    EndState::Failed,
    EndState::Cancelled,
    EndState::Timeout,
    EndState::OutOfMemory,
    EndState::NodeFail,
];

impl Now {
    fn wall_of(self, at: Time) -> u64 {
        self.wall_ms.saturating_sub(self.time.since(at).0)
    }
}

/// Renders a job; `forgotten`: it leaves the state now.
pub(super) fn job(state: &State, id: JobId, now: Now, forgotten: bool) -> Option<Row> {
    let job = state.job(id)?;
    let body = &job.body;
    let ended = ENDS.map(|end| job.ended_counts.get(&end).copied().unwrap_or(0));
    Some(Row::Job(Box::new(JobRow {
        job_id: id.0,
        tenant: body.tenant.clone(),
        queue: body.queue.clone(),
        user: body.user.to_string(),
        name: body.spec.name.clone(),
        priority: body.priority,
        state: state.job_state(id).map_or("", terms::state_name),
        elements: body.spec.element_count(),
        waiting: job.waiting_count(),
        active: job.active,
        ended,
        retries: body.retries,
        exit_code: body.exit_code,
        device: body.device.as_ref().map(|device| if device.gpu { "gpu" } else { "cpu" }),
        submitted_wall_ms: now.wall_of(body.submitted_at),
        started_wall_ms: body.started_at.map(|at| now.wall_of(at)),
        ended_wall_ms: body.ended_at.map(|at| now.wall_of(at)),
        forgotten_wall_ms: forgotten.then_some(now.wall_ms),
    })))
}

/// Renders the attempt that has a lease of its own.
pub(super) fn leased(state: &State, id: LeaseId, now: Now) -> Option<AttemptRow> {
    let lease = state.lease(id)?;
    let task = lease.tasks.get(&(lease.first, 0));
    let word = match task {
        _ if lease.revokes(lease.first) || lease.preempted => "COMPLETING",
        Some(_) => "RUNNING",
        None => "STARTING",
    };
    let row = live((lease.job, lease.first, lease.attempt), word, lease.granted_at, now);
    Some(AttemptRow { gpus: gpus_of(lease), ..with_task(row, state, lease.node, task, now) })
}

/// Renders the gang that runs an element.
pub(super) fn gang(state: &State, job: JobId, index: Index, now: Now) -> Option<AttemptRow> {
    let gang = state.gang(job, index)?;
    let leases: Vec<&Lease> = gang.leases.iter().filter_map(|lease| state.lease(*lease)).collect();
    let running = !gang.tasks.is_empty() || leases.iter().any(|lease| !lease.tasks.is_empty());
    let word = match (gang.stopping.is_some() || gang.cancelled, running) {
        (true, _) => "COMPLETING",
        (false, true) => "RUNNING",
        (false, false) => "STARTING",
    };
    let live_task = leases.iter().find_map(|lease| lease.tasks.get(&(index, 0)));
    let task = live_task.or_else(|| gang.tasks.iter().find(|task| task.rank == 0));
    let first = leases.first().map(|lease| lease.node).or_else(|| task.map(|task| task.node));
    let row = live((job, index, gang.attempt), word, gang.granted_at, now);
    let row = match first {
        Some(node) => with_task(row, state, task.map_or(node, |task| task.node), task, now),
        None => row,
    };
    let gone: u32 = gang.tasks.iter().map(|task| count(task.gpu_uuids.len())).sum();
    let held: u32 = leases.iter().map(|lease| gpus_of(lease)).sum();
    Some(AttemptRow { nodes: count(gang.leases.len()), gpus: gone + held, ..row })
}

/// Renders an attempt that ended and deviates. Absent if the job has too many of them.
pub(super) fn ended(state: &State, (id, index, attempt): (JobId, Index, Attempt), now: Now) -> Option<AttemptRow> {
    let job = state.job(id)?;
    let last = job.body.records.get(&index)?.last.as_ref().filter(|last| last.attempt == attempt)?;
    if job.body.records.len() > DEVIATING_MAX {
        return None;
    }
    let task = last.tasks.first();
    let mut nodes: Vec<NodeId> = last.tasks.iter().map(|task| task.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let row = AttemptRow {
        outcome: Some(outcome_word(last.outcome)),
        nodes: count(nodes.len()),
        gpus: last.tasks.iter().map(|task| count(task.gpu_uuids.len())).sum(),
        exit_code: last.exit.exit_code,
        signal: last.exit.signal,
        detail: last.exit.detail.clone(),
        ended_wall_ms: Some(now.wall_of(last.ended_at)),
        ..live((id, index, attempt), "ENDED", last.leased_at, now)
    };
    Some(match task {
        Some(first) => AttemptRow { nodes: row.nodes, ..with_task(row, state, first.node, task, now) },
        None => row,
    })
}

fn live((job, element, attempt): (JobId, Index, Attempt), state: &'static str, leased: Time, now: Now) -> AttemptRow {
    AttemptRow {
        job_id: job.0,
        element,
        attempt,
        state,
        outcome: None,
        node: None,
        nodes: 1,
        gpus: 0,
        pid: None,
        exit_code: None,
        signal: None,
        detail: String::new(),
        leased_wall_ms: now.wall_of(leased),
        started_wall_ms: None,
        ended_wall_ms: None,
    }
}

fn with_task(row: AttemptRow, state: &State, node: NodeId, task: Option<&TaskRecord>, now: Now) -> AttemptRow {
    let started = task.and_then(|task| task.started.as_ref());
    AttemptRow {
        node: name(state, node),
        pid: started.map(|started| started.pid),
        started_wall_ms: started.map(|started| now.wall_of(started.at)),
        ..row
    }
}

fn name(state: &State, node: NodeId) -> Option<NodeName> {
    state.node(node).map(|node| node.body.name.clone())
}

fn gpus_of(lease: &Lease) -> u32 {
    lease.ranks.iter().filter(|hold| hold.live).map(|hold| count(hold.gpu_uuids.len())).sum()
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Failed => "failed",
        Outcome::Oom => "oom",
        Outcome::Timeout => "timeout",
        Outcome::Preempted => "preempted",
        Outcome::Infra => "infra",
        Outcome::Cancelled => "cancelled",
        Outcome::Fenced => "fenced",
    }
}

/// Renders a node, or says that it is gone.
pub(super) fn node(state: &State, id: NodeId, now: Now) -> Row {
    let Some(node) = state.node(id) else { return Row::NodeGone { node_id: id.0 } };
    let body = &node.body;
    Row::Node(Box::new(NodeRow {
        node_id: id.0,
        name: body.name.clone(),
        mode: match body.mode {
            NodeMode::Active => "active",
            NodeMode::Cordoned => "cordoned",
            NodeMode::Draining => "draining",
        },
        reason: body.mode_reason.clone(),
        silent_wall_ms: body.silent_since.map(|at| now.wall_of(at)),
        milli_cpus: body.inventory.milli_cpus,
        milli_cpus_free: node.free_milli_cpus,
        memory_bytes: body.inventory.memory_bytes,
        memory_bytes_free: node.free_memory_bytes,
        gpus: count(body.inventory.devices.len()),
        gpus_free: count(node.free_devices().count()),
        leases: count(node.leases.len()),
        agent_version: body.agent_version.clone(),
    }))
}

/// Returns the day (UTC) of a wall time, as `2026-11-23`.
pub(crate) fn day(wall_ms: u64) -> Arc<str> {
    let at = Timestamp::from_millisecond(wall_ms.cast_signed()).unwrap_or(Timestamp::MAX);
    at.strftime("%Y-%m-%d").to_string().into()
}
