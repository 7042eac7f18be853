//! What a hollow node's tasks tell, by the clock.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use gangsaw_core::input::FactKind;
use gangsaw_core::ranges::RangeSet;

use super::*;

fn grant(lease_id: u64, first_index: u32, last_index: u32, slots: u32) -> Grant {
    Grant { lease_id, job_id: 7, first_index, last_index, attempt: 1, slots, ..Grant::default() }
}

fn tasks(run_ms: u64, failed_per_million: u32) -> Tasks {
    Tasks { run: Duration::from_millis(run_ms), failed_per_million, seed: 1 }
}

fn kinds(facts: Vec<Fact>) -> Vec<FactKind> {
    facts.into_iter().map(|fact| fact.kind).collect()
}

fn succeeded(first: u32, last: u32) -> FactKind {
    FactKind::Succeeded { first, last, mean_us: 100_000 }
}

#[test]
fn a_chunk_tells_its_waves_as_they_end_and_is_over_after_as_many_as_it_has() {
    let mut imagined = Imagined::new(tasks(100, 0));
    let begin = Instant::now();
    assert_eq!(kinds(imagined.granted(&grant(1, 10, 14, 2), begin)), []);
    assert_eq!(imagined.due(), Some(begin + Duration::from_millis(100)));
    assert_eq!(kinds(imagined.pass(begin + Duration::from_millis(99))), []);
    assert_eq!(kinds(imagined.pass(begin + Duration::from_millis(100))), [succeeded(10, 11)]);
    assert_eq!(kinds(imagined.pass(begin + Duration::from_millis(400))), [succeeded(12, 14)]);
    assert_eq!(imagined.due(), None);
}

#[test]
fn a_trimmed_chunk_returns_what_waits_and_a_stopped_one_ends_what_runs() {
    let mut imagined = Imagined::new(tasks(100, 0));
    let begin = Instant::now();
    imagined.granted(&grant(1, 0, 9, 2), begin);
    assert_eq!(kinds(imagined.trimmed(LeaseId(1))), [FactKind::Returned { first: 2, last: 9 }]);
    assert_eq!(kinds(imagined.pass(begin + Duration::from_millis(100))), [succeeded(0, 1)]);
    imagined.granted(&grant(2, 0, 9, 2), begin);
    let told = kinds(imagined.stopped(LeaseId(2), &RangeSet::range(1, 3)));
    let [FactKind::Ended { index: 1, exit, .. }, FactKind::Returned { first: 2, last: 3 }] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(exit.signal, Some(15));
    let told = kinds(imagined.stopped(LeaseId(2), &RangeSet::new()));
    assert_eq!(told.len(), 3, "0 and 4 ran, 5 to 9 come back: {told:?}");
    assert_eq!(imagined.due(), None);
}

#[test]
fn failures_come_at_their_rate_the_same_ones_each_time_and_split_the_successes() {
    let all = |seed| {
        let mut imagined = Imagined::new(Tasks { seed, ..tasks(0, 1_000) });
        kinds(imagined.granted(&grant(1, 0, 999_999, 1), Instant::now()))
    };
    let told = all(1);
    let tally = Tally::default();
    told.iter().for_each(|kind| imagined::count(&tally, kind));
    assert_eq!(tally.ended.load(Ordering::Relaxed), 1_000_000);
    let failed = tally.failed.load(Ordering::Relaxed);
    assert!((850..1_150).contains(&failed), "{failed} of a million at one in a thousand");
    assert_eq!(told, all(1));
    assert_ne!(told, all(2));
}

#[test]
fn a_gang_waits_for_start() {
    let mut imagined = Imagined::new(tasks(100, 0));
    let ranks = [0, 1].map(|rank| gangsaw_proto::node::v1::RankGrant { rank, gpu_uuids: Vec::new() });
    let gang = Grant { gang: true, ranks: ranks.to_vec(), ..grant(1, 3, 3, 1) };
    let begin = Instant::now();
    assert_eq!(kinds(imagined.granted(&gang, begin)), [FactKind::Prepared { port: 1 }]);
    assert_eq!(imagined.due(), None);
    assert_eq!(imagined.started(LeaseId(1), begin).len(), 2);
    let told = kinds(imagined.pass(imagined.due().unwrap()));
    assert!(matches!(told[..], [FactKind::Ended { rank: 0, .. }, FactKind::Ended { rank: 1, .. }]), "{told:?}");
}
