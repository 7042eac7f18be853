//! The history checker: reads a log event by event, knows nothing of the state, and says what must never be.
//!
//! - A key stands for one submit, and what was acknowledged is in the log.
//! - Attempts of an element rise; an attempt ends once; an element ends once (until somebody retries it).
//! - Nothing is taken under a lease that is not the element's newest, or that was fenced.
//! - What COMPLETED really exited 0, in every rank, under that attempt, where somebody saw the processes.
//! - No lease is granted over a queue's limit, or on a device that another live lease holds.
//! - Events are numbered without a gap.
//! - Reports of a node are taken once and in order, rounds are numbered without a gap, a notice's tries are counted.
//!
//! One checker for the core's own tests, the simulator and logs of real schedulers (`gangsaw fsck`, which tests of real
//! processes end with). It costs memory by what deviates: elements that ended in their first attempt are ranges.

mod elements;
mod ends;
mod leases;
mod limits;
mod notices;
mod watched;

use std::collections::BTreeMap;

use self::elements::{JobTrack, Stand};
use self::leases::LeaseTrack;
use self::notices::NoticeTrack;
pub use self::watched::Watched;
use super::{Violation, ensure};
use crate::event::{Event, NewJob, Record};
use crate::id::{Attempt, DeviceId, IdempotencyKey, Index, JobId, LeaseId, NodeId, QueueName, Rank, Tenant};
use crate::lease::RankHold;
use crate::queue::{Limits, QueueKey};
use crate::ranges::RangeSet;
use crate::time::Time;

/// A task under one attempt: job, element, rank, attempt.
pub type Try = (JobId, Index, Rank, Attempt);

/// What really happened to processes, apart from what anybody reported.
pub trait Truth {
    /// Says whether a task was ever executed.
    fn ran(&self, what: Try) -> bool;
    /// Says whether a task exited 0 by itself.
    fn went_well(&self, what: Try) -> bool;
}

/// Nobody saw the processes: what the log says of them is believed.
#[derive(Clone, Copy, Debug)]
pub struct Unseen;

impl Truth for Unseen {
    fn ran(&self, _: Try) -> bool {
        true
    }

    fn went_well(&self, _: Try) -> bool {
        true
    }
}

/// What a log says, element by element.
#[derive(Clone, Debug, Default)]
pub struct History {
    jobs: BTreeMap<JobId, JobTrack>,
    leases: BTreeMap<LeaseId, LeaseTrack>,
    keys: BTreeMap<(Tenant, IdempotencyKey), (Time, Vec<JobId>)>,
    /// Every submit there ever was under a key, for a key may be used again after a day.
    submits: BTreeMap<(Tenant, IdempotencyKey), Vec<Vec<JobId>>>,
    limits: BTreeMap<QueueKey, Limits>,
    /// Of each tenant, across its queues.
    tenant_limits: BTreeMap<Tenant, Limits>,
    /// Who holds which device.
    holders: BTreeMap<(NodeId, DeviceId), LeaseId>,
    /// Newest report of each node.
    reports: BTreeMap<NodeId, u64>,
    notices: BTreeMap<JobId, NoticeTrack>,
    /// The newest record.
    seq: u64,
    round: u64,
    waiting: u64,
    /// No lease below it is live.
    oldest: LeaseId,
}

type Check = Result<(), Violation>;

impl History {
    /// Says whether a durable event granted this.
    pub fn granted(&self, lease: LeaseId, job: JobId, index: Index, attempt: Attempt) -> bool {
        self.leases.get(&lease).is_some_and(|track| {
            track.job == job && track.attempt == attempt && track.first <= index && index <= track.last
        })
    }

    /// Returns the registration of a machine that a lease was granted to.
    pub fn node_of(&self, lease: LeaseId) -> Option<NodeId> {
        self.leases.get(&lease).map(|track| track.node)
    }

    /// Says whether a job was ever submitted.
    pub fn has_job(&self, job: JobId) -> bool {
        self.jobs.contains_key(&job)
    }

    /// Says whether jobs were submitted under a key.
    pub fn submitted_as(&self, tenant: &Tenant, key: &IdempotencyKey, jobs: &[JobId]) -> bool {
        self.submits.get(&(tenant.clone(), key.clone())).is_some_and(|all| all.iter().any(|ids| ids == jobs))
    }

    /// Returns how many jobs were ever submitted.
    pub fn jobs(&self) -> u64 {
        self.jobs.len() as u64
    }

    /// Returns how many elements of a job have ended.
    pub fn ended(&self, job: JobId) -> u64 {
        self.jobs.get(&job).map_or(0, |track| track.all.len() - track.open)
    }

    /// Returns how many leases were ever granted.
    pub fn leases(&self) -> u64 {
        self.leases.len() as u64
    }

    /// Returns how many elements have not ended.
    pub fn open(&self) -> u64 {
        self.waiting
    }

    /// Says whether every element of every job has ended.
    pub fn is_over(&self) -> bool {
        self.waiting == 0
    }

    /// Returns a job that has not ended, with how many elements it waits for.
    pub fn unfinished(&self) -> Option<(JobId, u64)> {
        self.jobs.iter().find(|(_, track)| track.open > 0).map(|(&job, track)| (job, track.open))
    }

    /// Takes the next record of the log.
    ///
    /// # Errors
    /// The first of what this module's first lines say that does not hold.
    pub fn observe(&mut self, record: &Record, truth: &impl Truth) -> Result<(), Violation> {
        self.follows(record.seq)?;
        match &record.event {
            Event::JobsSubmitted { tenant, key, jobs, .. } => self.submitted(tenant, key, jobs, record.at),
            Event::KeysExpired(used_until) => {
                self.keys.retain(|_, (used, _)| *used > *used_until);
                Ok(())
            }
            Event::JobCancelled { job, elements, .. } => {
                elements.indices().try_for_each(|index| self.cancelled(*job, index))
            }
            Event::ElementsRetried { job, elements, .. } => {
                elements.indices().try_for_each(|index| self.opens(*job, index))
            }
            Event::JobUpdated { job, queue, .. } => self.updated(*job, queue.as_ref()),
            Event::JobForgotten(job) => self.forgotten(*job),
            Event::QueueSet { queue, limits, .. } => {
                self.limits.insert(queue.clone(), *limits);
                Ok(())
            }
            Event::TenantSet { tenant, limits, .. } => {
                self.tenant_limits.insert(tenant.clone(), *limits);
                Ok(())
            }
            Event::ChunkLeased { .. } => self.chunk_leased(&record.event),
            Event::GangLeased { .. } => self.gang_leased(&record.event),
            Event::LeasePrepared { lease, .. } => self.is_current(*lease, None),
            Event::RankEnded { lease, rank, .. } => {
                self.is_current(*lease, None)?;
                self.release(*lease, Some(*rank));
                Ok(())
            }
            Event::TaskStarted { lease, job, index, rank, .. } => self.task_started(*lease, *job, *index, *rank, truth),
            Event::ElementsSucceeded { lease, job, first, last, .. } => {
                (*first..=*last).try_for_each(|index| self.completed(*lease, *job, index, truth))
            }
            Event::AttemptEnded { lease, job, index, attempt, outcome, next, .. } => {
                self.attempt_ended(*lease, *job, *index, *attempt, *outcome, *next, truth)
            }
            Event::ElementsReturned { lease, job, first, last } => {
                (*first..=*last).try_for_each(|index| self.returned(*lease, *job, index))
            }
            Event::LeaseFenced { lease, .. } => self.fence(*lease),
            Event::FenceConfirmed { lease, first, last, rank, .. } => {
                self.fence_confirmed(*lease, *first, *last, *rank)
            }
            Event::NodeForgotten { node, .. } => self.node_forgotten(*node),
            Event::ReportTaken { node, seq } => self.report_taken(*node, *seq),
            Event::RoundDecided { round, .. } => self.round_decided(*round),
            Event::Notice { job, tries, change } => self.noticed(*job, *tries, change),
            Event::JobHeld { .. }
            | Event::JobReleased { .. }
            | Event::NodeRegistered { .. }
            | Event::NodeReturned { .. }
            | Event::NodeInventoryChanged { .. }
            | Event::NodeSilenced(_)
            | Event::NodeModeSet { .. }
            | Event::NodeEvicted(_)
            | Event::NodeClearing { .. }
            | Event::GangStarted { .. }
            | Event::GangStopping { .. }
            | Event::LeaseTrimmed { .. }
            | Event::LeasePreempted { .. }
            | Event::NodeExcluded { .. }
            | Event::Join(_)
            | Event::Token(_)
            | Event::ClusterRestored { .. }
            | Event::Restored(_) => Ok(()),
        }
    }

    fn node_forgotten(&mut self, node: NodeId) -> Check {
        self.holders.retain(|(held, _), _| *held != node);
        Ok(())
    }

    fn updated(&mut self, job: JobId, queue: Option<&QueueName>) -> Check {
        if let (Some(track), Some(queue)) = (self.jobs.get_mut(&job), queue) {
            track.queue.name = queue.clone();
        }
        Ok(())
    }

    fn fence_confirmed(&mut self, lease: LeaseId, first: Index, last: Index, rank: Option<Rank>) -> Check {
        self.confirmed(lease, u64::from(last - first) + 1, rank);
        let fenced = self.leases.get(&lease).is_some_and(|track| track.fenced);
        ensure(fenced, || format!("lease {lease} was confirmed and never fenced"))
    }

    fn chunk_leased(&mut self, event: &Event) -> Check {
        let Event::ChunkLeased { lease, job, first, last, attempt, node, slots, hold, .. } = event else {
            return Ok(());
        };
        let track = LeaseTrack::new(*job, *node, (*first, *last), *attempt, *lease, u64::from(*slots));
        self.leased(*lease, track, std::slice::from_ref(hold))?;
        (*first..=*last).try_for_each(|index| self.placed(*lease, *job, index, *attempt))?;
        self.within_limits(*job, *lease)
    }

    fn gang_leased(&mut self, event: &Event) -> Check {
        let Event::GangLeased { job, index, attempt, parts, .. } = event else { return Ok(()) };
        let head = parts.first().map_or(LeaseId(0), |part| part.lease);
        for part in parts {
            let track = LeaseTrack::new(*job, part.node, (*index, *index), *attempt, head, 1);
            self.leased(part.lease, track, &part.ranks)?;
        }
        self.placed(head, *job, *index, *attempt)?;
        self.within_limits(*job, head)
    }

    fn task_started(&self, lease: LeaseId, job: JobId, index: Index, rank: Rank, truth: &impl Truth) -> Check {
        self.is_current(lease, Some(index))?;
        let attempt = self.leases.get(&lease).map_or(0, |track| track.attempt);
        let ran = truth.ran((job, index, rank, attempt));
        ensure(ran, || format!("{job}[{index}].{rank} is said to have started and was never executed"))
    }

    fn submitted(&mut self, tenant: &Tenant, key: &IdempotencyKey, jobs: &[NewJob], at: Time) -> Check {
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        self.submits.entry((tenant.clone(), key.clone())).or_default().push(ids.clone());
        let before = self.keys.insert((tenant.clone(), key.clone()), (at, ids));
        ensure(before.is_none(), || format!("key {key} was used for {before:?} and again"))?;
        for job in jobs {
            let track = JobTrack {
                queue: QueueKey { tenant: tenant.clone(), name: job.spec.queue.clone() },
                ranks: job.spec.replicas,
                running_max: job.spec.array.as_ref().and_then(|array| array.running_max),
                tells: job.spec.notify.is_some(),
                all: job.spec.elements(),
                open: job.spec.element_count(),
                once: RangeSet::new(),
                deviating: BTreeMap::new(),
            };
            self.waiting += track.open;
            let before = self.jobs.insert(job.id, track);
            ensure(before.is_none(), || format!("job {} was submitted twice", job.id))?;
        }
        Ok(())
    }

    fn forgotten(&mut self, job: JobId) -> Check {
        let over = self.jobs.get(&job).is_some_and(|track| track.open == 0);
        self.notices.remove(&job);
        ensure(over, || format!("job {job} was forgotten before it ended"))
    }

    fn follows(&mut self, seq: u64) -> Check {
        let before = std::mem::replace(&mut self.seq, seq);
        ensure(seq == before + 1, || format!("event {seq} follows event {before}"))
    }

    fn report_taken(&mut self, node: NodeId, seq: u64) -> Check {
        let before = self.reports.insert(node, seq).unwrap_or(0);
        ensure(seq > before, || format!("node {node}: report {seq} is taken after {before}"))
    }

    fn round_decided(&mut self, round: u64) -> Check {
        let before = std::mem::replace(&mut self.round, round);
        ensure(round == before + 1, || format!("round {round} follows {before}"))
    }

    fn leased(&mut self, lease: LeaseId, mut track: LeaseTrack, holds: &[RankHold]) -> Check {
        for hold in holds {
            for device in &hold.gpu_uuids {
                let before = self.holders.insert((track.node, device.clone()), lease);
                ensure(before.is_none(), || format!("lease {lease} got {device}, which {before:?} holds"))?;
                track.devices.push((hold.rank, device.clone()));
            }
        }
        let before = self.leases.insert(lease, track);
        // Numbers have gaps: a restore goes on above all that may have been given.
        while let Some((over, _)) = self.leases.range(self.oldest..).next().filter(|(_, track)| track.live == 0) {
            self.oldest = LeaseId(over.0 + 1);
        }
        ensure(before.is_none(), || format!("lease {lease} was granted twice"))
    }

    /// An element came under a lease.
    fn placed(&mut self, lease: LeaseId, job: JobId, index: Index, attempt: Attempt) -> Check {
        self.change(job, index, |element| {
            let before = *element;
            element.stand = Stand::Leased(lease);
            element.attempt = attempt;
            let waits = before.stand == Stand::Waits && !before.cancelled;
            ensure(waits, || format!("{job}[{index}] was leased as {lease} and stands {before:?}"))?;
            let rises = attempt > before.ended && attempt >= before.attempt;
            ensure(rises, || format!("{job}[{index}] was leased under attempt {attempt} after {before:?}"))
        })
    }

    /// A fact may only be taken under the element's newest lease.
    fn is_current(&self, lease: LeaseId, index: Option<Index>) -> Check {
        let track = self.lease(lease)?;
        ensure(!track.fenced, || format!("a report was taken under lease {lease}, which was fenced"))?;
        let index = index.unwrap_or(track.first);
        let stand = self.jobs.get(&track.job).and_then(|job| job.get(index)).map(|element| element.stand);
        let current = stand == Some(Stand::Leased(track.head));
        ensure(current, || format!("a report on {}[{index}] was taken under lease {lease}: {stand:?}", track.job))
    }

    fn lease(&self, lease: LeaseId) -> Result<&LeaseTrack, Violation> {
        self.leases.get(&lease).ok_or_else(|| Violation(format!("lease {lease} was never granted")))
    }
}
