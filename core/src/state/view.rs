//! What people may ask of the state. Pure reads; each costs what it returns.

use std::collections::BTreeMap;

use crate::id::{Attempt, DeviceId, Index, JobId, NodeId, Rank};
use crate::job::body::Job;
use crate::job::record::{ElementRecord, ElementState, EndState, EndedRange, Outcome, RecordStatus, TaskRecord};
use crate::lease::{Gang, Lease, new_task};
use crate::node::Node;
use crate::ranges::{IndexRange, RangeSet};
use crate::state::State;
use crate::time::Time;

/// One rank of one element in its newest attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// Its element.
    pub index: Index,
    /// Its number in the element.
    pub rank: Rank,
    /// Where its element stands.
    pub state: ElementState,
    /// From 1; 0 before the first.
    pub attempt: Attempt,
    /// Where it runs or ran.
    pub node: Option<NodeId>,
    /// Its process id; absent when it does not run or no record was kept.
    pub pid: Option<u32>,
    /// Absent unless it exited by itself.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Outcome of the newest ended attempt.
    pub outcome: Option<Outcome>,
    /// One sentence for people.
    pub detail: String,
    /// When it was leased.
    pub leased_at: Option<Time>,
    /// When it started.
    pub started_at: Option<Time>,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// Its devices.
    pub gpu_uuids: Vec<DeviceId>,
    /// Where its files are on its node.
    pub output_dir: String,
    /// Grant received → executed.
    pub spawn_us: Option<u64>,
    /// Executed → exited.
    pub ran_us: Option<u64>,
    /// Newest complete checkpoint.
    pub checkpoint: Option<String>,
}

/// A page of tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskPage {
    /// In order of index and rank.
    pub tasks: Vec<TaskView>,
    /// Where the next page begins; absent at the end.
    pub next: Option<(Index, Rank)>,
}

/// Who holds a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Whose element.
    pub job: JobId,
    /// Which.
    pub index: Index,
    /// Which rank.
    pub rank: Rank,
}

impl State {
    /// Returns how many elements a job has in each state, zeros left out. Empty for an unknown job.
    pub fn element_counts(&self, job: JobId) -> BTreeMap<ElementState, u64> {
        let mut counts = BTreeMap::new();
        let Some(job) = self.jobs.get(&job) else {
            return counts;
        };
        let mut add = |state, count: u64| *counts.entry(state).or_insert(0) += count;
        let waits = if job.body.held { ElementState::Held } else { ElementState::Pending };
        add(waits, job.waiting_count());
        job.ended_counts.iter().for_each(|(state, count)| add((*state).into(), *count));
        for lease in job.leases.iter().filter_map(|lease| self.leases.get(lease)).filter(|lease| lease.gang.is_none()) {
            let revoked = match &lease.revoke {
                _ if lease.preempted => lease.live.clone(),
                Some(revoking) => revoking.elements.intersection(&lease.live),
                None => RangeSet::new(),
            };
            let mut runs = running_part(lease);
            runs.subtract(&revoked);
            add(ElementState::Completing, revoked.len());
            add(ElementState::Running, runs.len());
            add(ElementState::Starting, lease.live.len() - revoked.len() - runs.len());
        }
        for (_, gang) in self.gangs.range((job.body.id, 0)..=(job.body.id, Index::MAX)) {
            add(self.gang_state(gang), 1);
        }
        counts.retain(|_, count| *count > 0);
        counts
    }

    /// Returns a job's state: RUNNING while any element is STARTING, RUNNING or COMPLETING; else PENDING or HELD while
    /// any is not terminal; else the first present of FAILED, TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, CANCELLED, COMPLETED.
    pub fn job_state(&self, job: JobId) -> Option<ElementState> {
        let job = self.jobs.get(&job)?;
        if job.active > 0 {
            return Some(ElementState::Running);
        }
        if job.waiting_count() > 0 {
            return Some(if job.body.held { ElementState::Held } else { ElementState::Pending });
        }
        let order = [
            EndState::Failed,
            EndState::Timeout,
            EndState::OutOfMemory,
            EndState::NodeFail,
            EndState::Cancelled,
            EndState::Completed,
        ];
        order.into_iter().find(|state| job.ended_counts.contains_key(state)).map(ElementState::from)
    }

    /// Returns up to `limit` tasks of a job from `from` on, only of `elements` if given.
    pub fn tasks(&self, job: JobId, elements: Option<&RangeSet>, from: (Index, Rank), limit: usize) -> TaskPage {
        let mut page = TaskPage::default();
        let Some(job) = self.jobs.get(&job) else {
            return page;
        };
        let all = job.body.spec.elements();
        let chosen = elements.map_or_else(|| all.clone(), |elements| all.intersection(elements));
        let leases = self.live_ranges(job);
        for index in chosen.within(from.0, Index::MAX).flat_map(|range| range.first..=range.last) {
            let first_rank = if index == from.0 { from.1 } else { 0 };
            for rank in first_rank..job.body.spec.replicas {
                if page.tasks.len() >= limit {
                    page.next = Some((index, rank));
                    return page;
                }
                page.tasks.push(self.task(job, &leases, index, rank));
            }
        }
        page
    }

    /// Returns the live ranges of a job's leases that are no gang's, by first index.
    fn live_ranges(&self, job: &Job) -> BTreeMap<Index, (Index, &Lease)> {
        let mut ranges = BTreeMap::new();
        for lease in job.leases.iter().filter_map(|lease| self.leases.get(lease)).filter(|lease| lease.gang.is_none()) {
            ranges.extend(lease.live.iter().map(|range| (range.first, (range.last, lease))));
        }
        ranges
    }

    fn task(&self, job: &Job, leases: &BTreeMap<Index, (Index, &Lease)>, index: Index, rank: Rank) -> TaskView {
        let waits = if job.body.held { ElementState::Held } else { ElementState::Pending };
        let record = job.body.records.get(&index);
        let mut view = TaskView::waiting(index, rank, waits);
        if let Some(record) = record {
            view.ended_attempt(record);
        } else if let Some((_, range)) = job.ended_range(index) {
            view.ended_alike(&range);
        }
        if let Some(gang) = self.gangs.get(&(job.body.id, index)) {
            let live = gang.leases.iter().filter_map(|lease| self.leases.get(lease));
            let lease =
                live.filter(|lease| !lease.fenced).find(|lease| lease.ranks.iter().any(|hold| hold.rank == rank));
            let gone = gang.tasks.iter().find(|task| task.rank == rank);
            view.running(self.gang_state(gang), gang.attempt, gang.granted_at);
            let live =
                lease.map(|lease| lease.tasks.get(&(index, rank)).cloned().unwrap_or_else(|| new_task(lease, rank)));
            if let Some(task) = gone.cloned().or(live) {
                view.reported(&task);
            }
        } else if let Some((_, (last, lease))) = leases.range(..=index).next_back()
            && index <= *last
        {
            let state = if lease.revokes(index) || lease.preempted {
                ElementState::Completing
            } else if running_part(lease).contains(index) {
                ElementState::Running
            } else {
                ElementState::Starting
            };
            view.running(state, lease.attempt, lease.granted_at);
            view.reported(&lease.tasks.get(&(index, 0)).cloned().unwrap_or_else(|| new_task(lease, 0)));
        }
        view
    }

    fn gang_state(&self, gang: &Gang) -> ElementState {
        let live = gang.leases.iter().filter_map(|lease| self.leases.get(lease));
        if gang.stopping.is_some() || gang.cancelled {
            ElementState::Completing
        } else if !gang.tasks.is_empty() || live.into_iter().any(|lease| !lease.tasks.is_empty()) {
            ElementState::Running
        } else {
            ElementState::Starting
        }
    }

    /// Returns who holds a device of a node.
    pub fn device_holder(&self, node: NodeId, device: &DeviceId) -> Option<Holder> {
        let lease = self.leases.get(self.nodes.get(&node)?.holders.get(device)?)?;
        let hold = lease.ranks.iter().find(|hold| hold.gpu_uuids.contains(device))?;
        Some(Holder { job: lease.job, index: lease.live.first().unwrap_or(lease.first), rank: hold.rank })
    }

    /// Says whether a placement round at `now` could decide something; the engine calls `place` then.
    pub fn wants_round(&self, now: Time) -> bool {
        let index = &self.index;
        let changed = index.changes.relaxed && !index.lines.is_empty();
        let woken = index.wakes.first().is_some_and(|(at, _)| *at <= now);
        changed || woken || !index.changes.lines.is_empty() || !index.doomed.is_empty()
    }

    /// Says whether two states are the same, what is derived included. For tests: it costs all of both.
    pub fn same_as(&self, other: &State) -> bool {
        let job = |a: &Job, b: &Job| {
            let counts = (a.active, a.running, a.gpus) == (b.active, b.running, b.gpus);
            let sets = a.leases == b.leases && a.waiting == b.waiting && a.ended_counts == b.ended_counts;
            a.body == b.body && counts && sets && a.entry == b.entry
        };
        let node = |a: &Node, b: &Node| {
            let held = (a.held_milli_cpus, a.held_memory_bytes) == (b.held_milli_cpus, b.held_memory_bytes);
            a.body == b.body && a.leases == b.leases && a.holders == b.holders && held && a.free_key == b.free_key
        };
        self.counters == other.counters
            && self.jobs.len() == other.jobs.len()
            && self.jobs.values().zip(other.jobs.values()).all(|(a, b)| job(a, b))
            && self.nodes.len() == other.nodes.len()
            && self.nodes.values().zip(other.nodes.values()).all(|(a, b)| node(a, b))
            && self.leases == other.leases
            && self.gangs == other.gangs
            && self.queues == other.queues
            && self.tenants == other.tenants
            && self.keys == other.keys
            && self.tokens == other.tokens
            && self.node_names == other.node_names
            && self.index.same_as(&other.index)
    }
}

/// Returns the elements of a lease that run, as far as is known: a task that reported Started; in a chunk, once it has
/// begun, the first of those that are left, one for each slot.
fn running_part(lease: &Lease) -> RangeSet {
    if lease.width() == 1 || !lease.begun {
        return lease.tasks.keys().map(|(index, _)| IndexRange::one(*index)).collect();
    }
    let mut left = lease.running();
    let mut runs = RangeSet::new();
    for range in lease.live.iter() {
        if left == 0 {
            break;
        }
        let count = range.count().min(left);
        runs.insert(range.first, range.first + u32::try_from(count - 1).unwrap_or(0));
        left -= count;
    }
    runs
}

impl Job {
    /// Returns how many elements wait.
    pub fn waiting_count(&self) -> u64 {
        self.body.pending.len() + self.waiting.len() as u64
    }
}

impl TaskView {
    fn waiting(index: Index, rank: Rank, state: ElementState) -> Self {
        TaskView {
            index,
            rank,
            state,
            attempt: 0,
            node: None,
            pid: None,
            exit_code: None,
            signal: None,
            outcome: None,
            detail: String::new(),
            leased_at: None,
            started_at: None,
            ended_at: None,
            gpu_uuids: Vec::new(),
            output_dir: String::new(),
            spawn_us: None,
            ran_us: None,
            checkpoint: None,
        }
    }

    fn ended_alike(&mut self, range: &EndedRange) {
        self.state = range.state.into();
        self.attempt = range.attempt;
        self.node = range.node;
        self.exit_code = range.exit_code;
        self.signal = range.signal;
        self.outcome = range.outcome;
    }

    fn ended_attempt(&mut self, record: &ElementRecord) {
        self.attempt = record.attempts;
        self.checkpoint = record.checkpoint.as_ref().map(|checkpoint| checkpoint.path.clone());
        if let RecordStatus::Ended { state, at } = record.status {
            self.state = state.into();
            self.ended_at = Some(at);
        }
        let Some(last) = &record.last else { return };
        self.outcome = Some(last.outcome);
        self.leased_at = Some(last.leased_at);
        self.detail.clone_from(&last.exit.detail);
        if let Some(task) = last.tasks.iter().find(|task| task.rank == self.rank) {
            self.reported(task);
        }
    }

    /// Begins the view of a live attempt: what the one before left is not part of it, but its outcome.
    fn running(&mut self, state: ElementState, attempt: Attempt, leased_at: Time) {
        let (outcome, checkpoint) = (self.outcome, self.checkpoint.take());
        let fresh = TaskView::waiting(self.index, self.rank, state);
        *self = TaskView { attempt, leased_at: Some(leased_at), outcome, checkpoint, ..fresh };
    }

    fn reported(&mut self, task: &TaskRecord) {
        self.node = Some(task.node);
        self.gpu_uuids.clone_from(&task.gpu_uuids);
        if let Some(started) = &task.started {
            self.started_at = Some(started.at);
            self.pid = Some(started.pid);
            self.output_dir.clone_from(&started.output_dir);
            self.spawn_us = Some(started.spawn_us);
        }
        if let Some(exit) = &task.exit {
            self.exit_code = exit.exit_code;
            self.signal = exit.signal;
            self.ran_us = Some(exit.ran_us);
            self.ended_at = task.ended_at;
            if !exit.detail.is_empty() {
                self.detail.clone_from(&exit.detail);
            }
            if exit.checkpoint.is_some() {
                self.checkpoint.clone_from(&exit.checkpoint);
            }
        }
    }
}
