//! One lease on the node: which of its tasks are still open, and which facts about them are news.
//!
//! A *unit* is what settles apart: an index of a chunk, or a rank of a gang. A unit is open until one fact settles
//! it; every later fact about it is dropped. That makes facts safe to hear twice, so that the spool of a supervisor
//! can be replayed over what is already known.
//!
//! Invariants: a settled unit never opens again; `started` is a part of `open`.
//!
//! Neighbours: [`super::Agent`] holds one [`Held`] a lease; [`super::outbox`] carries the news.

use super::message::{HeldLease, Phase, Terms};
use super::ranges::Ranges;
use crate::{Cause, Fact};

/// How far the lease is, apart from what is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A gang whose readiness is not known yet.
    Preparing,
    /// A gang that waits for Start.
    Prepared,
    /// Processes of it may exist.
    Running,
    /// Its supervisor is dead and its processes are being killed. Units from `begun` on were never begun.
    Clearing {
        /// The lowest index that was never begun.
        begun: u32,
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
    open: Ranges,
    started: Ranges,
    last: u32,
}

impl Held {
    pub(crate) fn new(terms: Terms) -> Self {
        let mut open = if terms.gang.is_empty() { Ranges::of(terms.first, terms.last) } else { Ranges::default() };
        for &rank in &terms.gang {
            open.insert(rank, rank);
        }
        Self {
            stage: if terms.gang.is_empty() { Stage::Running } else { Stage::Preparing },
            last: terms.last,
            terms,
            unacked: 0,
            stopped_for_silence: false,
            open,
            started: Ranges::default(),
        }
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
        HeldLease { lease: self.terms.lease, phase, last: self.last }
    }

    /// Takes a fact of the supervisor and returns what of it is news.
    pub(crate) fn learn(&mut self, fact: Fact) -> Vec<Fact> {
        match fact {
            Fact::Prepared { .. } => {
                if self.stage != Stage::Preparing || self.is_ended() {
                    return Vec::new();
                }
                self.stage = Stage::Prepared;
                vec![fact]
            }
            Fact::Started { index, rank, .. } => {
                let unit = self.unit(index, rank);
                if !self.open.contains(unit) || self.started.contains(unit) {
                    return Vec::new();
                }
                if !matches!(self.stage, Stage::Clearing { .. }) {
                    self.stage = Stage::Running;
                }
                self.started.insert(unit, unit);
                vec![fact]
            }
            Fact::Succeeded { lease, first, last, mean_us } => self
                .settle(first, last)
                .into_iter()
                .map(|(first, last)| Fact::Succeeded { lease, first, last, mean_us })
                .collect(),
            Fact::Ended { index, rank, .. } => {
                let unit = self.unit(index, rank);
                if self.settle(unit, unit).is_empty() { Vec::new() } else { vec![fact] }
            }
            Fact::StartFailed { index, rank, .. } => {
                let unit = self.unit(index, rank);
                let alone = !self.is_gang() || self.stage == Stage::Running;
                let news = if alone { self.settle(unit, unit) } else { self.settle(0, u32::MAX) };
                if news.is_empty() { Vec::new() } else { vec![fact] }
            }
            Fact::Returned { first, last, .. } => self.give_back(first, last),
        }
    }

    /// Settles the open units of `first..=last` that have not started as given back, and returns the facts.
    fn give_back(&mut self, first: u32, last: u32) -> Vec<Fact> {
        let (from, to) = if self.is_gang() { (0, u32::MAX) } else { (first, last) };
        let mut waiting = self.open.clone();
        for (a, b) in self.started.iter() {
            waiting.remove(a, b);
        }
        let mut facts = Vec::new();
        for (a, b) in waiting.remove(from, to) {
            self.open.remove(a, b);
            let (first, last) = if self.is_gang() { (self.terms.first, self.terms.first) } else { (a, b) };
            if last == self.last && !self.is_gang() {
                self.last = first.saturating_sub(1);
            }
            let fact = Fact::Returned { lease: self.terms.lease, first, last };
            if facts.last() != Some(&fact) {
                facts.push(fact);
            }
        }
        facts
    }

    /// Ends what is open after the lease's supervisor died and its processes are gone. Began it, it ended as infra;
    /// else it returns. A lease of which nothing ever began says so by one failed start: were it only returned, a
    /// node whose supervisor cannot live would be given the same lease for ever.
    pub(crate) fn lose(&mut self) -> Vec<Fact> {
        let Stage::Clearing { begun } = self.stage else { return Vec::new() };
        let lease = self.terms.lease;
        let mut facts = Vec::new();
        let open: Vec<(u32, u32)> = self.open.iter().collect();
        let untouched = begun <= self.terms.first && self.started.is_empty();
        for (first, last) in open {
            for unit in first..=last {
                let (index, rank) = if self.is_gang() { (self.terms.first, unit) } else { (unit, 0) };
                if index < begun || self.started.contains(unit) {
                    self.settle(unit, unit);
                    facts.push(Fact::Ended {
                        lease,
                        index,
                        rank,
                        exit_code: None,
                        signal: None,
                        cause: Cause::Infra,
                        detail: String::from("the supervisor died"),
                        ran_us: 0,
                        checkpoint: String::new(),
                        max_rss_bytes: 0,
                    });
                } else if self.is_gang() || (untouched && unit == self.terms.first) {
                    self.settle(unit, unit);
                    facts.push(Fact::StartFailed {
                        lease,
                        index,
                        rank,
                        users_fault: false,
                        detail: String::from("the supervisor died before the task began"),
                    });
                } else {
                    break;
                }
            }
        }
        facts.extend(self.give_back(0, u32::MAX));
        facts
    }

    /// Closes the open units of `first..=last` and returns those that were open.
    fn settle(&mut self, first: u32, last: u32) -> Vec<(u32, u32)> {
        self.started.remove(first, last);
        self.open.remove(first, last)
    }

    fn unit(&self, index: u32, rank: u32) -> u32 {
        if self.is_gang() { rank } else { index }
    }
}
