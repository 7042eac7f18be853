//! What must hold between the events of a log, whoever folded it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Violation, ensure};
use crate::event::{Event, NoticeChange};
use crate::id::{Attempt, Index, JobId, LeaseId, NodeId};
use crate::job::notice::{NOTICE_TRIES_MAX, NoticeStanding};
use crate::job::record::Next;
use crate::ranges::RangeSet;
use crate::state::State;

/// The newest attempt of an element.
#[derive(Clone, Copy, Debug, Default)]
struct Newest {
    attempt: Attempt,
    over: bool,
}

/// A log as it grows. Feed each event before it is applied, with the state before it.
#[derive(Clone, Debug, Default)]
pub struct History {
    attempts: BTreeMap<(JobId, Index), Newest>,
    /// Elements that ended and were not retried since.
    ended: BTreeMap<JobId, RangeSet>,
    reports: BTreeMap<NodeId, u64>,
    fenced: BTreeSet<LeaseId>,
    round: u64,
}

impl History {
    /// Notes `event`, which follows what made `state`.
    ///
    /// # Errors
    /// The first of these that does not hold: an element ends once (until it is retried), attempts rise and end once,
    /// a fenced lease's facts count for nothing, reports are taken once and in order, queue limits hold at each start.
    pub fn note(&mut self, state: &State, event: &Event) -> Result<(), Violation> {
        match event {
            Event::ChunkLeased { job, first, last, attempt, slots, hold, .. } => {
                (*first..=*last).try_for_each(|index| self.begin(*job, index, *attempt))?;
                quota(state, *job, u64::from(*slots), hold.gpu_uuids.len())
            }
            Event::GangLeased { job, index, attempt, parts, .. } => {
                self.begin(*job, *index, *attempt)?;
                let ranks = parts.iter().flat_map(|part| &part.ranks);
                quota(state, *job, 1, ranks.map(|hold| hold.gpu_uuids.len()).sum())
            }
            Event::LeasePrepared { lease, .. } | Event::TaskStarted { lease, .. } | Event::RankEnded { lease, .. } => {
                self.counts(*lease)
            }
            Event::ElementsSucceeded { lease, job, first, last, .. } => {
                self.counts(*lease)?;
                for index in *first..=*last {
                    self.attempts.entry((*job, index)).or_default().over = true;
                }
                self.end(*job, *first, *last)
            }
            Event::AttemptEnded { job, index, attempt, next, .. } => self.attempt_ended(*job, *index, *attempt, *next),
            Event::ElementsReturned { lease, job, first, last } => self.returned(state, *lease, *job, (*first, *last)),
            Event::JobCancelled { job, elements, .. } => self.cancelled(state, *job, elements),
            Event::ElementsRetried { job, elements, .. } => {
                self.ended.entry(*job).or_default().subtract(elements);
                Ok(())
            }
            Event::LeaseFenced { lease, .. } => {
                ensure(self.fenced.insert(*lease), || format!("lease {lease} is fenced twice"))
            }
            Event::ReportTaken { node, seq } => self.report_taken(*node, *seq),
            Event::RoundDecided { round, .. } => {
                let before = std::mem::replace(&mut self.round, *round);
                ensure(*round == before + 1, || format!("round {round} follows {before}"))
            }
            Event::JobForgotten(job) => {
                self.ended.remove(job);
                Ok(())
            }
            Event::Notice { job, tries, change } => noticed(state, *job, *tries, change),
            Event::JobsSubmitted { .. }
            | Event::KeysExpired(_)
            | Event::JobHeld { .. }
            | Event::JobReleased { .. }
            | Event::JobUpdated { .. }
            | Event::NodeRegistered { .. }
            | Event::NodeReturned { .. }
            | Event::NodeInventoryChanged { .. }
            | Event::NodeSilenced(_)
            | Event::NodeModeSet { .. }
            | Event::NodeEvicted(_)
            | Event::NodeClearing { .. }
            | Event::NodeForgotten { .. }
            | Event::QueueSet { .. }
            | Event::TenantSet { .. }
            | Event::Join(_)
            | Event::GangStarted { .. }
            | Event::GangStopping { .. }
            | Event::LeaseTrimmed { .. }
            | Event::LeasePreempted { .. }
            | Event::FenceConfirmed { .. }
            | Event::NodeExcluded { .. }
            | Event::Token(_)
            | Event::ClusterRestored { .. }
            | Event::Restored(_) => Ok(()),
        }
    }

    fn report_taken(&mut self, node: NodeId, seq: u64) -> Result<(), Violation> {
        let before = self.reports.insert(node, seq).unwrap_or(0);
        ensure(seq > before, || format!("node {node}: report {seq} is taken after {before}"))
    }

    fn attempt_ended(&mut self, job: JobId, index: Index, attempt: Attempt, next: Next) -> Result<(), Violation> {
        let newest = self.attempts.entry((job, index)).or_default();
        let live = newest.attempt == attempt && !newest.over;
        newest.over = true;
        ensure(live, || format!("{job}[{index}]: attempt {attempt} ended, and it is not live"))?;
        match next {
            Next::End(_) => self.end(job, index, index),
            Next::Retry { .. } => Ok(()),
        }
    }

    /// Elements that come back used no attempt; those that were cancelled end.
    fn returned(
        &mut self,
        state: &State,
        lease: LeaseId,
        job: JobId,
        (first, last): (Index, Index),
    ) -> Result<(), Violation> {
        self.counts(lease)?;
        for index in first..=last {
            let newest = self.attempts.entry((job, index)).or_default();
            *newest = Newest { attempt: newest.attempt.saturating_sub(1), over: true };
        }
        let revoke = state.leases.get(&lease).and_then(|lease| lease.revoke.as_ref());
        let cancelled = revoke.map(|revoking| revoking.elements.clone()).unwrap_or_default();
        cancelled.within(first, last).try_for_each(|range| self.end(job, range.first, range.last))
    }

    /// Elements that wait end at once when they are cancelled.
    fn cancelled(&mut self, state: &State, job: JobId, elements: &RangeSet) -> Result<(), Violation> {
        let Some(found) = state.jobs.get(&job) else { return Ok(()) };
        let mut waits = found.body.pending.intersection(elements);
        let due = found.waiting.iter().filter(|(_, index)| elements.contains(*index));
        due.for_each(|(_, index)| waits.insert(*index, *index));
        waits.iter().try_for_each(|range| self.end(job, range.first, range.last))
    }

    /// Returns the elements of a job that ended and were not retried since.
    pub fn ended(&self, job: JobId) -> RangeSet {
        self.ended.get(&job).cloned().unwrap_or_default()
    }

    fn begin(&mut self, job: JobId, index: Index, attempt: Attempt) -> Result<(), Violation> {
        let newest = self.attempts.entry((job, index)).or_default();
        let before = std::mem::replace(newest, Newest { attempt, over: false });
        let rises = attempt == before.attempt + 1 && (before.over || before.attempt == 0);
        ensure(rises, || format!("{job}[{index}]: attempt {attempt} begins after {before:?}"))?;
        let ended = self.ended.get(&job).is_some_and(|ended| ended.contains(index));
        ensure(!ended, || format!("{job}[{index}]: it ended, and attempt {attempt} begins"))
    }

    fn end(&mut self, job: JobId, first: Index, last: Index) -> Result<(), Violation> {
        let ended = self.ended.entry(job).or_default();
        let twice = ended.within(first, last).next().is_some();
        ended.insert(first, last);
        ensure(!twice, || format!("{job}[{first}-{last}]: an element ended twice"))
    }

    fn counts(&self, lease: LeaseId) -> Result<(), Violation> {
        ensure(!self.fenced.contains(&lease), || format!("a fact of lease {lease} counts, and it is fenced"))
    }
}

/// A try counts once. A job that is forgotten first gives up without one.
fn noticed(state: &State, job: JobId, tries: u32, change: &NoticeChange) -> Result<(), Violation> {
    let tried = owed(state, job, tries, 1);
    match change {
        NoticeChange::Sent | NoticeChange::Failed { .. } => tried,
        NoticeChange::GivenUp { .. } => tried.or_else(|_| owed(state, job, tries, 0)),
    }
}

/// A try is about a notice that is owed, and the next of its tries.
fn owed(state: &State, job: JobId, tries: u32, more: u32) -> Result<(), Violation> {
    let notice = state.jobs.get(&job).and_then(|job| job.body.notice.as_deref());
    let owed = notice.filter(|notice| matches!(notice.standing, NoticeStanding::Owed { .. }));
    let next = owed.is_some_and(|notice| notice.tries + more == tries && tries <= NOTICE_TRIES_MAX);
    ensure(next, || format!("job {job}: try {tries} of its notice follows {notice:?}"))
}

/// A queue's limits, and its tenant's, hold with what is about to start.
fn quota(state: &State, job: JobId, running: u64, gpus: usize) -> Result<(), Violation> {
    let Some(key) = state.jobs.get(&job).and_then(|job| job.entry.queue.as_ref()) else {
        return Ok(());
    };
    let gpus = gpus as u64;
    for (who, held) in [("queue", state.queue(key)), ("tenant", state.tenant(&key.tenant))] {
        let runs = held.limits.running_max.is_none_or(|max| held.usage.running + running <= max);
        ensure(runs, || format!("job {job}: the {who} of {key:?} would run more than its running_max"))?;
        let holds = held.limits.gpus_max.is_none_or(|max| gpus == 0 || held.usage.gpus + gpus <= max);
        ensure(holds, || format!("job {job}: the {who} of {key:?} would hold more than its gpus_max"))?;
    }
    Ok(())
}
