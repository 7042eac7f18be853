//! A model node: it does what it is told, in a random order, and keeps what was not acknowledged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::effect::{Effect, Grant};
use crate::id::*;
use crate::input::*;
use crate::job::record::{Cause, Exit};
use crate::ranges::RangeSet;
use crate::tests::world::*;

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let a = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        b ^ (b >> 31)
    }

    pub(super) fn below(&mut self, max: u64) -> u64 {
        self.next() % max.max(1)
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// A command that ran two milliseconds.
fn quick(index: Index, rank: Rank, code: i32) -> FactKind {
    let exit = Exit { ran_us: 2_000, ..exit(Cause::Exit, Some(code)) };
    FactKind::Ended { index, rank, exit }
}

/// A lease on a model node.
pub(super) struct Held {
    grant: Grant,
    prepared: bool,
    started: bool,
    /// Elements that were not begun.
    fresh: RangeSet,
    /// Tasks that run.
    running: BTreeSet<(Index, Rank)>,
    done: bool,
}

#[derive(Default)]
pub(super) struct Agent {
    pub(super) leases: BTreeMap<LeaseId, Held>,
    pub(super) unacked: VecDeque<(u64, Vec<Fact>)>,
    pub(super) next_seq: u64,
    pub(super) boots: u32,
    /// Leases whose last report waits for its acknowledgement.
    finishing: BTreeMap<LeaseId, u64>,
}

impl Agent {
    pub(super) fn list(&self) -> Vec<HeldLease> {
        let live = self.leases.iter().map(|(lease, held)| {
            let phase = match (held.done, held.grant.gang.is_some() && !held.started) {
                (true, _) => Phase::Ended,
                (false, true) => Phase::Prepared,
                (false, false) => Phase::Running,
            };
            HeldLease { lease: *lease, phase, last_index: held.grant.last }
        });
        live.collect()
    }

    pub(super) fn queue(&mut self, lease: LeaseId, kinds: Vec<FactKind>) {
        if kinds.is_empty() {
            return;
        }
        self.next_seq += 1;
        let facts = kinds.into_iter().map(|kind| Fact { lease, kind }).collect();
        self.unacked.push_back((self.next_seq, facts));
        if let Some(held) = self.leases.get_mut(&lease) {
            let gang_idle = held.grant.gang.is_some() && !held.started && !held.fresh.is_empty();
            held.done = held.running.is_empty() && held.fresh.is_empty() && !gang_idle;
            if held.done {
                self.finishing.insert(lease, self.next_seq);
            }
        }
    }

    pub(super) fn take(&mut self, effect: &Effect) {
        match effect {
            Effect::Grant(grant) => {
                self.leases.entry(grant.lease).or_insert_with(|| Held {
                    grant: grant.clone(),
                    prepared: false,
                    started: false,
                    fresh: RangeSet::range(grant.first, grant.last),
                    running: BTreeSet::new(),
                    done: false,
                });
            }
            Effect::Start { lease, .. } => {
                let Some(held) = self.leases.get_mut(lease).filter(|held| !held.done && !held.started) else { return };
                held.started = true;
                held.fresh = RangeSet::new();
                held.running = held.grant.ranks.iter().map(|hold| (held.grant.first, hold.rank)).collect();
                let started = held.running.iter().map(|(index, rank)| started(*index, *rank)).collect();
                self.queue(*lease, started);
            }
            Effect::Revoke { lease, elements, .. } => self.stop(*lease, elements, Cause::Revoked),
            Effect::Trim { lease, .. } => {
                let Some(held) = self.leases.get_mut(lease).filter(|held| held.grant.gang.is_none()) else { return };
                let returned = std::mem::take(&mut held.fresh);
                let returned = returned.iter().map(|range| FactKind::Returned { first: range.first, last: range.last });
                let returned = returned.collect();
                self.queue(*lease, returned);
            }
            Effect::AckReport { seq, .. } => {
                self.unacked.retain(|(at, _)| at > seq);
                let gone: Vec<_> =
                    self.finishing.iter().filter(|(_, at)| *at <= seq).map(|(lease, _)| *lease).collect();
                for lease in gone {
                    self.finishing.remove(&lease);
                    self.leases.remove(&lease);
                }
            }
            Effect::Reply { .. } => {}
        }
    }

    pub(super) fn stop(&mut self, lease: LeaseId, elements: &RangeSet, cause: Cause) {
        let Some(held) = self.leases.get_mut(&lease) else { return };
        let hit = |index: Index| elements.is_empty() || elements.contains(index);
        let mut facts = Vec::new();
        if held.grant.gang.is_some() && !held.started {
            if !held.done {
                facts.push(FactKind::Returned { first: held.grant.first, last: held.grant.last });
            }
            held.fresh = RangeSet::new();
        }
        let fresh: Vec<_> = held.fresh.iter().collect();
        for range in fresh {
            for index in (range.first..=range.last).filter(|index| hit(*index)) {
                held.fresh.remove(index, index);
                facts.push(FactKind::Returned { first: index, last: index });
            }
        }
        let stopped: Vec<_> = held.running.iter().copied().filter(|(index, _)| hit(*index)).collect();
        for (index, rank) in stopped {
            held.running.remove(&(index, rank));
            facts.push(ended_by(index, rank, cause));
        }
        self.queue(lease, facts);
    }

    /// Every process is gone; what ran ends as infra.
    pub(super) fn reboot(&mut self) {
        self.boots += 1;
        let leases: Vec<_> = self.leases.keys().copied().collect();
        for lease in leases {
            self.stop(lease, &RangeSet::new(), Cause::Infra);
        }
    }

    /// Does something with one lease.
    pub(super) fn work(&mut self, random: &mut Random, faults: bool) {
        let live: Vec<_> = self.leases.iter().filter(|(_, held)| !held.done).map(|(lease, _)| *lease).collect();
        if live.is_empty() {
            return;
        }
        let lease = live[random.below(live.len() as u64) as usize];
        let Some(held) = self.leases.get_mut(&lease) else { return };
        let mut facts = Vec::new();
        let first = held.grant.first;
        if held.grant.gang.is_some() && !held.started {
            if held.prepared {
                return;
            }
            if faults && random.percent(15) {
                held.fresh = RangeSet::new();
                let (users_fault, rank) = (random.percent(30), held.grant.ranks[0].rank);
                facts.push(FactKind::StartFailed { index: first, rank, users_fault, detail: "no".into() });
            } else {
                held.prepared = true;
                facts.push(FactKind::Prepared { port: 4_000 });
            }
        } else if let Some((index, rank)) = held.running.first().copied() {
            held.running.remove(&(index, rank));
            let cause = match random.below(20) {
                0 if faults => Cause::Oom,
                1 if faults => Cause::TimeLimit,
                2 if faults => Cause::Infra,
                3 if faults => Cause::Revoked,
                _ => Cause::Exit,
            };
            let code = if faults && random.percent(20) { random.below(3) as i32 } else { 0 };
            facts.push(if cause == Cause::Exit { quick(index, rank, code) } else { ended_by(index, rank, cause) });
        } else if let Some(range) = held.fresh.first_range() {
            if faults && random.percent(if held.grant.node.0 == 2 { 50 } else { 5 }) {
                held.fresh.remove(range.first, range.first);
                let users_fault = random.percent(10);
                facts.push(FactKind::StartFailed { index: range.first, rank: 0, users_fault, detail: "no".into() });
            } else if range.count() > 1 {
                let last = range.first + random.below(range.count()) as u32;
                held.fresh.remove(range.first, last);
                facts.push(FactKind::Succeeded { first: range.first, last, mean_us: 1 + random.below(60_000) });
            } else {
                held.fresh.remove(range.first, range.first);
                held.running.insert((range.first, 0));
                facts.push(started(range.first, 0));
            }
        }
        self.queue(lease, facts);
    }
}

impl Agent {
    /// The scheduler forgot this node: what is unacknowledged gets the numbers it expects.
    pub(super) fn renumber(&mut self, acked: u64) {
        let mut seqs = BTreeMap::new();
        for (at, report) in (acked + 1..).zip(self.unacked.iter_mut()) {
            seqs.insert(report.0, at);
            report.0 = at;
        }
        self.next_seq = acked + self.unacked.len() as u64;
        self.finishing.values_mut().for_each(|seq| *seq = seqs.get(seq).copied().unwrap_or(acked));
    }
}
