//! From a stored message to its event.

use gangsaw_core::event::{Event as E, GangPart, NoticeChange, Raised, Restored, TokenEvent};
use gangsaw_core::id::{IdempotencyKey, JobId, LeaseId, NodeId, NodeName, QueueName, Tenant, TokenId};
use gangsaw_core::join::JoinRestored;
use gangsaw_core::time::{Millis, Time};
use gangsaw_core::token::Tokens;
use gangsaw_proto::log::v1 as log;
use gangsaw_proto::log::v1::record::Event as W;

use super::part::{self, all, by_from, pairs_from};
use super::{body, join, lease};
use crate::wire::{Malformed, need, node, terms};

/// Returns the event of a message.
#[expect(clippy::wildcard_enum_match_arm, reason = "generated; the next function takes what this one does not")]
pub(super) fn event(event: W) -> Result<E, Malformed> {
    Ok(match event {
        W::JobsSubmitted(m) => return submitted(m),
        W::KeysExpired(m) => E::KeysExpired(Time(m.used_until_ms)),
        W::JobCancelled(m) => return cancelled(m),
        W::JobHeld(m) => E::JobHeld { by: by_from(m.by)?, job: JobId(m.job_id) },
        W::JobReleased(m) => E::JobReleased { by: by_from(m.by)?, job: JobId(m.job_id) },
        W::ElementsRetried(m) => return retried(m),
        W::JobUpdated(m) => return updated(m),
        W::JobForgotten(m) => E::JobForgotten(JobId(m.job_id)),
        W::NodeRegistered(m) => return registered(m),
        W::NodeReturned(m) => {
            E::NodeReturned { node: NodeId(m.node_id), boot_id: m.boot_id, agent_version: m.agent_version }
        }
        W::NodeInventoryChanged(m) => {
            let inventory = node::inventory_from(need(m.inventory, "inventory")?)?;
            E::NodeInventoryChanged { node: NodeId(m.node_id), inventory }
        }
        W::NodeSilenced(m) => E::NodeSilenced(NodeId(m.node_id)),
        W::NodeModeSet(m) => {
            let mode = need(terms::mode_from(m.mode), "mode")?;
            let evict_at = m.evict_at_ms.map(Time);
            E::NodeModeSet { by: by_from(m.by)?, node: NodeId(m.node_id), mode, reason: m.reason, evict_at }
        }
        W::NodeEvicted(m) => E::NodeEvicted(NodeId(m.node_id)),
        W::NodeClearing(m) => {
            E::NodeClearing { node: NodeId(m.node_id), leases: m.leases.into_iter().map(LeaseId).collect() }
        }
        W::NodeForgotten(m) => E::NodeForgotten { by: by_from(m.by)?, node: NodeId(m.node_id) },
        W::QueueSet(m) => {
            let queue = part::queue_key(&m.tenant, &m.queue)?;
            E::QueueSet { by: by_from(m.by)?, queue, limits: part::limits_from(m.limits) }
        }
        W::TenantSet(m) => {
            let tenant = part::tenant(&m.tenant)?;
            E::TenantSet { by: by_from(m.by)?, tenant, limits: part::limits_from(m.limits) }
        }
        W::RoundDecided(m) => E::RoundDecided {
            round: m.round,
            now: Time(m.now_ms),
            policy_version: m.policy_version,
            decision_hash: m.decision_hash,
            decisions: m.decisions,
            more: m.more,
        },
        W::ChunkLeased(m) => return chunk_leased(m),
        W::GangLeased(m) => return gang_leased(m),
        W::LeasePrepared(m) => {
            E::LeasePrepared { lease: LeaseId(m.lease_id), job: JobId(m.job_id), port: part::port(m.port)? }
        }
        W::GangStarted(m) => {
            let master = part::master_from(need(m.master, "master")?)?;
            E::GangStarted { job: JobId(m.job_id), index: m.index, master }
        }
        W::TaskStarted(m) => task_started(m),
        W::ElementsSucceeded(m) => {
            let (lease, job) = (LeaseId(m.lease_id), JobId(m.job_id));
            E::ElementsSucceeded { lease, job, first: m.first, last: m.last, mean_us: m.mean_us }
        }
        other => return ending(other),
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "generated; the next function takes what this one does not")]
fn ending(event: W) -> Result<E, Malformed> {
    Ok(match event {
        W::RankEnded(m) => {
            let (lease, job) = (LeaseId(m.lease_id), JobId(m.job_id));
            E::RankEnded { lease, job, rank: m.rank, exit: part::exit_from(m.exit)? }
        }
        W::GangStopping(m) => {
            let outcome = part::outcome_from(m.outcome)?;
            let late = m.late_node_ids.into_iter().map(NodeId).collect();
            E::GangStopping { job: JobId(m.job_id), index: m.index, outcome, exit: part::exit_from(m.exit)?, late }
        }
        W::AttemptEnded(m) => return attempt_ended(m),
        W::ElementsReturned(m) => {
            let (lease, job) = (LeaseId(m.lease_id), JobId(m.job_id));
            E::ElementsReturned { lease, job, first: m.first, last: m.last }
        }
        W::LeaseTrimmed(m) => E::LeaseTrimmed { lease: LeaseId(m.lease_id), job: JobId(m.job_id) },
        W::LeasePreempted(m) => E::LeasePreempted { lease: LeaseId(m.lease_id), job: JobId(m.job_id) },
        W::LeaseFenced(m) => E::LeaseFenced { lease: LeaseId(m.lease_id), job: JobId(m.job_id) },
        W::FenceConfirmed(m) => {
            let (lease, job) = (LeaseId(m.lease_id), JobId(m.job_id));
            E::FenceConfirmed { lease, job, first: m.first, last: m.last, rank: m.rank }
        }
        W::NodeExcluded(m) => {
            let (job, node) = (JobId(m.job_id), NodeId(m.node_id));
            E::NodeExcluded { job, node, until: Time(m.until_ms), reason: m.reason }
        }
        W::NoticeSent(m) => E::Notice { job: JobId(m.job_id), tries: m.tries, change: NoticeChange::Sent },
        W::NoticeFailed(m) => {
            let change = NoticeChange::Failed { not_before: Time(m.not_before_ms), why: m.why };
            E::Notice { job: JobId(m.job_id), tries: m.tries, change }
        }
        W::NoticeGivenUp(m) => {
            E::Notice { job: JobId(m.job_id), tries: m.tries, change: NoticeChange::GivenUp { why: m.why } }
        }
        W::TokenCreated(m) => {
            let token = Box::new(part::token_from(need(m.token, "token")?)?);
            E::Token(TokenEvent::Created { by: by_from(m.by)?, token })
        }
        W::TokenRevoked(m) => E::Token(TokenEvent::Revoked { by: by_from(m.by)?, token: TokenId(m.token_id) }),
        W::TokensExpired(m) => E::Token(TokenEvent::Expired { until: Time(m.until_ms) }),
        W::ReportTaken(m) => E::ReportTaken { node: NodeId(m.node_id), seq: m.report },
        W::JoinTokenCreated(m) => E::Join(join::created(m)?),
        W::JoinTokenRevoked(m) => E::Join(join::revoked(m)?),
        W::NodeJoined(m) => E::Join(join::joined(m)?),
        W::MemberForgotten(m) => E::Join(join::forgotten(m)?),
        W::ClusterRestored(m) => E::ClusterRestored(Raised {
            by: by_from(m.by)?,
            epoch: m.epoch,
            job: m.job,
            lease: m.lease,
            node: m.node,
            attempt_base: m.attempt_base,
        }),
        other => E::Restored(restored(other)?),
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "generated; the functions before took the others")]
fn restored(event: W) -> Result<Restored, Malformed> {
    Ok(match event {
        W::RestoredQueue(m) => {
            Restored::Queue { queue: part::queue_key(&m.tenant, &m.queue)?, limits: part::limits_from(m.limits) }
        }
        W::RestoredTenant(m) => {
            Restored::Tenant { tenant: part::tenant(&m.tenant)?, limits: part::limits_from(m.limits) }
        }
        W::RestoredNode(m) => Restored::Node(Box::new(lease::node_from(m)?)),
        W::RestoredJob(m) => Restored::Job(Box::new(body::job_from(m)?)),
        W::RestoredGang(m) => Restored::Gang(Box::new(lease::gang_from(m)?)),
        W::RestoredLease(m) => Restored::Lease(Box::new(lease::lease_from(m)?)),
        W::RestoredKey(m) => Restored::Key {
            tenant: Tenant::new(&m.tenant).map_err(|_| Malformed("tenant"))?,
            key: IdempotencyKey::new(&m.key).map_err(|_| Malformed("key"))?,
            used_at: Time(m.used_at_ms),
            digest: m.digest,
            jobs: m.jobs.into_iter().map(JobId).collect(),
        },
        W::RestoredJoinToken(m) => Restored::Join(Box::new(join::token_from(m)?)),
        W::RestoredMember(m) => Restored::Join(Box::new(join::member_from(m)?)),
        W::RestoredJoins(m) => Restored::Join(Box::new(JoinRestored::Next { token: m.next_token, join: m.next_join })),
        W::RestoredTokens(m) => {
            let all = all(m.tokens, part::token_from)?;
            Restored::Tokens(Box::new(Tokens::restored(TokenId(m.next), all)))
        }
        W::RestoredCounters(m) => Restored::Counters {
            job: m.job,
            lease: m.lease,
            node: m.node,
            round: m.round,
            attempt_base: m.attempt_base,
            epoch: m.epoch,
        },
        _ => return Err(Malformed("event")),
    })
}

fn submitted(m: log::JobsSubmitted) -> Result<E, Malformed> {
    Ok(E::JobsSubmitted {
        by: by_from(m.by)?,
        tenant: Tenant::new(&m.tenant).map_err(|_| Malformed("tenant"))?,
        user: m.user,
        key: IdempotencyKey::new(&m.key).map_err(|_| Malformed("key"))?,
        digest: m.digest,
        jobs: all(m.jobs, part::new_job_from)?,
    })
}

fn cancelled(m: log::JobCancelled) -> Result<E, Malformed> {
    Ok(E::JobCancelled {
        by: by_from(m.by)?,
        job: JobId(m.job_id),
        elements: pairs_from(&m.elements)?,
        cause: part::cause_from(need(m.cause, "cause")?),
    })
}

fn retried(m: log::ElementsRetried) -> Result<E, Malformed> {
    Ok(E::ElementsRetried {
        by: by_from(m.by)?,
        job: JobId(m.job_id),
        elements: pairs_from(&m.elements)?,
        after: all(m.after, part::after_from)?,
    })
}

fn updated(m: log::JobUpdated) -> Result<E, Malformed> {
    let queue = m.queue.map(|name| QueueName::new(&name).map_err(|_| Malformed("queue"))).transpose()?;
    Ok(E::JobUpdated {
        by: by_from(m.by)?,
        job: JobId(m.job_id),
        priority: m.priority,
        queue,
        time_limit: m.time_limit_ms.map(Millis),
    })
}

fn registered(m: log::NodeRegistered) -> Result<E, Malformed> {
    Ok(E::NodeRegistered {
        node: NodeId(m.node_id),
        name: NodeName::new(&m.name).map_err(|_| Malformed("name"))?,
        uuid: m.uuid,
        boot_id: m.boot_id,
        agent_version: m.agent_version,
        inventory: node::inventory_from(need(m.inventory, "inventory")?)?,
    })
}

fn chunk_leased(m: log::ChunkLeased) -> Result<E, Malformed> {
    Ok(E::ChunkLeased {
        lease: LeaseId(m.lease_id),
        job: JobId(m.job_id),
        first: m.first,
        last: m.last,
        attempt: m.attempt,
        node: NodeId(m.node_id),
        slots: m.slots,
        alternative: m.alternative,
        hold: part::hold_from(need(m.hold, "hold")?)?,
        device: part::device_from(need(m.device, "device")?)?,
    })
}

fn gang_leased(m: log::GangLeased) -> Result<E, Malformed> {
    let gang_part = |m: log::GangPart| {
        Ok(GangPart { lease: LeaseId(m.lease_id), node: NodeId(m.node_id), ranks: all(m.ranks, part::hold_from)? })
    };
    Ok(E::GangLeased {
        job: JobId(m.job_id),
        index: m.index,
        attempt: m.attempt,
        alternative: m.alternative,
        parts: all(m.parts, gang_part)?,
        deadline: Time(m.deadline_ms),
        device: part::device_from(need(m.device, "device")?)?,
    })
}

fn task_started(m: log::TaskStarted) -> E {
    E::TaskStarted {
        lease: LeaseId(m.lease_id),
        job: JobId(m.job_id),
        index: m.index,
        rank: m.rank,
        pid: m.pid,
        start_ticks: m.start_ticks,
        output_dir: m.output_dir,
        spawn_us: m.spawn_us,
    }
}

fn attempt_ended(m: log::AttemptEnded) -> Result<E, Malformed> {
    Ok(E::AttemptEnded {
        lease: LeaseId(m.lease_id),
        job: JobId(m.job_id),
        index: m.index,
        attempt: m.attempt,
        outcome: part::outcome_from(m.outcome)?,
        exit: part::exit_from(m.exit)?,
        next: part::next_from(m.next)?,
    })
}
