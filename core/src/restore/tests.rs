//! After a restore nothing of the lost time is taken for something of ours, and what still runs goes on.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::apply::apply;
use crate::decide::decide;
use crate::effect::Effect;
use crate::id::{Actor, IdempotencyKey, JobId, LeaseId, NodeId, NodeName, RequestId, Tenant};
use crate::input::{HeldLease, Input, NodeHello, Phase, Request, Submit};
use crate::job::draft::{JobDraft, WorkDraft};
use crate::job::record::ElementState;
use crate::job::spec::JobSpec;
use crate::lease::RevokeReason;
use crate::owed::owed;
use crate::place::place;
use crate::resources::Inventory;
use crate::time::Time;

fn by() -> By {
    By { actor: Actor::new("ada").unwrap(), request_id: RequestId::new("r").unwrap() }
}

fn send(state: &mut State, at: u64, input: Input) {
    let By { actor, request_id } = by();
    let request = Request { actor, tenant: Tenant::default(), reach: crate::access::Reach::Tenant, request_id, input };
    let mut step = decide(state, Time(at), &request);
    while !step.events.is_empty() {
        step.events.iter().for_each(|event| apply(state, Time(at), event));
        step = if state.wants_round(Time(at)) { place(state, Time(at)) } else { Default::default() };
    }
}

fn hello(leases: &[LeaseId]) -> Input {
    let held = |lease: &LeaseId| HeldLease { lease: *lease, phase: Phase::Running, last_index: 0 };
    Input::NodeHello(NodeHello {
        name: NodeName::new("n1").unwrap(),
        uuid: "u".into(),
        boot_id: "b".into(),
        agent_version: "1".into(),
        inventory: Inventory { milli_cpus: 1_000, address: "127.0.0.1".into(), ..Inventory::default() },
        leases: leases.iter().map(held).collect(),
    })
}

fn submit(state: &mut State, at: u64) {
    let draft = JobDraft { work: Some(WorkDraft::Shell("true".into())), ..JobDraft::default() };
    let key = IdempotencyKey::new(&format!("k{at}")).unwrap();
    send(state, at, Input::Submit(Submit { key, user: "ada".into(), jobs: vec![JobSpec::try_from(draft).unwrap()] }));
}

/// A node of one core with job 1 under lease 1 and job 2 waiting: what a backup held, and a restore a minute later.
fn restored_state() -> State {
    let mut state = State::new();
    send(&mut state, 1, hello(&[]));
    submit(&mut state, 2);
    submit(&mut state, 3);
    assert_eq!(state.leases().map(|lease| lease.id).collect::<Vec<_>>(), [LeaseId(1)]);
    let event = restored(&state, by(), Millis(60_000));
    apply(&mut state, Time(60_003), &event);
    state
}

#[test]
fn numbers_go_on_above_all_that_can_have_been_given() {
    let mut state = restored_state();
    let counters = state.counters();
    assert_eq!((counters.epoch, counters.attempt_base), (1, 5_060));
    assert_eq!((counters.job, counters.lease), (3_000_000, 14_000_000));
    submit(&mut state, 60_004);
    assert!(state.job(JobId(3_000_000)).is_some());
    let again = restored(&state, by(), Millis(0));
    apply(&mut state, Time(60_005), &again);
    assert_eq!((state.counters().epoch, state.counters().attempt_base), (2, 10_060));
    assert!(state.counters().lease > 14_000_000);
}

#[test]
fn nothing_is_placed_before_a_node_has_said_what_it_holds() {
    let mut state = restored_state();
    send(&mut state, 60_010, Input::Cancel { job: JobId(1), elements: None });
    submit(&mut state, 60_011);
    assert_eq!(state.leases().count(), 1, "the node is silent");
    assert!(state.nodes().all(|node| !node.connected()));
}

#[test]
fn a_lease_that_its_node_still_holds_is_adopted() {
    let mut state = restored_state();
    send(&mut state, 60_010, hello(&[LeaseId(1)]));
    assert_eq!(state.job_state(JobId(1)), Some(ElementState::Running));
    assert_eq!(state.lease(LeaseId(1)).map(|lease| lease.attempt), Some(1));
    assert_eq!(owed(&state, NodeId(1), &[HeldLease { lease: LeaseId(1), phase: Phase::Running, last_index: 0 }]), []);
}

#[test]
fn a_lease_that_its_node_does_not_hold_ended_in_the_lost_time_and_is_tried_again_under_a_higher_number() {
    let mut state = restored_state();
    send(&mut state, 60_010, hello(&[]));
    assert!(state.lease(LeaseId(1)).is_none(), "it is not granted again: it may have run to its end");
    // Infra waits a little; the other job is next.
    let lease = state.leases().next().unwrap();
    assert_eq!((lease.id, lease.job, lease.attempt), (LeaseId(14_000_000), JobId(2), 5_061));
    let later = 60_010 + 3_600_000;
    send(&mut state, later, Input::Cancel { job: JobId(2), elements: None });
    send(&mut state, later, hello(&[]));
    send(&mut state, later + 600_000, hello(&[]));
    let next = state.leases().find(|lease| lease.job == JobId(1)).unwrap();
    assert!(next.attempt > 5_060, "{}", next.attempt);
}

#[test]
fn a_lease_of_the_lost_time_is_told_to_stop() {
    let mut state = restored_state();
    let (known, lost) = (LeaseId(1), LeaseId(2));
    send(&mut state, 60_010, hello(&[known, lost]));
    let held = [known, lost].map(|lease| HeldLease { lease, phase: Phase::Running, last_index: 0 });
    let owed = owed(&state, NodeId(1), &held);
    assert!(
        matches!(owed.as_slice(), [Effect::Revoke { lease: LeaseId(2), reason: RevokeReason::Fenced, .. }]),
        "{owed:?}"
    );
}

#[test]
fn a_snapshot_keeps_the_base() {
    let state = restored_state();
    let mut again = State::new();
    for event in crate::apply::snapshot_events(&state) {
        apply(&mut again, state.now(), &event);
    }
    assert!(again.same_as(&state));
}
