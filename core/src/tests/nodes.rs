//! Nodes: silence, fences, reboots, drains, and what a node is owed.

use expect_test::expect;

use super::world::*;
use crate::effect::{Effect, Reply};
use crate::id::*;
use crate::input::*;
use crate::job::draft::*;
use crate::job::record::{Cause, Exit};
use crate::node::NodeMode;
use crate::owed::owed;

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
    w.send(Input::SetNode { name: name(1), mode: NodeMode::Cordoned, reason: "fan".into() });
    let job = w.job(sleep());
    assert_eq!(w.reasons(job), ["nodes-cordoned: 1 node(s) could run it and none of them takes work"]);
    w.send(Input::SetNode { name: name(1), mode: NodeMode::Active, reason: String::new() });
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
