//! Facts on their way to the scheduler: one report at a time, resent until acknowledged.
//!
//! The sequence starts, after each start of the agent, above everything that an earlier start can have sent (the
//! process keeps a count of its starts on disk and begins at `starts << 32`). What was not acknowledged is made again
//! from the supervisor's spool under new sequences. A fact may so arrive twice, and never get lost:
//! - only one report is unacknowledged, and the next leaves after its acknowledgement, so a report that overtakes
//!   another from an older stream cannot make the scheduler skip one;
//! - a sequence is never used for two contents, so "already taken" is always true;
//! - the scheduler counts a fact only while that element is open under that lease, so the second copy is void.
//!
//! Neighbours: [`super::held`] decides what is news; [`super::Agent`] sends.

use std::collections::VecDeque;

use crate::id::LeaseId;
use crate::input::{Fact, FactKind};

/// Most facts in one report: it stays far below a message's 4 MiB, and the next follows one round trip later.
pub const REPORT_FACTS_MAX: usize = 1_000;

/// A fact on its way.
#[derive(Clone, Debug)]
struct Waiting {
    fact: Fact,
    /// Its place in the spool; absent for what the agent found itself.
    spooled: Option<u64>,
}

/// The queue of facts, the report under way, and how far the spool may be forgotten.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    next_seq: u64,
    waiting: VecDeque<Waiting>,
    flying: Option<(u64, Vec<Waiting>)>,
    /// The newest fact heard from the spool.
    spool_heard: u64,
    /// The newest fact that the spool was told to forget.
    spool_acked: u64,
}

impl Outbox {
    pub(crate) fn new(seq_base: u64) -> Self {
        let next_seq = seq_base + 1;
        Self { next_seq, waiting: VecDeque::new(), flying: None, spool_heard: 0, spool_acked: 0 }
    }

    /// Queues a fact. Returns false when it was joined to the one before, and so counts as one with it.
    pub(crate) fn push(&mut self, spooled: Option<u64>, fact: Fact) -> bool {
        if let Some(before) = self.waiting.back_mut()
            && before.fact.lease == fact.lease
            && join(&mut before.fact.kind, &fact.kind)
        {
            return false;
        }
        self.waiting.push_back(Waiting { fact, spooled });
        true
    }

    /// Notes that the spool was read up to `seq`.
    pub(crate) fn heard(&mut self, seq: u64) {
        self.spool_heard = self.spool_heard.max(seq);
    }

    /// Returns how far the spool may be forgotten, when that is further than before.
    pub(crate) fn forgettable(&mut self) -> Option<u64> {
        let flying = self.flying.iter().flat_map(|(_, facts)| facts);
        let oldest = flying.chain(&self.waiting).find_map(|waiting| waiting.spooled);
        let until = oldest.map_or(self.spool_heard, |seq| seq.saturating_sub(1));
        let further = until > self.spool_acked;
        self.spool_acked = self.spool_acked.max(until);
        further.then_some(until)
    }

    /// Returns the report to send now: the next one, if none is under way and there is news.
    pub(crate) fn next(&mut self) -> Option<(u64, Vec<Fact>)> {
        if self.flying.is_some() || self.waiting.is_empty() {
            return None;
        }
        let count = self.waiting.len().min(REPORT_FACTS_MAX);
        self.flying = Some((self.next_seq, self.waiting.drain(..count).collect()));
        self.next_seq += 1;
        self.again()
    }

    /// Returns the report under way, to send it again.
    pub(crate) fn again(&self) -> Option<(u64, Vec<Fact>)> {
        let (seq, facts) = self.flying.as_ref()?;
        Some((*seq, facts.iter().map(|waiting| waiting.fact.clone()).collect()))
    }

    /// Takes an acknowledgement and returns the leases of the facts that became durable, one for each fact.
    pub(crate) fn acked(&mut self, seq: u64) -> Vec<LeaseId> {
        self.next_seq = self.next_seq.max(seq.saturating_add(1));
        match self.flying.take() {
            Some((sent, facts)) if sent <= seq => facts.iter().map(|waiting| waiting.fact.lease).collect(),
            flying => {
                self.flying = flying;
                Vec::new()
            }
        }
    }
}

/// Makes one of two successes that follow each other. Says whether they did.
fn join(before: &mut FactKind, next: &FactKind) -> bool {
    let (
        FactKind::Succeeded { first, last, mean_us },
        FactKind::Succeeded { first: next_first, last: next_last, mean_us: next_mean },
    ) = (before, next)
    else {
        return false;
    };
    if last.checked_add(1) != Some(*next_first) {
        return false;
    }
    let (count, more) = (u64::from(*last - *first) + 1, u64::from(next_last - next_first) + 1);
    *mean_us = mean_us.saturating_mul(count).saturating_add(next_mean.saturating_mul(more)) / (count + more);
    *last = *next_last;
    true
}
