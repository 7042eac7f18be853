//! What nodes say, from node.v1 into the core's plain types.

use std::collections::BTreeMap;

use gangsaw_core::id::{LeaseId, NodeName};
use gangsaw_core::input::{Fact, FactKind, HeldLease, NodeHello, Phase};
use gangsaw_core::job::record::{Cause, Exit};
use gangsaw_proto::jobs::v1::Progress;
use gangsaw_proto::node::v1 as wire;
use gangsaw_proto::node::v1::fact::Fact as Kind;

use super::ask::invalid;
use super::errors::Refusal;
use crate::engine::TaskProgress;
use crate::wire::node::inventory_from;
use crate::wire::spec::filled;
use crate::wire::view::Volatile;

/// Facts of one report: an agent sends at most a thousand.
const FACTS_MAX: usize = 10_000;
/// Metrics that one progress message may carry.
const METRICS_MAX: usize = 64;
/// Bytes of one progress message, as the node's socket limits it.
const PROGRESS_BYTES_MAX: usize = 4 << 10;

/// Reads a Hello.
pub(crate) fn hello(hello: wire::Hello) -> Result<(NodeHello, Volatile), Refusal> {
    let said_ms = hello.said_ms;
    let name =
        NodeName::new(&hello.node_name).map_err(|error| invalid("bad-name", format!("the node's name {error}")))?;
    let inventory = hello.inventory.ok_or_else(|| Refusal::missing("inventory"))?;
    let volatile = Volatile { hello_ms: said_ms, ..volatile(&inventory) };
    let leases = hello.leases.into_iter().map(held).collect::<Result<_, _>>()?;
    let inventory = inventory_from(inventory).map_err(|error| invalid("bad-inventory", error.to_string()))?;
    let (uuid, boot_id, agent_version) = (hello.node_uuid, hello.boot_id, hello.agent_version);
    Ok((NodeHello { name, uuid, boot_id, agent_version, inventory, leases }, volatile))
}

/// Returns what an inventory says that decides nothing.
pub(crate) fn volatile(inventory: &wire::Inventory) -> Volatile {
    let device = |device: &wire::GpuDevice| (device.uuid.clone(), (device.utilisation, device.memory_used_bytes));
    Volatile { heard_wall_ms: None, hello_ms: 0, devices: inventory.devices.iter().map(device).collect() }
}

fn held(lease: wire::HeldLease) -> Result<HeldLease, Refusal> {
    let phase = match lease.phase() {
        wire::held_lease::Phase::Prepared => Phase::Prepared,
        wire::held_lease::Phase::Running => Phase::Running,
        wire::held_lease::Phase::Ended => Phase::Ended,
        wire::held_lease::Phase::Unspecified => return Err(Refusal::missing("phase")),
    };
    Ok(HeldLease { lease: LeaseId(lease.lease_id), phase, last_index: lease.last_index })
}

/// Reads the facts of a report.
pub(crate) fn facts(facts: Vec<wire::Fact>) -> Result<Vec<Fact>, Refusal> {
    if facts.len() > FACTS_MAX {
        return Err(invalid("report-too-large", format!("a report has {FACTS_MAX} facts at most")));
    }
    facts.into_iter().map(fact).collect()
}

fn fact(fact: wire::Fact) -> Result<Fact, Refusal> {
    let kind = match fact.fact.ok_or_else(|| Refusal::missing("fact"))? {
        Kind::Prepared(prepared) => {
            let port = u16::try_from(prepared.port).map_err(|_| invalid("bad-port", "a port is below 65536"))?;
            FactKind::Prepared { port }
        }
        Kind::StartFailed(failed) => FactKind::StartFailed {
            index: failed.index,
            rank: failed.rank,
            users_fault: failed.users_fault,
            detail: failed.detail,
        },
        Kind::Started(started) => FactKind::Started {
            index: started.index,
            rank: started.rank,
            pid: started.pid,
            start_ticks: started.start_ticks,
            output_dir: started.output_dir,
            spawn_us: started.spawn_us,
        },
        Kind::Succeeded(run) => {
            let (first, last) = upwards(run.first_index, run.last_index)?;
            FactKind::Succeeded { first, last, mean_us: run.mean_us }
        }
        Kind::Ended(ended) => FactKind::Ended { index: ended.index, rank: ended.rank, exit: exit(ended)? },
        Kind::Returned(run) => {
            let (first, last) = upwards(run.first_index, run.last_index)?;
            FactKind::Returned { first, last }
        }
    };
    Ok(Fact { lease: LeaseId(fact.lease_id), kind })
}

fn upwards(first: u32, last: u32) -> Result<(u32, u32), Refusal> {
    if first <= last { Ok((first, last)) } else { Err(invalid("bad-range", "a range runs downwards")) }
}

fn exit(ended: wire::Ended) -> Result<Exit, Refusal> {
    let cause = match ended.cause() {
        wire::ended::Cause::Exit => Cause::Exit,
        wire::ended::Cause::Oom => Cause::Oom,
        wire::ended::Cause::TimeLimit => Cause::TimeLimit,
        wire::ended::Cause::Revoked => Cause::Revoked,
        wire::ended::Cause::Infra => Cause::Infra,
        wire::ended::Cause::Disconnected => Cause::Disconnected,
        wire::ended::Cause::Unspecified => return Err(Refusal::missing("cause")),
    };
    Ok(Exit {
        cause,
        exit_code: ended.exit_code,
        signal: ended.signal,
        detail: ended.detail,
        ran_us: ended.ran_us,
        checkpoint: filled(ended.checkpoint),
        max_rss_bytes: ended.max_rss_bytes,
    })
}

/// What a task sends: one JSON object, every key of it optional.
#[derive(serde::Deserialize)]
struct Said {
    step: Option<u64>,
    total: Option<u64>,
    epoch: Option<f64>,
    #[serde(default)]
    metrics: BTreeMap<String, f64>,
    #[serde(default)]
    checkpoint: String,
}

/// Reads a task's progress. What is no progress is dropped: this road is lossy.
pub(crate) fn progress(task: &wire::TaskProgress) -> Option<TaskProgress> {
    if task.json.len() > PROGRESS_BYTES_MAX {
        return None;
    }
    let said: Said = serde_json::from_slice(&task.json).ok()?;
    let progress = Progress {
        step: said.step,
        total: said.total,
        epoch: said.epoch,
        metrics: said.metrics.into_iter().take(METRICS_MAX).collect(),
        checkpoint: said.checkpoint,
    };
    Some(TaskProgress { lease: LeaseId(task.lease_id), index: task.index, rank: task.rank, progress })
}
