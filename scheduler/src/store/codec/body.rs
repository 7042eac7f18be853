//! A job's durable body, as a snapshot holds it.

use std::collections::BTreeMap;
use std::sync::Arc;

use gangsaw_core::id::{Actor, Index, JobId, NodeId, QueueName, RequestId, Tenant};
use gangsaw_core::job::body::{Excluded, JobBody};
use gangsaw_core::job::notice::{Notice, NoticeStanding};
use gangsaw_core::job::record::{
    Checkpoint, ElementRecord, Ended, EndedRange, RecordStatus, Started, TaskRecord, Used,
};
use gangsaw_core::time::{Millis, Time};
use gangsaw_proto::jobs::v1::notice::Standing;
use gangsaw_proto::log::v1 as log;
use gangsaw_proto::log::v1::element_record::Status;

use super::part::{self, all, pairs};
use crate::wire::{Malformed, need, spec, terms};

fn ms(time: Time) -> u64 {
    time.0
}

pub(super) fn job(body: &JobBody) -> log::RestoredJob {
    log::RestoredJob {
        job_id: body.id.0,
        tenant: body.tenant.to_string(),
        actor: body.actor.to_string(),
        request_id: body.request_id.to_string(),
        user: body.user.to_string(),
        spec: Some(spec::message(&body.spec)),
        queue: body.queue.to_string(),
        priority: body.priority,
        time_limit_ms: body.time_limit.map(|Millis(ms)| ms),
        held: body.held,
        after: body.after.iter().map(part::after).collect(),
        submitted_at_ms: body.submitted_at.0,
        started_at_ms: body.started_at.map(ms),
        ended_at_ms: body.ended_at.map(ms),
        pending: pairs(&body.pending),
        records: body.records.iter().map(|(index, element)| record(*index, element)).collect(),
        ended: body.ended.iter().map(|(first, range)| ended_range(*first, range)).collect(),
        chunk: body.chunk,
        excluded: body.excluded.iter().map(|(node, why)| excluded(0, *node, why.until, &why.reason)).collect(),
        infra_starts: body
            .infra_starts
            .iter()
            .map(|(node, times)| log::InfraStarts { node_id: node.0, at_ms: times.iter().map(|at| at.0).collect() })
            .collect(),
        retries: body.retries,
        device: body.device.as_deref().map(part::device),
        exit_code: body.exit_code,
        cancelled: body.cancelled.map(part::cause),
        notice: body.notice.as_deref().map(notice),
    }
}

pub(super) fn job_from(body: log::RestoredJob) -> Result<JobBody, Malformed> {
    let mut records = BTreeMap::new();
    for element in body.records {
        records.insert(element.index, record_from(element)?);
    }
    let mut ended = BTreeMap::new();
    for range in body.ended {
        ended.insert(range.first, ended_range_from(&range)?);
    }
    Ok(JobBody {
        id: JobId(body.job_id),
        tenant: Tenant::new(&body.tenant).map_err(|_| Malformed("tenant"))?,
        actor: Actor::new(&body.actor).map_err(|_| Malformed("actor"))?,
        request_id: RequestId::new(&body.request_id).map_err(|_| Malformed("request_id"))?,
        user: body.user.into(),
        spec: Arc::new(spec::from_message(need(body.spec, "spec")?)?),
        queue: QueueName::new(&body.queue).map_err(|_| Malformed("queue"))?,
        priority: body.priority,
        time_limit: body.time_limit_ms.map(Millis),
        held: body.held,
        after: all(body.after, part::after_from)?.into(),
        submitted_at: Time(body.submitted_at_ms),
        started_at: body.started_at_ms.map(Time),
        ended_at: body.ended_at_ms.map(Time),
        pending: part::pairs_from(&body.pending)?,
        records: records.into(),
        ended: ended.into(),
        chunk: body.chunk,
        excluded: body.excluded.into_iter().map(excluded_from).collect(),
        infra_starts: body
            .infra_starts
            .into_iter()
            .map(|starts| (NodeId(starts.node_id), starts.at_ms.into_iter().map(Time).collect()))
            .collect(),
        retries: body.retries,
        device: body.device.map(part::device_from).transpose()?.map(Box::new),
        exit_code: body.exit_code,
        cancelled: body.cancelled.map(part::cause_from),
        notice: body.notice.map(notice_from).transpose()?.map(Box::new),
    })
}

fn notice(notice: &Notice) -> log::Notice {
    let not_before_ms = match notice.standing {
        NoticeStanding::Owed { not_before } => not_before.0,
        NoticeStanding::Sent | NoticeStanding::GivenUp => 0,
    };
    let standing = terms::notice(notice.standing).into();
    log::Notice { tries: notice.tries, standing, not_before_ms, why: notice.why.clone() }
}

fn notice_from(notice: log::Notice) -> Result<Notice, Malformed> {
    let standing = match notice.standing() {
        Standing::Owed => NoticeStanding::Owed { not_before: Time(notice.not_before_ms) },
        Standing::Sent => NoticeStanding::Sent,
        Standing::GivenUp => NoticeStanding::GivenUp,
        Standing::Unspecified => return Err(Malformed("standing")),
    };
    Ok(Notice { tries: notice.tries, standing, why: notice.why })
}

pub(super) fn excluded(job_id: u64, node: NodeId, until: Time, reason: &str) -> log::NodeExcluded {
    log::NodeExcluded { job_id, node_id: node.0, until_ms: until.0, reason: reason.to_owned() }
}

fn excluded_from(excluded: log::NodeExcluded) -> (NodeId, Excluded) {
    (NodeId(excluded.node_id), Excluded { until: Time(excluded.until_ms), reason: excluded.reason })
}

fn record(index: Index, element: &ElementRecord) -> log::ElementRecord {
    let (status, ended_at_ms) = match element.status {
        RecordStatus::Waiting { not_before } => (Status::WaitingUntilMs(not_before.0), 0),
        RecordStatus::Leased => (Status::Leased(true), 0),
        RecordStatus::Ended { state, at } => (Status::Ended(terms::state(state.into()).into()), at.0),
    };
    let Used { failure, oom, infra, preempted, requeue } = element.used;
    log::ElementRecord {
        index,
        attempts: element.attempts,
        used: Some(log::Used { failure, oom, infra, preempted, requeue }),
        status: Some(status),
        ended_at_ms,
        checkpoint: element
            .checkpoint
            .as_ref()
            .map(|checkpoint| log::Checkpoint { node_id: checkpoint.node.0, path: checkpoint.path.clone() }),
        last: element.last.as_deref().map(ended_attempt),
    }
}

fn record_from(element: log::ElementRecord) -> Result<ElementRecord, Malformed> {
    let status = match need(element.status, "status")? {
        Status::WaitingUntilMs(until) => RecordStatus::Waiting { not_before: Time(until) },
        Status::Leased(_) => RecordStatus::Leased,
        Status::Ended(state) => RecordStatus::Ended { state: terms::end_state(state)?, at: Time(element.ended_at_ms) },
    };
    let log::Used { failure, oom, infra, preempted, requeue } = element.used.unwrap_or_default();
    Ok(ElementRecord {
        attempts: element.attempts,
        used: Used { failure, oom, infra, preempted, requeue },
        status,
        checkpoint: element
            .checkpoint
            .map(|checkpoint| Checkpoint { node: NodeId(checkpoint.node_id), path: checkpoint.path }),
        last: element.last.map(ended_attempt_from).transpose()?.map(Box::new),
    })
}

fn ended_attempt(ended: &Ended) -> log::EndedAttempt {
    log::EndedAttempt {
        attempt: ended.attempt,
        outcome: terms::outcome(ended.outcome).into(),
        alternative: ended.alternative,
        leased_at_ms: ended.leased_at.0,
        ended_at_ms: ended.ended_at.0,
        exit: Some(part::exit(&ended.exit)),
        tasks: ended.tasks.iter().map(|each| task(0, each)).collect(),
    }
}

fn ended_attempt_from(ended: log::EndedAttempt) -> Result<Ended, Malformed> {
    Ok(Ended {
        attempt: ended.attempt,
        outcome: part::outcome_from(ended.outcome)?,
        alternative: ended.alternative,
        leased_at: Time(ended.leased_at_ms),
        ended_at: Time(ended.ended_at_ms),
        exit: part::exit_from(ended.exit)?,
        tasks: all(ended.tasks, task_from)?,
    })
}

pub(super) fn task(index: Index, task: &TaskRecord) -> log::TaskRecord {
    log::TaskRecord {
        rank: task.rank,
        node_id: task.node.0,
        gpu_uuids: part::uuids(&task.gpu_uuids),
        started: task.started.as_ref().map(|started| log::StartedTask {
            at_ms: started.at.0,
            pid: started.pid,
            start_ticks: started.start_ticks,
            output_dir: started.output_dir.clone(),
            spawn_us: started.spawn_us,
        }),
        exit: task.exit.as_ref().map(part::exit),
        ended_at_ms: task.ended_at.map(ms),
        index,
    }
}

pub(super) fn task_from(task: log::TaskRecord) -> Result<TaskRecord, Malformed> {
    Ok(TaskRecord {
        rank: task.rank,
        node: NodeId(task.node_id),
        gpu_uuids: part::uuids_from(task.gpu_uuids)?,
        started: task.started.map(|started| Started {
            at: Time(started.at_ms),
            pid: started.pid,
            start_ticks: started.start_ticks,
            output_dir: started.output_dir,
            spawn_us: started.spawn_us,
        }),
        exit: task.exit.map(|exit| part::exit_from(Some(exit))).transpose()?,
        ended_at: task.ended_at_ms.map(Time),
    })
}

fn ended_range(first: Index, range: &EndedRange) -> log::EndedRange {
    log::EndedRange {
        first,
        last: range.last,
        node_id: range.node.map_or(0, |node| node.0),
        attempt: range.attempt,
        state: terms::state(range.state.into()).into(),
        outcome: range.outcome.map_or(0, |outcome| terms::outcome(outcome).into()),
        exit_code: range.exit_code,
        signal: range.signal,
    }
}

fn ended_range_from(range: &log::EndedRange) -> Result<EndedRange, Malformed> {
    Ok(EndedRange {
        last: range.last,
        node: part::node_from(range.node_id),
        attempt: range.attempt,
        state: terms::end_state(range.state)?,
        outcome: terms::outcome_from(range.outcome)?,
        exit_code: range.exit_code,
        signal: range.signal,
    })
}
