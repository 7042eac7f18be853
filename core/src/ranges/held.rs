//! The ranges of a set by their first members: one in place, several in a map.
//!
//! Invariant: several are held as a map and fewer in place, so that equal sets are held alike; order and hash are those
//! of the map.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;

use super::IndexRange;
use crate::id::Index;

/// The ranges, first and last member of each.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Ranges {
    Few(Option<IndexRange>),
    #[expect(clippy::box_collection, reason = "the one range of nearly every set must not take the room of a map")]
    Many(Box<BTreeMap<Index, Index>>),
}

impl Default for Ranges {
    fn default() -> Self {
        Ranges::Few(None)
    }
}

impl Ranges {
    pub(super) fn len(&self) -> usize {
        match self {
            Ranges::Few(one) => usize::from(one.is_some()),
            Ranges::Many(map) => map.len(),
        }
    }

    /// Yields every range, ascending.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (Index, Index)> + '_ {
        self.range(0..=Index::MAX)
    }

    /// Yields the ranges that begin within `starts`, ascending.
    ///
    /// # Panics
    /// If `starts` runs downwards.
    pub(super) fn range(
        &self,
        starts: RangeInclusive<Index>,
    ) -> impl DoubleEndedIterator<Item = (Index, Index)> + '_ + use<'_> {
        let (one, map) = match self {
            Ranges::Few(one) => (*one, None),
            Ranges::Many(map) => (None, Some(map)),
        };
        let one = one.filter(|range| starts.contains(&range.first)).map(|range| (range.first, range.last));
        let several = map.map(|map| map.range(starts).map(|(first, last)| (*first, *last)));
        one.into_iter().chain(several.into_iter().flatten())
    }

    /// Returns the first range that begins at `low` or above.
    pub(super) fn first_from(&self, low: Index) -> Option<(Index, Index)> {
        self.range(low..=Index::MAX).next()
    }

    /// Returns the last range that begins at `high` or below.
    pub(super) fn last_until(&self, high: Index) -> Option<(Index, Index)> {
        self.range(0..=high).next_back()
    }

    /// Adds a range, or replaces the one with the same first member.
    pub(super) fn insert(&mut self, first: Index, last: Index) {
        match self {
            Ranges::Few(one) => match one {
                Some(old) if old.first != first => {
                    let both = [(old.first, old.last), (first, last)];
                    *self = Ranges::Many(Box::new(both.into()));
                }
                Some(_) | None => *one = Some(IndexRange { first, last }),
            },
            Ranges::Many(map) => {
                map.insert(first, last);
            }
        }
    }

    /// Takes out the range that begins with `first`.
    pub(super) fn remove(&mut self, first: Index) {
        match self {
            Ranges::Few(one) => *one = one.filter(|range| range.first != first),
            Ranges::Many(map) => {
                map.remove(&first);
                if map.len() < 2 {
                    let one = map.first_key_value().map(|(first, last)| IndexRange { first: *first, last: *last });
                    *self = Ranges::Few(one);
                }
            }
        }
    }
}

impl fmt::Debug for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl PartialOrd for Ranges {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranges {
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

impl Hash for Ranges {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.len());
        self.iter().for_each(|range| range.hash(state));
    }
}
