//! Arrays: chunks that grow with the pace of their elements, come back unstarted, and cost what deviates.

use expect_test::expect;

use super::world::*;
use crate::id::LeaseId;
use crate::input::*;
use crate::job::draft::*;
use crate::job::record::{Cause, Exit};
use crate::node::NodeMode;
use crate::ranges::RangeSet;

fn quick(index: u32) -> FactKind {
    let exit = Exit { ran_us: 1_000, ..exit(Cause::Exit, Some(0)) };
    FactKind::Ended { index, rank: 0, exit }
}

/// Lets every lease succeed as a whole, as often as `turns`; gives the widths of the leases.
fn turns(w: &mut World, turns: usize, mean_us: u64) -> Vec<u64> {
    let mut widths = Vec::new();
    for _ in 0..turns {
        let leases: Vec<_> =
            w.state.leases().map(|lease| (lease.id.0, lease.first, lease.last, lease.node.0)).collect();
        for (lease, first, last, node) in leases {
            widths.push(u64::from(last - first) + 1);
            w.report(node, &[(lease, FactKind::Succeeded { first, last, mean_us })]);
        }
    }
    widths
}

#[test]
fn chunks_double_while_elements_are_short_and_shrink_to_one_when_they_are_not() {
    let mut w = World::with_nodes(&[(2, 0)]);
    let job = w.job(array(9_999));
    // Two slots, each with a lease of its own.
    let widths = [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32, 64, 64, 128, 128, 256, 256];
    assert_eq!(turns(&mut w, 9, 1_000), widths);
    let chunk = |w: &World| w.state.job(job).unwrap().body.chunk;
    assert_eq!(chunk(&w), 512);
    turns(&mut w, 1, 40_000);
    assert_eq!(chunk(&w), 24, "a slot gets at most a second of predicted work");
    turns(&mut w, 1, 60_000);
    assert_eq!(chunk(&w), 1);
}

#[test]
fn gpu_tasks_are_leased_one_by_one() {
    let mut w = World::with_nodes(&[(8, 2)]);
    let mut draft = array(99);
    draft.demands = needing(1, 1).demands;
    w.job(draft);
    assert!(turns(&mut w, 6, 1_000).iter().all(|width| *width == 1));
}

#[test]
fn a_queued_array_of_a_million_is_one_range_and_a_finished_one_almost_so() {
    let mut w = World::with_nodes(&[(64, 0), (64, 0)]);
    w.deep = false;
    let mut draft = array(999_999);
    draft.hold = true;
    let job = w.job(draft);
    let body = |w: &World| w.state.job(job).unwrap().body.clone();
    assert_eq!((body(&w).pending.range_count(), body(&w).records.len(), body(&w).ended.len()), (1, 0, 0));
    w.send(Input::Release { job });
    // One in a thousand fails, here and there.
    while w.state.job(job).unwrap().body.ended_at.is_none() {
        let leases: Vec<_> = w.state.leases().map(|lease| (lease.id.0, lease.live.clone(), lease.node.0)).collect();
        for (lease, live, node) in leases {
            let mut facts = Vec::new();
            for range in live.iter() {
                let mut first = range.first;
                for index in (range.first..=range.last).filter(|index| index.wrapping_mul(2_654_435_761) % 1_000 == 0) {
                    if first < index {
                        facts.push((lease, FactKind::Succeeded { first, last: index - 1, mean_us: 1_000 }));
                    }
                    facts.push((lease, ended(index, 0, 1)));
                    first = index + 1;
                }
                if first <= range.last {
                    facts.push((lease, FactKind::Succeeded { first, last: range.last, mean_us: 1_000 }));
                }
            }
            w.report_unchecked(node, &facts);
        }
    }
    crate::check::check(&w.state).unwrap();
    assert_eq!(w.states(job), "Failed {Completed: 999010, Failed: 990}");
    let (records, ended) = (body(&w).records.len(), body(&w).ended.len());
    assert_eq!(records, 990);
    assert!(ended < 4_000, "{ended} ranges");
    assert!(w.log.len() < 20_000, "{} events", w.log.len());
    w.replays();
}

#[test]
fn an_array_that_fails_everywhere_keeps_a_bounded_number_of_records() {
    let mut w = World::with_nodes(&[(8, 0)]);
    w.deep = false;
    let job = w.job(array(29_999));
    while w.state.job(job).unwrap().body.ended_at.is_none() {
        let leases: Vec<_> = w.state.leases().map(|lease| (lease.id.0, lease.first, lease.last)).collect();
        let facts: Vec<_> = leases
            .iter()
            .flat_map(|(lease, first, last)| (*first..=*last).map(|at| (*lease, ended(at, 0, 1))))
            .collect();
        w.report_unchecked(1, &facts);
    }
    crate::check::check(&w.state).unwrap();
    let body = &w.state.job(job).unwrap().body;
    assert_eq!((body.records.len(), body.ended.len()), (10_000, 1));
    assert_eq!(w.states(job), "Failed {Failed: 30000}");
    let last = w.state.tasks(job, None, (29_999, 0), 5).tasks.remove(0);
    assert_eq!((last.exit_code, last.attempt), (Some(1), 1));
}

#[test]
fn unstarted_elements_return_on_drain_and_use_no_attempt() {
    let mut w = World::with_nodes(&[(1, 0), (1, 0)]);
    let job = w.job(array(99));
    turns(&mut w, 3, 1_000);
    w.told();
    let lease = w.state.leases().find(|lease| lease.node.0 == 1).unwrap().clone();
    let name = crate::id::NodeName::new("n1").unwrap();
    w.send(Input::SetNode { name, mode: NodeMode::Draining, reason: "disk".into(), evict_after: None });
    let fact = FactKind::Returned { first: lease.first + 1, last: lease.last };
    w.report(1, &[(lease.id.0, fact), (lease.id.0, quick(lease.first))]);
    expect![[r#"
        0.000s n1 is Draining
        0.000s trimmed L7
            → reply Done
            → trim L7 on n1
        0.000s returned L7 1[15-21]
        0.000s ended 1[14] attempt 1 Ok then End(Completed)
        0.000s report 4 of n1
            → ack 4 to n1
    "#]]
    .assert_eq(&w.told());
    let task = w.state.tasks(job, None, (lease.last, 0), 1).tasks.remove(0);
    assert_eq!((task.state, task.attempt), (crate::job::record::ElementState::Pending, 0));
}

#[test]
fn cancelling_a_part_of_a_chunk_stops_that_part() {
    let mut w = World::with_nodes(&[(1, 0)]);
    let job = w.job(array(99));
    turns(&mut w, 3, 1_000);
    let lease = w.state.leases().next().unwrap().clone();
    assert_eq!((lease.first, lease.last), (7, 14));
    w.told();
    w.send(Input::Cancel { job, elements: Some(RangeSet::range(9, 20)) });
    w.report(1, &[(lease.id.0, FactKind::Returned { first: 9, last: 14 })]);
    w.report(1, &[(lease.id.0, FactKind::Succeeded { first: 7, last: 8, mean_us: 1_000 })]);
    expect![[r#"
        0.000s cancelled 1[9-20] Asked
            → reply Cancelled { elements: 12 }
            → revoke L4 on n1 Cancelled [9-14]
        0.000s returned L4 1[9-14]
        0.000s report 4 of n1
            → ack 4 to n1
        0.000s succeeded L4 1[7-8]
        0.000s report 5 of n1
            → ack 5 to n1
        0.000s round 5 decided 1
        0.000s leased L5 1[21-36] attempt 1 n1 slots 1 alt 0 []
            → grant L5 to n1: 1[21-36] attempt 1
    "#]]
    .assert_eq(&w.told());
}

#[test]
fn a_better_job_gets_the_unstarted_elements_back() {
    let mut w = World::with_nodes(&[(1, 0)]);
    w.job(array(999));
    turns(&mut w, 4, 1_000);
    w.told();
    let better = w.job(JobDraft { priority: Some(5), ..sleep() });
    let lease = w.state.leases().next().unwrap().clone();
    assert!(lease.trimmed);
    let back = FactKind::Returned { first: lease.first + 1, last: lease.last };
    w.report(1, &[(lease.id.0, back), (lease.id.0, quick(lease.first))]);
    assert_eq!(w.states(better), "Running {Starting: 1}");
    expect![[r#"
        0.000s submitted [2]
            → reply Submitted { jobs: [JobId(2)], repeated: false }
        0.000s round 6 decided 1
        0.000s trimmed L5
            → trim L5 on n1
        0.000s returned L5 1[16-30]
        0.000s ended 1[15] attempt 1 Ok then End(Completed)
        0.000s report 5 of n1
            → ack 5 to n1
        0.000s round 7 decided 1
        0.000s leased L6 2[0-0] attempt 1 n1 slots 1 alt 0 []
            → grant L6 to n1: 2[0-0] attempt 1
    "#]]
    .assert_eq(&w.told());
}

#[test]
fn an_array_runs_no_more_at_once_than_its_throttle() {
    let mut w = World::with_nodes(&[(8, 0)]);
    let mut draft = array(9);
    draft.array.as_mut().unwrap().running_max = 3;
    let job = w.job(draft);
    assert_eq!(w.states(job), "Running {Pending: 7, Starting: 3}");
    assert_eq!(w.reasons(job), ["array-limit: the array may run 3 elements at once"]);
    w.report(1, &[(2, ended(1, 0, 0))]);
    assert_eq!(w.states(job), "Running {Pending: 6, Starting: 3, Completed: 1}");
    assert!(w.state.lease(LeaseId(4)).is_some());
}

#[test]
fn in_a_chunk_as_many_elements_run_as_it_has_slots() {
    let mut w = World::with_nodes(&[(2, 0)]);
    let job = w.job(array(999));
    let both = [1, 2].map(|lease: u32| {
        (u64::from(lease), FactKind::Succeeded { first: lease - 1, last: lease - 1, mean_us: 1_000 })
    });
    w.report(1, &both);
    let lease = w.state.leases().next().unwrap().clone();
    assert_eq!((lease.slots, lease.width()), (2, 4));
    w.report(1, &[(lease.id.0, FactKind::Succeeded { first: lease.first, last: lease.first, mean_us: 1_000 })]);
    let counts = w.state.element_counts(job);
    let shown: Vec<_> = w.state.tasks(job, None, (lease.first + 1, 0), 4).tasks.iter().map(|task| task.state).collect();
    expect![[r#"
        {Pending: 994, Starting: 1, Running: 2, Completed: 3}
        [Running, Running, Starting, Pending]
    "#]]
    .assert_eq(&format!("{counts:?}\n{shown:?}\n"));
}

#[test]
fn elements_behind_a_slow_one_come_back_and_run_elsewhere() {
    let mut w = World::with_nodes(&[(1, 0), (1, 0)]);
    let job = w.job(array(63));
    turns(&mut w, 4, 1_000);
    let leases: Vec<_> = w.state.leases().map(|lease| (lease.id.0, lease.first, lease.last, lease.node.0)).collect();
    assert_eq!(leases, [(9, 30, 37, 1), (10, 38, 43, 2)]);
    w.told();
    assert_eq!(w.state.next_wake(), Some(crate::time::Time(3_000)));
    w.at(3).tick();
    w.report(1, &[(9, FactKind::Returned { first: 31, last: 37 })]);
    expect![[r#"
        3.000s trimmed L9
        3.000s trimmed L10
            → trim L9 on n1
            → trim L10 on n2
        3.000s returned L9 1[31-37]
        3.000s report 5 of n1
            → ack 5 to n1
    "#]]
    .assert_eq(&w.told());
    assert_eq!(w.state.job(job).unwrap().body.chunk, 1);
}
