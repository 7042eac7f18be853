//! How attempts end: alone, in runs of successes, by coming back unstarted, or as a gang.

use crate::event::Event;
use crate::id::{Index, LeaseId};
use crate::job::body::Job;
use crate::job::record::{
    Cause, Checkpoint, ElementRecord, EndState, Ended, EndedRange, Exit, Next, Outcome, RecordStatus, RetryClass,
    TaskRecord,
};
use crate::lease::{Lease, coarse, new_task};
use crate::state::State;
use crate::time::Time;

impl State {
    pub(in crate::apply) fn elements_succeeded(
        &mut self,
        at: Time,
        id: LeaseId,
        (first, last): (Index, Index),
        mean_us: u64,
    ) {
        let Some(lease) = self.leases.get(&id) else {
            return;
        };
        let (job_id, node, attempt) = (lease.job, lease.node, lease.attempt);
        let Some(job) = self.jobs.get_mut(&job_id) else {
            return;
        };
        job.body.started_at.get_or_insert(at);
        let looked_at = lease.width() == 1 && job.body.spec.element_count() <= crate::apply::ends::RECORDS_OF_ALL_MAX;
        let record = job.body.records.remove(&first);
        match record.or_else(|| looked_at.then(|| super::first_record(attempt))) {
            Some(record) => {
                let ended = ended_of(lease, first, at, Outcome::Ok, &exit_ok(mean_us), Vec::new());
                let record = ElementRecord { last: Some(Box::new(ended)), ..record };
                job.end_record(at, first, record, EndState::Completed);
            }
            None => job.end_range(first, EndedRange { attempt, ..EndedRange::completed(last, node) }),
        }
        self.edit_lease(id, |lease| {
            lease.begun = true;
            lease.mean_us = lease.mean_us.max(mean_us);
            lease.live.remove(first, last);
            lease.tasks.retain(|(index, _), _| *index < first || *index > last);
        });
        self.settle_job(at, job_id);
        self.reindex(job_id, false);
    }

    pub(in crate::apply) fn elements_returned(&mut self, at: Time, id: LeaseId, first: Index, last: Index) {
        let Some(lease) = self.leases.get(&id) else {
            return;
        };
        let (job_id, attempt) = (lease.job, lease.attempt);
        let cancelled = lease.revoke.as_ref().map(|revoke| revoke.elements.clone()).unwrap_or_default();
        let Some(job) = self.jobs.get_mut(&job_id) else {
            return;
        };
        if let Some(mut record) = job.body.records.remove(&first).filter(|_| first == last) {
            record.attempts = attempt - 1;
            if cancelled.contains(first) {
                job.end_record(at, first, record, EndState::Cancelled);
            } else {
                record.status = RecordStatus::Waiting { not_before: at };
                job.body.records.insert(first, record);
                job.waiting.insert((at, first));
            }
        } else {
            job.body.pending.insert(first, last);
            for range in cancelled.within(first, last) {
                job.body.pending.remove(range.first, range.last);
                job.end_range(range.first, EndedRange::never_ran(range.last));
            }
        }
        self.edit_lease(id, |lease| {
            lease.begun = true;
            lease.live.remove(first, last);
        });
        self.settle_job(at, job_id);
        self.reindex(job_id, false);
    }

    pub(in crate::apply) fn attempt_ended(&mut self, at: Time, event: &Event) {
        let Event::AttemptEnded { lease: id, job: job_id, index, attempt, outcome, exit, next } = event else {
            return;
        };
        let gang = self.gangs.remove(&(*job_id, *index));
        let Some(job) = self.jobs.get_mut(job_id) else {
            return;
        };
        let mut tasks = Vec::new();
        let mut leased_at = job.body.submitted_at;
        let mut alternative = 0;
        let lease = self.leases.get(id);
        if let Some(gang) = gang {
            self.index.preparing.remove(&(gang.deadline, *job_id, *index));
            job.active -= 1;
            job.running -= 1;
            self.index.changes.relaxed = true;
            (leased_at, alternative) = (gang.granted_at, gang.alternative);
            tasks = gang.tasks;
            tasks.sort_by_key(|task| task.rank);
        } else if let Some(lease) = lease {
            let mut task = lease.tasks.get(&(*index, 0)).cloned().unwrap_or_else(|| new_task(lease, 0));
            task.exit = Some(exit.clone());
            task.ended_at = Some(at);
            tasks.push(task);
            (leased_at, alternative) = (lease.granted_at, lease.alternative);
        }
        let node = tasks.first().map(|task| task.node);
        let (attempt, outcome) = (*attempt, *outcome);
        let ended = Ended { attempt, outcome, alternative, leased_at, ended_at: at, exit: exit.clone(), tasks };
        job.conclude(at, *index, ended, *next);
        if let Some(node) = node.filter(|_| exit.cause == Cause::StartInfra && lease_is_single(lease)) {
            self.count_infra_start(at, *job_id, node);
        }
        let ran = coarse(exit.ran_us);
        self.edit_lease(*id, |lease| {
            if lease.gang.is_none() && !lease.fenced {
                lease.begun = true;
                lease.live.remove(*index, *index);
                lease.tasks.remove(&(*index, 0));
                if lease.width() == 1 {
                    lease.mean_us = lease.mean_us.max(ran);
                }
            }
        });
        self.settle_job(at, *job_id);
        self.reindex(*job_id, false);
    }
}

fn lease_is_single(lease: Option<&Lease>) -> bool {
    lease.is_some_and(|lease| lease.gang.is_none())
}

fn exit_ok(ran_us: u64) -> Exit {
    Exit {
        cause: Cause::Exit,
        exit_code: Some(0),
        signal: None,
        detail: String::new(),
        ran_us,
        checkpoint: None,
        max_rss_bytes: 0,
    }
}

fn ended_of(lease: &Lease, index: Index, at: Time, outcome: Outcome, exit: &Exit, mut tasks: Vec<TaskRecord>) -> Ended {
    let mut task = lease.tasks.get(&(index, 0)).cloned().unwrap_or_else(|| new_task(lease, 0));
    task.exit = Some(exit.clone());
    task.ended_at = Some(at);
    tasks.push(task);
    Ended {
        attempt: lease.attempt,
        outcome,
        alternative: lease.alternative,
        leased_at: lease.granted_at,
        ended_at: at,
        exit: exit.clone(),
        tasks,
    }
}

impl Job {
    /// Writes down how an attempt ended and what follows.
    fn conclude(&mut self, at: Time, index: Index, ended: Ended, next: Next) {
        let attempt = ended.attempt;
        let large = self.body.spec.element_count() > crate::apply::ends::RECORDS_OF_ALL_MAX;
        let record = self.body.records.remove(&index);
        if large
            && record.is_none()
            && ended.outcome == Outcome::Ok
            && let Some(task) = ended.tasks.first()
        {
            self.end_range(index, EndedRange { attempt, ..EndedRange::completed(index, task.node) });
            return;
        }
        let mut record = record.unwrap_or_else(|| super::first_record(attempt));
        record.checkpoint = newest_checkpoint(&ended).or(record.checkpoint);
        record.last = Some(Box::new(ended));
        match next {
            Next::End(state) => self.end_record(at, index, record, state),
            Next::Retry { class, not_before } => {
                let used = match class {
                    RetryClass::Failure => &mut record.used.failure,
                    RetryClass::Oom => &mut record.used.oom,
                    RetryClass::Infra => &mut record.used.infra,
                    RetryClass::Preempted => &mut record.used.preempted,
                    RetryClass::Requeue => &mut record.used.requeue,
                };
                *used = used.saturating_add(1);
                record.status = RecordStatus::Waiting { not_before };
                self.body.records.insert(index, record);
                self.waiting.insert((not_before, index));
            }
        }
    }
}

/// Rank 0 writes a gang's checkpoints; whichever rank named one last counts otherwise.
fn newest_checkpoint(ended: &Ended) -> Option<Checkpoint> {
    ended.tasks.iter().find_map(|task| {
        let path = task.exit.as_ref()?.checkpoint.clone()?;
        Some(Checkpoint { node: task.node, path })
    })
}
