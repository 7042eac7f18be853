//! Exact outputs of the agent's machine, input by input.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::Cause;

const BASE: u64 = 1 << 32;
const L: LeaseId = LeaseId(7);

fn chunk(first: u32, last: u32) -> Terms {
    Terms { lease: L, first, last, gang: vec![], grace_ms: 10_000, stop_after_ms: 0 }
}

fn gang(ranks: &[u32]) -> Terms {
    Terms { gang: ranks.to_vec(), ..chunk(3, 3) }
}

fn started(index: u32, rank: u32) -> Fact {
    Fact::Started { lease: L, index, rank, pid: 1, start_ticks: 1, output_dir: String::new(), spawn_us: 1 }
}

fn succeeded(first: u32, last: u32) -> Fact {
    Fact::Succeeded { lease: L, first, last, mean_us: 10 }
}

fn returned(first: u32, last: u32) -> Fact {
    Fact::Returned { lease: L, first, last }
}

fn ended(index: u32, rank: u32, cause: Cause, detail: &str) -> Fact {
    Fact::Ended {
        lease: L,
        index,
        rank,
        exit_code: None,
        signal: None,
        cause,
        detail: detail.into(),
        ran_us: 0,
        checkpoint: String::new(),
        max_rss_bytes: 0,
    }
}

fn start_failed(index: u32, rank: u32) -> Fact {
    let detail = String::from("the supervisor died before the task began");
    Fact::StartFailed { lease: L, index, rank, users_fault: false, detail }
}

fn adopted(terms: Terms, facts: Vec<Fact>, begun: u32) -> Adopted {
    Adopted { terms, facts, begun, renewed: Time(0) }
}

fn order(order: Order) -> Effect {
    Effect::ToSupervisor(order)
}

fn report(number: u64, facts: Vec<Fact>) -> Effect {
    Effect::SendReport { seq: BASE + number, facts }
}

fn hello(phase: Phase, last: u32) -> Effect {
    Effect::SendHello { leases: vec![HeldLease { lease: L, phase, last }] }
}

/// An agent that was welcomed at 0 and sends heartbeats every 5 s.
fn open() -> Agent {
    let mut agent = Agent::new(BASE, Time(0));
    assert_eq!(agent.step(Time(0), Input::SupervisorList(vec![])), []);
    assert_eq!(agent.step(Time(0), Input::Connected), [Effect::SendHello { leases: vec![] }]);
    assert_eq!(agent.step(Time(0), Input::Welcomed { acked_report: 0, heartbeat_ms: 5_000 }), []);
    agent
}

fn run(agent: &mut Agent, inputs: impl IntoIterator<Item = Input>) -> Vec<Effect> {
    inputs.into_iter().flat_map(|input| agent.step(Time(1), input)).collect()
}

fn ack(number: u64) -> Input {
    Input::ReportAcked { seq: BASE + number }
}

#[test]
fn a_chunk_is_spawned_reported_and_forgotten_after_its_last_acknowledgement() {
    let mut agent = open();
    let out = run(
        &mut agent,
        [
            Input::Granted(chunk(0, 3)),
            Input::Fact(started(0, 0)),
            Input::Fact(succeeded(0, 1)),
            Input::Fact(succeeded(2, 2)),
            ack(1),
            Input::Fact(ended(3, 0, Cause::Exit, "")),
            ack(2),
            ack(3),
        ],
    );
    let both = Fact::Succeeded { lease: L, first: 0, last: 2, mean_us: 10 };
    assert_eq!(
        out,
        [
            order(Order::Spawn { lease: L }),
            report(1, vec![started(0, 0)]),
            report(2, vec![both]),
            report(3, vec![ended(3, 0, Cause::Exit, "")]),
            order(Order::AckExit { lease: L }),
            Effect::ForgetLease { lease: L },
        ]
    );
    assert_eq!(agent.held(), []);
}

#[test]
fn a_second_grant_spawns_nothing_before_and_after_the_end() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(0, 0))]);
    assert_eq!(run(&mut agent, [Input::Granted(chunk(0, 0))]), []);
    run(&mut agent, [Input::Fact(succeeded(0, 0)), ack(1)]);
    assert_eq!(run(&mut agent, [Input::Granted(chunk(0, 0))]), []);
}

#[test]
fn a_fact_heard_twice_is_reported_once() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(0, 9)), Input::Fact(succeeded(0, 4)), ack(1)]);
    let out = run(&mut agent, [Input::Fact(started(4, 0)), Input::Fact(succeeded(0, 6)), Input::Fact(succeeded(0, 6))]);
    assert_eq!(out, [report(2, vec![succeeded(5, 6)])]);
    assert_eq!(run(&mut agent, [Input::Fact(ended(2, 0, Cause::Exit, ""))]), []);
    let other = Fact::Prepared { lease: LeaseId(99), port: 1 };
    assert_eq!(run(&mut agent, [Input::Fact(other)]), []);
}

#[test]
fn a_gang_prepares_waits_for_start_and_settles_by_rank() {
    let mut agent = open();
    let start = || Input::StartRequested { lease: L, master_addr: "10.0.0.1".into(), master_port: 29_500 };
    let prepared = Fact::Prepared { lease: L, port: 29_500 };
    assert_eq!(run(&mut agent, [Input::Granted(gang(&[0, 1])), start()]), [order(Order::Prepare { lease: L })]);
    assert_eq!(agent.held()[0].phase, Phase::Prepared);
    let out = run(&mut agent, [Input::Fact(prepared.clone()), Input::Fact(prepared.clone()), start()]);
    let begin = Order::Start { lease: L, master_addr: "10.0.0.1".into(), master_port: 29_500 };
    assert_eq!(out, [report(1, vec![prepared]), order(begin)]);
    run(&mut agent, [Input::Fact(started(3, 0)), ack(1)]);
    assert_eq!(run(&mut agent, [start()]), []);
    run(&mut agent, [Input::Fact(ended(3, 0, Cause::Exit, "")), ack(2), ack(3)]);
    assert_eq!(agent.held()[0].phase, Phase::Running);
    run(&mut agent, [Input::Fact(ended(3, 1, Cause::Exit, "")), ack(4)]);
    assert_eq!(agent.held(), []);
}

#[test]
fn a_gang_that_cannot_prepare_is_settled_by_one_fact() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(gang(&[0, 1]))]);
    let fact = Fact::StartFailed { lease: L, index: 3, rank: 0, users_fault: true, detail: "no such command".into() };
    assert_eq!(run(&mut agent, [Input::Fact(fact.clone())]), [report(1, vec![fact])]);
    assert_eq!(agent.held()[0].phase, Phase::Ended);
}

#[test]
fn revoke_and_trim_go_to_the_supervisor_while_something_is_open() {
    let mut agent = open();
    let revoke = |elements: &[u32]| Input::RevokeRequested {
        lease: L,
        reason: StopReason::Cancelled,
        elements: elements.to_vec(),
    };
    assert_eq!(run(&mut agent, [revoke(&[])]), []);
    run(&mut agent, [Input::Granted(chunk(0, 9))]);
    let out = run(&mut agent, [Input::TrimRequested { lease: L, last: Some(5) }, revoke(&[2])]);
    let stop = |elements| Order::Stop { lease: L, elements, grace_ms: 10_000, reason: StopReason::Cancelled };
    assert_eq!(out, [order(Order::Trim { lease: L, last: Some(5) }), order(stop(vec![2]))]);
    run(&mut agent, [Input::Fact(returned(6, 9))]);
    assert_eq!(agent.held(), [HeldLease { lease: L, phase: Phase::Running, last: 5 }]);
    run(&mut agent, [Input::Fact(succeeded(0, 1)), Input::Fact(ended(2, 0, Cause::Revoked, ""))]);
    run(&mut agent, [Input::Fact(succeeded(3, 5))]);
    assert_eq!(run(&mut agent, [revoke(&[]), Input::TrimRequested { lease: L, last: None }]), []);
}

#[test]
fn an_unacknowledged_report_is_sent_again_unchanged_and_alone() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(0, 9)), Input::Fact(succeeded(0, 4))]);
    assert_eq!(run(&mut agent, [Input::Disconnected, Input::Fact(succeeded(5, 5)), Input::Fact(succeeded(6, 6))]), []);
    assert_eq!(run(&mut agent, [Input::Connected]), [hello(Phase::Running, 9)]);
    let welcome = |acked_report| Input::Welcomed { acked_report, heartbeat_ms: 5_000 };
    assert_eq!(run(&mut agent, [welcome(0)]), [report(1, vec![succeeded(0, 4)])]);
    run(&mut agent, [Input::Disconnected, Input::Connected]);
    assert_eq!(run(&mut agent, [welcome(BASE + 1)]), [report(2, vec![succeeded(5, 6)])]);
}

#[test]
fn a_restarted_agent_greets_after_the_list_and_reports_the_spool_under_new_sequences() {
    let base = 2 << 32;
    let mut agent = Agent::new(base, Time(0));
    assert_eq!(run(&mut agent, [Input::Connected, Input::Granted(chunk(0, 9))]), []);
    let list = vec![adopted(chunk(0, 9), vec![succeeded(0, 1), ended(2, 0, Cause::Oom, "")], 3)];
    assert_eq!(run(&mut agent, [Input::SupervisorList(list)]), [hello(Phase::Running, 9)]);
    let facts = vec![succeeded(0, 1), ended(2, 0, Cause::Oom, "")];
    let out = run(&mut agent, [Input::Welcomed { acked_report: BASE + 1, heartbeat_ms: 5_000 }]);
    assert_eq!(out, [Effect::SendReport { seq: base + 1, facts }]);
}

#[test]
fn a_scheduler_that_is_ahead_pulls_the_sequence_up() {
    let mut agent = Agent::new(0, Time(0));
    run(&mut agent, [Input::SupervisorList(vec![]), Input::Connected]);
    run(&mut agent, [Input::Welcomed { acked_report: 41, heartbeat_ms: 5_000 }]);
    let out = run(&mut agent, [Input::Granted(chunk(0, 0)), Input::Fact(succeeded(0, 0))]);
    assert_eq!(out[1], Effect::SendReport { seq: 42, facts: vec![succeeded(0, 0)] });
}

#[test]
fn a_lost_supervisor_ends_what_began_and_returns_the_rest_once_its_processes_are_gone() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(0, 9)), Input::Fact(started(0, 0)), ack(1)]);
    let spool = vec![adopted(chunk(0, 9), vec![started(0, 0), succeeded(0, 2)], 5)];
    let out = run(&mut agent, [Input::SupervisorLost(Some(spool))]);
    assert_eq!(out, [Effect::KillLeftovers { lease: L }, report(2, vec![succeeded(0, 2)])]);
    let revoke = Input::RevokeRequested { lease: L, reason: StopReason::Fenced, elements: vec![] };
    assert_eq!(run(&mut agent, [revoke, ack(2)]), []);
    let dead = |index| ended(index, 0, Cause::Infra, "the supervisor died");
    let gone = || Input::LeftoversGone { lease: L };
    assert_eq!(run(&mut agent, [gone(), gone()]), [report(3, vec![dead(3), dead(4), returned(5, 9)])]);
    assert_eq!(agent.held()[0].phase, Phase::Ended);
}

#[test]
fn a_lease_that_never_reached_the_dead_supervisor_costs_one_infra_start() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(4, 9)), Input::SupervisorLost(Some(vec![]))]);
    let out = run(&mut agent, [Input::LeftoversGone { lease: L }]);
    assert_eq!(out, [report(1, vec![start_failed(4, 0), returned(5, 9)])]);
}

#[test]
fn without_a_readable_spool_everything_open_counts_as_begun() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(0, 1)), Input::SupervisorLost(None)]);
    let out = run(&mut agent, [Input::LeftoversGone { lease: L }]);
    let dead = |index| ended(index, 0, Cause::Infra, "the supervisor died");
    assert_eq!(out, [report(1, vec![dead(0), dead(1)])]);
}

#[test]
fn a_gang_loses_its_ranks_by_whether_they_began() {
    let prepared = Fact::Prepared { lease: L, port: 1 };
    let lost = |facts: Vec<Fact>, begun| {
        let mut agent = open();
        run(&mut agent, [Input::Granted(gang(&[0, 1]))]);
        run(&mut agent, [Input::SupervisorLost(Some(vec![adopted(gang(&[0, 1]), facts, begun)]))]);
        run(&mut agent, [ack(1), Input::LeftoversGone { lease: L }])
    };
    assert_eq!(lost(vec![prepared.clone()], 3), [report(2, vec![start_failed(3, 0), start_failed(3, 1)])]);
    let dead = |rank| ended(3, rank, Cause::Infra, "the supervisor died");
    assert_eq!(lost(vec![prepared, started(3, 0)], 4), [report(2, vec![dead(0), dead(1)])]);
}

#[test]
fn a_lease_the_living_supervisor_does_not_know_is_lost_alone() {
    let mut agent = open();
    let other = Terms { lease: LeaseId(8), ..chunk(0, 0) };
    run(&mut agent, [Input::Granted(chunk(0, 0)), Input::Granted(other.clone())]);
    let out = run(&mut agent, [Input::SupervisorList(vec![adopted(other, vec![], 1)])]);
    assert_eq!(out, [Effect::KillLeftovers { lease: L }]);
}

#[test]
fn a_supervisor_that_missed_the_acknowledgement_hears_it_again() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(0, 0)), Input::Fact(succeeded(0, 0)), ack(1)]);
    let list = vec![adopted(chunk(0, 0), vec![succeeded(0, 0)], 1)];
    assert_eq!(run(&mut agent, [Input::SupervisorList(list)]), [order(Order::AckExit { lease: L })]);
}

#[test]
fn heartbeats_carry_the_leases_and_a_mismatch_is_answered_with_all_of_them() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(0, 2))]);
    assert_eq!(agent.next_tick(), Some(Time(5_000)));
    assert_eq!(agent.step(Time(4_999), Input::Tick), []);
    let lease_hash = liveness::lease_hash([L]);
    let beat = Effect::SendHeartbeat { sent: Time(5_000), lease_count: 1, lease_hash };
    assert_eq!(agent.step(Time(5_000), Input::Tick), [beat]);
    assert_eq!(agent.next_tick(), Some(Time(10_000)));
    assert_eq!(run(&mut agent, [Input::Reconcile]), [hello(Phase::Running, 2)]);
    run(&mut agent, [Input::Disconnected]);
    assert_eq!(agent.next_tick(), None);
    assert_eq!(run(&mut agent, [Input::Reconcile, Input::Tick]), []);
}

#[test]
fn silence_is_counted_from_the_sending_of_the_last_acknowledged_heartbeat() {
    let mut agent = open();
    let terms = Terms { stop_after_ms: 60_000, ..chunk(0, 0) };
    let renew = |heard| order(Order::Renew { heard: Time(heard) });
    let out = run(&mut agent, [Input::Granted(terms)]);
    assert_eq!(out, [order(Order::Spawn { lease: L }), renew(0)]);
    assert_eq!(agent.step(Time(9_000), Input::HeartbeatAcked { sent: Time(5_000) }), [renew(5_000)]);
    assert_eq!(agent.step(Time(9_000), Input::HeartbeatAcked { sent: Time(4_000) }), []);
    agent.step(Time(9_000), Input::Disconnected);
    assert_eq!(agent.next_tick(), Some(Time(65_000)));
    assert_eq!(agent.step(Time(64_999), Input::Tick), []);
    let stop = Order::Stop { lease: L, elements: vec![], grace_ms: 10_000, reason: StopReason::Disconnected };
    assert_eq!(agent.step(Time(65_000), Input::Tick), [order(stop)]);
    assert_eq!(agent.step(Time(66_000), Input::Tick), []);
    assert_eq!(agent.next_tick(), None);
}

#[test]
fn a_restarted_agent_counts_silence_from_what_the_supervisor_remembers() {
    let mut agent = Agent::new(BASE, Time(100_000));
    let terms = Terms { stop_after_ms: 60_000, ..chunk(0, 0) };
    let mut lease = adopted(terms, vec![started(0, 0)], 1);
    lease.renewed = Time(50_000);
    agent.step(Time(100_000), Input::SupervisorList(vec![lease]));
    assert_eq!(agent.next_tick(), Some(Time(110_000)));
}

#[test]
fn a_large_backlog_leaves_in_bounded_reports_one_after_the_other() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(0, 5_000)), Input::Disconnected]);
    for index in 0..2_500 {
        run(&mut agent, [Input::Fact(ended(index, 0, Cause::Exit, ""))]);
    }
    let sizes: Vec<usize> =
        [Input::Connected, Input::Welcomed { acked_report: 0, heartbeat_ms: 5_000 }, ack(1), ack(2), ack(3)]
            .into_iter()
            .flat_map(|input| agent.step(Time(2), input))
            .filter_map(|effect| if let Effect::SendReport { facts, .. } = effect { Some(facts.len()) } else { None })
            .collect();
    assert_eq!(sizes, [1_000, 1_000, 500]);
    assert_eq!(agent.held().first().unwrap().phase, Phase::Running);
}
