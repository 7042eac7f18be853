//! What a supervisor holds, or left, in the words of core's agent machine.
//!
//! Three sources are put together: the grants of our journal (what was promised), the supervisor's list (what it holds
//! now) and its spool (what it said). A lease that the living supervisor does not hold may have run under one that died:
//! what its facts do not settle is lost, for granted again it would run twice under one attempt.
//!
//! Invariant: pure. When in doubt a unit counts as open and begun: the scheduler drops what it knows.

use std::collections::BTreeMap;

use gangsaw_core::agent::{Adopted, Spool, Spooled, Terms};
use gangsaw_core::id::LeaseId;
use gangsaw_core::ranges::RangeSet;
use gangsaw_core::time::{Millis, Time};
use gangsaw_proto::node::v1::Grant;
use gangsaw_proto::supervisor::v1::{self as supervisor, HeldLease};

use crate::convert;

/// SIGTERM to SIGKILL for a lease whose terms are lost.
const GRACE: Millis = Millis(10_000);

/// What a living supervisor holds. `pending` are leases whose Run is still on its way to it.
pub(crate) fn listed(
    grants: &BTreeMap<u64, Grant>,
    held: &[HeldLease],
    facts: Vec<Spooled>,
    reached: &Reached,
    pending: impl Fn(u64) -> bool,
    now: Time,
) -> Spool {
    let mut leases: Vec<Adopted> = held.iter().map(|lease| alive(grants.get(&lease.lease_id), lease, now)).collect();
    for grant in grants.values() {
        if held.iter().any(|lease| lease.lease_id == grant.lease_id) {
            continue;
        }
        let Some(terms) = convert::terms(grant) else { continue };
        let held = pending(grant.lease_id);
        let begun = if held { u64::from(terms.first) } else { reached.begun_at_most(&terms, grant.slots) };
        leases.push(Adopted { held, open: all(&terms), terms, begun, renewed: now });
    }
    Spool { leases, facts }
}

/// What a dead supervisor left: everything the journal knows may be open, but for the leases that are `alive` elsewhere.
pub(crate) fn dead(
    grants: &BTreeMap<u64, Grant>,
    facts: Vec<Spooled>,
    reached: &Reached,
    alive: impl Fn(u64) -> bool,
    now: Time,
) -> Spool {
    let adopted = |grant: &Grant| {
        let terms = convert::terms(grant)?;
        let begun = reached.begun_at_most(&terms, grant.slots);
        Some(Adopted { held: alive(grant.lease_id), open: all(&terms), terms, begun, renewed: now })
    };
    let leases = grants.values().filter_map(adopted).collect();
    Spool { leases, facts }
}

/// Turns facts of the spool into the machine's. `checkpoint` is asked for tasks that ended.
pub(crate) fn spooled(
    facts: Vec<supervisor::Fact>,
    checkpoint: impl Fn(u64, u32, u32) -> Option<String>,
) -> Vec<Spooled> {
    let convert = |fact: supervisor::Fact| {
        let (seq, lease) = (fact.seq, fact.lease_id);
        Some(Spooled { seq, fact: convert::fact(fact, |index, rank| checkpoint(lease, index, rank))? })
    };
    facts.into_iter().filter_map(convert).collect()
}

fn all(terms: &Terms) -> RangeSet {
    if terms.gang.is_empty() {
        return RangeSet::range(terms.first, terms.last);
    }
    let mut set = RangeSet::new();
    for rank in &terms.gang {
        set.insert(*rank, *rank);
    }
    set
}

fn alive(grant: Option<&Grant>, held: &HeldLease, now: Time) -> Adopted {
    let terms = grant.and_then(convert::terms).unwrap_or_else(|| guess(held));
    let mut open = RangeSet::new();
    let begun;
    if terms.gang.is_empty() {
        for task in &held.tasks {
            open.insert(task.index, task.index);
        }
        if held.next_index <= held.last_index {
            open.insert(held.next_index, held.last_index);
        }
        for index in &held.returned_indices {
            open.remove(*index, *index);
        }
        begun = u64::from(held.next_index);
    } else if held.prepared {
        open = all(&terms);
        begun = u64::from(terms.first);
    } else {
        for task in &held.tasks {
            open.insert(task.rank, task.rank);
        }
        begun = u64::from(terms.first) + 1;
    }
    let renewed = renewed(&terms, held.deadline_ms).unwrap_or(now);
    Adopted { terms, held: true, open, begun, renewed }
}

/// When the scheduler had been heard, by the deadline that the agent gave this lease then: silence is counted over
/// restarts of the agent.
fn renewed(terms: &Terms, deadline_ms: u64) -> Option<Time> {
    let after = terms.stop_after.filter(|_| deadline_ms > 0)?;
    Some(Time(deadline_ms.saturating_sub(after.0).saturating_sub(terms.grace.0)))
}

/// A lease that the machine knows and the journal does not, and that somebody holds.
pub(crate) fn alive_without_terms(lease: LeaseId, last: u32, now: Time) -> Adopted {
    let held = HeldLease { lease_id: lease.0, last_index: last, next_index: last, ..HeldLease::default() };
    Adopted { terms: guess(&held), held: true, open: RangeSet::new(), begun: 0, renewed: now }
}

/// Terms for a lease that the journal lost, from what the supervisor says of it.
fn guess(held: &HeldLease) -> Terms {
    let first = held.tasks.iter().map(|task| task.index).chain([held.next_index]).min().unwrap_or(0);
    let ranks: Vec<u32> = held.tasks.iter().map(|task| task.rank).collect();
    let gang = if held.prepared || ranks.iter().any(|rank| *rank > 0) { ranks } else { Vec::new() };
    Terms {
        lease: LeaseId(held.lease_id),
        first,
        last: held.last_index.max(first),
        gang,
        grace: GRACE,
        stop_after: None,
    }
}

/// How far each lease of several elements is known to have come, by everything that was heard of it.
#[derive(Debug, Default)]
pub(crate) struct Reached(BTreeMap<u64, u64>);

impl Reached {
    /// Takes note of facts.
    pub(crate) fn note(&mut self, facts: &[Spooled]) {
        use gangsaw_core::input::FactKind;
        for fact in facts.iter().map(|spooled| &spooled.fact) {
            let next = match fact.kind {
                FactKind::Started { index, .. } | FactKind::Ended { index, .. } => u64::from(index) + 1,
                FactKind::Succeeded { last, .. } => u64::from(last) + 1,
                FactKind::Prepared { .. } | FactKind::StartFailed { .. } | FactKind::Returned { .. } => continue,
            };
            let reached = self.0.entry(fact.lease.0).or_default();
            *reached = next.max(*reached);
        }
    }

    /// The lease is over.
    pub(crate) fn forget(&mut self, lease: u64) {
        self.0.remove(&lease);
    }

    /// An index from which on nothing can have been begun. Elements begin in order, `slots` at a time, so it is at most
    /// that many above the number, and the highest, of those that are known to be over.
    fn begun_at_most(&self, terms: &Terms, slots: u32) -> u64 {
        let end = u64::from(terms.last) + 1;
        if !terms.gang.is_empty() {
            return end;
        }
        let over = self.0.get(&terms.lease.0).copied().unwrap_or(0).max(u64::from(terms.first));
        over.saturating_add(u64::from(slots.max(1))).min(end)
    }
}

#[cfg(test)]
mod tests;
