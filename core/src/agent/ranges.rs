//! A set of `u32` kept as disjoint, non-touching ranges.
//!
//! A chunk of a million elements is one entry until some of them end apart from the others.
//!
//! Neighbours: [`super::held`] keeps what of a lease is open in one of these.

use std::collections::BTreeMap;

/// A set of numbers as first → last, disjoint and never touching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    by_first: BTreeMap<u32, u32>,
}

impl Ranges {
    /// Returns the set of `first..=last`.
    pub(crate) fn of(first: u32, last: u32) -> Self {
        let mut set = Self::default();
        set.insert(first, last);
        set
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    pub(crate) fn contains(&self, at: u32) -> bool {
        self.by_first.range(..=at).next_back().is_some_and(|(_, &last)| at <= last)
    }

    /// Returns the ranges in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.by_first.iter().map(|(&first, &last)| (first, last))
    }

    /// Adds `first..=last`, joining what it touches.
    pub(crate) fn insert(&mut self, first: u32, last: u32) {
        let (mut first, mut last) = (first, last);
        let near: Vec<(u32, u32)> = self
            .by_first
            .range(..=last.saturating_add(1))
            .rev()
            .map(|(&a, &b)| (a, b))
            .take_while(|&(_, b)| b.saturating_add(1) >= first)
            .collect();
        for (a, b) in near {
            self.by_first.remove(&a);
            first = first.min(a);
            last = last.max(b);
        }
        self.by_first.insert(first, last);
    }

    /// Removes `first..=last` and returns the parts of it that were in the set.
    pub(crate) fn remove(&mut self, first: u32, last: u32) -> Vec<(u32, u32)> {
        let mut hit: Vec<(u32, u32)> =
            self.by_first.range(..=last).rev().map(|(&a, &b)| (a, b)).take_while(|&(_, b)| b >= first).collect();
        hit.reverse();
        for part in &mut hit {
            let (a, b) = *part;
            self.by_first.remove(&a);
            if a < first {
                self.by_first.insert(a, first - 1);
            }
            if b > last {
                self.by_first.insert(last + 1, b);
            }
            *part = (a.max(first), b.min(last));
        }
        hit
    }
}

#[cfg(test)]
mod tests {
    use super::Ranges;

    #[test]
    fn touching_ranges_join_and_a_hole_splits() {
        let mut set = Ranges::of(0, 3);
        set.insert(8, 9);
        set.insert(4, 7);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(0, 9)]);
        assert_eq!(set.remove(3, 5), [(3, 5)]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(0, 2), (6, 9)]);
        assert_eq!(set.remove(2, 6), [(2, 2), (6, 6)]);
        assert!(set.contains(1) && !set.contains(2) && set.contains(7));
        assert_eq!(set.remove(0, u32::MAX), [(0, 1), (7, 9)]);
        assert!(set.is_empty());
    }
}
