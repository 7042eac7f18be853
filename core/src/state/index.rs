//! Dense indices that `apply` maintains, so that a placement round costs what changed.
//!
//! - `lines`: jobs that may start something now, by queue and shape, in order. A shape is what decides where a job fits:
//!   jobs of one shape are refused together.
//! - `free`: nodes that take work, by what is free.
//! - `wakes`: when time alone makes a job startable.
//! - `changes`: what happened since the last round.
//!
//! Nothing here is durable: all of it follows from the rest of the state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::id::{Index, JobId, LeaseId, NodeId};
use crate::job::body::{Job, Standing};
use crate::queue::{QueueKey, Usage};
use crate::resources::Demand;
use crate::state::State;
use crate::time::Time;

/// Waiting this long is worth one point of priority, so that a low priority waits long and not for ever.
pub const AGING_MS: i64 = 60_000;

/// What decides where a job fits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub(crate) demands: Vec<Demand>,
    pub(crate) replicas: u32,
    pub(crate) excluded: Vec<NodeId>,
}

/// Jobs of one queue and one shape.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Line {
    pub(crate) queue: QueueKey,
    pub(crate) shape: Arc<Shape>,
}

/// A job's place: less is earlier. Priority ages alike for everybody, so the order of two jobs never changes by time
/// and need not be computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) key: i64,
    pub(crate) job: JobId,
}

impl Place {
    pub(crate) fn of(job: &Job) -> Self {
        let submitted = i64::try_from(job.body.submitted_at.0).unwrap_or(i64::MAX);
        let key = submitted.saturating_sub(i64::from(job.body.priority) * AGING_MS);
        Self { key, job: job.body.id }
    }
}

/// A node's place in the index of free amounts: GPUs, then 1/1000 cores, bytes, number.
pub(crate) type FreeKey = (u32, (u64, u64, NodeId));

/// What the indices hold for one job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its shape and its place in its line, if it may start.
    pub(crate) place: Option<(Arc<Shape>, Place)>,
    pub(crate) wake: Option<Time>,
    pub(crate) usage: Usage,
    pub(crate) queue: Option<QueueKey>,
}

impl Entry {
    /// Returns the job's line and its place there, if it may start.
    pub(crate) fn line(&self) -> Option<(Line, Place)> {
        let (shape, place) = self.place.as_ref()?;
        Some((Line { queue: self.queue.clone()?, shape: shape.clone() }, *place))
    }
}

/// What happened since the last round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Something may fit now that did not before: look at every line.
    pub(crate) relaxed: bool,
    /// Lines that got a job.
    pub(crate) lines: BTreeSet<Line>,
}

/// The indices.
#[derive(Clone, Debug, Default)]
pub(crate) struct Indexed {
    pub(crate) lines: BTreeMap<Line, BTreeSet<Place>>,
    pub(crate) free: BTreeMap<u32, BTreeSet<(u64, u64, NodeId)>>,
    pub(crate) wakes: BTreeSet<(Time, JobId)>,
    pub(crate) changes: Changes,
    /// Jobs that depend on a job.
    pub(crate) dependents: BTreeMap<JobId, BTreeSet<JobId>>,
    /// Jobs with a dependency that cannot be met.
    pub(crate) doomed: BTreeSet<JobId>,
    /// Gangs that wait for their nodes, by deadline.
    pub(crate) preparing: BTreeSet<(Time, JobId, Index)>,
    pub(crate) silent: BTreeSet<NodeId>,
    /// Draining nodes that wait no longer than that.
    pub(crate) evictions: BTreeSet<(Time, NodeId)>,
    /// Ended jobs, by when.
    pub(crate) ended: BTreeSet<(Time, JobId)>,
    /// Jobs whose end is to be told, by when it may be.
    pub(crate) notices: BTreeSet<(Time, JobId)>,
    /// How often one was put there. Compared by nobody: a restart begins again.
    pub(crate) notices_made: u64,
    /// Leases with elements that wait for a slot, by node.
    pub(crate) chunks: BTreeMap<NodeId, BTreeSet<LeaseId>>,
    /// The same leases, by when they were granted.
    pub(crate) chunk_times: BTreeSet<(Time, LeaseId)>,
}

impl Indexed {
    /// Says whether two indices are the same. What changed since the last round is not compared: after a restart
    /// everything may have.
    pub(crate) fn same_as(&self, other: &Indexed) -> bool {
        self.lines == other.lines
            && self.free == other.free
            && self.wakes == other.wakes
            && self.dependents == other.dependents
            && self.doomed == other.doomed
            && self.preparing == other.preparing
            && self.silent == other.silent
            && self.evictions == other.evictions
            && self.ended == other.ended
            && self.notices == other.notices
            && self.chunks == other.chunks
            && self.chunk_times == other.chunk_times
    }
}

impl Job {
    /// Returns what the indices must hold for the job at `now`.
    pub(crate) fn entry_at(&self, now: Time) -> Entry {
        let body = &self.body;
        let queue = QueueKey { tenant: body.tenant.clone(), name: body.queue.clone() };
        let usage =
            Usage { running: self.running, queued: body.pending.len() + self.waiting.len() as u64, gpus: self.gpus };
        let mut entry = Entry { place: None, wake: None, usage, queue: Some(queue) };
        if body.held || body.after.iter().any(|after| after.standing != Standing::Met) || usage.queued == 0 {
            return entry;
        }
        let due = self.waiting.first().map(|(time, _)| *time);
        let expiries = body.excluded.values().map(|excluded| excluded.until);
        entry.wake = expiries.chain(due).filter(|time| *time > now).min();
        let startable = !body.pending.is_empty() || due.is_some_and(|time| time <= now);
        if startable && self.room() > 0 {
            entry.place = Some((self.shape_at(now), Place::of(self)));
        }
        entry
    }

    /// Returns how many more elements its array's throttle lets run.
    pub(crate) fn room(&self) -> u64 {
        let max = self.body.spec.array.as_ref().and_then(|array| array.running_max);
        max.map_or(u64::MAX, |max| u64::from(max).saturating_sub(self.running))
    }

    /// Returns what decides where it fits at `now`.
    pub(crate) fn shape_at(&self, now: Time) -> Arc<Shape> {
        let live = || self.body.excluded.iter().filter(|(_, excluded)| excluded.until > now).map(|(node, _)| *node);
        if live().eq(self.shape.excluded.iter().copied()) {
            return self.shape.clone();
        }
        Arc::new(Shape { excluded: live().collect(), ..(*self.shape).clone() })
    }
}

impl State {
    /// Moves time to `at`: jobs that time alone makes startable enter their lines.
    pub(crate) fn advance(&mut self, at: Time) {
        self.now = self.now.max(at);
        while let Some((time, job)) = self.index.wakes.first().copied() {
            if time > self.now {
                break;
            }
            self.reindex(job, false);
        }
    }

    /// Brings the indices up to what the job is now. `placing`: it left its line because it was placed, which makes
    /// room for nobody.
    pub(crate) fn reindex(&mut self, id: JobId, placing: bool) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let new = job.entry_at(self.now);
        if new == job.entry {
            return;
        }
        let old = std::mem::replace(&mut job.entry, new.clone());
        self.swap_entry(id, &old, &new, placing);
    }

    /// Takes a job that leaves the state out of the indices.
    pub(crate) fn unindex(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let old = std::mem::take(&mut job.entry);
        self.swap_entry(id, &old, &Entry::default(), false);
    }

    fn swap_entry(&mut self, id: JobId, old: &Entry, new: &Entry, placing: bool) {
        if old.wake != new.wake {
            if let Some(wake) = old.wake {
                self.index.wakes.remove(&(wake, id));
            }
            if let Some(wake) = new.wake {
                self.index.wakes.insert((wake, id));
            }
        }
        let (left, entered) = (old.line(), new.line());
        if left != entered {
            if let Some((line, place)) = &left {
                self.leave_line(line, place);
                self.index.changes.relaxed |= !placing;
            }
            if let Some((line, place)) = entered {
                self.index.changes.lines.insert(line.clone());
                self.index.lines.entry(line).or_default().insert(place);
            }
        }
        // Whoever uses less of a queue, or leaves it, makes room in its limits.
        let less = old.usage.running > new.usage.running || old.usage.gpus > new.usage.gpus;
        self.index.changes.relaxed |= old.queue.is_some() && (less || old.queue != new.queue);
        self.swap_usage(old, new);
    }

    /// Moves a job's use from where it was to where it is, in its queue and its tenant.
    fn swap_usage(&mut self, old: &Entry, new: &Entry) {
        if old.usage == new.usage && old.queue == new.queue {
            return;
        }
        if let Some(key) = &old.queue {
            let held = [self.queues.get_mut(key), self.tenants.get_mut(&key.tenant)];
            held.into_iter().flatten().for_each(|queue| queue.usage.shrink(old.usage));
        }
        if let Some(key) = &new.queue {
            if !self.queues.contains_key(key) {
                self.queues.insert(key.clone(), Default::default());
            }
            if !self.tenants.contains_key(&key.tenant) {
                self.tenants.insert(key.tenant.clone(), Default::default());
            }
            let held = [self.queues.get_mut(key), self.tenants.get_mut(&key.tenant)];
            held.into_iter().flatten().for_each(|queue| queue.usage.grow(new.usage));
        }
    }

    fn leave_line(&mut self, line: &Line, place: &Place) {
        if let Some(places) = self.index.lines.get_mut(line) {
            places.remove(place);
            if places.is_empty() {
                self.index.lines.remove(line);
                self.index.changes.lines.remove(line);
            }
        }
    }

    /// Brings a node's free amounts, and their index, up to what it owns and what is held of it.
    pub(crate) fn refree(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.free_milli_cpus = node.body.inventory.milli_cpus.saturating_sub(node.held_milli_cpus);
        node.free_memory_bytes = node.body.inventory.memory_bytes.saturating_sub(node.held_memory_bytes);
        let gpus = u32::try_from(node.free_devices().count()).unwrap_or(u32::MAX);
        let key = (gpus, (node.free_milli_cpus, node.free_memory_bytes, id));
        let new = node.takes_work().then_some(key);
        let old = std::mem::replace(&mut node.free_key, new);
        if old == new {
            return;
        }
        if let Some((gpus, key)) = old {
            self.unfree(gpus, &key);
        }
        if let Some((gpus, key)) = new {
            self.index.free.entry(gpus).or_default().insert(key);
        }
        self.index.changes.relaxed |= match (old, new) {
            (Some(old), Some(new)) => new.0 > old.0 || new.1.0 > old.1.0 || new.1.1 > old.1.1,
            (None, Some(_)) | (Some(_), None) => true,
            (None, None) => false,
        };
    }

    /// Takes a node that leaves the state out of the index.
    pub(crate) fn unfree(&mut self, gpus: u32, key: &(u64, u64, NodeId)) {
        if let Some(keys) = self.index.free.get_mut(&gpus) {
            keys.remove(key);
            if keys.is_empty() {
                self.index.free.remove(&gpus);
            }
        }
    }
}
