//! The history checker: reads the log event by event, knows nothing of the core's state, and says what must never be.
//!
//! - A key stands for one submit, and what was acknowledged is in the log.
//! - Attempts of an element rise; an attempt ends once; an element ends once (until somebody retries it).
//! - Nothing is taken under a lease that is not the element's newest, or that was fenced.
//! - What COMPLETED really exited 0, in every rank, under that attempt.
//! - No lease is granted over a queue's limit, or on a device that another live lease holds.

mod ends;
mod leases;
mod limits;

use std::collections::BTreeMap;

use gangsaw_core::event::{Event, NewJob, Record};
use gangsaw_core::id::{Attempt, DeviceId, IdempotencyKey, Index, JobId, LeaseId, NodeId, QueueName, Rank, Tenant};
use gangsaw_core::lease::RankHold;
use gangsaw_core::queue::{Limits, QueueKey};
use gangsaw_core::time::Time;
use leases::held;

use crate::truth::Truth;

/// Where an element stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Waits,
    Leased(LeaseId),
    Ended,
}

#[derive(Clone, Debug)]
struct Element {
    stand: Stand,
    /// The newest attempt that was leased.
    attempt: Attempt,
    /// The newest attempt that ended.
    ended: Attempt,
    cancelled: bool,
}

#[derive(Clone, Debug)]
struct JobTrack {
    queue: QueueKey,
    ranks: u32,
    running_max: Option<u32>,
    elements: BTreeMap<Index, Element>,
}

#[derive(Clone, Debug)]
struct LeaseTrack {
    job: JobId,
    node: NodeId,
    first: Index,
    last: Index,
    attempt: Attempt,
    /// The first lease of the gang, which its element is under; itself for a chunk.
    head: LeaseId,
    /// What each rank holds until it is gone.
    devices: Vec<(Rank, DeviceId)>,
    /// Elements (of a gang: the one) that have not left.
    live: u64,
    /// Elements that run at once.
    slots: u64,
    fenced: bool,
}

/// What the log says, element by element.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
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
    waiting: u64,
    /// No lease below it is live.
    oldest: LeaseId,
}

type Check = Result<(), String>;

impl History {
    /// Says whether a durable event granted this.
    pub(crate) fn granted(&self, lease: LeaseId, job: JobId, index: Index, attempt: Attempt) -> bool {
        self.leases.get(&lease).is_some_and(|track| {
            track.job == job && track.attempt == attempt && track.first <= index && index <= track.last
        })
    }

    /// Returns the registration of a machine that a lease was granted to.
    pub(crate) fn node_of(&self, lease: LeaseId) -> Option<NodeId> {
        self.leases.get(&lease).map(|track| track.node)
    }

    pub(crate) fn has_job(&self, job: JobId) -> bool {
        self.jobs.contains_key(&job)
    }

    /// Says whether jobs were submitted under a key.
    pub(crate) fn submitted_as(&self, tenant: &Tenant, key: &IdempotencyKey, jobs: &[JobId]) -> bool {
        self.submits.get(&(tenant.clone(), key.clone())).is_some_and(|all| all.iter().any(|ids| ids == jobs))
    }

    /// Returns how many elements have not ended.
    pub(crate) fn open(&self) -> u64 {
        self.waiting
    }

    /// Says whether every element of every job has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.waiting == 0
    }

    /// Returns a job that has not ended, with how many elements it waits for.
    pub(crate) fn unfinished(&self) -> Option<(JobId, usize)> {
        self.jobs.iter().find_map(|(&job, track)| {
            let open = track.elements.values().filter(|element| element.stand != Stand::Ended).count();
            (open > 0).then_some((job, open))
        })
    }

    /// Takes the next record of the log.
    pub(crate) fn observe(&mut self, record: &Record, truth: &Truth) -> Check {
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
                elements.indices().try_for_each(|index| self.retried(*job, index))
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
            Event::JobHeld { .. }
            | Event::JobReleased { .. }
            | Event::NodeRegistered { .. }
            | Event::NodeReturned { .. }
            | Event::NodeInventoryChanged { .. }
            | Event::NodeSilenced(_)
            | Event::NodeModeSet { .. }
            | Event::NodeEvicted(_)
            | Event::NodeClearing { .. }
            | Event::RoundDecided { .. }
            | Event::GangStarted { .. }
            | Event::GangStopping { .. }
            | Event::LeaseTrimmed { .. }
            | Event::LeasePreempted { .. }
            | Event::NodeExcluded { .. }
            | Event::Notice { .. }
            | Event::ReportTaken { .. }
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
        held(fenced, || format!("lease {lease} was confirmed and never fenced"))
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

    fn task_started(&self, lease: LeaseId, job: JobId, index: Index, rank: Rank, truth: &Truth) -> Check {
        self.is_current(lease, Some(index))?;
        let attempt = self.leases.get(&lease).map_or(0, |track| track.attempt);
        let ran = truth.ran((job, index, rank, attempt));
        held(ran, || format!("{job}[{index}].{rank} is said to have started and was never executed"))
    }

    fn submitted(&mut self, tenant: &Tenant, key: &IdempotencyKey, jobs: &[NewJob], at: Time) -> Check {
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        self.submits.entry((tenant.clone(), key.clone())).or_default().push(ids.clone());
        let before = self.keys.insert((tenant.clone(), key.clone()), (at, ids));
        held(before.is_none(), || format!("key {key} was used for {before:?} and again"))?;
        for job in jobs {
            let element = Element { stand: Stand::Waits, attempt: 0, ended: 0, cancelled: false };
            let elements: BTreeMap<Index, Element> =
                job.spec.elements().indices().map(|index| (index, element.clone())).collect();
            self.waiting += elements.len() as u64;
            let track = JobTrack {
                queue: QueueKey { tenant: tenant.clone(), name: job.spec.queue.clone() },
                ranks: job.spec.replicas,
                running_max: job.spec.array.as_ref().and_then(|array| array.running_max),
                elements,
            };
            let before = self.jobs.insert(job.id, track);
            held(before.is_none(), || format!("job {} was submitted twice", job.id))?;
        }
        Ok(())
    }

    fn forgotten(&mut self, job: JobId) -> Check {
        let over = self
            .jobs
            .get(&job)
            .is_some_and(|track| track.elements.values().all(|element| element.stand == Stand::Ended));
        held(over, || format!("job {job} was forgotten before it ended"))
    }

    fn leased(&mut self, lease: LeaseId, mut track: LeaseTrack, holds: &[RankHold]) -> Check {
        for hold in holds {
            for device in &hold.gpu_uuids {
                let before = self.holders.insert((track.node, device.clone()), lease);
                held(before.is_none(), || format!("lease {lease} got {device}, which {before:?} holds"))?;
                track.devices.push((hold.rank, device.clone()));
            }
        }
        let before = self.leases.insert(lease, track);
        // Numbers have gaps: a restore goes on above all that may have been given.
        while let Some((over, _)) = self.leases.range(self.oldest..).next().filter(|(_, track)| track.live == 0) {
            self.oldest = LeaseId(over.0 + 1);
        }
        held(before.is_none(), || format!("lease {lease} was granted twice"))
    }

    /// An element came under a lease.
    fn placed(&mut self, lease: LeaseId, job: JobId, index: Index, attempt: Attempt) -> Check {
        let track = self.jobs.get_mut(&job).ok_or_else(|| format!("job {job} was leased and never submitted"))?;
        let element =
            track.elements.get_mut(&index).ok_or_else(|| format!("{job}[{index}] was leased and is not of the job"))?;
        let waits = element.stand == Stand::Waits && !element.cancelled;
        held(waits, || format!("{job}[{index}] was leased as {lease} and stands {element:?}"))?;
        let rises = attempt > element.ended && attempt >= element.attempt;
        held(rises, || format!("{job}[{index}] was leased under attempt {attempt} after {element:?}"))?;
        element.stand = Stand::Leased(lease);
        element.attempt = attempt;
        Ok(())
    }

    /// A fact may only be taken under the element's newest lease.
    fn is_current(&self, lease: LeaseId, index: Option<Index>) -> Check {
        let track = self.leases.get(&lease).ok_or_else(|| format!("lease {lease} was never granted"))?;
        held(!track.fenced, || format!("a report was taken under lease {lease}, which was fenced"))?;
        let index = index.unwrap_or(track.first);
        let stand = self.jobs.get(&track.job).and_then(|job| job.elements.get(&index)).map(|element| element.stand);
        let current = stand == Some(Stand::Leased(track.head));
        held(current, || format!("a report on {}[{index}] was taken under lease {lease}: {stand:?}", track.job))
    }

    fn element(&mut self, job: JobId, index: Index) -> Result<&mut Element, String> {
        self.jobs
            .get_mut(&job)
            .and_then(|track| track.elements.get_mut(&index))
            .ok_or_else(|| format!("{job}[{index}] does not exist"))
    }

    fn ends(&mut self, job: JobId, index: Index) -> Check {
        let element = self.element(job, index)?;
        let open = element.stand != Stand::Ended;
        element.stand = Stand::Ended;
        self.waiting = self.waiting.saturating_sub(1);
        held(open, || format!("{job}[{index}] ended twice"))
    }
}
