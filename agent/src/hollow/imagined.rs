//! Tasks that only time passes over: they begin, end after as long as they are told to, and some fail.
//!
//! Facts have the form and the grain of a supervisor's: a lease of one element tells Started and its end; a chunk tells
//! runs of successes as they gather, and each failure by itself.
//!
//! Elsewhere: who asks and who is told is the parent module.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use gangsaw_core::id::LeaseId;
use gangsaw_core::input::{Fact, FactKind};
use gangsaw_core::job::record::{Cause, Exit};
use gangsaw_core::ranges::{IndexRange, RangeSet};
use gangsaw_proto::node::v1::Grant;
use tokio::time::{Duration, Instant};

use super::{Tally, Tasks};

/// How long successes of a chunk gather before they are told.
const GATHER: Duration = Duration::from_millis(10);

/// A lease and what is left of it.
#[derive(Debug)]
struct Held {
    job: u64,
    attempt: u32,
    slots: u32,
    /// Elements that have not ended; a gang's ranks.
    open: RangeSet,
    /// How many have ended by themselves.
    ended: u64,
    /// When its first task began; a gang waits for Start.
    begun: Option<Instant>,
    /// The element of a gang.
    gang: Option<u32>,
    single: bool,
}

/// Every imagined task of a node.
#[derive(Debug)]
pub(super) struct Imagined {
    tasks: Tasks,
    leases: BTreeMap<LeaseId, Held>,
    due: BTreeMap<LeaseId, Instant>,
}

impl Imagined {
    pub(super) fn new(tasks: Tasks) -> Imagined {
        Imagined { tasks, leases: BTreeMap::new(), due: BTreeMap::new() }
    }

    /// When something ends next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// Takes a lease. A gang's ranks wait for Start.
    pub(super) fn granted(&mut self, grant: &Grant, now: Instant) -> Vec<Fact> {
        let lease = LeaseId(grant.lease_id);
        let open = match grant.gang {
            true => grant.ranks.iter().map(|rank| IndexRange::one(rank.rank)).collect(),
            false => RangeSet::range(grant.first_index, grant.last_index),
        };
        let held = Held {
            job: grant.job_id,
            attempt: grant.attempt,
            slots: grant.slots.max(1),
            open,
            ended: 0,
            begun: (!grant.gang).then_some(now),
            gang: grant.gang.then_some(grant.first_index),
            single: grant.first_index == grant.last_index,
        };
        let mut facts = match (held.gang, held.single) {
            (Some(_), _) => vec![Fact { lease, kind: FactKind::Prepared { port: 1 } }],
            (None, true) => vec![Fact { lease, kind: started(grant.first_index, 0) }],
            (None, false) => Vec::new(),
        };
        self.leases.insert(lease, held);
        facts.extend(self.look(lease, now));
        facts
    }

    /// Lets the ranks of a gang begin.
    pub(super) fn started(&mut self, lease: LeaseId, now: Instant) -> Vec<Fact> {
        let Some(held) = self.leases.get_mut(&lease).filter(|held| held.begun.is_none()) else { return Vec::new() };
        held.begun = Some(now);
        let index = held.gang.unwrap_or(0);
        let mut facts: Vec<Fact> = held.open.indices().map(|rank| Fact { lease, kind: started(index, rank) }).collect();
        facts.extend(self.look(lease, now));
        facts
    }

    /// Lets time pass, and tells what ended.
    pub(super) fn pass(&mut self, now: Instant) -> Vec<Fact> {
        let due: Vec<LeaseId> = self.due.iter().filter(|(_, at)| **at <= now).map(|(lease, _)| *lease).collect();
        due.into_iter().flat_map(|lease| self.look(lease, now)).collect()
    }

    /// Ends elements of a lease before their time; none named: all.
    pub(super) fn stopped(&mut self, lease: LeaseId, elements: &RangeSet) -> Vec<Fact> {
        let Some(held) = self.leases.get_mut(&lease) else { return Vec::new() };
        let told: Vec<FactKind> = match held.gang {
            Some(index) if held.begun.is_none() => vec![FactKind::Returned { first: index, last: index }],
            Some(index) => held.open.indices().map(|rank| ended(index, rank, revoked())).collect(),
            None => {
                let runs = held.running();
                let named = |index: u32| elements.is_empty() || elements.contains(index);
                let mut told: Vec<FactKind> =
                    runs.indices().filter(|index| named(*index)).map(|index| ended(index, 0, revoked())).collect();
                let mut waiting = held.open.clone();
                waiting.subtract(&runs);
                let waiting = if elements.is_empty() { waiting } else { waiting.intersection(elements) };
                told.extend(waiting.iter().map(|range| FactKind::Returned { first: range.first, last: range.last }));
                told
            }
        };
        match (held.gang.is_some(), elements.is_empty()) {
            (false, false) => held.open.subtract(elements),
            (true, _) | (_, true) => held.open = RangeSet::new(),
        }
        self.forget_if_over(lease);
        told.into_iter().map(|kind| Fact { lease, kind }).collect()
    }

    /// Returns what has not begun.
    pub(super) fn trimmed(&mut self, lease: LeaseId) -> Vec<Fact> {
        let Some(held) = self.leases.get_mut(&lease).filter(|held| held.gang.is_none()) else { return Vec::new() };
        let runs = held.running();
        let mut waiting = held.open.clone();
        waiting.subtract(&runs);
        held.open = runs;
        self.forget_if_over(lease);
        let returned = |range: IndexRange| FactKind::Returned { first: range.first, last: range.last };
        waiting.iter().map(|range| Fact { lease, kind: returned(range) }).collect()
    }

    fn forget_if_over(&mut self, lease: LeaseId) {
        if self.leases.get(&lease).is_none_or(|held| held.open.is_empty()) {
            self.leases.remove(&lease);
            self.due.remove(&lease);
        }
    }

    /// Ends what is over, and notes when to look again.
    fn look(&mut self, lease: LeaseId, now: Instant) -> Vec<Fact> {
        let Some(held) = self.leases.get_mut(&lease) else { return Vec::new() };
        let Some(begun) = held.begun else { return Vec::new() };
        let kinds = held.pass(&self.tasks, now.saturating_duration_since(begun));
        if !held.open.is_empty() {
            let waves = |ended: u64| u32::try_from(ended.div_ceil(u64::from(held.slots))).unwrap_or(u32::MAX);
            let end = begun + self.tasks.run * waves(held.ended + held.open.len());
            let next = begun + self.tasks.run * waves(held.ended + 1);
            self.due.insert(lease, next.max(now + GATHER).min(end));
        }
        self.forget_if_over(lease);
        kinds.into_iter().map(|kind| Fact { lease, kind }).collect()
    }
}

impl Held {
    /// The elements that run: the first open ones, as many as there are slots.
    fn running(&self) -> RangeSet {
        self.open.indices().take(self.slots as usize).map(IndexRange::one).collect()
    }

    /// Ends what `elapsed` since its beginning was enough for.
    fn pass(&mut self, tasks: &Tasks, elapsed: Duration) -> Vec<FactKind> {
        let waves = elapsed.as_nanos().checked_div(tasks.run.as_nanos());
        let enough = waves
            .map_or(u64::MAX, |waves| u64::try_from(waves).unwrap_or(u64::MAX).saturating_mul(u64::from(self.slots)));
        let run_us = u64::try_from(tasks.run.as_micros()).unwrap_or(u64::MAX).max(1);
        if let Some(index) = self.gang {
            let over = elapsed >= tasks.run;
            let ranks = if over { std::mem::take(&mut self.open) } else { RangeSet::new() };
            return ranks.indices().map(|rank| ended(index, rank, exit(0, run_us))).collect();
        }
        let mut left = enough.saturating_sub(self.ended);
        let mut kinds = Vec::new();
        while let Some(range) = self.open.first_range().filter(|_| left > 0) {
            let count = range.count().min(left);
            let last = range.first + u32::try_from(count - 1).unwrap_or(0);
            self.tell(tasks, (range.first, last), run_us, &mut kinds);
            self.open.remove(range.first, last);
            self.ended += count;
            left -= count;
        }
        kinds
    }

    /// Tells how a run of elements ended: successes as ranges, failures each.
    fn tell(&self, tasks: &Tasks, (first, last): (u32, u32), run_us: u64, kinds: &mut Vec<FactKind>) {
        let mut from = Some(first);
        for index in (first..=last).filter(|index| self.fails(tasks, *index)) {
            if let Some(from) = from.filter(|from| *from < index) {
                kinds.push(FactKind::Succeeded { first: from, last: index - 1, mean_us: run_us });
            }
            kinds.push(ended(index, 0, exit(1, run_us)));
            from = index.checked_add(1).filter(|from| *from <= last);
        }
        if let Some(first) = from {
            kinds.push(FactKind::Succeeded { first, last, mean_us: run_us });
        }
    }

    fn fails(&self, tasks: &Tasks, index: u32) -> bool {
        let what = [self.job, u64::from(index), u64::from(self.attempt)];
        let number = what.iter().fold(tasks.seed, |hash, part| mixed(hash ^ part));
        number % 1_000_000 < u64::from(tasks.failed_per_million)
    }
}

/// Counts what a fact says has ended.
pub(super) fn count(tally: &Tally, kind: &FactKind) {
    match kind {
        FactKind::Succeeded { first, last, .. } => {
            tally.ended.fetch_add(u64::from(last - first) + 1, Ordering::Relaxed);
        }
        FactKind::Ended { exit, .. } => {
            tally.ended.fetch_add(1, Ordering::Relaxed);
            if exit.exit_code != Some(0) {
                tally.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        FactKind::Prepared { .. }
        | FactKind::StartFailed { .. }
        | FactKind::Started { .. }
        | FactKind::Returned { .. } => {}
    }
}

fn started(index: u32, rank: u32) -> FactKind {
    FactKind::Started { index, rank, pid: 1, start_ticks: 1, output_dir: String::new(), spawn_us: 0 }
}

fn ended(index: u32, rank: u32, exit: Exit) -> FactKind {
    FactKind::Ended { index, rank, exit }
}

fn exit(code: i32, ran_us: u64) -> Exit {
    Exit {
        cause: Cause::Exit,
        exit_code: Some(code),
        signal: None,
        detail: String::new(),
        ran_us,
        checkpoint: None,
        max_rss_bytes: 0,
    }
}

fn revoked() -> Exit {
    Exit { cause: Cause::Revoked, exit_code: None, signal: Some(15), ..exit(0, 0) }
}

/// SplitMix64's finaliser: neighbours differ in half of their bits.
fn mixed(number: u64) -> u64 {
    let a = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let b = (a ^ (a >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let c = (b ^ (b >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    c ^ (c >> 31)
}
