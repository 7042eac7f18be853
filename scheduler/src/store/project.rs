//! Which rows a batch of events changes, and what they say afterwards.
//!
//! A projection lives for one batch. It folds each event into the state, for it has to see what a lease held before and
//! after, and remembers what was touched; at the end of the batch each touched thing is rendered once. It depends on
//! the events and the batch's clock alone, so folding the log again yields the same rows (`fsck` compares them).
//!
//! Elsewhere: what the rows mean is `rows`, how a thing becomes a row is `render`, the rows of a job that leaves the
//! state are `old`.

pub(super) mod render;

use std::collections::{BTreeMap, BTreeSet};

use gangsaw_core::apply::apply;
use gangsaw_core::event::Event;
use gangsaw_core::id::{Attempt, Index, JobId, LeaseId, NodeId, QueueName, Tenant};
use gangsaw_core::job::record::Outcome;
use gangsaw_core::state::State;

use super::old;
use super::rows::{AttemptRow, Row, UsageRow};
use crate::wire::view::Now;

type AttemptKey = (JobId, Index, Attempt);
/// Who pays: tenant, queue, user.
type Payer = (Tenant, QueueName, String);

/// What becomes of an attempt's row.
#[derive(Debug)]
enum Change {
    /// It is under this lease, alone; rendered at the end of the batch.
    Leased(LeaseId),
    /// It is a gang; rendered at the end of the batch.
    Gang,
    /// It ended, and deviates.
    Ended(Box<AttemptRow>),
    /// It has no row any more.
    Gone,
}

/// What somebody used in the batch.
#[derive(Debug, Default)]
struct Used {
    milli_cpu_ms: u64,
    gpu_ms: u64,
    attempts_ok: u64,
    attempts_lost: u64,
}

/// What a batch touched.
#[derive(Debug, Default)]
pub(crate) struct Projection {
    jobs: BTreeSet<JobId>,
    nodes: BTreeSet<NodeId>,
    attempts: BTreeMap<AttemptKey, Change>,
    used: BTreeMap<Payer, Used>,
    old: Vec<Row>,
}

/// What a lease held at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Holding {
    /// In 1/1000 of a core; a fenced lease's is nobody's use.
    milli_cpus: u64,
    gpus: u64,
    /// What the node cannot give to others.
    withheld: (u64, u64),
    live: bool,
}

impl Holding {
    fn of(state: &State, lease: LeaseId) -> Holding {
        let Some(lease) = state.lease(lease) else { return Holding::default() };
        let withheld = (lease.held().0, lease.devices().count() as u64);
        let (milli_cpus, gpus) = if lease.fenced { (0, 0) } else { withheld };
        Holding { milli_cpus, gpus, withheld, live: lease.is_live() }
    }
}

/// A lease as it was before an event about it.
struct Before {
    lease: LeaseId,
    node: NodeId,
    job: JobId,
    first: Index,
    attempt: Attempt,
    held_ms: u64,
    /// It holds one element, whose attempt therefore has a row.
    single: bool,
    holding: Holding,
}

impl Projection {
    /// Folds `event` into `state` and notes which rows it changes.
    pub(crate) fn fold(&mut self, state: &mut State, now: Now, event: &Event) {
        if let Event::JobForgotten(job) = event {
            self.old.extend(render::job(state, *job, now, true));
            self.old.extend(old::rows(state, *job, now));
        }
        let before = lease(event).and_then(|lease| before(state, lease, now));
        let again = if let Event::AttemptEnded { job, index, .. } | Event::ElementsSucceeded { job, first: index, .. } =
            event
        {
            // An element has a record from its first ended attempt on, if it is tried again.
            state.job(*job).is_some_and(|job| job.body.records.contains_key(index))
        } else {
            false
        };
        apply(state, now.time, event);
        if let Some(before) = &before {
            self.settle(state, before);
        }
        self.note(state, now, event, before.as_ref(), again);
    }

    /// Returns the projection of everything in a state: its jobs, its nodes, and what runs.
    pub(crate) fn of_all(state: &State) -> Projection {
        let mut all = Projection::default();
        all.jobs.extend(state.jobs().map(|job| job.body.id));
        all.nodes.extend(state.nodes().map(|node| node.body.id));
        for lease in state.leases().filter(|lease| lease.gang.is_none() && !lease.fenced && lease.width() == 1) {
            all.attempts.insert((lease.job, lease.first, lease.attempt), Change::Leased(lease.id));
        }
        all.attempts.extend(state.gangs().map(|gang| ((gang.job, gang.index, gang.attempt), Change::Gang)));
        all
    }

    /// Renders what was touched, from the state after the batch.
    pub(crate) fn rows(self, state: &State, now: Now) -> Vec<Row> {
        let mut rows = self.old;
        rows.extend(self.jobs.into_iter().filter_map(|job| render::job(state, job, now, false)));
        for ((job, element, attempt), change) in self.attempts {
            let row = match change {
                Change::Leased(lease) => render::leased(state, lease, now),
                Change::Gang => render::gang(state, job, element, now).filter(|row| row.attempt == attempt),
                Change::Ended(row) => Some(*row),
                Change::Gone => None,
            };
            let gone = Row::AttemptGone { job_id: job.0, element, attempt };
            rows.push(row.map_or(gone, |row| Row::Attempt(Box::new(row))));
        }
        rows.extend(self.nodes.into_iter().map(|node| render::node(state, node, now)));
        let day = render::day(now.wall_ms);
        rows.extend(self.used.into_iter().map(|((tenant, queue, user), used)| {
            let cpu_ms = (used.milli_cpu_ms + 500) / 1_000;
            let Used { gpu_ms, attempts_ok, attempts_lost, .. } = used;
            Row::Usage(UsageRow { tenant, queue, user, day: day.clone(), cpu_ms, gpu_ms, attempts_ok, attempts_lost })
        }));
        rows
    }

    /// Books what a lease no longer holds.
    fn settle(&mut self, state: &State, before: &Before) {
        let after = Holding::of(state, before.lease);
        if after.withheld != before.holding.withheld || after.live != before.holding.live {
            self.nodes.insert(before.node);
        }
        let milli_cpus = before.holding.milli_cpus.saturating_sub(after.milli_cpus);
        let gpus = before.holding.gpus.saturating_sub(after.gpus);
        if milli_cpus + gpus > 0 {
            let held_ms = before.held_ms;
            self.used(state, before.job, |used| {
                used.milli_cpu_ms = used.milli_cpu_ms.saturating_add(milli_cpus.saturating_mul(held_ms));
                used.gpu_ms = used.gpu_ms.saturating_add(gpus.saturating_mul(held_ms));
            });
        }
    }

    fn used(&mut self, state: &State, job: JobId, add: impl FnOnce(&mut Used)) {
        if let Some(job) = state.job(job) {
            let payer = (job.body.tenant.clone(), job.body.queue.clone(), job.body.user.to_string());
            add(self.used.entry(payer).or_default());
        }
    }

    fn note(&mut self, state: &State, now: Now, event: &Event, before: Option<&Before>, again: bool) {
        let tried = before.map_or(1, |before| before.attempt);
        match event {
            Event::JobsSubmitted { jobs, .. } => self.jobs.extend(jobs.iter().map(|job| job.id)),
            Event::JobHeld { job, .. }
            | Event::JobReleased { job, .. }
            | Event::JobUpdated { job, .. }
            | Event::ElementsRetried { job, .. } => {
                self.jobs.insert(*job);
            }
            Event::JobCancelled { job, .. } => self.cancelled(state, *job),
            Event::JobForgotten(job) => self.jobs.retain(|touched| touched != job),
            Event::NodeRegistered { node, .. }
            | Event::NodeReturned { node, .. }
            | Event::NodeInventoryChanged { node, .. }
            | Event::NodeSilenced(node)
            | Event::NodeEvicted(node)
            | Event::NodeClearing { node, .. }
            | Event::NodeModeSet { node, .. }
            | Event::NodeForgotten { node, .. } => {
                self.nodes.insert(*node);
            }
            Event::ChunkLeased { lease, job, first, last, attempt, node, .. } => {
                self.jobs.insert(*job);
                self.nodes.insert(*node);
                if first == last {
                    self.attempts.insert((*job, *first, *attempt), Change::Leased(*lease));
                }
            }
            Event::GangLeased { job, index, attempt, parts, .. } => {
                self.jobs.insert(*job);
                self.nodes.extend(parts.iter().map(|part| part.node));
                self.attempts.insert((*job, *index, *attempt), Change::Gang);
            }
            Event::TaskStarted { lease, job, index, .. } => self.started(state, now, (*lease, *job, *index)),
            Event::GangStopping { job, index, .. } => self.gang(state, *job, *index),
            Event::LeasePreempted { lease, .. } => self.stopping(state, *lease),
            Event::RankEnded { job, .. } => self.gang(state, *job, before.map_or(0, |before| before.first)),
            Event::AttemptEnded { job, index, attempt, outcome, .. } => {
                let ok = *outcome == Outcome::Ok;
                self.used(state, *job, |used| if ok { used.attempts_ok += 1 } else { used.attempts_lost += 1 });
                self.over(state, now, (*job, *index, *attempt), before, !ok || again);
            }
            Event::ElementsSucceeded { job, first, last, .. } => {
                self.used(state, *job, |used| used.attempts_ok += u64::from(last - first) + 1);
                self.over(state, now, (*job, *first, tried), before, again);
            }
            Event::ElementsReturned { job, first, .. } => {
                self.over(state, now, (*job, *first, tried), before, false);
            }
            // Every node is silent now.
            Event::ClusterRestored { .. } => self.nodes.extend(state.nodes().map(|node| node.body.id)),
            Event::KeysExpired(_)
            | Event::Notice { .. }
            | Event::QueueSet { .. }
            | Event::TenantSet { .. }
            | Event::RoundDecided { .. }
            | Event::LeasePrepared { .. }
            | Event::GangStarted { .. }
            | Event::LeaseTrimmed { .. }
            | Event::LeaseFenced { .. }
            | Event::FenceConfirmed { .. }
            | Event::NodeExcluded { .. }
            | Event::ReportTaken { .. }
            | Event::Join(_)
            | Event::Token(_)
            | Event::Restored(_) => {}
        }
    }

    fn started(&mut self, state: &State, now: Now, (id, job, index): (LeaseId, JobId, Index)) {
        if state.job(job).is_some_and(|job| job.body.started_at == Some(now.time)) {
            self.jobs.insert(job);
        }
        match state.lease(id) {
            Some(lease) if lease.gang.is_some() => self.gang(state, job, index),
            Some(lease) if lease.width() == 1 => {
                self.attempts.insert((job, index, lease.attempt), Change::Leased(id));
            }
            Some(_) | None => {}
        }
    }

    fn gang(&mut self, state: &State, job: JobId, index: Index) {
        if let Some(gang) = state.gang(job, index) {
            self.attempts.insert((job, index, gang.attempt), Change::Gang);
        }
    }

    /// A cancelled job's attempts are being stopped now.
    fn cancelled(&mut self, state: &State, id: JobId) {
        self.jobs.insert(id);
        let Some(job) = state.job(id) else { return };
        for lease in job.leases.iter().filter(|lease| state.lease(**lease).is_some_and(|lease| lease.revoke.is_some()))
        {
            self.stopping(state, *lease);
        }
    }

    /// All of a lease is being stopped.
    fn stopping(&mut self, state: &State, id: LeaseId) {
        let Some(lease) = state.lease(id) else { return };
        if lease.gang.is_some() {
            self.gang(state, lease.job, lease.first);
        } else if lease.width() == 1 {
            self.attempts.insert((lease.job, lease.first, lease.attempt), Change::Leased(id));
        }
    }

    /// Notes that an attempt is over: it keeps a row if it deviates.
    fn over(&mut self, state: &State, now: Now, key: AttemptKey, before: Option<&Before>, deviates: bool) {
        self.jobs.insert(key.0);
        let row = if deviates { render::ended(state, key, now) } else { None };
        // A gang's leases are gone before its attempt is over.
        let had_row = before.is_none_or(|before| before.single);
        match row {
            Some(row) => self.attempts.insert(key, Change::Ended(Box::new(row))),
            None if had_row => self.attempts.insert(key, Change::Gone),
            None => None,
        };
    }
}

fn before(state: &State, id: LeaseId, now: Now) -> Option<Before> {
    let lease = state.lease(id)?;
    Some(Before {
        lease: id,
        node: lease.node,
        job: lease.job,
        first: lease.first,
        attempt: lease.attempt,
        held_ms: now.time.since(lease.granted_at).0,
        single: lease.gang.is_some() || lease.width() == 1,
        holding: Holding::of(state, id),
    })
}

/// Returns the lease an event is about, if it may end something of it.
fn lease(event: &Event) -> Option<LeaseId> {
    match event {
        Event::TaskStarted { lease, .. }
        | Event::ElementsSucceeded { lease, .. }
        | Event::RankEnded { lease, .. }
        | Event::AttemptEnded { lease, .. }
        | Event::ElementsReturned { lease, .. }
        | Event::LeaseFenced { lease, .. }
        | Event::FenceConfirmed { lease, .. } => Some(*lease),
        Event::JobsSubmitted { .. }
        | Event::KeysExpired(_)
        | Event::JobCancelled { .. }
        | Event::JobHeld { .. }
        | Event::JobReleased { .. }
        | Event::ElementsRetried { .. }
        | Event::JobUpdated { .. }
        | Event::JobForgotten(_)
        | Event::NodeRegistered { .. }
        | Event::NodeReturned { .. }
        | Event::NodeInventoryChanged { .. }
        | Event::NodeSilenced(_)
        | Event::NodeModeSet { .. }
        | Event::NodeEvicted(_)
        | Event::NodeClearing { .. }
        | Event::LeasePreempted { .. }
        | Event::NodeForgotten { .. }
        | Event::Notice { .. }
        | Event::QueueSet { .. }
        | Event::TenantSet { .. }
        | Event::RoundDecided { .. }
        | Event::ChunkLeased { .. }
        | Event::GangLeased { .. }
        | Event::LeasePrepared { .. }
        | Event::GangStarted { .. }
        | Event::GangStopping { .. }
        | Event::LeaseTrimmed { .. }
        | Event::NodeExcluded { .. }
        | Event::ReportTaken { .. }
        | Event::Join(_)
        | Event::Token(_)
        | Event::ClusterRestored { .. }
        | Event::Restored(_) => None,
    }
}

#[cfg(test)]
mod tests;
