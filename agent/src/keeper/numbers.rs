//! One row of numbers for the facts of several spools.
//!
//! The agent's machine knows one spool. While two versions' supervisors stand beside each other there are two, each with
//! a sequence of its own: facts get numbers in the order in which they are heard, and an acknowledgement up to a number
//! is one up to a sequence of each spool. Numbers live as long as the agent: what was not acknowledged is heard again by
//! the next one.
//!
//! Invariant: a fact is numbered once, however often its supervisor tells it.

use std::collections::{BTreeMap, VecDeque};

use gangsaw_proto::supervisor::v1::Fact;

/// Facts that follow each other in one spool and were heard together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    generation: u32,
    /// Number of the first of them.
    number: u64,
    /// Its sequence in the spool.
    seq: u64,
    count: u64,
}

/// The numbers that were given.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    last: u64,
    /// Highest sequence heard of each spool.
    heard: BTreeMap<u32, u64>,
    /// Not acknowledged, in order.
    rows: VecDeque<Row>,
}

impl Numbers {
    /// Numbers the facts of one spool, and drops those that were heard before.
    pub(super) fn take(&mut self, generation: u32, facts: Vec<Fact>) -> Vec<Fact> {
        let heard = self.heard.entry(generation).or_default();
        let mut fresh: Vec<Fact> = facts.into_iter().filter(|fact| fact.seq > *heard).collect();
        for fact in &mut fresh {
            let seq = fact.seq;
            *heard = seq;
            self.last += 1;
            fact.seq = self.last;
            match self.rows.back_mut() {
                Some(row) if row.generation == generation && row.seq + row.count == seq => row.count += 1,
                _ => self.rows.push_back(Row { generation, number: self.last, seq, count: 1 }),
            }
        }
        fresh
    }

    /// Returns how far each spool is acknowledged now, of those that are further than before.
    pub(super) fn acked(&mut self, number: u64) -> BTreeMap<u32, u64> {
        let mut acked = BTreeMap::new();
        while let Some(row) = self.rows.front_mut().filter(|row| row.number <= number) {
            let count = row.count.min(number - row.number + 1);
            acked.insert(row.generation, row.seq + count - 1);
            if count < row.count {
                *row = Row { number: row.number + count, seq: row.seq + count, count: row.count - count, ..*row };
                break;
            }
            self.rows.pop_front();
        }
        acked
    }

    /// Whether facts of this spool wait for their acknowledgement.
    pub(super) fn waits(&self, generation: u32) -> bool {
        self.rows.iter().any(|row| row.generation == generation)
    }
}

#[cfg(test)]
mod tests {
    //! Two spools, told in turns.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn facts(seqs: std::ops::RangeInclusive<u64>) -> Vec<Fact> {
        seqs.map(|seq| Fact { seq, ..Fact::default() }).collect()
    }

    #[test]
    fn facts_of_two_spools_get_one_row_of_numbers_and_acknowledgements_find_back() {
        let mut numbers = Numbers::default();
        let given = |facts: Vec<Fact>| facts.iter().map(|fact| fact.seq).collect::<Vec<_>>();
        assert_eq!(given(numbers.take(0, facts(7..=9))), [1, 2, 3]);
        assert_eq!(given(numbers.take(1, facts(1..=2))), [4, 5]);
        assert_eq!(given(numbers.take(0, facts(8..=10))), [6], "what was heard is not heard again");
        assert_eq!(numbers.acked(2), BTreeMap::from([(0, 8)]));
        assert_eq!(numbers.acked(2), BTreeMap::new());
        assert_eq!(numbers.acked(5), BTreeMap::from([(0, 9), (1, 2)]));
        assert!(numbers.waits(0) && !numbers.waits(1));
        assert_eq!(numbers.acked(99), BTreeMap::from([(0, 10)]));
        assert!(!numbers.waits(0) && numbers.rows.is_empty());
    }

    #[test]
    fn a_long_time_costs_one_row() {
        let mut numbers = Numbers::default();
        for seq in 1..=1_000 {
            numbers.take(0, facts(seq..=seq));
        }
        assert_eq!(numbers.rows.len(), 1);
        assert_eq!(*numbers.acked(400).get(&0).unwrap(), 400);
        assert_eq!(numbers.take(0, facts(1..=1_000)), []);
    }
}
