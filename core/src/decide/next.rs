//! What an ended attempt means: its outcome, and whether another follows.

use crate::id::Index;
use crate::job::body::Job;
use crate::job::parse::BACKOFF_MAX;
use crate::job::record::{Cause, EndState, Exit, Next, Outcome, RetryClass, Used};
use crate::lease::RevokeReason;
use crate::time::{Millis, Time};

/// Requeues (`requeue_on`) an element may use: a command that always asks for another turn must end.
pub const REQUEUES_MAX: u32 = 100;

/// Least wait before a requeued element starts again, so that it cannot spin.
pub const REQUEUE_WAIT: Millis = Millis::seconds(10);

/// Infra starts of a job on a node within ten minutes that keep the job from it.
pub const INFRA_STARTS_MAX: usize = 3;

/// A job is kept from a node that long; later the node may have been repaired.
pub const NODE_EXCLUDED_FOR: Millis = Millis::hours(1);

/// Says how an attempt ended. `revoked`: what we had told the node; `cancelled`: its owner cancelled it.
pub(super) fn outcome(exit: &Exit, revoked: Option<RevokeReason>, cancelled: bool) -> Outcome {
    if exit.cause == Cause::Exit && exit.exit_code == Some(0) {
        return Outcome::Ok;
    }
    if cancelled {
        return Outcome::Cancelled;
    }
    match exit.cause {
        Cause::Exit | Cause::StartUser => Outcome::Failed,
        Cause::Oom => Outcome::Oom,
        Cause::TimeLimit => Outcome::Timeout,
        Cause::Revoked if revoked.is_none_or(|reason| reason == RevokeReason::Preempted) => Outcome::Preempted,
        Cause::Revoked | Cause::Infra | Cause::Disconnected | Cause::StartInfra => Outcome::Infra,
    }
}

/// Says what follows an attempt of `index` that ended with `outcome`.
pub(super) fn next(job: &Job, index: Index, now: Time, outcome: Outcome, exit: &Exit, cancelled: bool) -> Next {
    let used = job.body.records.get(&index).map_or(Used::default(), |record| record.used);
    let retry = &job.body.spec.retry;
    let asks_again = exit.exit_code.and_then(|code| u8::try_from(code).ok());
    let requeues = exit.cause == Cause::Exit && asks_again.is_some_and(|code| job.body.spec.requeue_on.contains(&code));
    let (class, used, max, end) = match outcome {
        Outcome::Ok => return Next::End(EndState::Completed),
        Outcome::Cancelled => return Next::End(EndState::Cancelled),
        Outcome::Timeout => return Next::End(EndState::Timeout),
        Outcome::Failed if exit.cause == Cause::StartUser => return Next::End(EndState::Failed),
        Outcome::Failed if requeues => (RetryClass::Requeue, used.requeue, Some(REQUEUES_MAX), EndState::Failed),
        Outcome::Failed => (RetryClass::Failure, used.failure, Some(retry.failure), EndState::Failed),
        Outcome::Oom => (RetryClass::Oom, used.oom, Some(retry.oom), EndState::OutOfMemory),
        Outcome::Preempted => (RetryClass::Preempted, used.preempted, retry.preempted, EndState::NodeFail),
        Outcome::Infra | Outcome::Fenced => (RetryClass::Infra, used.infra, Some(retry.infra), EndState::NodeFail),
    };
    if cancelled {
        return Next::End(EndState::Cancelled);
    }
    if max.is_some_and(|max| used >= max) {
        return Next::End(end);
    }
    let grown = retry.backoff.0.saturating_mul(1 << used.min(20)).min(BACKOFF_MAX.0);
    let wait = if class == RetryClass::Requeue { grown.max(REQUEUE_WAIT.0) } else { grown };
    Next::Retry { class, not_before: now + Millis(wait) }
}
