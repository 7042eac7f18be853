//! Journals, lists and spools that do not agree.

use gangsaw_core::input::{Fact, FactKind};
use gangsaw_proto::node::v1::{RankGrant, TaskSpec};
use gangsaw_proto::supervisor::v1::HeldTask;

use super::*;

fn grants(list: &[(u64, u32, u32)]) -> BTreeMap<u64, Grant> {
    let grant = |(lease, first, last): &(u64, u32, u32)| Grant {
        lease_id: *lease,
        job_id: 1,
        first_index: *first,
        last_index: *last,
        attempt: 1,
        slots: 2,
        task: Some(TaskSpec::default()),
        ..Grant::default()
    };
    list.iter().map(|item| (item.0, grant(item))).collect()
}

fn succeeded(seq: u64, lease: u64, first: u32, last: u32) -> Spooled {
    Spooled { seq, fact: Fact { lease: LeaseId(lease), kind: FactKind::Succeeded { first, last, mean_us: 1 } } }
}

fn reached(facts: &[Spooled]) -> Reached {
    let mut reached = Reached::default();
    reached.note(facts);
    reached
}

fn open(spool: &Spool, lease: u64) -> Option<(Vec<u32>, u64)> {
    let adopted = spool.leases.iter().find(|adopted| adopted.terms.lease == LeaseId(lease))?;
    Some((adopted.open.indices().collect(), adopted.begun))
}

#[test]
fn living_supervisor_says_what_is_open_and_the_journal_what_was_promised() {
    let task = HeldTask { index: 3, ..HeldTask::default() };
    let held = HeldLease { lease_id: 1, next_index: 5, last_index: 6, tasks: vec![task], ..HeldLease::default() };
    let journal = grants(&[(1, 0, 9), (2, 0, 0), (3, 0, 0), (4, 0, 1)]);
    let spool = listed(
        &journal,
        &[held],
        vec![succeeded(9, 2, 0, 0)],
        &reached(&[succeeded(9, 2, 0, 0)]),
        |lease| lease == 4,
        Time(7),
    );
    assert_eq!(open(&spool, 1), Some((vec![3, 5, 6], 5)));
    assert_eq!(spool.leases.first().map(|adopted| (adopted.terms.first, adopted.terms.last)), Some((0, 9)));
    assert_eq!(open(&spool, 2), Some((vec![0], 1)), "over by its fact, which the machine learns");
    assert_eq!(open(&spool, 3), Some((vec![0], 1)), "it may have run under a supervisor that died");
    assert_eq!(open(&spool, 4), Some((vec![0, 1], 0)), "on its way");
    let held: Vec<bool> = spool.leases.iter().map(|adopted| adopted.held).collect();
    assert_eq!(held, [true, false, false, true]);
}

#[test]
fn silence_is_counted_from_the_deadline_that_the_supervisor_kept() {
    let mut journal = grants(&[(1, 0, 0), (2, 0, 0)]);
    if let Some(grant) = journal.get_mut(&1) {
        grant.task = Some(TaskSpec { stop_after_ms: 60_000, grace_ms: 5_000, ..TaskSpec::default() });
    }
    let held = [(1, 165_000), (2, 0)].map(|(lease_id, deadline_ms)| {
        let tasks = vec![HeldTask::default()];
        HeldLease { lease_id, next_index: 1, tasks, deadline_ms, ..HeldLease::default() }
    });
    let spool = listed(&journal, &held, Vec::new(), &Reached::default(), |_| false, Time(150_000));
    assert_eq!(spool.leases.iter().map(|adopted| adopted.renewed.0).collect::<Vec<_>>(), [100_000, 150_000]);
    let mut agent = gangsaw_core::agent::Agent::new(0, Time(150_000));
    agent.step(Time(150_000), gangsaw_core::agent::Input::SupervisorList(spool));
    assert_eq!(agent.next_tick(), Some(Time(160_000)), "the lease that never stops does not count");
}

#[test]
fn element_that_a_stop_gave_back_is_not_open_any_more() {
    let held =
        HeldLease { lease_id: 1, next_index: 5, last_index: 8, returned_indices: vec![7], ..HeldLease::default() };
    let spool = listed(&grants(&[(1, 0, 9)]), &[held], Vec::new(), &Reached::default(), |_| false, Time(7));
    assert_eq!(open(&spool, 1), Some((vec![5, 6, 8], 5)));
}

#[test]
fn dead_supervisor_leaves_what_was_not_begun_to_be_given_back() {
    let journal = grants(&[(1, 10, 99), (2, 0, 0)]);
    let spool = dead(&journal, Vec::new(), &reached(&[succeeded(5, 1, 10, 14)]), |_| false, Time(7));
    assert_eq!(open(&spool, 1).map(|(open, begun)| (open.len(), begun)), Some((90, 17)));
    assert_eq!(open(&spool, 2), Some((vec![0], 1)));
}

#[test]
fn gang_is_open_by_rank_and_begun_once_it_was_started() {
    let mut journal = grants(&[(1, 4, 4)]);
    if let Some(grant) = journal.get_mut(&1) {
        grant.gang = true;
        grant.ranks = [2, 3].map(|rank| RankGrant { rank, gpu_uuids: Vec::new() }).to_vec();
    }
    let prepared = HeldLease { lease_id: 1, next_index: 4, last_index: 4, prepared: true, ..HeldLease::default() };
    let spool = listed(&journal, std::slice::from_ref(&prepared), Vec::new(), &Reached::default(), |_| false, Time(0));
    assert_eq!(open(&spool, 1), Some((vec![2, 3], 4)));
    let task = HeldTask { index: 4, rank: 3, ..HeldTask::default() };
    let running = HeldLease { prepared: false, next_index: 5, tasks: vec![task], ..prepared };
    let spool = listed(&journal, &[running], Vec::new(), &Reached::default(), |_| false, Time(0));
    assert_eq!(open(&spool, 1), Some((vec![3], 5)));
    assert_eq!(open(&dead(&journal, Vec::new(), &Reached::default(), |_| false, Time(0)), 1), Some((vec![2, 3], 5)));
}

#[test]
fn lease_that_the_journal_lost_is_adopted_by_what_the_supervisor_says() {
    let task = HeldTask { index: 3, ..HeldTask::default() };
    let held = HeldLease { lease_id: 8, next_index: 5, last_index: 6, tasks: vec![task], ..HeldLease::default() };
    let spool = listed(&BTreeMap::new(), &[held], Vec::new(), &Reached::default(), |_| false, Time(0));
    assert_eq!(open(&spool, 8), Some((vec![3, 5, 6], 5)));
}
