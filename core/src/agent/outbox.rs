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

use crate::{Fact, LeaseId};

/// Most facts in one report: it stays far below a message's 4 MiB, and the next follows one round trip later.
pub const REPORT_FACTS_MAX: usize = 1_000;

/// The queue of facts and the report under way.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    next_seq: u64,
    waiting: VecDeque<Fact>,
    flying: Option<(u64, Vec<Fact>)>,
}

impl Outbox {
    pub(crate) fn new(seq_base: u64) -> Self {
        Self { next_seq: seq_base + 1, waiting: VecDeque::new(), flying: None }
    }

    /// Queues a fact. Returns false when it was joined to the one before, and so counts as one with it.
    pub(crate) fn push(&mut self, fact: Fact) -> bool {
        if let (
            Some(Fact::Succeeded { lease, first, last, mean_us }),
            Fact::Succeeded { lease: next_lease, first: next_first, last: next_last, mean_us: next_mean },
        ) = (self.waiting.back_mut(), &fact)
            && lease == next_lease
            && last.checked_add(1) == Some(*next_first)
        {
            let before = u64::from(*last - *first) + 1;
            let more = u64::from(next_last - next_first) + 1;
            *mean_us =
                (mean_us.saturating_mul(before).saturating_add(next_mean.saturating_mul(more))) / (before + more);
            *last = *next_last;
            return false;
        }
        self.waiting.push_back(fact);
        true
    }

    /// Returns the report to send now: the next one, if none is under way and there is news.
    pub(crate) fn next(&mut self) -> Option<(u64, Vec<Fact>)> {
        if self.flying.is_some() || self.waiting.is_empty() {
            return None;
        }
        let count = self.waiting.len().min(REPORT_FACTS_MAX);
        self.flying = Some((self.next_seq, self.waiting.drain(..count).collect()));
        self.next_seq += 1;
        self.flying.clone()
    }

    /// Returns the report under way, to send it again.
    pub(crate) fn again(&self) -> Option<(u64, Vec<Fact>)> {
        self.flying.clone()
    }

    /// Takes an acknowledgement and returns the leases of the facts that became durable, one for each fact.
    pub(crate) fn acked(&mut self, seq: u64) -> Vec<LeaseId> {
        self.next_seq = self.next_seq.max(seq.saturating_add(1));
        match self.flying.take() {
            Some((sent, facts)) if sent <= seq => facts.iter().map(Fact::lease).collect(),
            flying => {
                self.flying = flying;
                Vec::new()
            }
        }
    }
}
