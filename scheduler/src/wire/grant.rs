//! What a node is told, as node.v1 has it.

use gangsaw_core::effect::{Grant, TaskSpec};
use gangsaw_core::id::{LeaseId, NodeId};
use gangsaw_core::job::spec::{Rendezvous, Work};
use gangsaw_core::lease::RevokeReason;
use gangsaw_core::ranges::RangeSet;
use gangsaw_proto::node::v1 as wire;
use gangsaw_proto::node::v1::attach_response::Message;

use super::terms;

/// Most single elements one Revoke names; what is beyond follows in further ones.
const REVOKE_ELEMENTS_MAX: usize = 100_000;

/// Returns the Grant of a lease.
pub(crate) fn grant(grant: &Grant) -> Message {
    Message::Grant(wire::Grant {
        lease_id: grant.lease.0,
        job_id: grant.job.0,
        first_index: grant.first,
        last_index: grant.last,
        attempt: grant.attempt,
        slots: grant.slots,
        alternative: grant.alternative,
        gang: grant.gang.is_some(),
        ranks: grant
            .ranks
            .iter()
            .map(|hold| wire::RankGrant {
                rank: hold.rank,
                gpu_uuids: hold.gpu_uuids.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        task: Some(task(&grant.task)),
        place: grant.gang.map(|place| wire::GangPlace {
            node_rank: place.node_rank,
            nodes: place.nodes,
            world_size: place.world_size,
        }),
    })
}

fn task(task: &TaskSpec) -> wire::TaskSpec {
    let mut env: std::collections::HashMap<_, _> = (*task.exported_env).clone().into_iter().collect();
    env.extend((*task.env).clone());
    wire::TaskSpec {
        job_name: task.job_name.to_string(),
        work: Some(work(&task.work, task.demand.gpus > 0)),
        milli_cpus: task.demand.milli_cpus,
        memory_bytes: task.demand.memory_bytes,
        env,
        workdir: task.workdir.clone().unwrap_or_default(),
        output_dir: task.output_dir.clone().unwrap_or_default(),
        time_limit_ms: task.time_limit.map_or(0, |limit| limit.0),
        grace_ms: task.grace.0,
        stop_after_ms: task.stop_after.map_or(0, |after| after.0),
        user: task.user.clone(),
        array: task.array.map(|(count, min, max)| wire::ArrayBounds { count, min, max }),
        resume_from: task.resume_from.clone().unwrap_or_default(),
        per_process_rendezvous: task.rendezvous == Rendezvous::PerProcess,
    }
}

fn work(work: &Work, gpu: bool) -> wire::task_spec::Work {
    match work {
        Work::Shell(line) => wire::task_spec::Work::Shell(line.clone()),
        Work::Argv(args) => wire::task_spec::Work::Argv(wire::Argv { args: args.clone() }),
        Work::Recipe { name, settings_json } => wire::task_spec::Work::Recipe(wire::Recipe {
            name: name.clone(),
            settings_json: settings_json.clone(),
            device: if gpu { "cuda" } else { "cpu" }.to_owned(),
        }),
    }
}

/// Returns the Start of a prepared gang.
pub(crate) fn start(lease: LeaseId, master_addr: &str, master_port: u16) -> Message {
    let (master_addr, master_port) = (master_addr.to_owned(), u32::from(master_port));
    Message::Start(wire::Start { lease_id: lease.0, master_addr, master_port })
}

/// Returns the Revokes of a lease: one, or several if it names very many elements.
pub(crate) fn revokes(lease: LeaseId, reason: RevokeReason, elements: &RangeSet) -> Vec<Message> {
    let reason = terms::revoke_reason(reason).into();
    let revoke = |elements| Message::Revoke(wire::Revoke { lease_id: lease.0, reason, elements });
    if elements.is_empty() {
        return vec![revoke(Vec::new())];
    }
    let all: Vec<u32> = elements.indices().collect();
    all.chunks(REVOKE_ELEMENTS_MAX).map(|some| revoke(some.to_vec())).collect()
}

/// Returns the Trim that asks for every unstarted element.
pub(crate) fn trim(lease: LeaseId) -> Message {
    Message::Trim(wire::Trim { lease_id: lease.0, last_index: 0, keep_none: true })
}

/// Returns the Welcome of a node.
pub(crate) fn welcome(node: NodeId, acked_report: u64, ttl_ms: u64, heartbeat_ms: u64) -> Message {
    Message::Welcome(wire::Welcome {
        node_id: node.0,
        lease_ttl_ms: ttl_ms,
        heartbeat_ms,
        acked_report,
        scheduler_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}
