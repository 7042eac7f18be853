//! Between the words of core's agent machine and the two wires it is spoken on.
//!
//! Invariants: everything that comes from a wire is checked here; what makes no sense becomes nothing and is logged by
//! the caller. Generated types stop at this module and the ones that send and receive.

use gangsaw_core::agent::{StopReason, Terms};
use gangsaw_core::id::LeaseId;
use gangsaw_core::input::{Fact, FactKind, HeldLease, Phase};
use gangsaw_core::job::record::{Cause, Exit};
use gangsaw_core::lease::RevokeReason;
use gangsaw_core::ranges::RangeSet;
use gangsaw_core::time::Millis;
use gangsaw_proto::node::v1 as node;
use gangsaw_proto::supervisor::v1 as supervisor;

/// The terms of a grant. Nothing when it names no lease or no elements.
pub(crate) fn terms(grant: &node::Grant) -> Option<Terms> {
    if grant.lease_id == 0 || grant.first_index > grant.last_index {
        return None;
    }
    let task = grant.task.as_ref();
    let mut gang: Vec<u32> = grant.ranks.iter().map(|rank| rank.rank).collect();
    gang.sort_unstable();
    gang.dedup();
    if !grant.gang {
        gang.clear();
    } else if gang.is_empty() || grant.first_index != grant.last_index {
        return None;
    }
    Some(Terms {
        lease: LeaseId(grant.lease_id),
        first: grant.first_index,
        last: grant.last_index,
        gang,
        grace: Millis(task.map_or(0, |task| task.grace_ms)),
        stop_after: task.map(|task| task.stop_after_ms).filter(|ms| *ms > 0).map(Millis),
    })
}

/// The elements a Revoke names. Empty means all.
pub(crate) fn elements(list: &[u32]) -> RangeSet {
    let mut set = RangeSet::new();
    for element in list {
        set.insert(*element, *element);
    }
    set
}

pub(crate) fn revoke_reason(reason: node::revoke::Reason) -> RevokeReason {
    match reason {
        node::revoke::Reason::Unspecified | node::revoke::Reason::Cancelled => RevokeReason::Cancelled,
        node::revoke::Reason::Preempted => RevokeReason::Preempted,
        node::revoke::Reason::Fenced => RevokeReason::Fenced,
        node::revoke::Reason::Gang => RevokeReason::Gang,
    }
}

/// The supervisor's word for why it is to stop something. Nothing for silence, which its own deadline expresses.
pub(crate) fn stop_reason(reason: StopReason) -> Option<supervisor::stop::Reason> {
    match reason {
        StopReason::Revoked(RevokeReason::Cancelled) => Some(supervisor::stop::Reason::Cancelled),
        StopReason::Revoked(RevokeReason::Fenced) => Some(supervisor::stop::Reason::Fenced),
        StopReason::Revoked(RevokeReason::Preempted) => Some(supervisor::stop::Reason::Preempted),
        StopReason::Revoked(RevokeReason::Gang) => Some(supervisor::stop::Reason::Gang),
        StopReason::Shutdown => Some(supervisor::stop::Reason::Shutdown),
        StopReason::Silence => None,
    }
}

/// A fact from the supervisor. `checkpoint` finds the newest complete checkpoint of an (index, rank) that ended.
pub(crate) fn fact(fact: supervisor::Fact, checkpoint: impl Fn(u32, u32) -> Option<String>) -> Option<Fact> {
    use supervisor::fact::Fact as Wire;
    let kind = match fact.fact? {
        Wire::Prepared(prepared) => FactKind::Prepared { port: u16::try_from(prepared.port).ok()? },
        Wire::StartFailed(failed) => FactKind::StartFailed {
            index: failed.index,
            rank: failed.rank,
            users_fault: failed.users_fault,
            detail: failed.detail,
        },
        Wire::Started(started) => FactKind::Started {
            index: started.index,
            rank: started.rank,
            pid: started.pid,
            start_ticks: started.start_ticks,
            output_dir: started.output_dir,
            spawn_us: started.spawn_us,
        },
        Wire::Succeeded(run) => {
            FactKind::Succeeded { first: run.first_index, last: run.last_index, mean_us: run.mean_us }
        }
        Wire::Ended(ended) => {
            let checkpoint = checkpoint(ended.index, ended.rank);
            FactKind::Ended { index: ended.index, rank: ended.rank, exit: exit(ended, checkpoint) }
        }
        Wire::Returned(run) => FactKind::Returned { first: run.first_index, last: run.last_index },
    };
    Some(Fact { lease: LeaseId(fact.lease_id), kind })
}

fn exit(ended: supervisor::Ended, checkpoint: Option<String>) -> Exit {
    let cause = match ended.cause() {
        supervisor::ended::Cause::Unspecified => Cause::Infra,
        supervisor::ended::Cause::Exit => Cause::Exit,
        supervisor::ended::Cause::Oom => Cause::Oom,
        supervisor::ended::Cause::TimeLimit => Cause::TimeLimit,
        supervisor::ended::Cause::Stopped => Cause::Revoked,
        supervisor::ended::Cause::Disconnected => Cause::Disconnected,
    };
    Exit {
        cause,
        exit_code: ended.exit_code,
        signal: ended.signal,
        detail: ended.detail,
        ran_us: ended.ran_us,
        checkpoint,
        max_rss_bytes: ended.max_rss_bytes,
    }
}

/// A fact for the scheduler.
pub(crate) fn report(fact: &Fact) -> node::Fact {
    use node::fact::Fact as Wire;
    let wire = match &fact.kind {
        FactKind::Prepared { port } => Wire::Prepared(node::Prepared { port: u32::from(*port) }),
        FactKind::StartFailed { index, rank, users_fault, detail } => Wire::StartFailed(node::StartFailed {
            index: *index,
            rank: *rank,
            users_fault: *users_fault,
            detail: detail.clone(),
        }),
        FactKind::Started { index, rank, pid, start_ticks, output_dir, spawn_us } => Wire::Started(node::Started {
            index: *index,
            rank: *rank,
            pid: *pid,
            start_ticks: *start_ticks,
            output_dir: output_dir.clone(),
            spawn_us: *spawn_us,
        }),
        FactKind::Succeeded { first, last, mean_us } => {
            Wire::Succeeded(node::Succeeded { first_index: *first, last_index: *last, mean_us: *mean_us })
        }
        FactKind::Ended { index, rank, exit } => Wire::Ended(ended(*index, *rank, exit)),
        FactKind::Returned { first, last } => Wire::Returned(node::Returned { first_index: *first, last_index: *last }),
    };
    node::Fact { lease_id: fact.lease.0, fact: Some(wire) }
}

fn ended(index: u32, rank: u32, exit: &Exit) -> node::Ended {
    let cause = match exit.cause {
        Cause::Exit => node::ended::Cause::Exit,
        Cause::Oom => node::ended::Cause::Oom,
        Cause::TimeLimit => node::ended::Cause::TimeLimit,
        Cause::Revoked => node::ended::Cause::Revoked,
        Cause::Infra | Cause::StartUser | Cause::StartInfra => node::ended::Cause::Infra,
        Cause::Disconnected => node::ended::Cause::Disconnected,
    };
    node::Ended {
        index,
        rank,
        exit_code: exit.exit_code,
        signal: exit.signal,
        cause: cause.into(),
        detail: exit.detail.clone(),
        ran_us: exit.ran_us,
        checkpoint: exit.checkpoint.clone().unwrap_or_default(),
        max_rss_bytes: exit.max_rss_bytes,
    }
}

pub(crate) fn held(lease: &HeldLease) -> node::HeldLease {
    let phase = match lease.phase {
        Phase::Prepared => node::held_lease::Phase::Prepared,
        Phase::Running => node::held_lease::Phase::Running,
        Phase::Ended => node::held_lease::Phase::Ended,
    };
    node::HeldLease { lease_id: lease.lease.0, phase: phase.into(), last_index: lease.last_index }
}
