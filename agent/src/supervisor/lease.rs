//! A lease in the supervisor: which elements are still to start, and what ended since it was last told.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::rc::Rc;

use super::template::Template;

/// A lease that has not ended.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) template: Rc<Template>,
    /// The next element to start.
    pub(super) next: u64,
    /// One past the last element to start.
    pub(super) end: u64,
    /// Unstarted elements that have returned already.
    pub(super) skip: BTreeSet<u32>,
    /// Tasks in slots.
    pub(super) running: u32,
    /// Present between Prepared and Start.
    pub(super) prepared: Option<Prepared>,
    /// Elements that exited 0 and were not told yet, with their run times.
    pub(super) done: Vec<(u32, u64)>,
    /// When the oldest of them ended.
    pub(super) done_since: u64,
    /// BOOTTIME microseconds; zero: none.
    pub(super) deadline: u64,
    pub(super) granted_us: u64,
}

/// What is held for a prepared gang.
#[derive(Debug)]
pub(super) struct Prepared {
    /// Holds the rendezvous port until the ranks start.
    pub(super) port: TcpListener,
    /// One for each rank.
    pub(super) slots: Vec<usize>,
}

impl Lease {
    pub(super) fn new(template: Rc<Template>, now: u64) -> Self {
        let run = &template.run;
        Self {
            next: u64::from(run.first_index),
            end: u64::from(run.last_index) + 1,
            skip: BTreeSet::new(),
            running: 0,
            prepared: None,
            done: Vec::new(),
            done_since: 0,
            deadline: run.deadline_ms.saturating_mul(1000),
            granted_us: if run.granted_us == 0 { now } else { run.granted_us },
            template,
        }
    }

    /// One element, one rank: every change is told at once.
    pub(super) fn is_single(&self) -> bool {
        self.template.run.first_index == self.template.run.last_index
    }

    /// A gang's ranks are told one by one.
    pub(super) fn is_gang(&self) -> bool {
        self.template.gang.is_some() || self.template.ranks.len() > 1
    }

    /// Nothing runs and nothing is left to start.
    pub(super) fn is_over(&self) -> bool {
        self.running == 0 && self.next >= self.end && self.prepared.is_none()
    }

    /// The next element to start, if there is one.
    pub(super) fn pop(&mut self) -> Option<u32> {
        while self.next < self.end {
            let index = u32::try_from(self.next).ok()?;
            self.next += 1;
            if !self.skip.remove(&index) {
                return Some(index);
            }
        }
        None
    }

    /// Takes back unstarted elements from `from` on; returns them as inclusive ranges.
    pub(super) fn cut(&mut self, from: u64) -> Vec<(u32, u32)> {
        let from = from.max(self.next).min(self.end);
        let skip = &self.skip;
        let back = (from..self.end).filter_map(|index| u32::try_from(index).ok()).filter(|index| !skip.contains(index));
        let ranges = ranges(back);
        self.end = from;
        ranges
    }

    /// Takes back one unstarted element; false when it has started or is not of this lease.
    pub(super) fn cut_one(&mut self, index: u32) -> bool {
        (self.next..self.end).contains(&u64::from(index)) && self.skip.insert(index)
    }
}

/// Puts ascending numbers together as inclusive ranges.
pub(super) fn ranges(numbers: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests;
