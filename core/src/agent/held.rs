//! One lease on the node: which of its tasks are still open, and which facts about them are news.
//!
//! A *unit* is what settles apart: an index of a chunk, or a rank of a gang. A unit is open until one fact settles
//! it; every later fact about it is dropped. That makes facts safe to hear twice, so that the spool of a supervisor
//! can be replayed over what is already known.
//!
//! Invariants: a settled unit never opens again; `started` is a part of `open`.
//!
//! Neighbours: [`super::Agent`] holds one [`Held`] a lease; [`super::outbox`] carries the news.

use super::message::{Adopted, Terms};
use crate::id::{Index, Rank};
use crate::input::{FactKind, HeldLease, Phase};
use crate::job::record::{Cause, Exit};
use crate::ranges::{IndexRange, RangeSet};

/// How far the lease is, apart from what is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A gang whose readiness is not known yet.
    Preparing,
    /// A gang that waits for Start.
    Prepared,
    /// Processes of it may exist.
    Running,
    /// Its supervisor is dead and its processes are being killed. No element from `begun` on was begun.
    Clearing {
        /// The lowest index that was never begun.
        begun: u64,
    },
}

/// A lease that the node holds.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) terms: Terms,
    pub(crate) stage: Stage,
    /// Facts that are not acknowledged.
    pub(crate) unacked: u32,
    /// Told to stop because the scheduler is silent.
    pub(crate) stopped_for_silence: bool,
    open: RangeSet,
    started: RangeSet,
    last_index: Index,
}

impl Held {
    pub(crate) fn new(terms: Terms) -> Self {
        let all = if terms.gang.is_empty() {
            RangeSet::range(terms.first, terms.last)
        } else {
            terms.gang.iter().map(|&rank| IndexRange::one(rank)).collect()
        };
        Self {
            stage: if terms.gang.is_empty() { Stage::Running } else { Stage::Preparing },
            last_index: terms.last,
            terms,
            unacked: 0,
            stopped_for_silence: false,
            open: all,
            started: RangeSet::new(),
        }
    }

    /// Returns a lease that was held before this agent started. What `facts` say of it opens first, so that learning
    /// them is news.
    pub(crate) fn adopt<'a>(adopted: Adopted, facts: impl Iterator<Item = &'a FactKind>) -> Self {
        let mut held = Self::new(adopted.terms);
        let mut open = adopted.open;
        for kind in facts {
            let (first, last) = match kind {
                FactKind::Prepared { .. } | FactKind::Started { .. } => continue,
                FactKind::Ended { index, rank, .. } => (held.unit(*index, *rank), held.unit(*index, *rank)),
                FactKind::StartFailed { .. } | FactKind::Returned { .. } if held.is_gang() => (0, u32::MAX),
                FactKind::StartFailed { index, .. } => (*index, *index),
                FactKind::Succeeded { first, last, .. } | FactKind::Returned { first, last } => (*first, *last),
            };
            open.insert(first, last);
        }
        held.open = held.open.intersection(&open);
        if held.is_gang() && adopted.begun > u64::from(held.terms.first) {
            held.stage = Stage::Running;
        }
        held
    }

    fn is_gang(&self) -> bool {
        !self.terms.gang.is_empty()
    }

    /// Returns true when nothing of the lease can run any more.
    pub(crate) fn is_ended(&self) -> bool {
        self.open.is_empty()
    }

    /// Returns true when the scheduler knows all of it and has it on disk.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_ended() && self.unacked == 0
    }

    pub(crate) fn hello(&self) -> HeldLease {
        let phase = match self.stage {
            _ if self.is_ended() => Phase::Ended,
            Stage::Preparing | Stage::Prepared => Phase::Prepared,
            Stage::Running | Stage::Clearing { .. } => Phase::Running,
        };
        HeldLease { lease: self.terms.lease, phase, last_index: self.last_index }
    }

    /// Takes a fact of the supervisor and returns what of it is news.
    pub(crate) fn learn(&mut self, kind: FactKind) -> Vec<FactKind> {
        let is_news = match &kind {
            FactKind::Succeeded { first, last, mean_us } => {
                let settled = self.settle(*first, *last);
                return settled
                    .into_iter()
                    .map(|part| FactKind::Succeeded { first: part.first, last: part.last, mean_us: *mean_us })
                    .collect();
            }
            FactKind::Returned { first, last } => return self.give_back(*first, *last),
            FactKind::Prepared { .. } => self.prepared(),
            FactKind::Started { index, rank, .. } => self.started(self.unit(*index, *rank)),
            FactKind::Ended { index, rank, .. } => {
                let unit = self.unit(*index, *rank);
                !self.settle(unit, unit).is_empty()
            }
            FactKind::StartFailed { index, rank, .. } => {
                let unit = self.unit(*index, *rank);
                let alone = !self.is_gang() || self.stage == Stage::Running;
                let settled = if alone { self.settle(unit, unit) } else { self.settle(0, u32::MAX) };
                !settled.is_empty()
            }
        };
        if is_news { vec![kind] } else { Vec::new() }
    }

    fn prepared(&mut self) -> bool {
        let is_news = self.stage == Stage::Preparing && !self.is_ended();
        if is_news {
            self.stage = Stage::Prepared;
        }
        is_news
    }

    fn started(&mut self, unit: u32) -> bool {
        let is_news = self.open.contains(unit) && !self.started.contains(unit);
        if is_news {
            self.started.insert(unit, unit);
            match self.stage {
                Stage::Preparing | Stage::Prepared | Stage::Running => self.stage = Stage::Running,
                Stage::Clearing { .. } => {}
            }
        }
        is_news
    }

    /// Settles the open units of `first..=last` that have not started as given back, and returns the facts.
    fn give_back(&mut self, first: Index, last: Index) -> Vec<FactKind> {
        let mut waiting = self.open.clone();
        waiting.subtract(&self.started);
        if self.is_gang() {
            self.open.subtract(&waiting);
            let index = self.terms.first;
            return if waiting.is_empty() {
                Vec::new()
            } else {
                vec![FactKind::Returned { first: index, last: index }]
            };
        }
        let parts: Vec<IndexRange> = waiting.within(first, last).collect();
        for part in parts.iter().rev() {
            self.open.remove(part.first, part.last);
            if part.last == self.last_index {
                self.last_index = part.first.saturating_sub(1);
            }
        }
        parts.into_iter().map(|part| FactKind::Returned { first: part.first, last: part.last }).collect()
    }

    /// Ends what is open after the lease's supervisor died and its processes are gone. What was begun ended as infra;
    /// the rest returns. A lease of which nothing ever began says so by one failed start: were it only returned, a
    /// node whose supervisor cannot live would be given the same work for ever.
    pub(crate) fn lose(&mut self) -> Vec<FactKind> {
        let Stage::Clearing { begun } = self.stage else { return Vec::new() };
        let mut facts = Vec::new();
        let first = self.terms.first;
        let untouched = begun <= u64::from(first) && self.started.is_empty();
        if untouched && !self.is_ended() {
            // Each rank of a gang says so, for the scheduler may have started the gang meanwhile.
            let failed: Vec<u32> = self.open.indices().take(if self.is_gang() { usize::MAX } else { 1 }).collect();
            for unit in failed {
                self.settle(unit, unit);
                let (index, rank) = if self.is_gang() { (first, unit) } else { (unit, 0) };
                let detail = String::from("the supervisor died before the task began");
                facts.push(FactKind::StartFailed { index, rank, users_fault: false, detail });
            }
        }
        let mut begun_units = self.started.clone();
        if self.is_gang() {
            begun_units.extend(&self.open);
        } else if let Some(last_begun) = begun.checked_sub(1) {
            let last_begun = u32::try_from(last_begun).unwrap_or(u32::MAX);
            begun_units.extend(&self.open.within(0, last_begun).collect());
        }
        for unit in begun_units.indices() {
            self.settle(unit, unit);
            let (index, rank) = if self.is_gang() { (first, unit) } else { (unit, 0) };
            facts.push(FactKind::Ended { index, rank, exit: lost_exit() });
        }
        facts.extend(self.give_back(0, u32::MAX));
        facts
    }

    /// Closes the open units of `first..=last` and returns those that were open.
    fn settle(&mut self, first: u32, last: u32) -> Vec<IndexRange> {
        let settled = self.open.within(first, last).collect();
        self.started.remove(first, last);
        self.open.remove(first, last);
        settled
    }

    fn unit(&self, index: Index, rank: Rank) -> u32 {
        if self.is_gang() { rank } else { index }
    }
}

fn lost_exit() -> Exit {
    Exit {
        cause: Cause::Infra,
        exit_code: None,
        signal: None,
        detail: String::from("the supervisor died"),
        ran_us: 0,
        checkpoint: None,
        max_rss_bytes: 0,
    }
}
