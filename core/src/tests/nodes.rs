//! Nodes: silence, fences, reboots, drains, and what a node is owed.

use expect_test::expect;

use super::world::*;
use crate::effect::{Effect, Reply};
use crate::id::*;
use crate::input::*;
use crate::job::draft::*;
use crate::job::record::{Cause, Exit};
use crate::lease::RevokeReason;
use crate::node::NodeMode;
use crate::owed::owed;
use crate::ranges::RangeSet;
use crate::time::{Millis, Time};

fn name(node: u32) -> NodeName {
    NodeName::new(&format!("n{node}")).unwrap()
}

fn silent(w: &mut World, node: u32) {
    w.send(Input::NodeSilent { node: NodeId(node) });
}

fn refused(effects: &[Effect]) -> &str {
    let Effect::Reply { reply: Reply::Refused(refusal), .. } = &effects[0] else { panic!("{effects:?}") };
    refusal.reason
}

#[test]
fn a_silent_node_is_waited_for_and_then_its_job_runs_elsewhere_and_the_old_attempt_is_fenced() {
    let mut w = World::with_nodes(&[(1, 0), (1, 0)]);
    let job = w.job(sleep());
    w.report(1, &[(1, started(0, 0))]);
    w.at(30);
    silent(&mut w, 1);
    w.told();
    w.at(629).tick();
    assert_eq!(w.told(), "");
    w.at(630).tick();
    w.at(631).tick();
    assert_eq!(w.states(job), "Running {Starting: 1}");
    // It wakes up and did all the work: too late.
    w.at(700).hello(1, inventory(1, 1, 0), &[held(1, Phase::Running)]);
    assert_eq!(w.state.node(NodeId(1)).unwrap().free_milli_cpus, 0, "its processes still hold what they hold");
    let debts = owed(&w.state, NodeId(1), &[held(1, Phase::Running)]);
    w.report(1, &[(1, ended(0, 0, 0))]);
    w.report(2, &[(2, ended(0, 0, 0))]);
    assert_eq!(w.states(job), "Completed {Completed: 1}");
    expect![[r#"
        630.000s fenced L1
        630.000s ended 1[0] attempt 1 Fenced then Retry { class: Infra, not_before: Time(631000) }
            → revoke L1 on n1 Fenced []
        631.000s round 2 decided 1
        631.000s leased L2 1[0-0] attempt 2 n2 slots 1 alt 0 []
            → grant L2 to n2: 1[0-0] attempt 2
        700.000s n1 is back
            → reply Welcome { node: NodeId(1), acked_report: 1 }
        700.000s fence of L1 confirmed 0-0 None
        700.000s report 2 of n1
            → ack 2 to n1
        700.000s ended 1[0] attempt 2 Ok then End(Completed)
        700.000s report 1 of n2
            → ack 1 to n2
    "#]]
    .assert_eq(&w.told());
    expect![[r#"
        [
            AckReport {
                node: NodeId(
                    1,
                ),
                seq: 1,
            },
            Revoke {
                node: NodeId(
                    1,
                ),
                lease: LeaseId(
                    1,
                ),
                reason: Fenced,
                elements: RangeSet {
                    ranges: {},
                    len: 0,
                },
            },
        ]
    "#]]
    .assert_debug_eq(&debts);
    assert_eq!(w.state.node(NodeId(1)).unwrap().free_milli_cpus, 1_000);
}

#[test]
fn a_short_silence_touches_nothing() {
    let mut w = World::with_nodes(&[(1, 0)]);
    let job = w.job(sleep());
    w.report(1, &[(1, started(0, 0))]);
    silent(&mut w, 1);
    w.at(599).tick();
    w.hello(1, inventory(1, 1, 0), &[held(1, Phase::Running)]);
    w.at(10_000).tick();
    assert_eq!(w.states(job), "Running {Running: 1}");
    assert_eq!(w.state.tasks(job, None, (0, 0), 1).tasks[0].attempt, 1);
}

#[test]
fn a_rebooted_node_ends_its_leases_as_infra() {
    let mut w = World::with_nodes(&[(1, 0)]);
    let job = w.job(sleep());
    w.report(1, &[(1, started(0, 0))]);
    w.told();
    w.hello_boot(1, "another", inventory(1, 1, 0), &[held(1, Phase::Running)]);
    expect![[r#"
        0.000s n1 is back
        0.000s fenced L1
        0.000s ended 1[0] attempt 1 Infra then Retry { class: Infra, not_before: Time(1000) }
        0.000s fence of L1 confirmed 0-0 None
            → reply Welcome { node: NodeId(1), acked_report: 1 }
    "#]]
    .assert_eq(&w.told());
    assert_eq!(w.states(job), "Pending {Pending: 1}");
}

#[test]
fn an_ended_lease_of_a_rebooted_node_keeps_its_result() {
    let mut w = World::with_nodes(&[(1, 0)]);
    let job = w.job(sleep());
    w.hello_boot(1, "another", inventory(1, 1, 0), &[held(1, Phase::Ended)]);
    w.report(1, &[(1, ended(0, 0, 0))]);
    assert_eq!(w.states(job), "Completed {Completed: 1}");
}

#[test]
fn a_lease_that_its_agent_lost_ends_as_infra_and_one_it_never_got_is_granted_again() {
    let mut w = World::with_nodes(&[(2, 0)]);
    let begun = w.job(sleep());
    let fresh = w.job(sleep());
    w.report(1, &[(1, started(0, 0))]);
    w.hello(1, inventory(1, 2, 0), &[]);
    assert_eq!((w.states(begun).as_str(), w.states(fresh).as_str()), ("Pending {Pending: 1}", "Running {Starting: 1}"));
    let debts = owed(&w.state, NodeId(1), &[]);
    let leases: Vec<_> = debts
        .iter()
        .filter_map(|effect| if let Effect::Grant(grant) = effect { Some(grant.lease.0) } else { None })
        .collect();
    assert_eq!(leases, [2]);
}

#[test]
fn an_unknown_lease_is_fenced() {
    let mut w = World::with_nodes(&[(1, 0)]);
    let effects = w.report(1, &[(77, started(0, 0))]);
    assert!(matches!(&effects[0], Effect::Revoke { lease: LeaseId(77), .. }));
    let debts = owed(&w.state, NodeId(1), &[held(77, Phase::Running), held(78, Phase::Ended)]);
    assert_eq!(debts.len(), 2, "{debts:?}");
}

#[test]
fn another_nodes_report_about_a_lease_counts_for_nothing() {
    let mut w = World::with_nodes(&[(1, 0), (1, 0)]);
    let job = w.job(sleep());
    w.report(2, &[(1, ended(0, 0, 0))]);
    assert_eq!(w.states(job), "Running {Starting: 1}");
}

#[test]
fn a_repeated_report_is_acknowledged_and_counts_once() {
    let mut w = World::with_nodes(&[(1, 0)]);
    w.job(array(1));
    let facts = vec![Fact { lease: LeaseId(1), kind: ended(0, 0, 0) }];
    let input = Input::NodeReport { node: NodeId(1), seq: 1, facts };
    w.send(input.clone());
    w.told();
    w.send(input);
    assert_eq!(w.told(), "    → ack 1 to n1\n");
}

#[test]
fn names_and_agents_are_one_to_one() {
    let mut w = World::with_nodes(&[(1, 0)]);
    let hello = |name: &str, uuid: &str| {
        Input::NodeHello(NodeHello {
            name: NodeName::new(name).unwrap(),
            uuid: uuid.into(),
            boot_id: "boot".into(),
            agent_version: "1".into(),
            inventory: inventory(1, 1, 0),
            leases: Vec::new(),
        })
    };
    let other = w.send(hello("n1", "somebody-else"));
    assert_eq!(refused(&other), "node-name-taken");
    let renamed = w.send(hello("n9", "uuid-1"));
    assert_eq!(refused(&renamed), "node-renamed");
}

#[test]
fn cordoned_and_draining_nodes_take_no_work_and_say_why() {
    let mut w = World::with_nodes(&[(1, 0)]);
    w.send(Input::SetNode { name: name(1), mode: NodeMode::Cordoned, reason: "fan".into(), evict_after: None });
    let job = w.job(sleep());
    assert_eq!(w.reasons(job), ["nodes-cordoned: 1 node(s) could run it and none of them takes work"]);
    w.send(Input::SetNode { name: name(1), mode: NodeMode::Active, reason: String::new(), evict_after: None });
    assert_eq!(w.states(job), "Running {Starting: 1}");
    silent(&mut w, 1);
    let other = w.job(sleep());
    assert_eq!(w.reasons(other), ["nodes-silent: 1 node(s) could run it and none of them is heard"]);
}

#[test]
fn a_silent_node_can_be_forgotten_and_its_leases_end_as_infra() {
    let mut w = World::with_nodes(&[(1, 0)]);
    let job = w.job(sleep());
    let effects = w.send(Input::ForgetNode { name: name(1) });
    assert_eq!(refused(&effects), "node-connected");
    silent(&mut w, 1);
    w.told();
    w.send(Input::ForgetNode { name: name(1) });
    expect![[r#"
        0.000s fenced L1
        0.000s ended 1[0] attempt 1 Infra then Retry { class: Infra, not_before: Time(1000) }
        0.000s fence of L1 confirmed 0-0 None
        0.000s n1 is forgotten
            → reply Done
    "#]]
    .assert_eq(&w.told());
    assert_eq!(w.reasons(job)[0], "backoff: 1 element(s) wait before their next attempt, the first until 1.000s");
    w.at(1).tick();
    assert_eq!(w.reasons(job), ["no-nodes: no node is registered"]);
}

#[test]
fn a_node_that_cannot_start_a_job_three_times_is_kept_from_it_for_an_hour() {
    let mut w = World::with_nodes(&[(1, 0)]);
    let job = w.job(sleep());
    for (lease, seconds) in [(1, 0), (2, 10), (3, 20)] {
        w.at(seconds).tick();
        let detail = "no space left on device".to_owned();
        w.report(1, &[(lease, FactKind::StartFailed { index: 0, rank: 0, users_fault: false, detail })]);
    }
    w.at(100).tick();
    assert_eq!(w.reasons(job), ["node-excluded: kept from 1 node(s): no space left on device"]);
    let excluded = w.state.next_wake().unwrap();
    assert_eq!(excluded, crate::time::Time(3_620_000));
    w.at(3_620).tick();
    assert_eq!(w.states(job), "Running {Starting: 1}");
}

#[test]
fn a_retry_prefers_the_node_with_its_checkpoint() {
    let mut w = World::with_nodes(&[(1, 0), (4, 0)]);
    let job = w.job(JobDraft { retry: RetryDraft { failure: Some(1), ..RetryDraft::default() }, ..needing(1, 0) });
    let blocker = w.job(needing(1, 0));
    assert_eq!(w.state.lease(LeaseId(2)).unwrap().node, NodeId(2));
    let failed = Exit { checkpoint: Some("/ckpt/7".into()), ..exit(Cause::Exit, Some(1)) };
    w.report(2, &[(2, ended(0, 0, 0))]);
    w.report(1, &[(1, FactKind::Ended { index: 0, rank: 0, exit: failed })]);
    let effects = w.at(1).tick();
    let Effect::Grant(grant) = &effects[0] else { panic!("{effects:?}") };
    assert_eq!((grant.node, grant.task.resume_from.as_deref()), (NodeId(1), Some("/ckpt/7")));
    assert_eq!(
        (w.states(job).as_str(), w.states(blocker).as_str()),
        ("Running {Starting: 1}", "Completed {Completed: 1}")
    );
}

fn drain(w: &mut World, evict_after: Option<Millis>) -> Vec<Effect> {
    let (name, mode, reason) = (name(1), NodeMode::Draining, "disk".to_owned());
    w.send(Input::SetNode { name, mode, reason, evict_after })
}

#[test]
fn an_eviction_takes_what_runs_down_and_it_is_tried_elsewhere_at_no_cost_to_its_owner() {
    let mut w = World::with_nodes(&[(2, 0), (2, 0)]);
    let job = w.job(JobDraft { retry: RetryDraft { preempted: None, ..RetryDraft::default() }, ..needing(2, 0) });
    w.report(1, &[(1, started(0, 0))]);
    w.told();
    drain(&mut w, Some(Millis(0)));
    assert_eq!(w.states(job), "Running {Completing: 1}");
    assert_eq!(owed(&w.state, NodeId(1), &[held(1, Phase::Running)]).last().cloned(), Some(preempting(1)));
    w.report(1, &[(1, ended_by(0, 0, Cause::Revoked))]);
    w.at(1).tick();
    expect![[r#"
        0.000s n1 is Draining
        0.000s preempted L1
            → reply Done
            → revoke L1 on n1 Preempted []
        0.000s ended 1[0] attempt 1 Preempted then Retry { class: Preempted, not_before: Time(1000) }
        0.000s report 2 of n1
            → ack 2 to n1
        1.000s round 2 decided 1
        1.000s leased L2 1[0-0] attempt 2 n2 slots 1 alt 0 []
            → grant L2 to n2: 1[0-0] attempt 2
    "#]]
    .assert_eq(&w.told());
    let used = w.state.job(job).unwrap().body.records[&0].used;
    assert_eq!((used.preempted, used.infra, used.failure), (1, 0, 0));
    // It cost no retry of the owner's: the first failure after it ends the element, as the first ever would have.
    w.report(2, &[(2, ended(0, 0, 3))]);
    assert_eq!(w.states(job), "Failed {Failed: 1}");
    w.replays();
}

fn preempting(lease: u64) -> Effect {
    let (lease, reason, elements) = (LeaseId(lease), RevokeReason::Preempted, RangeSet::new());
    Effect::Revoke { node: NodeId(1), lease, reason, elements }
}

#[test]
fn a_drain_with_a_deadline_waits_for_it_and_a_resume_calls_it_off() {
    let mut w = World::with_nodes(&[(2, 0)]);
    let job = w.job(sleep());
    w.report(1, &[(1, started(0, 0))]);
    drain(&mut w, Some(Millis::minutes(10)));
    assert_eq!(w.state.next_wake(), Some(Time(600_000)));
    w.at(599).tick();
    assert_eq!(w.states(job), "Running {Running: 1}");
    w.send(Input::SetNode { name: name(1), mode: NodeMode::Active, reason: String::new(), evict_after: None });
    w.at(700).tick();
    assert_eq!(w.states(job), "Running {Running: 1}");
    drain(&mut w, Some(Millis::minutes(1)));
    w.told();
    w.at(760).tick();
    w.at(800).tick();
    expect![[r#"
        760.000s preempted L1
        760.000s n1 is evicted
            → revoke L1 on n1 Preempted []
    "#]]
    .assert_eq(&w.told());
}

#[test]
fn a_cancelled_element_of_an_evicted_lease_ends_cancelled_and_a_success_stays_one() {
    let mut w = World::with_nodes(&[(3, 0)]);
    let cancelled = w.job(sleep());
    let done = w.job(sleep());
    let moved = w.job(sleep());
    drain(&mut w, Some(Millis(0)));
    w.send(Input::Cancel { job: cancelled, elements: None });
    w.report(1, &[(1, ended_by(0, 0, Cause::Revoked)), (2, ended(0, 0, 0)), (3, ended_by(0, 0, Cause::Revoked))]);
    assert_eq!(w.states(cancelled), "Cancelled {Cancelled: 1}");
    assert_eq!(w.states(done), "Completed {Completed: 1}");
    assert_eq!(w.states(moved), "Pending {Pending: 1}");
}

#[test]
fn a_gang_with_one_evicted_node_ends_preempted_on_all_of_them() {
    let mut w = World::with_nodes(&[(1, 0), (1, 0)]);
    let job = w.job(gang(2, 1));
    w.report(1, &[(1, FactKind::Prepared { port: 1 })]);
    w.report(2, &[(2, FactKind::Prepared { port: 2 })]);
    w.told();
    drain(&mut w, Some(Millis(0)));
    w.report(1, &[(1, ended_by(0, 0, Cause::Revoked))]);
    w.report(2, &[(2, ended_by(0, 1, Cause::Revoked))]);
    let told = w.told();
    assert!(told.contains("→ revoke L1 on n1 Preempted []") && told.contains("→ revoke L2 on n2 Gang []"), "{told}");
    assert!(told.contains("attempt 1 Preempted then Retry { class: Preempted"), "{told}");
    assert_eq!(w.states(job), "Pending {Pending: 1}");
}

#[test]
fn only_a_drain_evicts() {
    let mut w = World::with_nodes(&[(1, 0)]);
    let (name, mode, reason) = (name(1), NodeMode::Cordoned, String::new());
    let effects = w.send(Input::SetNode { name, mode, reason, evict_after: Some(Millis(1)) });
    assert_eq!(refused(&effects), "bad-eviction");
}

#[test]
fn a_forgotten_node_that_returns_gets_no_work_before_its_old_tasks_are_gone() {
    let mut w = World::with_nodes(&[(2, 1)]);
    let job = w.job(needing(1, 1));
    w.report(1, &[(1, started(0, 0))]);
    silent(&mut w, 1);
    w.send(Input::ForgetNode { name: name(1) });
    w.at(1).tick();
    // It comes back with the task that trains on its only GPU.
    w.told();
    w.hello(1, inventory(1, 2, 1), &[held(1, Phase::Running)]);
    expect![[r#"
        1.000s n2 is registered
        1.000s n2 clears [1]
            → reply Welcome { node: NodeId(2), acked_report: 0 }
    "#]]
    .assert_eq(&w.told());
    assert_eq!(
        w.reasons(job)[0],
        "nodes-clearing: 1 node(s) could run it and still end tasks that nobody here gave them"
    );
    let debts = owed(&w.state, NodeId(2), &[held(1, Phase::Running)]);
    let (node, lease, reason, elements) = (NodeId(2), LeaseId(1), RevokeReason::Fenced, RangeSet::new());
    assert_eq!(debts, [Effect::Revoke { node, lease, reason, elements }]);
    // Its heartbeats are what they should be until the task is gone; then they differ, and a Hello follows.
    assert_eq!(w.state.lease_summary(NodeId(2)), (1, crate::liveness::lease_hash([LeaseId(1)])));
    w.hello(1, inventory(1, 2, 1), &[held(1, Phase::Ended)]);
    assert_eq!(w.states(job), "Running {Starting: 1}");
    assert_eq!(w.state.leases().next().unwrap().node, NodeId(2));
    w.replays();
}
