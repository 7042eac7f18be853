//! One placement round over the indices.
//!
//! Jobs are looked at in order, line by line: when the head of a line finds no room, nobody behind it in that line
//! would, and the line is left. A line that was refused in the last round, and for which nothing changed, is not tried
//! again; that this decides the same as trying every line is a property that the tests hold.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::free::Free;
use super::{DECISIONS_MAX, Decision};
use crate::id::{JobId, Tenant};
use crate::job::body::Job;
use crate::queue::{QueueKey, Usage};
use crate::state::State;
use crate::state::index::{Line, Place};
use crate::time::Time;

/// What a round decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) decisions: Vec<Decision>,
    /// It stopped at its limit.
    pub(crate) more: bool,
}

/// What came of trying a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tried {
    /// Everything it may start now is placed.
    Done,
    /// It finds no room.
    NoRoom,
    /// Its queue is at a limit.
    Limited,
    /// The round is full.
    Full,
}

/// A head of a line, or a job that time alone has just made startable.
struct Head {
    line: Line,
    /// Others of its line follow it.
    followed: bool,
}

/// A round in the making.
pub(super) struct Solver<'a> {
    pub(super) state: &'a State,
    pub(super) now: Time,
    pub(super) free: Free<'a>,
    pub(super) round: Round,
    /// What the round adds to the use of queues, and of tenants.
    used: BTreeMap<QueueKey, Usage>,
    used_by: BTreeMap<Tenant, Usage>,
    heads: BTreeMap<Place, Head>,
    /// Jobs whose place in the index is out of date at `now`.
    awake: BTreeSet<JobId>,
    reserved: bool,
}

/// Decides what starts where. `scratch`: as if everything had changed since the last round.
pub(crate) fn solve(state: &State, now: Time, scratch: bool) -> Round {
    let mut solver = Solver {
        state,
        now,
        free: Free::new(state),
        round: Round::default(),
        used: BTreeMap::new(),
        used_by: BTreeMap::new(),
        heads: BTreeMap::new(),
        awake: BTreeSet::new(),
        reserved: false,
    };
    let all = scratch || state.index.changes.relaxed;
    if !all && state.index.changes.lines.is_empty() && state.index.wakes.first().is_none_or(|(at, _)| *at > now) {
        return solver.round;
    }
    solver.find_heads();
    solver.run(all);
    solver.round
}

impl<'a> Solver<'a> {
    fn find_heads(&mut self) {
        let state = self.state;
        let woken = state.index.wakes.iter().take_while(|(at, _)| *at <= self.now);
        self.awake = woken.map(|(_, job)| *job).collect();
        for job in self.awake.iter().filter_map(|id| state.jobs.get(id)) {
            if let Some((line, place)) = job.entry_at(self.now).line {
                self.heads.insert(place, Head { line, followed: false });
            }
        }
        for line in state.index.lines.keys() {
            self.push_next(line, None);
        }
    }

    fn push_next(&mut self, line: &Line, after: Option<Place>) {
        let Some(places) = self.state.index.lines.get(line) else {
            return;
        };
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = places.range((start, Bound::Unbounded));
        if let Some(place) = rest.find(|place| !self.awake.contains(&place.job)) {
            self.heads.insert(*place, Head { line: line.clone(), followed: true });
        }
    }

    fn run(&mut self, mut all: bool) {
        while let Some((place, head)) = self.heads.pop_first() {
            let Some(job) = self.state.jobs.get(&place.job) else {
                continue;
            };
            if self.limited(job, &head.line) {
                continue;
            }
            let tried = all || !head.followed || self.state.index.changes.lines.contains(&head.line);
            let before = self.round.decisions.len();
            let outcome = if tried { self.try_job(job, &head.line) } else { Tried::NoRoom };
            let ahead = tried && !self.reserved;
            if ahead && (outcome == Tried::NoRoom || self.round.decisions.len() > before) {
                // What was kept for another before is not any more, or there is less: others must be tried again.
                all = true;
            }
            match outcome {
                Tried::Done if head.followed => self.push_next(&head.line, Some(place)),
                Tried::Done | Tried::Limited => {}
                Tried::NoRoom => self.keep(job, &head.line),
                Tried::Full => {
                    self.round.more = true;
                    return;
                }
            }
        }
    }

    /// Keeps what is free, and room in its queue, for the first job that finds no room and could run here.
    fn keep(&mut self, job: &Job, line: &Line) {
        if self.reserved || (self.heads.is_empty() && self.state.index.chunks.is_empty()) {
            return;
        }
        let kept = super::reserve::reserve(self.state, &mut self.free, &mut self.round, job, &line.shape);
        if let Some(demand) = kept {
            self.reserved = true;
            let gpus = u64::from(demand.gpus) * u64::from(line.shape.replicas);
            self.use_queue(line, Usage { running: 1, queued: 0, gpus });
        }
    }

    pub(super) fn use_queue(&mut self, line: &Line, more: Usage) {
        self.used.entry(line.queue.clone()).or_default().grow(more);
        self.used_by.entry(line.queue.tenant.clone()).or_default().grow(more);
    }

    /// Says whether no alternative of a job may start for its queue's limits.
    fn limited(&self, job: &Job, line: &Line) -> bool {
        let replicas = u64::from(job.body.spec.replicas);
        line.shape.demands.iter().all(|demand| self.room_in_queue(&line.queue, u64::from(demand.gpus) * replicas) == 0)
    }

    /// Returns how many more elements that hold `gpus` each a queue and its tenant let run.
    pub(super) fn room_in_queue(&self, key: &QueueKey, gpus: u64) -> u64 {
        let in_queue = self.used.get(key).copied().unwrap_or_default();
        let of_tenant = self.used_by.get(&key.tenant).copied().unwrap_or_default();
        let (queue, tenant) = (self.state.queue(key), self.state.tenant(&key.tenant));
        queue.room(in_queue, gpus).min(tenant.room(of_tenant, gpus))
    }

    pub(super) fn full(&self) -> bool {
        self.round.decisions.len() >= DECISIONS_MAX
    }
}
