//! The small pieces that several records share.

use std::sync::Arc;

use gangsaw_core::event::{By, NewJob};
use gangsaw_core::id::{Actor, DeviceId, JobId, NodeId, QueueName, RequestId, Tenant, TokenId};
use gangsaw_core::job::body::{After, CancelCause, DeviceChoice, DeviceCode, Standing};
use gangsaw_core::job::record::{Cause, Exit, Next, Outcome, RetryClass};
use gangsaw_core::lease::{Master, RankHold};
use gangsaw_core::queue::{Limits, QueueKey};
use gangsaw_core::ranges::RangeSet;
use gangsaw_core::time::Time;
use gangsaw_core::token::ApiToken;
use gangsaw_proto::log::v1 as log;

use crate::wire::{Malformed, need, spec, terms};

pub(super) fn by(by: &By) -> Option<log::By> {
    Some(log::By { actor: by.actor.to_string(), request_id: by.request_id.to_string() })
}

pub(super) fn by_from(by: Option<log::By>) -> Result<By, Malformed> {
    let by = need(by, "by")?;
    Ok(By {
        actor: Actor::new(&by.actor).map_err(|_| Malformed("actor"))?,
        request_id: RequestId::new(&by.request_id).map_err(|_| Malformed("request_id"))?,
    })
}

/// Flattens a set to first, last, first, last, ….
pub(super) fn pairs(set: &RangeSet) -> Vec<u32> {
    set.iter().flat_map(|range| [range.first, range.last]).collect()
}

pub(super) fn pairs_from(pairs: &[u32]) -> Result<RangeSet, Malformed> {
    let mut set = RangeSet::new();
    for pair in pairs.chunks(2) {
        match *pair {
            [first, last] if first <= last => set.insert(first, last),
            _ => return Err(Malformed("elements")),
        }
    }
    Ok(set)
}

pub(super) fn new_job(job: &NewJob) -> log::NewJob {
    log::NewJob { job_id: job.id.0, spec: Some(spec::message(&job.spec)), after: job.after.iter().map(after).collect() }
}

pub(super) fn new_job_from(job: log::NewJob) -> Result<NewJob, Malformed> {
    Ok(NewJob {
        id: JobId(job.job_id),
        spec: Arc::new(spec::from_message(need(job.spec, "spec")?)?),
        after: all(job.after, after_from)?,
    })
}

/// Reads each of a list.
pub(super) fn all<A, B>(list: Vec<A>, read: impl Fn(A) -> Result<B, Malformed>) -> Result<Vec<B>, Malformed> {
    list.into_iter().map(read).collect()
}

pub(super) fn after(after: &After) -> log::After {
    let standing = match after.standing {
        Standing::Open => log::after::Standing::Open,
        Standing::Met => log::after::Standing::Met,
        Standing::Failed => log::after::Standing::Failed,
    };
    log::After { kind: terms::kind(after.kind).into(), job_id: after.job.0, standing: standing.into() }
}

pub(super) fn after_from(after: log::After) -> Result<After, Malformed> {
    let standing = match log::after::Standing::try_from(after.standing) {
        Ok(log::after::Standing::Open) => Standing::Open,
        Ok(log::after::Standing::Met) => Standing::Met,
        Ok(log::after::Standing::Failed) => Standing::Failed,
        Ok(log::after::Standing::Unspecified) | Err(_) => return Err(Malformed("standing")),
    };
    Ok(After { kind: need(terms::kind_from(after.kind), "kind")?, job: JobId(after.job_id), standing })
}

pub(super) fn cause(cause: CancelCause) -> log::CancelCause {
    let failed_dependency = match cause {
        CancelCause::Asked => 0,
        CancelCause::DependencyFailed { on } => on.0,
    };
    log::CancelCause { failed_dependency }
}

pub(super) fn cause_from(cause: log::CancelCause) -> CancelCause {
    match cause.failed_dependency {
        0 => CancelCause::Asked,
        on => CancelCause::DependencyFailed { on: JobId(on) },
    }
}

pub(super) fn device(choice: &DeviceChoice) -> log::DeviceChoice {
    let code = match choice.code {
        DeviceCode::OnlyChoice => log::device_choice::Code::OnlyChoice,
        DeviceCode::DefaultRule => log::device_choice::Code::DefaultRule,
    };
    log::DeviceChoice { gpu: choice.gpu, code: code.into(), detail: choice.detail.clone() }
}

pub(super) fn device_from(choice: log::DeviceChoice) -> Result<DeviceChoice, Malformed> {
    let code = match choice.code() {
        log::device_choice::Code::OnlyChoice => DeviceCode::OnlyChoice,
        log::device_choice::Code::DefaultRule => DeviceCode::DefaultRule,
        log::device_choice::Code::Unspecified => return Err(Malformed("device")),
    };
    Ok(DeviceChoice { gpu: choice.gpu, code, detail: choice.detail })
}

pub(super) fn queue_key(tenant: &str, queue: &str) -> Result<QueueKey, Malformed> {
    Ok(QueueKey {
        tenant: Tenant::new(tenant).map_err(|_| Malformed("tenant"))?,
        name: QueueName::new(queue).map_err(|_| Malformed("queue"))?,
    })
}

pub(super) fn tenant(name: &str) -> Result<Tenant, Malformed> {
    Tenant::new(name).map_err(|_| Malformed("tenant"))
}

pub(super) fn limits(limits: Limits) -> Option<log::Limits> {
    Some(log::Limits { running_max: limits.running_max, queued_max: limits.queued_max, gpus_max: limits.gpus_max })
}

pub(super) fn limits_from(limits: Option<log::Limits>) -> Limits {
    let limits = limits.unwrap_or_default();
    Limits { running_max: limits.running_max, queued_max: limits.queued_max, gpus_max: limits.gpus_max }
}

pub(super) fn hold(hold: &RankHold) -> log::RankHold {
    log::RankHold { rank: hold.rank, gpu_uuids: uuids(&hold.gpu_uuids), live: hold.live }
}

pub(super) fn hold_from(hold: log::RankHold) -> Result<RankHold, Malformed> {
    Ok(RankHold { rank: hold.rank, gpu_uuids: uuids_from(hold.gpu_uuids)?, live: hold.live })
}

pub(super) fn uuids(uuids: &[DeviceId]) -> Vec<String> {
    uuids.iter().map(ToString::to_string).collect()
}

pub(super) fn uuids_from(uuids: Vec<String>) -> Result<Vec<DeviceId>, Malformed> {
    all(uuids, |uuid| DeviceId::new(&uuid).map_err(|_| Malformed("gpu_uuids")))
}

pub(super) fn master(master: &Master) -> log::Master {
    log::Master { address: master.address.clone(), port: u32::from(master.port) }
}

pub(super) fn master_from(master: log::Master) -> Result<Master, Malformed> {
    Ok(Master { address: master.address, port: port(master.port)? })
}

pub(super) fn port(port: u32) -> Result<u16, Malformed> {
    u16::try_from(port).map_err(|_| Malformed("port"))
}

pub(super) fn exit(exit: &Exit) -> log::Exit {
    use log::exit::Cause as Wire;
    let cause = match exit.cause {
        Cause::Exit => Wire::Exit,
        Cause::Oom => Wire::Oom,
        Cause::TimeLimit => Wire::TimeLimit,
        Cause::Revoked => Wire::Revoked,
        Cause::Infra => Wire::Infra,
        Cause::Disconnected => Wire::Disconnected,
        Cause::StartUser => Wire::StartUser,
        Cause::StartInfra => Wire::StartInfra,
    };
    log::Exit {
        cause: cause.into(),
        exit_code: exit.exit_code,
        signal: exit.signal,
        detail: exit.detail.clone(),
        ran_us: exit.ran_us,
        checkpoint: exit.checkpoint.clone(),
        max_rss_bytes: exit.max_rss_bytes,
    }
}

pub(super) fn exit_from(exit: Option<log::Exit>) -> Result<Exit, Malformed> {
    use log::exit::Cause as Wire;
    let exit = need(exit, "exit")?;
    let cause = match exit.cause() {
        Wire::Exit => Cause::Exit,
        Wire::Oom => Cause::Oom,
        Wire::TimeLimit => Cause::TimeLimit,
        Wire::Revoked => Cause::Revoked,
        Wire::Infra => Cause::Infra,
        Wire::Disconnected => Cause::Disconnected,
        Wire::StartUser => Cause::StartUser,
        Wire::StartInfra => Cause::StartInfra,
        Wire::Unspecified => return Err(Malformed("cause")),
    };
    Ok(Exit {
        cause,
        exit_code: exit.exit_code,
        signal: exit.signal,
        detail: exit.detail,
        ran_us: exit.ran_us,
        checkpoint: exit.checkpoint,
        max_rss_bytes: exit.max_rss_bytes,
    })
}

pub(super) fn outcome_from(number: i32) -> Result<Outcome, Malformed> {
    need(terms::outcome_from(number)?, "outcome")
}

pub(super) fn next(next: Next) -> Option<log::Next> {
    Some(match next {
        Next::End(state) => log::Next { end: terms::state(state.into()).into(), ..log::Next::default() },
        Next::Retry { class, not_before } => {
            let class = match class {
                RetryClass::Failure => log::RetryClass::Failure,
                RetryClass::Oom => log::RetryClass::Oom,
                RetryClass::Infra => log::RetryClass::Infra,
                RetryClass::Preempted => log::RetryClass::Preempted,
                RetryClass::Requeue => log::RetryClass::Requeue,
            };
            log::Next { end: 0, retry: class.into(), not_before_ms: not_before.0 }
        }
    })
}

pub(super) fn next_from(next: Option<log::Next>) -> Result<Next, Malformed> {
    let next = need(next, "next")?;
    let class = match next.retry() {
        log::RetryClass::Unspecified => return Ok(Next::End(terms::end_state(next.end)?)),
        log::RetryClass::Failure => RetryClass::Failure,
        log::RetryClass::Oom => RetryClass::Oom,
        log::RetryClass::Infra => RetryClass::Infra,
        log::RetryClass::Preempted => RetryClass::Preempted,
        log::RetryClass::Requeue => RetryClass::Requeue,
    };
    Ok(Next::Retry { class, not_before: Time(next.not_before_ms) })
}

pub(super) fn token(token: &ApiToken) -> log::ApiToken {
    log::ApiToken {
        token_id: token.id.0,
        actor: token.actor.to_string(),
        tenant: token.tenant.to_string(),
        role: terms::role(token.role).into(),
        user: token.user.clone(),
        digest: token.digest.to_vec(),
        made_by: token.made_by.to_string(),
        made_at_ms: token.made_at.0,
        expires_at_ms: token.expires_at.map(|at| at.0),
    }
}

pub(super) fn token_from(token: log::ApiToken) -> Result<ApiToken, Malformed> {
    let actor = |name: &str| Actor::new(name).map_err(|_| Malformed("actor"));
    Ok(ApiToken {
        id: TokenId(token.token_id),
        actor: actor(&token.actor)?,
        tenant: Tenant::new(&token.tenant).map_err(|_| Malformed("tenant"))?,
        role: need(terms::role_from(token.role), "role")?,
        user: token.user,
        digest: token.digest.try_into().map_err(|_| Malformed("digest"))?,
        made_by: actor(&token.made_by)?,
        made_at: Time(token.made_at_ms),
        expires_at: token.expires_at_ms.map(Time),
    })
}

/// Reads a node's number; zero is none.
pub(super) fn node_from(number: u32) -> Option<NodeId> {
    (number != 0).then_some(NodeId(number))
}
