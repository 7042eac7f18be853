//! Nodes, leases and gangs, as a snapshot holds them.

use std::collections::BTreeMap;

use gangsaw_core::id::{JobId, LeaseId, NodeId, NodeName};
use gangsaw_core::lease::{Gang, GangPlace, Lease, Revoking, Stopping};
use gangsaw_core::node::NodeBody;
use gangsaw_core::time::{Millis, Time};
use gangsaw_proto::log::v1 as log;
use gangsaw_proto::node::v1 as node_wire;

use super::body::{task, task_from};
use super::part::{self, all, pairs, pairs_from};
use crate::wire::{Malformed, need, node as nodes, spec, terms};

pub(super) fn node(body: &NodeBody) -> log::RestoredNode {
    log::RestoredNode {
        node_id: body.id.0,
        name: body.name.to_string(),
        uuid: body.uuid.clone(),
        boot_id: body.boot_id.clone(),
        agent_version: body.agent_version.clone(),
        inventory: Some(nodes::inventory(&body.inventory)),
        mode: terms::mode(body.mode).into(),
        mode_reason: body.mode_reason.clone(),
        silent_since_ms: body.silent_since.map(|at| at.0),
        acked_report: body.acked_report,
        models: body.models.iter().cloned().collect(),
        evict_at_ms: body.evict_at.map(|at| at.0),
        foreign_leases: body.foreign.iter().map(|lease| lease.0).collect(),
    }
}

pub(super) fn node_from(body: log::RestoredNode) -> Result<NodeBody, Malformed> {
    Ok(NodeBody {
        id: NodeId(body.node_id),
        name: NodeName::new(&body.name).map_err(|_| Malformed("name"))?,
        uuid: body.uuid,
        boot_id: body.boot_id,
        agent_version: body.agent_version,
        inventory: nodes::inventory_from(need(body.inventory, "inventory")?)?,
        mode: need(terms::mode_from(body.mode), "mode")?,
        mode_reason: body.mode_reason,
        silent_since: body.silent_since_ms.map(Time),
        acked_report: body.acked_report,
        models: body.models.into_iter().collect(),
        evict_at: body.evict_at_ms.map(Time),
        foreign: body.foreign_leases.into_iter().map(LeaseId).collect(),
    })
}

pub(super) fn gang(gang: &Gang) -> log::RestoredGang {
    log::RestoredGang {
        job_id: gang.job.0,
        index: gang.index,
        attempt: gang.attempt,
        leases: gang.leases.iter().map(|lease| lease.0).collect(),
        deadline_ms: gang.deadline.0,
        started: gang.started.as_ref().map(part::master),
        stopping: gang.stopping.as_ref().map(|stopping| log::Stopping {
            outcome: terms::outcome(stopping.outcome).into(),
            exit: Some(part::exit(&stopping.exit)),
        }),
        tasks: gang.tasks.iter().map(|each| task(gang.index, each)).collect(),
        alternative: gang.alternative,
        cancelled: gang.cancelled,
        granted_at_ms: gang.granted_at.0,
    }
}

pub(super) fn gang_from(gang: log::RestoredGang) -> Result<Gang, Malformed> {
    let stopping = |stopping: log::Stopping| {
        Ok(Stopping { outcome: part::outcome_from(stopping.outcome)?, exit: part::exit_from(stopping.exit)? })
    };
    Ok(Gang {
        job: JobId(gang.job_id),
        index: gang.index,
        attempt: gang.attempt,
        leases: gang.leases.into_iter().map(LeaseId).collect(),
        deadline: Time(gang.deadline_ms),
        started: gang.started.map(part::master_from).transpose()?,
        stopping: gang.stopping.map(stopping).transpose()?,
        tasks: all(gang.tasks, task_from)?,
        alternative: gang.alternative,
        cancelled: gang.cancelled,
        granted_at: Time(gang.granted_at_ms),
    })
}

pub(super) fn lease(lease: &Lease) -> log::RestoredLease {
    log::RestoredLease {
        lease_id: lease.id.0,
        job_id: lease.job.0,
        node_id: lease.node.0,
        first: lease.first,
        last: lease.last,
        attempt: lease.attempt,
        slots: lease.slots,
        alternative: lease.alternative,
        demand: Some(spec::demand(&lease.demand)),
        live: pairs(&lease.live),
        ranks: lease.ranks.iter().map(part::hold).collect(),
        gang: lease.gang.map(|GangPlace { node_rank, nodes, world_size }| node_wire::GangPlace {
            node_rank,
            nodes,
            world_size,
        }),
        granted_at_ms: lease.granted_at.0,
        begun: lease.begun,
        port: lease.port.map(u32::from),
        tasks: lease.tasks.iter().map(|((index, _), each)| task(*index, each)).collect(),
        revoke: lease.revoke.as_ref().map(|revoke| log::Revoking {
            reason: terms::revoke_reason(revoke.reason).into(),
            elements: pairs(&revoke.elements),
        }),
        preempted: lease.preempted,
        trimmed: lease.trimmed,
        fenced: lease.fenced,
        time_limit_ms: lease.time_limit.map(|Millis(ms)| ms),
        started: lease.started,
        mean_us: lease.mean_us,
    }
}

pub(super) fn lease_from(lease: log::RestoredLease) -> Result<Lease, Malformed> {
    let mut tasks = BTreeMap::new();
    for each in lease.tasks {
        tasks.insert((each.index, each.rank), task_from(each)?);
    }
    let revoke = |revoke: log::Revoking| {
        let reason = terms::revoke_reason_from(revoke.reason)?;
        Ok(Revoking { reason, elements: pairs_from(&revoke.elements)? })
    };
    let place = |gang: node_wire::GangPlace| GangPlace {
        node_rank: gang.node_rank,
        nodes: gang.nodes,
        world_size: gang.world_size,
    };
    Ok(Lease {
        id: LeaseId(lease.lease_id),
        job: JobId(lease.job_id),
        node: NodeId(lease.node_id),
        first: lease.first,
        last: lease.last,
        attempt: lease.attempt,
        slots: lease.slots,
        alternative: lease.alternative,
        demand: spec::demand_from(need(lease.demand, "demand")?),
        live: pairs_from(&lease.live)?,
        ranks: all(lease.ranks, part::hold_from)?,
        gang: lease.gang.map(place),
        granted_at: Time(lease.granted_at_ms),
        begun: lease.begun,
        port: lease.port.map(part::port).transpose()?,
        tasks,
        revoke: lease.revoke.map(revoke).transpose()?,
        preempted: lease.preempted,
        trimmed: lease.trimmed,
        fenced: lease.fenced,
        time_limit: lease.time_limit_ms.map(Millis),
        started: lease.started,
        mean_us: lease.mean_us,
    })
}
