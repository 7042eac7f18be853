//! What people change: cancel, hold, release, retry, update, queues.

use super::Decider;
use super::submit::TENANTS_MAX;
use crate::effect::{RefusalKind, Reply, Step};
use crate::event::Event;
use crate::grant;
use crate::id::{JobId, QueueName, Tenant};
use crate::input::Change;
use crate::job::body::{After, CancelCause, Job, Standing};
use crate::job::parse::{PRIORITIES, TIME_LIMIT_MAX};
use crate::job::record::{EndState, RecordStatus};
use crate::lease::{Lease, RevokeReason, Revoking};
use crate::queue::{Limits, QueueKey};
use crate::ranges::RangeSet;
use crate::time::Millis;

/// Elements one Retry may put back that ran before: each gets a record.
const RETRIED_MAX: u64 = 100_000;

impl Decider<'_> {
    pub(super) fn cancel(&self, id: JobId, elements: Option<&RangeSet>) -> Step {
        let job = match self.job(id) {
            Ok(job) => job,
            Err(refused) => return refused,
        };
        let hit = self.cancellable(job, elements);
        if hit.is_empty() {
            return self.answer(Reply::Cancelled { elements: 0 });
        }
        let mut step = self.answer(Reply::Cancelled { elements: hit.len() });
        for lease in job.leases.iter().filter_map(|lease| self.state.leases.get(lease)) {
            step.effects.extend(cancelled_lease(lease, &hit).as_ref().and_then(grant::revoke));
        }
        step.events.push(Event::JobCancelled { by: self.by(), job: id, elements: hit, cause: CancelCause::Asked });
        step
    }

    /// Returns the elements that have not ended and were not cancelled before.
    fn cancellable(&self, job: &Job, elements: Option<&RangeSet>) -> RangeSet {
        let mut open = job.body.pending.clone();
        job.waiting.iter().for_each(|(_, index)| open.insert(*index, *index));
        for lease in job.leases.iter().filter_map(|lease| self.state.leases.get(lease)) {
            open.extend(&lease.live);
        }
        for lease in job.leases.iter().filter_map(|lease| self.state.leases.get(lease)) {
            let revoking = lease.revoke.as_ref().filter(|revoking| revoking.reason == RevokeReason::Cancelled);
            if let Some(revoking) = revoking {
                open.subtract(&revoking.elements.intersection(&lease.live));
            }
        }
        let gangs = self.state.gangs.range((job.body.id, 0)..=(job.body.id, u32::MAX));
        for ((_, index), _) in gangs.filter(|(_, gang)| gang.cancelled) {
            open.remove(*index, *index);
        }
        elements.map_or_else(|| open.clone(), |elements| open.intersection(elements))
    }

    pub(super) fn hold(&self, id: JobId) -> Step {
        let job = match self.job(id) {
            Ok(job) => job,
            Err(refused) => return refused,
        };
        if let Some(refused) = self.refuse_ended(job) {
            return refused;
        }
        let mut step = self.answer(Reply::Done);
        if !job.body.held {
            step.events.push(Event::JobHeld { by: self.by(), job: id });
            self.trim(job.leases.iter().filter_map(|lease| self.state.leases.get(lease)), &mut step);
        }
        step
    }

    /// Asks the unstarted elements of `leases` back.
    pub(super) fn trim<'a>(&self, leases: impl Iterator<Item = &'a Lease>, step: &mut Step) {
        for lease in leases.filter(|lease| lease.has_unstarted() && !lease.trimmed && !lease.fenced) {
            step.events.push(Event::LeaseTrimmed { lease: lease.id, job: lease.job });
            step.effects.push(crate::effect::Effect::Trim { node: lease.node, lease: lease.id });
        }
    }

    pub(super) fn release(&self, id: JobId) -> Step {
        let job = match self.job(id) {
            Ok(job) => job,
            Err(refused) => return refused,
        };
        let mut step = self.answer(Reply::Done);
        if job.body.held {
            step.events.push(Event::JobReleased { by: self.by(), job: id });
        }
        step
    }

    pub(super) fn retry(&self, id: JobId, elements: Option<&RangeSet>) -> Step {
        let job = match self.job(id) {
            Ok(job) => job,
            Err(refused) => return refused,
        };
        let (hit, ran) = retryable(job, elements);
        if hit.is_empty() {
            return self.answer(Reply::Retried { elements: 0 });
        }
        if ran > RETRIED_MAX {
            let message = format!("{ran} elements ran before, and {RETRIED_MAX} may be retried at once");
            return self.refuse(RefusalKind::Exhausted, "too-many-elements", message, "name fewer elements");
        }
        let after: Vec<After> = job.body.after.iter().map(|after| self.stands(*after)).collect();
        if let Some(failed) = after.iter().find(|after| after.standing == Standing::Failed) {
            let message = format!("job {} ended otherwise than it was to", failed.job);
            return self.refuse(RefusalKind::Precondition, "dependency-failed", message, "retry that job first");
        }
        if let Some(refused) = self.refuse_full(&self.queue_of(job), hit.len()) {
            return refused;
        }
        if let Some(fault) = super::submit::tenant_fault(self.state, &job.body.tenant, hit.len()) {
            return self.refuse(RefusalKind::Exhausted, fault.reason, fault.message, &fault.hint);
        }
        let mut step = self.answer(Reply::Retried { elements: hit.len() });
        step.events.push(Event::ElementsRetried { by: self.by(), job: id, elements: hit, after });
        step
    }

    /// Returns where a dependency stands now. One on a job that is not kept any more stays where it was.
    fn stands(&self, after: After) -> After {
        match self.state.jobs.get(&after.job) {
            Some(on) => After { standing: on.standing(after.kind), ..after },
            None => after,
        }
    }

    pub(super) fn update(
        &self,
        id: JobId,
        priority: Option<i32>,
        queue: Option<&QueueName>,
        time_limit: Option<Millis>,
    ) -> Step {
        let job = match self.job(id) {
            Ok(job) => job,
            Err(refused) => return refused,
        };
        if let Some(refused) = self.refuse_ended(job) {
            return refused;
        }
        if let Some(bad) = priority.filter(|priority| !PRIORITIES.contains(priority)) {
            let message = format!("priority {bad} is not within -1000..=1000");
            return self.refuse(RefusalKind::Invalid, "out-of-range", message, "");
        }
        if time_limit.is_some_and(|limit| limit == Millis(0) || limit > TIME_LIMIT_MAX) {
            let message = format!("a time limit is not within 1 ms to {TIME_LIMIT_MAX}");
            return self.refuse(RefusalKind::Invalid, "out-of-range", message, "");
        }
        let queue = queue.filter(|queue| **queue != job.body.queue).cloned();
        if let Some(name) = &queue {
            let key = QueueKey { tenant: job.body.tenant.clone(), name: name.clone() };
            if let Some(refused) = self.refuse_full(&key, job.entry.usage.queued) {
                return refused;
            }
        }
        let priority = priority.filter(|priority| *priority != job.body.priority);
        let time_limit = time_limit.filter(|limit| Some(*limit) != job.body.time_limit);
        let mut step = self.answer(Reply::Done);
        if priority.is_some() || queue.is_some() || time_limit.is_some() {
            step.events.push(Event::JobUpdated { by: self.by(), job: id, priority, queue, time_limit });
        }
        step
    }

    pub(super) fn set_queue(&self, name: &QueueName, running: Change, queued: Change, gpus: Change) -> Step {
        let key = QueueKey { tenant: self.request.tenant.clone(), name: name.clone() };
        if let Some(refused) = self.refuse_full(&key, 0) {
            return refused;
        }
        let old = self.state.queue(&key).limits;
        let limits = changed_limits(old, running, queued, gpus);
        let mut step = self.answer(Reply::Done);
        if limits != old || !self.state.queues.contains_key(&key) {
            step.events.push(Event::QueueSet { by: self.by(), queue: key, limits });
        }
        step
    }

    /// Limits a tenant across its queues, also before it has any.
    pub(super) fn set_tenant(&self, tenant: &Tenant, running: Change, queued: Change, gpus: Change) -> Step {
        let known = self.state.tenants.contains_key(tenant);
        if !known && self.state.tenants.len() >= TENANTS_MAX {
            let message = format!("there are {TENANTS_MAX} tenants, and `{tenant}` would be another");
            return self.refuse(RefusalKind::Exhausted, "too-many-tenants", message, "");
        }
        let old = self.state.tenant(tenant).limits;
        let limits = changed_limits(old, running, queued, gpus);
        let mut step = self.answer(Reply::Done);
        if limits != old || !known {
            step.events.push(Event::TenantSet { by: self.by(), tenant: tenant.clone(), limits });
        }
        step
    }

    /// Refuses if a queue has no room for `more` waiting elements, or would be one queue too many.
    fn refuse_full(&self, key: &QueueKey, more: u64) -> Option<Step> {
        let fault = super::submit::queue_fault(self.state, key, more)?;
        Some(self.refuse(RefusalKind::Exhausted, fault.reason, fault.message, &fault.hint))
    }

    fn refuse_ended(&self, job: &Job) -> Option<Step> {
        job.body.ended_at?;
        let message = format!("job {} has ended", job.body.id);
        Some(self.refuse(RefusalKind::Precondition, "job-ended", message, "`gangsaw retry` begins it again"))
    }

    fn queue_of(&self, job: &Job) -> QueueKey {
        QueueKey { tenant: job.body.tenant.clone(), name: job.body.queue.clone() }
    }
}

fn changed_limits(old: Limits, running: Change, queued: Change, gpus: Change) -> Limits {
    Limits {
        running_max: changed(old.running_max, running),
        queued_max: changed(old.queued_max, queued),
        gpus_max: changed(old.gpus_max, gpus),
    }
}

fn changed(old: Option<u64>, change: Change) -> Option<u64> {
    match change {
        Change::Keep => old,
        Change::Unlimited => None,
        Change::Set(max) => Some(max),
    }
}

/// Returns the lease as it will be after `hit` is cancelled. `None` if that changes nothing in it.
fn cancelled_lease(lease: &Lease, hit: &RangeSet) -> Option<Lease> {
    let hit = lease.live.intersection(hit);
    if hit.is_empty() || lease.revoke.as_ref().is_some_and(|revoking| revoking.reason == RevokeReason::Gang) {
        return None;
    }
    let mut lease = lease.clone();
    let none = Revoking { reason: RevokeReason::Cancelled, elements: RangeSet::new() };
    lease.revoke.get_or_insert(none).elements.extend(&hit);
    Some(lease)
}

/// Returns the ended elements a Retry means, and how many of them ran.
fn retryable(job: &Job, elements: Option<&RangeSet>) -> (RangeSet, u64) {
    let wanted = |index, state| match elements {
        Some(elements) => elements.contains(index),
        None => state != EndState::Completed,
    };
    let mut hit = RangeSet::new();
    let mut ran = 0;
    for (index, record) in &job.body.records {
        if let RecordStatus::Ended { state, .. } = record.status
            && wanted(*index, state)
        {
            hit.insert(*index, *index);
            ran += 1;
        }
    }
    for (first, range) in &job.body.ended {
        let before = hit.len();
        match elements {
            Some(elements) => elements.within(*first, range.last).for_each(|part| hit.insert(part.first, part.last)),
            None if range.state == EndState::Completed => {}
            None => hit.insert(*first, range.last),
        }
        if range.attempt > 0 {
            ran += hit.len() - before;
        }
    }
    (hit, ran)
}
