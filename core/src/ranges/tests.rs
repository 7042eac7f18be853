//! A range set does what a set of its members does.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

fn set(members: &BTreeSet<u32>) -> RangeSet {
    members.iter().map(|index| IndexRange::one(*index)).collect()
}

fn members(set: &RangeSet) -> BTreeSet<u32> {
    set.indices().collect()
}

/// Ranges neither overlap nor touch, and the count is right.
fn sound(set: &RangeSet) {
    let ranges: Vec<_> = set.iter().collect();
    assert!(ranges.iter().all(|range| range.first <= range.last));
    assert!(ranges.windows(2).all(|pair| u64::from(pair[0].last) + 1 < u64::from(pair[1].first)));
    assert_eq!(ranges.iter().map(|range| range.count()).sum::<u64>(), set.len());
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn inserting_and_removing_ranges_is_what_a_set_does(steps in prop::collection::vec((any::<bool>(), 0_u32..64, 0_u32..12), 0..40)) {
        let (mut ranges, mut model) = (RangeSet::new(), BTreeSet::new());
        for (insert, first, width) in steps {
            let last = first + width;
            if insert {
                ranges.insert(first, last);
                model.extend(first..=last);
            } else {
                ranges.remove(first, last);
                model.retain(|index| !(first..=last).contains(index));
            }
            sound(&ranges);
            prop_assert_eq!(members(&ranges), model.clone());
            prop_assert_eq!(ranges.len(), model.len() as u64);
            prop_assert_eq!(ranges.first(), model.first().copied());
            prop_assert_eq!(ranges.last(), model.last().copied());
            // However it came about, it is held like any other of the same members.
            prop_assert_eq!(&ranges, &set(&model));
        }
    }

    #[test]
    fn intersections_parts_and_ranks_are_those_of_sets(a: BTreeSet<u8>, b: BTreeSet<u8>, first: u8, width in 0_u8..40) {
        let (a, b): (BTreeSet<u32>, BTreeSet<u32>) = (a.iter().map(|at| u32::from(*at)).collect(), b.iter().map(|at| u32::from(*at)).collect());
        let (left, right) = (set(&a), set(&b));
        let both = left.intersection(&right);
        sound(&both);
        prop_assert_eq!(members(&both), a.intersection(&b).copied().collect::<BTreeSet<_>>());
        let (first, last) = (u32::from(first), u32::from(first) + u32::from(width));
        let part: BTreeSet<u32> = left.within(first, last).flat_map(|range| range.first..=range.last).collect();
        prop_assert_eq!(part, a.range(first..=last).copied().collect::<BTreeSet<_>>());
        prop_assert_eq!(left.rank(first), a.range(..first).count() as u64);
        prop_assert_eq!(left.contains(first), a.contains(&first));
        let mut joined = left.clone();
        joined.extend(&right);
        prop_assert_eq!(members(&joined), a.union(&b).copied().collect::<BTreeSet<_>>());
        joined.subtract(&right);
        prop_assert_eq!(members(&joined), a.difference(&b).copied().collect::<BTreeSet<_>>());
    }
}

#[test]
fn the_ends_of_the_numbers_are_members_like_others() {
    let mut all = RangeSet::range(0, u32::MAX);
    assert_eq!(all.len(), 1 << 32);
    all.remove(u32::MAX, u32::MAX);
    all.remove(0, 0);
    assert_eq!((all.first(), all.last()), (Some(1), Some(u32::MAX - 1)));
    all.insert(u32::MAX, u32::MAX);
    all.insert(0, 0);
    assert_eq!(all.range_count(), 1);
    assert_eq!(all.range_of(7).unwrap().count(), 1 << 32);
}
