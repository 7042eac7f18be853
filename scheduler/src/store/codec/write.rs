//! From an event to its message: one line a variant, one function a message.

use std::collections::BTreeSet;

use gangsaw_core::event::{By, Event as E, GangPart, NewJob, NoticeChange, Raised, Restored, TokenEvent};
use gangsaw_core::id::{IdempotencyKey, Index, JobId, LeaseId, NodeId, NodeName, QueueName, Tenant};
use gangsaw_core::job::body::{After, CancelCause};
use gangsaw_core::job::record::{Exit, Outcome};
use gangsaw_core::lease::Master;
use gangsaw_core::node::NodeMode;
use gangsaw_core::queue::{Limits, QueueKey};
use gangsaw_core::ranges::RangeSet;
use gangsaw_core::resources::Inventory;
use gangsaw_core::time::{Millis, Time};
use gangsaw_proto::log::v1 as log;
use gangsaw_proto::log::v1::record::Event as W;

use super::part::{self, by, pairs};
use super::{body, join, lease as leases};
use crate::wire::{node as nodes, terms};

/// Returns the message of `event`.
pub(super) fn event(event: &E) -> W {
    match event {
        E::JobsSubmitted { by, tenant, user, key, digest, jobs } => submitted(by, tenant, user, key, *digest, jobs),
        E::KeysExpired(used_until) => W::KeysExpired(log::KeysExpired { used_until_ms: used_until.0 }),
        E::JobCancelled { by, job, elements, cause } => cancelled(by, *job, elements, *cause),
        E::JobHeld { by: who, job } => W::JobHeld(log::JobHeld { by: by(who), job_id: job.0 }),
        E::JobReleased { by: who, job } => W::JobReleased(log::JobReleased { by: by(who), job_id: job.0 }),
        E::ElementsRetried { by, job, elements, after } => retried(by, *job, elements, after),
        E::JobUpdated { by, job, priority, queue, time_limit } => updated(by, *job, *priority, queue, *time_limit),
        E::Notice { job, tries, change } => notice(*job, *tries, change),
        E::JobForgotten(job) => W::JobForgotten(log::JobForgotten { job_id: job.0 }),
        E::NodeRegistered { node, name, uuid, boot_id, agent_version, inventory } => {
            registered(*node, name, [uuid, boot_id, agent_version], inventory)
        }
        E::NodeReturned { node, boot_id, agent_version } => node_returned(*node, boot_id, agent_version),
        E::NodeInventoryChanged { node, inventory } => inventory_changed(*node, inventory),
        E::NodeSilenced(node) => W::NodeSilenced(log::NodeSilenced { node_id: node.0 }),
        E::NodeModeSet { by, node, mode, reason, evict_at } => mode_set(by, *node, *mode, reason, *evict_at),
        E::NodeEvicted(node) => W::NodeEvicted(log::NodeEvicted { node_id: node.0 }),
        E::NodeClearing { node, leases } => clearing(*node, leases),
        E::NodeForgotten { by: who, node } => W::NodeForgotten(log::NodeForgotten { by: by(who), node_id: node.0 }),
        E::QueueSet { by, queue, limits } => queue_set(by, queue, *limits),
        E::TenantSet { by, tenant, limits } => tenant_set(by, tenant, *limits),
        &E::RoundDecided { round, now, policy_version, decision_hash, decisions, more } => {
            let now_ms = now.0;
            W::RoundDecided(log::RoundDecided { round, now_ms, policy_version, decision_hash, decisions, more })
        }
        &E::ChunkLeased { lease, job, first, last, attempt, node, slots, alternative, ref hold, ref device } => {
            let (lease_id, job_id, node_id) = (lease.0, job.0, node.0);
            let (hold, device) = (Some(part::hold(hold)), Some(part::device(device)));
            #[rustfmt::skip]
            let chunk = log::ChunkLeased { lease_id, job_id, first, last, attempt, node_id, slots, alternative, hold, device };
            W::ChunkLeased(chunk)
        }
        &E::GangLeased { job, index, attempt, alternative, ref parts, deadline, ref device } => {
            let (job_id, parts, deadline_ms) = (job.0, parts.iter().map(gang_part).collect(), deadline.0);
            let device = Some(part::device(device));
            W::GangLeased(log::GangLeased { job_id, index, attempt, alternative, parts, deadline_ms, device })
        }
        E::LeasePrepared { lease, job, port } => prepared(*lease, *job, *port),
        E::GangStarted { job, index, master } => gang_started(*job, *index, master),
        &E::TaskStarted { lease, job, index, rank, pid, start_ticks, ref output_dir, spawn_us } => {
            let (lease_id, job_id, output_dir) = (lease.0, job.0, output_dir.clone());
            W::TaskStarted(log::TaskStarted { lease_id, job_id, index, rank, pid, start_ticks, output_dir, spawn_us })
        }
        &E::ElementsSucceeded { lease, job, first, last, mean_us } => {
            W::ElementsSucceeded(log::ElementsSucceeded { lease_id: lease.0, job_id: job.0, first, last, mean_us })
        }
        E::RankEnded { lease, job, rank, exit } => rank_ended(*lease, *job, *rank, exit),
        E::GangStopping { job, index, outcome, exit, late } => gang_stopping(*job, *index, *outcome, exit, late),
        &E::AttemptEnded { lease, job, index, attempt, outcome, ref exit, next } => {
            let (lease_id, job_id, exit, next) = (lease.0, job.0, Some(part::exit(exit)), part::next(next));
            let outcome = terms::outcome(outcome).into();
            W::AttemptEnded(log::AttemptEnded { lease_id, job_id, index, attempt, outcome, exit, next })
        }
        E::ElementsReturned { lease, job, first, last } => returned(*lease, *job, *first, *last),
        E::LeaseTrimmed { lease, job } => W::LeaseTrimmed(log::LeaseTrimmed { lease_id: lease.0, job_id: job.0 }),
        E::LeasePreempted { lease, job } => W::LeasePreempted(log::LeasePreempted { lease_id: lease.0, job_id: job.0 }),
        E::LeaseFenced { lease, job } => W::LeaseFenced(log::LeaseFenced { lease_id: lease.0, job_id: job.0 }),
        &E::FenceConfirmed { lease, job, first, last, rank } => {
            W::FenceConfirmed(log::FenceConfirmed { lease_id: lease.0, job_id: job.0, first, last, rank })
        }
        E::NodeExcluded { job, node, until, reason } => W::NodeExcluded(body::excluded(job.0, *node, *until, reason)),
        E::ReportTaken { node, seq } => W::ReportTaken(log::ReportTaken { node_id: node.0, report: *seq }),
        E::Join(event) => join::event(event),
        E::Token(change) => token_event(change),
        E::ClusterRestored(to) => raised(to),
        E::Restored(part) => restored(part),
    }
}

fn returned(lease: LeaseId, job: JobId, first: Index, last: Index) -> W {
    W::ElementsReturned(log::ElementsReturned { lease_id: lease.0, job_id: job.0, first, last })
}

fn notice(job: JobId, tries: u32, change: &NoticeChange) -> W {
    let job_id = job.0;
    match change {
        NoticeChange::Sent => W::NoticeSent(log::NoticeSent { job_id, tries }),
        NoticeChange::Failed { not_before, why } => {
            let (not_before_ms, why) = (not_before.0, why.clone());
            W::NoticeFailed(log::NoticeFailed { job_id, tries, not_before_ms, why })
        }
        NoticeChange::GivenUp { why } => W::NoticeGivenUp(log::NoticeGivenUp { job_id, tries, why: why.clone() }),
    }
}

fn submitted(who: &By, tenant: &Tenant, user: &str, key: &IdempotencyKey, digest: u64, jobs: &[NewJob]) -> W {
    W::JobsSubmitted(log::JobsSubmitted {
        by: by(who),
        tenant: tenant.to_string(),
        user: user.to_owned(),
        key: key.to_string(),
        digest,
        jobs: jobs.iter().map(part::new_job).collect(),
    })
}

fn cancelled(who: &By, job: JobId, elements: &RangeSet, cause: CancelCause) -> W {
    let (by, elements, cause) = (by(who), pairs(elements), Some(part::cause(cause)));
    W::JobCancelled(log::JobCancelled { by, job_id: job.0, elements, cause })
}

fn retried(who: &By, job: JobId, elements: &RangeSet, after: &[After]) -> W {
    let (by, elements, after) = (by(who), pairs(elements), after.iter().map(part::after).collect());
    W::ElementsRetried(log::ElementsRetried { by, job_id: job.0, elements, after })
}

fn updated(who: &By, job: JobId, priority: Option<i32>, queue: &Option<QueueName>, limit: Option<Millis>) -> W {
    let (queue, time_limit_ms) = (queue.as_ref().map(ToString::to_string), limit.map(|Millis(ms)| ms));
    W::JobUpdated(log::JobUpdated { by: by(who), job_id: job.0, priority, queue, time_limit_ms })
}

fn registered(node: NodeId, name: &NodeName, [uuid, boot_id, version]: [&String; 3], inventory: &Inventory) -> W {
    W::NodeRegistered(log::NodeRegistered {
        node_id: node.0,
        name: name.to_string(),
        uuid: uuid.clone(),
        boot_id: boot_id.clone(),
        agent_version: version.clone(),
        inventory: Some(nodes::inventory(inventory)),
    })
}

fn node_returned(node: NodeId, boot_id: &str, agent_version: &str) -> W {
    let (boot_id, agent_version) = (boot_id.to_owned(), agent_version.to_owned());
    W::NodeReturned(log::NodeReturned { node_id: node.0, boot_id, agent_version })
}

fn inventory_changed(node: NodeId, inventory: &Inventory) -> W {
    let inventory = Some(nodes::inventory(inventory));
    W::NodeInventoryChanged(log::NodeInventoryChanged { node_id: node.0, inventory })
}

fn clearing(node: NodeId, leases: &BTreeSet<LeaseId>) -> W {
    W::NodeClearing(log::NodeClearing { node_id: node.0, leases: leases.iter().map(|lease| lease.0).collect() })
}

fn mode_set(who: &By, node: NodeId, mode: NodeMode, reason: &str, evict_at: Option<Time>) -> W {
    let (by, mode, reason) = (by(who), terms::mode(mode).into(), reason.to_owned());
    let evict_at_ms = evict_at.map(|at| at.0);
    W::NodeModeSet(log::NodeModeSet { by, node_id: node.0, mode, reason, evict_at_ms })
}

fn queue_set(who: &By, queue: &QueueKey, limits: Limits) -> W {
    let (tenant, queue) = (queue.tenant.to_string(), queue.name.to_string());
    W::QueueSet(log::QueueSet { by: by(who), tenant, queue, limits: part::limits(limits) })
}

fn token_event(change: &TokenEvent) -> W {
    match change {
        TokenEvent::Created { by: who, token } => {
            W::TokenCreated(log::TokenCreated { by: by(who), token: Some(part::token(token)) })
        }
        TokenEvent::Revoked { by: who, token } => W::TokenRevoked(log::TokenRevoked { by: by(who), token_id: token.0 }),
        TokenEvent::Expired { until } => W::TokensExpired(log::TokensExpired { until_ms: until.0 }),
    }
}

fn tenant_set(who: &By, tenant: &Tenant, limits: Limits) -> W {
    W::TenantSet(log::TenantSet { by: by(who), tenant: tenant.to_string(), limits: part::limits(limits) })
}

fn gang_part(gang: &GangPart) -> log::GangPart {
    let ranks = gang.ranks.iter().map(part::hold).collect();
    log::GangPart { lease_id: gang.lease.0, node_id: gang.node.0, ranks }
}

fn prepared(lease: LeaseId, job: JobId, port: u16) -> W {
    W::LeasePrepared(log::LeasePrepared { lease_id: lease.0, job_id: job.0, port: u32::from(port) })
}

fn gang_started(job: JobId, index: Index, master: &Master) -> W {
    W::GangStarted(log::GangStarted { job_id: job.0, index, master: Some(part::master(master)) })
}

fn rank_ended(lease: LeaseId, job: JobId, rank: u32, exit: &Exit) -> W {
    W::RankEnded(log::RankEnded { lease_id: lease.0, job_id: job.0, rank, exit: Some(part::exit(exit)) })
}

fn gang_stopping(job: JobId, index: Index, outcome: Outcome, exit: &Exit, late: &[NodeId]) -> W {
    let (outcome, exit) = (terms::outcome(outcome).into(), Some(part::exit(exit)));
    let late_node_ids = late.iter().map(|node| node.0).collect();
    W::GangStopping(log::GangStopping { job_id: job.0, index, outcome, exit, late_node_ids })
}

fn raised(to: &Raised) -> W {
    let &Raised { by: ref who, epoch, job, lease, node, attempt_base } = to;
    W::ClusterRestored(log::ClusterRestored { by: by(who), epoch, job, lease, node, attempt_base })
}

fn restored(part: &Restored) -> W {
    match part {
        Restored::Queue { queue, limits } => {
            let (tenant, queue) = (queue.tenant.to_string(), queue.name.to_string());
            W::RestoredQueue(log::RestoredQueue { tenant, queue, limits: part::limits(*limits) })
        }
        Restored::Tenant { tenant, limits } => {
            W::RestoredTenant(log::RestoredTenant { tenant: tenant.to_string(), limits: part::limits(*limits) })
        }
        Restored::Join(part) => join::restored(part),
        Restored::Node(node) => W::RestoredNode(leases::node(node)),
        Restored::Job(job) => W::RestoredJob(body::job(job)),
        Restored::Gang(gang) => W::RestoredGang(leases::gang(gang)),
        Restored::Lease(lease) => W::RestoredLease(leases::lease(lease)),
        Restored::Key { tenant, key, used_at, digest, jobs } => W::RestoredKey(log::RestoredKey {
            tenant: tenant.to_string(),
            key: key.to_string(),
            used_at_ms: used_at.0,
            digest: *digest,
            jobs: jobs.iter().map(|job| job.0).collect(),
        }),
        Restored::Tokens(tokens) => W::RestoredTokens(log::RestoredTokens {
            next: tokens.next().0,
            tokens: tokens.iter().map(part::token).collect(),
        }),
        &Restored::Counters { job, lease, node, round, attempt_base, epoch } => {
            W::RestoredCounters(log::RestoredCounters { job, lease, node, round, attempt_base, epoch })
        }
    }
}
