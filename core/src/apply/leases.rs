//! Events about leases and gangs, and the accounts of what leases hold.
//!
//! `edit_lease` is the only way a lease changes what it holds: it compares before and after, moves the difference on
//! the node's and the job's accounts, and drops a lease in which nothing is live.

mod attempts;

use crate::event::Event;
use crate::id::{Attempt, DeviceId, Index, JobId, LeaseId, NodeId, Rank};
use crate::job::record::{Cause, ElementRecord, Exit, Outcome, RecordStatus, Started, Used};
use crate::lease::{Gang, Lease, Master, RevokeReason, Revoking, Stopping, new_task};
use crate::ranges::RangeSet;
use crate::state::State;
use crate::time::{Millis, Time};

/// Elements that run shorter than this are leased in growing chunks: a round trip would cost as much as they do.
pub(crate) const CHUNK_GROWS_BELOW_US: u64 = 50_000;

/// Predicted work of a slot in one chunk: what a drain or a better job waits for at most.
pub(crate) const CHUNK_WORK_US: u64 = 1_000_000;

/// A chunk that is out longer than this holds an element that runs longer than predicted; those behind it come back.
pub(crate) const CHUNK_LATE_AFTER: Millis = Millis::seconds(3);

/// Infra starts of a job on a node are counted within this span.
pub(crate) const INFRA_STARTS_WITHIN: Millis = Millis::minutes(10);

/// What a lease holds: the two sides of an account.
#[derive(Default)]
struct Holding {
    milli_cpus: u64,
    memory_bytes: u64,
    devices: Vec<DeviceId>,
    active: u64,
    running: u64,
    gpus: u64,
    live: bool,
}

impl Holding {
    fn of(lease: &Lease) -> Self {
        let (milli_cpus, memory_bytes) = lease.held();
        let devices: Vec<_> = lease.devices().cloned().collect();
        let counts = !lease.fenced && lease.gang.is_none();
        Holding {
            milli_cpus,
            memory_bytes,
            active: if counts { lease.live.len() } else { 0 },
            running: if counts { lease.running() } else { 0 },
            gpus: if lease.fenced { 0 } else { devices.len() as u64 },
            devices,
            live: lease.is_live(),
        }
    }
}

impl State {
    /// Puts a lease, new or restored, into the state and books what it holds.
    pub(super) fn insert_lease(&mut self, lease: Lease) {
        let (id, node, job) = (lease.id, lease.node, lease.job);
        let after = Holding::of(&lease);
        assert!(after.live, "a lease begins with something live");
        if let Some(node) = self.nodes.get_mut(&node) {
            node.leases.insert(id);
        }
        if !lease.fenced
            && let Some(job) = self.jobs.get_mut(&job)
        {
            job.leases.insert(id);
        }
        self.leases.insert(id, lease);
        self.account(id, node, job, Holding::default(), after);
    }

    /// Changes a lease and moves what it holds.
    fn edit_lease(&mut self, id: LeaseId, edit: impl FnOnce(&mut Lease)) {
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        let before = Holding::of(lease);
        edit(lease);
        let after = Holding::of(lease);
        let (node, job) = (lease.node, lease.job);
        self.account(id, node, job, before, after);
    }

    fn account(&mut self, id: LeaseId, node_id: NodeId, job_id: JobId, before: Holding, after: Holding) {
        if let Some(node) = self.nodes.get_mut(&node_id) {
            node.held_milli_cpus = node.held_milli_cpus - before.milli_cpus + after.milli_cpus;
            node.held_memory_bytes = node.held_memory_bytes - before.memory_bytes + after.memory_bytes;
            for device in before.devices.iter().filter(|device| !after.devices.contains(device)) {
                node.holders.remove(device);
            }
            for device in after.devices.iter().filter(|device| !before.devices.contains(device)) {
                let other = node.holders.insert(device.clone(), id);
                assert!(other.is_none(), "a device has one holder");
            }
            if !after.live {
                node.leases.remove(&id);
            }
        }
        if let Some(job) = self.jobs.get_mut(&job_id) {
            job.active = job.active - before.active + after.active;
            job.running = job.running - before.running + after.running;
            job.gpus = job.gpus - before.gpus + after.gpus;
            if before.running > after.running || before.gpus > after.gpus {
                self.index.changes.relaxed = true;
            }
        }
        let granted_at = self.leases.get(&id).map(|lease| lease.granted_at);
        if !after.live {
            self.drop_lease(id, job_id);
        }
        self.index_chunk(id, node_id, granted_at.unwrap_or_default());
        self.refree(node_id);
    }

    fn drop_lease(&mut self, id: LeaseId, job: JobId) {
        let Some(lease) = self.leases.remove(&id) else {
            return;
        };
        let Some(job) = self.jobs.get_mut(&job) else {
            return;
        };
        job.leases.remove(&id);
        let paces = lease.gang.is_none() && lease.demand.gpus == 0 && !lease.fenced && lease.mean_us > 0;
        if paces && lease.width().div_ceil(u64::from(lease.slots.max(1))) >= u64::from(job.body.chunk) {
            job.body.chunk = next_chunk(job.body.chunk, lease.mean_us);
        }
    }

    fn index_chunk(&mut self, id: LeaseId, node: NodeId, granted_at: Time) {
        let waits = self.leases.get(&id).is_some_and(|lease| {
            let kept = !lease.fenced && !lease.trimmed && !lease.preempted;
            lease.gang.is_none() && kept && lease.live.len() > u64::from(lease.slots)
        });
        let chunks = self.index.chunks.entry(node).or_default();
        if waits {
            chunks.insert(id);
            self.index.chunk_times.insert((granted_at, id));
        } else {
            chunks.remove(&id);
            self.index.chunk_times.remove(&(granted_at, id));
        }
        if chunks.is_empty() {
            self.index.chunks.remove(&node);
        }
    }

    pub(super) fn chunk_leased(&mut self, at: Time, event: &Event) {
        let Event::ChunkLeased { job, first, last, attempt, device, .. } = event else {
            return;
        };
        let leases = self.leases_of(at, event);
        let Some(found) = self.jobs.get_mut(job) else {
            return;
        };
        found.take(*first, *last, *attempt);
        found.body.device = Some(Box::new(device.clone()));
        self.insert_new(leases);
        self.reindex(*job, true);
    }

    pub(super) fn gang_leased(&mut self, at: Time, event: &Event) {
        let Event::GangLeased { job, index, attempt, alternative, parts, deadline, device } = event else {
            return;
        };
        let leases = self.leases_of(at, event);
        let Some(found) = self.jobs.get_mut(job) else {
            return;
        };
        found.take(*index, *index, *attempt);
        found.active += 1;
        found.running += 1;
        found.body.device = Some(Box::new(device.clone()));
        let gang = Gang {
            job: *job,
            index: *index,
            attempt: *attempt,
            alternative: *alternative,
            granted_at: at,
            leases: parts.iter().map(|part| part.lease).collect(),
            deadline: *deadline,
            started: None,
            stopping: None,
            cancelled: false,
            tasks: Vec::new(),
        };
        self.gangs.insert((*job, *index), gang);
        self.index.preparing.insert((*deadline, *job, *index));
        self.insert_new(leases);
        self.reindex(*job, true);
    }

    fn insert_new(&mut self, leases: Vec<Lease>) {
        for lease in leases {
            self.counters.lease = self.counters.lease.max(lease.id.0 + 1);
            self.insert_lease(lease);
        }
    }

    pub(super) fn lease_prepared(&mut self, id: LeaseId, port: u16) {
        self.edit_lease(id, |lease| {
            lease.begun = true;
            lease.port = Some(port);
        });
    }

    pub(super) fn gang_started(&mut self, job: JobId, index: Index, master: &Master) {
        let Some(gang) = self.gangs.get_mut(&(job, index)) else {
            return;
        };
        gang.started = Some(master.clone());
        self.index.preparing.remove(&(gang.deadline, job, index));
        for lease in &gang.leases {
            if let Some(lease) = self.leases.get_mut(lease) {
                lease.started = true;
            }
        }
    }

    pub(super) fn gang_stopping(&mut self, job: JobId, index: Index, outcome: Outcome, exit: &Exit) {
        let Some(gang) = self.gangs.get_mut(&(job, index)) else {
            return;
        };
        gang.stopping.get_or_insert_with(|| Stopping { outcome, exit: exit.clone() });
        self.index.preparing.remove(&(gang.deadline, job, index));
        for lease in &gang.leases {
            let Some(lease) = self.leases.get_mut(lease) else {
                continue;
            };
            if !lease.fenced && lease.is_live() && lease.revoke.is_none() && !lease.preempted {
                let elements = RangeSet::range(index, index);
                lease.revoke = Some(Revoking { reason: RevokeReason::Gang, elements });
            }
        }
    }

    pub(super) fn task_started(&mut self, at: Time, event: &Event) {
        let Event::TaskStarted { lease, job, index, rank, pid, start_ticks, output_dir, spawn_us } = event else {
            return;
        };
        if let Some(found) = self.jobs.get_mut(job) {
            found.body.started_at.get_or_insert(at);
        }
        let started =
            Started { at, pid: *pid, start_ticks: *start_ticks, output_dir: output_dir.clone(), spawn_us: *spawn_us };
        self.edit_lease(*lease, |lease| {
            lease.begun = true;
            let task = new_task(lease, *rank);
            lease.tasks.entry((*index, *rank)).or_insert(task).started = Some(started);
        });
    }

    pub(super) fn rank_ended(&mut self, at: Time, id: LeaseId, rank: Rank, exit: &Exit) {
        let Some(lease) = self.leases.get(&id) else {
            return;
        };
        let (job, index, node) = (lease.job, lease.first, lease.node);
        let mut task = lease.tasks.get(&(index, rank)).cloned().unwrap_or_else(|| new_task(lease, rank));
        task.exit = Some(exit.clone());
        task.ended_at = Some(at);
        if exit.cause == Cause::StartInfra {
            self.count_infra_start(at, job, node);
        }
        if let Some(gang) = self.gangs.get_mut(&(job, index)) {
            gang.tasks.push(task);
        }
        self.edit_lease(id, |lease| {
            lease.begun = true;
            lease.tasks.remove(&(index, rank));
            lease.ranks.iter_mut().filter(|hold| hold.rank == rank).for_each(|hold| hold.live = false);
        });
        self.reindex(job, false);
    }

    /// Several ranks of one refusal are one start.
    pub(super) fn count_infra_start(&mut self, at: Time, job: JobId, node: NodeId) {
        let Some(job) = self.jobs.get_mut(&job) else {
            return;
        };
        let starts = job.body.infra_starts.entry(node).or_default();
        starts.retain(|start| at.since(*start) <= INFRA_STARTS_WITHIN);
        if starts.last() != Some(&at) {
            starts.push(at);
        }
    }

    pub(super) fn lease_trimmed(&mut self, at: Time, id: LeaseId) {
        self.edit_lease(id, |lease| lease.trimmed = true);
        if let Some(lease) = self.leases.get(&id)
            && at.since(lease.granted_at) >= CHUNK_LATE_AFTER
            && let Some(job) = self.jobs.get_mut(&lease.job)
        {
            job.body.chunk = 1;
        }
    }

    pub(super) fn lease_preempted(&mut self, id: LeaseId) {
        self.edit_lease(id, |lease| lease.preempted = true);
    }

    pub(super) fn lease_fenced(&mut self, id: LeaseId) {
        self.edit_lease(id, |lease| lease.fenced = true);
        let Some(job) = self.leases.get(&id).map(|lease| lease.job) else {
            return;
        };
        if let Some(found) = self.jobs.get_mut(&job) {
            found.leases.remove(&id);
        }
        self.reindex(job, false);
    }

    pub(super) fn fence_confirmed(&mut self, id: LeaseId, first: Index, last: Index, rank: Option<Rank>) {
        self.edit_lease(id, |lease| match lease.gang {
            None => lease.live.remove(first, last),
            Some(_) => {
                let ranks = lease.ranks.iter_mut().filter(|hold| rank.is_none_or(|rank| hold.rank == rank));
                ranks.for_each(|hold| hold.live = false);
            }
        });
    }
}

impl crate::job::body::Job {
    /// Takes pending elements for a lease under `attempt`.
    fn take(&mut self, first: Index, last: Index, attempt: Attempt) {
        if self.body.pending.contains_range(first, last) {
            self.body.pending.remove(first, last);
            return;
        }
        let record: Option<&mut ElementRecord> = self.body.records.get_mut(&first);
        let Some(record) = record.filter(|_| first == last) else {
            panic!("only pending elements are leased");
        };
        let RecordStatus::Waiting { not_before } = record.status else {
            panic!("only pending elements are leased");
        };
        assert!(attempt > record.attempts, "attempts rise");
        self.waiting.remove(&(not_before, first));
        record.attempts = attempt;
        record.status = RecordStatus::Leased;
        self.body.retries += 1;
    }
}

/// Returns the chunk that follows one whose elements took `mean_us`.
fn next_chunk(chunk: u32, mean_us: u64) -> u32 {
    if mean_us >= CHUNK_GROWS_BELOW_US {
        return 1;
    }
    let fitting = u32::try_from((CHUNK_WORK_US / mean_us.max(1)).max(1)).unwrap_or(u32::MAX);
    chunk.saturating_mul(2).min(fitting)
}

/// Returns the record of an element in its first attempt.
fn first_record(attempt: Attempt) -> ElementRecord {
    let (used, status) = (Used::default(), RecordStatus::Leased);
    ElementRecord { attempts: attempt, used, status, checkpoint: None, last: None }
}
