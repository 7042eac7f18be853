//! A set of `u32`s held as inclusive ranges, so that a million neighbours cost as much as one.
//!
//! Invariants: ranges do not overlap and do not touch (they would be one), and `len` is the number of members. A set of
//! at most one range holds it in place, for most sets have one and there is one in every job and lease.
//! Every operation costs the ranges it touches, times a logarithm.

mod held;

use self::held::Ranges;
use crate::id::Index;

/// An inclusive range of indices; `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexRange {
    /// The lowest member.
    pub first: Index,
    /// The highest member.
    pub last: Index,
}

impl IndexRange {
    /// Returns the range of one member.
    pub fn one(index: Index) -> Self {
        Self { first: index, last: index }
    }

    /// Returns how many members it has.
    pub fn count(self) -> u64 {
        u64::from(self.last) - u64::from(self.first) + 1
    }
}

/// A set of indices held as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RangeSet {
    ranges: Ranges,
    len: u64,
}

impl RangeSet {
    /// Returns the empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the set of `first..=last`; empty if they are the wrong way round.
    pub fn range(first: Index, last: Index) -> Self {
        let mut set = Self::new();
        if first <= last {
            set.insert(first, last);
        }
        set
    }

    /// Returns how many members there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Says whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns how many ranges hold the members.
    pub fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// Returns the lowest member.
    pub fn first(&self) -> Option<Index> {
        self.ranges.iter().next().map(|(first, _)| first)
    }

    /// Returns the highest member.
    pub fn last(&self) -> Option<Index> {
        self.ranges.iter().next_back().map(|(_, last)| last)
    }

    /// Returns the lowest range.
    pub fn first_range(&self) -> Option<IndexRange> {
        self.ranges.iter().next().map(|(first, last)| IndexRange { first, last })
    }

    /// Says whether `index` is a member.
    pub fn contains(&self, index: Index) -> bool {
        self.range_of(index).is_some()
    }

    /// Says whether all of `first..=last` are members.
    pub fn contains_range(&self, first: Index, last: Index) -> bool {
        self.range_of(first).is_some_and(|range| last <= range.last)
    }

    /// Returns the range that holds `index`.
    pub fn range_of(&self, index: Index) -> Option<IndexRange> {
        let (first, last) = self.ranges.last_until(index)?;
        (index <= last).then_some(IndexRange { first, last })
    }

    /// Returns how many members are below `index`.
    pub fn rank(&self, index: Index) -> u64 {
        let Some(below) = index.checked_sub(1) else { return 0 };
        self.ranges.range(0..=below).map(|(first, last)| IndexRange { first, last: last.min(below) }.count()).sum()
    }

    /// Adds `first..=last`.
    ///
    /// # Panics
    /// If `first > last`.
    pub fn insert(&mut self, first: Index, last: Index) {
        assert!(first <= last, "a range runs upwards");
        let (mut low, mut high) = (first, last);
        if let Some((before, end)) = self.ranges.last_until(first)
            && u64::from(end) + 1 >= u64::from(first)
        {
            low = before;
            high = high.max(end);
            self.drop_range(before, end);
        }
        while let Some((next, end)) = self.ranges.first_from(low) {
            if u64::from(next) > u64::from(high) + 1 {
                break;
            }
            high = high.max(end);
            self.drop_range(next, end);
        }
        self.ranges.insert(low, high);
        self.len += IndexRange { first: low, last: high }.count();
    }

    /// Adds every member of `other`.
    pub fn extend(&mut self, other: &RangeSet) {
        for range in other.iter() {
            self.insert(range.first, range.last);
        }
    }

    /// Takes `first..=last` out, whether or not they are members.
    ///
    /// # Panics
    /// If `first > last`.
    pub fn remove(&mut self, first: Index, last: Index) {
        assert!(first <= last, "a range runs upwards");
        let start = self.ranges.last_until(first).map_or(first, |(low, _)| low);
        let hit: Vec<(Index, Index)> = self.ranges.range(start..=last).collect();
        for (low, high) in hit {
            if high < first {
                continue;
            }
            self.drop_range(low, high);
            if low < first {
                self.ranges.insert(low, first - 1);
                self.len += u64::from(first - low);
            }
            if high > last {
                self.ranges.insert(last + 1, high);
                self.len += u64::from(high - last);
            }
        }
    }

    /// Takes every member of `other` out.
    pub fn subtract(&mut self, other: &RangeSet) {
        for range in other.iter() {
            self.remove(range.first, range.last);
        }
    }

    /// Returns the members that `other` has, too. Costs the smaller of the two.
    pub fn intersection(&self, other: &RangeSet) -> RangeSet {
        let (few, many) = if self.range_count() <= other.range_count() { (self, other) } else { (other, self) };
        let mut both = RangeSet::new();
        for range in few.iter() {
            for hit in many.within(range.first, range.last) {
                both.insert(hit.first, hit.last);
            }
        }
        both
    }

    /// Yields the parts of the ranges that lie within `first..=last`, ascending.
    pub fn within(&self, first: Index, last: Index) -> impl Iterator<Item = IndexRange> + '_ {
        let start = self.range_of(first).map_or(first, |range| range.first);
        let end = last.max(start);
        self.ranges
            .range(start..=end)
            .map(move |(low, high)| IndexRange { first: low.max(first), last: high.min(last) })
            .filter(|range| range.first <= range.last)
    }

    /// Yields the ranges, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = IndexRange> + '_ {
        self.ranges.iter().map(|(first, last)| IndexRange { first, last })
    }

    /// Yields the members, ascending.
    pub fn indices(&self) -> impl Iterator<Item = Index> + '_ {
        self.ranges.iter().flat_map(|(first, last)| first..=last)
    }

    fn drop_range(&mut self, first: Index, last: Index) {
        self.ranges.remove(first);
        self.len -= IndexRange { first, last }.count();
    }
}

impl FromIterator<IndexRange> for RangeSet {
    fn from_iter<T: IntoIterator<Item = IndexRange>>(ranges: T) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert(range.first, range.last);
        }
        set
    }
}

#[cfg(test)]
mod tests;
