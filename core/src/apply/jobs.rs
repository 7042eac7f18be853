//! Events about jobs and queues that people caused.

use std::sync::Arc;

use crate::event::Event;
use crate::id::{IdempotencyKey, JobId, QueueName, Tenant};
use crate::job::body::{After, CancelCause, Job, JobBody};
use crate::job::record::{ElementRecord, EndState, EndedRange, RecordStatus, Used};
use crate::job::spec::JobSpec;
use crate::lease::{RevokeReason, Revoking};
use crate::queue::{Limits, QueueKey};
use crate::ranges::{IndexRange, RangeSet};
use crate::rare::Rare;
use crate::state::State;
use crate::state::index::Shape;
use crate::time::{Millis, Time};

impl State {
    pub(super) fn jobs_submitted(&mut self, at: Time, event: &Event) {
        let Event::JobsSubmitted { by, tenant, user, key, digest, jobs } = event else {
            return;
        };
        for new in jobs {
            let spec = &new.spec;
            self.insert_job(JobBody {
                id: new.id,
                tenant: tenant.clone(),
                actor: by.actor.clone(),
                request_id: by.request_id.clone(),
                user: user.as_str().into(),
                spec: spec.clone(),
                queue: spec.queue.clone(),
                priority: spec.priority,
                time_limit: spec.time_limit,
                held: spec.hold,
                after: new.after.clone().into(),
                submitted_at: at,
                started_at: None,
                ended_at: None,
                pending: spec.elements(),
                records: Rare::default(),
                ended: Rare::default(),
                chunk: 1,
                excluded: Rare::default(),
                infra_starts: Rare::default(),
                retries: 0,
                device: None,
                exit_code: None,
                cancelled: None,
                notice: None,
            });
            self.counters.job = self.counters.job.max(new.id.0 + 1);
        }
        let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
        self.insert_key(tenant, key, (at, *digest), &ids);
    }

    /// Puts a job, new or restored, into the state and its indices.
    pub(super) fn insert_job(&mut self, mut body: JobBody) {
        let id = body.id;
        let shape = self.share(&mut body);
        let mut job = Job {
            leases: Rare::default(),
            waiting: Rare::default(),
            active: 0,
            running: 0,
            gpus: 0,
            ended_counts: Rare::default(),
            shape,
            entry: Default::default(),
            body,
        };
        let records = job.body.records.iter();
        let statuses: Vec<_> = records.map(|(index, record)| (*index, record.status)).collect();
        for (index, status) in statuses {
            match status {
                RecordStatus::Waiting { not_before } => {
                    job.waiting.insert((not_before, index));
                }
                RecordStatus::Ended { state, .. } => job.count_end(state, 1),
                RecordStatus::Leased => {}
            }
        }
        let ended: Vec<_> = job.body.ended.iter().map(|(first, range)| (*first, *range)).collect();
        for (first, range) in ended {
            job.count_end(range.state, u64::from(range.last - first) + 1);
        }
        if let Some(at) = job.body.ended_at {
            self.index.ended.insert((at, id));
        }
        let notice = job.body.notice.take();
        self.jobs.insert(id, Box::new(job));
        self.set_notice(id, notice.map(|notice| *notice));
        self.watch_dependencies(id);
        self.reindex(id, false);
    }

    /// Lets a job share with the one before it what is equal in both, and returns its shape: people submit many like
    /// jobs from one shell, and what they have in common is most of what a job weighs.
    fn share(&self, body: &mut JobBody) -> Arc<Shape> {
        let spec = &body.spec;
        let fresh = || {
            let (demands, replicas) = (spec.demands.clone(), spec.replicas);
            Arc::new(Shape { demands, replicas, excluded: Vec::new() })
        };
        let Some((_, before)) = self.jobs.last_key_value() else {
            return fresh();
        };
        let old = &before.body;
        let same_shape = before.shape.demands == spec.demands
            && before.shape.replicas == spec.replicas
            && before.shape.excluded.is_empty();
        let shape = if same_shape { before.shape.clone() } else { fresh() };
        if old.spec == *spec {
            body.spec = old.spec.clone();
        } else if old.spec.exported_env == spec.exported_env && old.spec.env == spec.env {
            let (exported_env, env) = (old.spec.exported_env.clone(), old.spec.env.clone());
            body.spec = Arc::new(JobSpec { exported_env, env, ..(**spec).clone() });
        }
        share_one(&mut body.tenant, &old.tenant);
        share_one(&mut body.actor, &old.actor);
        share_one(&mut body.queue, &old.queue);
        share_one(&mut body.user, &old.user);
        shape
    }

    pub(super) fn insert_key(
        &mut self,
        tenant: &Tenant,
        key: &IdempotencyKey,
        (used_at, digest): (Time, u64),
        jobs: &[JobId],
    ) {
        let shared = jobs.first().and_then(|job| self.jobs.get(job)).map(|job| job.body.tenant.clone());
        let tenant = shared.filter(|shared| shared == tenant).unwrap_or_else(|| tenant.clone());
        self.keys.insert((tenant, key.clone()), used_at, digest, jobs);
    }

    pub(super) fn job_cancelled(&mut self, at: Time, id: JobId, elements: &RangeSet, cause: CancelCause) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        job.body.cancelled = Some(cause);
        for range in job.body.pending.intersection(elements).iter() {
            job.body.pending.remove(range.first, range.last);
            job.end_range(range.first, EndedRange::never_ran(range.last));
        }
        let waiting: Vec<_> = job.waiting.iter().filter(|(_, index)| elements.contains(*index)).copied().collect();
        for (time, index) in waiting {
            job.waiting.remove(&(time, index));
            if let Some(record) = job.body.records.remove(&index) {
                job.end_record(at, index, record, EndState::Cancelled);
            }
        }
        for lease in job.leases.iter() {
            let Some(lease) = self.leases.get_mut(lease) else {
                continue;
            };
            let hit = lease.live.intersection(elements);
            if hit.is_empty() {
                continue;
            }
            if lease.gang.is_some()
                && let Some(gang) = self.gangs.get_mut(&(id, lease.first))
            {
                gang.cancelled = true;
            }
            let none = Revoking { reason: RevokeReason::Cancelled, elements: RangeSet::new() };
            lease.revoke.get_or_insert(none).elements.extend(&hit);
        }
        self.settle_job(at, id);
        self.reindex(id, false);
    }

    pub(super) fn job_held(&mut self, id: JobId, held: bool) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.body.held = held;
            self.reindex(id, false);
        }
    }

    pub(super) fn elements_retried(&mut self, at: Time, id: JobId, elements: &RangeSet, after: &[After]) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        for IndexRange { first, last } in elements.iter() {
            for (start, range) in job.unend(first, last) {
                if range.attempt == 0 {
                    job.body.pending.insert(start, range.last);
                } else {
                    (start..=range.last).for_each(|index| job.wait_again(at, index, ended_record(&range)));
                }
            }
            let records: Vec<_> = job.body.records.range(first..=last).map(|(index, _)| *index).collect();
            for index in records {
                let Some(record) = job.body.records.get(&index).cloned() else {
                    continue;
                };
                if let RecordStatus::Ended { state, .. } = record.status {
                    job.uncount_end(state, 1);
                    job.wait_again(at, index, record);
                }
            }
        }
        if let Some(ended) = job.body.ended_at.take() {
            self.index.ended.remove(&(ended, id));
        }
        job.body.exit_code = job.highest_exit_code();
        job.body.after = after.to_vec().into();
        job.body.cancelled = None;
        job.body.excluded.clear();
        job.body.infra_starts.clear();
        self.set_notice(id, None);
        self.watch_dependencies(id);
        self.reindex(id, false);
    }

    pub(super) fn job_updated(
        &mut self,
        id: JobId,
        priority: Option<i32>,
        queue: Option<&QueueName>,
        time_limit: Option<Millis>,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        job.body.priority = priority.unwrap_or(job.body.priority);
        job.body.queue = queue.unwrap_or(&job.body.queue).clone();
        job.body.time_limit = time_limit.or(job.body.time_limit);
        self.reindex(id, false);
    }

    pub(super) fn job_forgotten(&mut self, id: JobId) {
        self.unindex(id);
        self.set_notice(id, None);
        let Some(job) = self.jobs.remove(&id) else {
            return;
        };
        if let Some(ended) = job.body.ended_at {
            self.index.ended.remove(&(ended, id));
        }
        self.index.doomed.remove(&id);
    }

    pub(super) fn queue_set(&mut self, key: &QueueKey, limits: Limits) {
        self.queues.entry(key.clone()).or_default().limits = limits;
        self.index.changes.relaxed = true;
    }

    pub(super) fn tenant_set(&mut self, tenant: &Tenant, limits: Limits) {
        self.tenants.entry(tenant.clone()).or_default().limits = limits;
        self.index.changes.relaxed = true;
    }

    pub(super) fn round_decided(&mut self, round: u64, more: bool) {
        self.counters.round = round;
        self.index.changes.relaxed = more;
        self.index.changes.lines.clear();
    }
}

/// Replaces what is equal by what is there already.
fn share_one<T: PartialEq + Clone>(new: &mut T, old: &T) {
    if new == old {
        *new = old.clone();
    }
}

impl Job {
    /// Returns the highest exit code among elements that have ended.
    fn highest_exit_code(&self) -> Option<i32> {
        let ended = self.body.records.values().filter(|record| matches!(record.status, RecordStatus::Ended { .. }));
        let codes = ended.filter_map(|record| record.last.as_ref()?.exit.exit_code);
        codes.chain(self.body.ended.values().filter_map(|range| range.exit_code)).max()
    }

    /// Puts an ended element back, with all of its retries again.
    fn wait_again(&mut self, at: Time, index: u32, record: ElementRecord) {
        let status = RecordStatus::Waiting { not_before: at };
        self.body.records.insert(index, ElementRecord { used: Used::default(), status, ..record });
        self.waiting.insert((at, index));
    }
}

/// Returns the record an element of an ended range gets when it is tried again.
fn ended_record(range: &EndedRange) -> ElementRecord {
    ElementRecord {
        attempts: range.attempt,
        used: Used::default(),
        status: RecordStatus::Leased,
        checkpoint: None,
        last: None,
    }
}
