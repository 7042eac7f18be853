//! Exact outputs of the agent's machine, input by input.

use super::*;
use crate::input::Phase;
use crate::job::record::{Cause, Exit};
use crate::lease::RevokeReason;

const BASE: u64 = 1 << 32;
const L: LeaseId = LeaseId(7);
const BEAT: Millis = Millis::seconds(5);
const GRACE: Millis = Millis::seconds(10);

fn chunk(first: u32, last: u32) -> Terms {
    Terms { lease: L, first, last, gang: vec![], grace: GRACE, stop_after: None }
}

fn gang(ranks: &[u32]) -> Terms {
    Terms { gang: ranks.to_vec(), ..chunk(3, 3) }
}

fn of(kind: FactKind) -> Fact {
    Fact { lease: L, kind }
}

fn prepared() -> Fact {
    of(FactKind::Prepared { port: 29_500 })
}

fn started(index: u32, rank: u32) -> Fact {
    of(FactKind::Started { index, rank, pid: 1, start_ticks: 1, output_dir: String::new(), spawn_us: 1 })
}

fn succeeded(first: u32, last: u32) -> Fact {
    of(FactKind::Succeeded { first, last, mean_us: 10 })
}

fn returned(first: u32, last: u32) -> Fact {
    of(FactKind::Returned { first, last })
}

fn ended(index: u32, rank: u32, cause: Cause) -> Fact {
    let detail = String::from(if cause == Cause::Infra { "the supervisor died" } else { "" });
    let exit = Exit { cause, exit_code: None, signal: None, detail, ran_us: 0, checkpoint: None, max_rss_bytes: 0 };
    of(FactKind::Ended { index, rank, exit })
}

fn start_failed(index: u32, rank: u32) -> Fact {
    let detail = String::from("the supervisor died before the task began");
    of(FactKind::StartFailed { index, rank, users_fault: false, detail })
}

/// The `nth` fact of the spool.
fn said(nth: u64, fact: Fact) -> Input {
    Input::Fact(Spooled { seq: nth, fact })
}

fn spool(terms: Terms, open: &[(u32, u32)], begun: u64, facts: Vec<Fact>) -> Spool {
    let open = open.iter().map(|&(first, last)| crate::ranges::IndexRange { first, last }).collect();
    let facts = (1..).zip(facts).map(|(seq, fact)| Spooled { seq, fact }).collect();
    Spool { leases: vec![Adopted { terms, held: true, open, begun, renewed: Time(0) }], facts }
}

fn order(order: Order) -> Effect {
    Effect::ToSupervisor(order)
}

fn spool_acked(seq: u64) -> Effect {
    order(Order::AckFacts { seq })
}

fn report(number: u64, facts: Vec<Fact>) -> Effect {
    Effect::SendReport { seq: BASE + number, facts }
}

fn hello(phase: Phase, last_index: u32) -> Effect {
    Effect::SendHello { leases: vec![HeldLease { lease: L, phase, last_index }] }
}

fn stop(elements: RangeSet, grace: Millis, reason: StopReason) -> Effect {
    order(Order::Stop { lease: L, elements, grace, reason })
}

fn revoke(elements: RangeSet) -> Input {
    Input::RevokeRequested { lease: L, reason: RevokeReason::Cancelled, elements }
}

fn welcome(acked_report: u64) -> Input {
    Input::Welcomed { acked_report, heartbeat: BEAT }
}

fn gone() -> Input {
    Input::LeftoversGone { lease: L }
}

/// An agent that was welcomed at 0 and sends heartbeats every 5 s.
fn open() -> Agent {
    let mut agent = Agent::new(BASE, Time(0));
    assert_eq!(agent.step(Time(0), Input::SupervisorList(Spool::default())), []);
    assert_eq!(agent.step(Time(0), Input::Connected), [Effect::SendHello { leases: vec![] }]);
    assert_eq!(agent.step(Time(0), welcome(0)), []);
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
            said(1, started(0, 0)),
            said(2, succeeded(0, 1)),
            said(3, succeeded(2, 2)),
            ack(1),
            said(4, ended(3, 0, Cause::Exit)),
            ack(2),
            ack(3),
        ],
    );
    assert_eq!(
        out,
        [
            order(Order::Spawn { lease: L }),
            report(1, vec![started(0, 0)]),
            report(2, vec![succeeded(0, 2)]),
            spool_acked(1),
            report(3, vec![ended(3, 0, Cause::Exit)]),
            spool_acked(3),
            Effect::ForgetLease { lease: L },
            spool_acked(4),
        ]
    );
    assert_eq!(agent.held(), []);
}

#[test]
fn a_second_grant_spawns_nothing_before_and_after_the_end() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(0, 0))]);
    assert_eq!(run(&mut agent, [Input::Granted(chunk(0, 0))]), []);
    run(&mut agent, [said(1, succeeded(0, 0)), ack(1)]);
    assert_eq!(run(&mut agent, [Input::Granted(chunk(0, 0))]), []);
}

#[test]
fn a_fact_heard_twice_is_reported_once() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(0, 9)), said(1, succeeded(0, 4)), ack(1)]);
    let out = run(&mut agent, [said(2, started(4, 0)), said(3, succeeded(0, 6)), said(3, succeeded(0, 6))]);
    assert_eq!(out, [spool_acked(2), report(2, vec![succeeded(5, 6)])]);
    let other = Fact { lease: LeaseId(99), kind: FactKind::Prepared { port: 1 } };
    assert_eq!(run(&mut agent, [said(4, ended(2, 0, Cause::Exit)), said(5, other)]), []);
    assert_eq!(run(&mut agent, [ack(2)]), [spool_acked(5)]);
}

#[test]
fn a_gang_prepares_waits_for_start_and_settles_by_rank() {
    let mut agent = open();
    let start = || Input::StartRequested { lease: L, master_addr: "10.0.0.1".into(), master_port: 29_500 };
    assert_eq!(run(&mut agent, [Input::Granted(gang(&[0, 1])), start()]), [order(Order::Prepare { lease: L })]);
    assert_eq!(agent.held()[0].phase, Phase::Prepared);
    let out = run(&mut agent, [said(1, prepared()), said(1, prepared()), start()]);
    let begin = Order::Start { lease: L, master_addr: "10.0.0.1".into(), master_port: 29_500 };
    assert_eq!(out, [report(1, vec![prepared()]), order(begin)]);
    run(&mut agent, [said(2, started(3, 0)), ack(1)]);
    assert_eq!(run(&mut agent, [start()]), []);
    run(&mut agent, [said(3, ended(3, 0, Cause::Exit)), ack(2), ack(3)]);
    assert_eq!(agent.held()[0].phase, Phase::Running);
    run(&mut agent, [said(4, ended(3, 1, Cause::Exit)), ack(4)]);
    assert_eq!(agent.held(), []);
}

#[test]
fn a_gang_that_cannot_prepare_is_settled_by_one_fact() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(gang(&[0, 1]))]);
    let detail = String::from("no such command");
    let failed = of(FactKind::StartFailed { index: 3, rank: 0, users_fault: true, detail });
    let out = run(&mut agent, [said(1, failed.clone()), said(2, returned(3, 3))]);
    assert_eq!(out, [report(1, vec![failed])]);
    assert_eq!(agent.held()[0].phase, Phase::Ended);
}

#[test]
fn a_gang_revoked_before_start_comes_back_as_one() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(gang(&[2, 5])), said(1, prepared()), ack(1)]);
    let cancelled = StopReason::Revoked(RevokeReason::Cancelled);
    assert_eq!(run(&mut agent, [revoke(RangeSet::new())]), [stop(RangeSet::new(), GRACE, cancelled)]);
    assert_eq!(run(&mut agent, [said(2, returned(3, 3))]), [report(2, vec![returned(3, 3)])]);
    assert_eq!(agent.held()[0].phase, Phase::Ended);
}

#[test]
fn revoke_and_trim_go_to_the_supervisor_while_something_is_open() {
    let mut agent = open();
    assert_eq!(run(&mut agent, [revoke(RangeSet::new())]), []);
    run(&mut agent, [Input::Granted(chunk(0, 9))]);
    let out = run(&mut agent, [Input::TrimRequested { lease: L }, revoke(RangeSet::range(2, 2))]);
    let cancelled = StopReason::Revoked(RevokeReason::Cancelled);
    assert_eq!(out, [order(Order::Trim { lease: L }), stop(RangeSet::range(2, 2), GRACE, cancelled)]);
    run(&mut agent, [said(1, returned(6, 9))]);
    assert_eq!(agent.held(), [HeldLease { lease: L, phase: Phase::Running, last_index: 5 }]);
    run(&mut agent, [said(2, succeeded(0, 1)), said(3, ended(2, 0, Cause::Revoked)), said(4, succeeded(3, 5))]);
    assert_eq!(run(&mut agent, [revoke(RangeSet::new()), Input::TrimRequested { lease: L }]), []);
}

#[test]
fn an_operator_that_ends_every_task_bounds_the_grace() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(0, 0))]);
    let out = run(&mut agent, [Input::StopTasks { grace_max: Millis(5_000) }]);
    assert_eq!(out, [stop(RangeSet::new(), Millis(5_000), StopReason::Shutdown)]);
}

#[test]
fn an_unacknowledged_report_is_sent_again_unchanged_and_alone() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(0, 9)), said(1, succeeded(0, 4))]);
    assert_eq!(run(&mut agent, [Input::Disconnected, said(2, succeeded(5, 5)), said(3, succeeded(6, 6))]), []);
    assert_eq!(run(&mut agent, [Input::Connected]), [hello(Phase::Running, 9)]);
    assert_eq!(run(&mut agent, [welcome(0)]), [report(1, vec![succeeded(0, 4)])]);
    run(&mut agent, [Input::Disconnected, Input::Connected]);
    assert_eq!(run(&mut agent, [welcome(BASE + 1)]), [report(2, vec![succeeded(5, 6)]), spool_acked(1)]);
}

#[test]
fn a_restarted_agent_greets_after_the_list_and_reports_the_spool_under_new_sequences() {
    let base = 2 << 32;
    let mut agent = Agent::new(base, Time(0));
    assert_eq!(run(&mut agent, [Input::Connected, Input::Granted(chunk(0, 9))]), []);
    let facts = vec![succeeded(2, 3), ended(4, 0, Cause::Oom)];
    let list = spool(chunk(0, 9), &[(5, 9)], 6, facts.clone());
    assert_eq!(run(&mut agent, [Input::SupervisorList(list)]), [hello(Phase::Running, 9)]);
    let out = run(&mut agent, [welcome(BASE + 1)]);
    assert_eq!(out, [Effect::SendReport { seq: base + 1, facts }]);
    run(&mut agent, [said(3, succeeded(5, 9)), Input::ReportAcked { seq: base + 1 }]);
    let out = run(&mut agent, [Input::ReportAcked { seq: base + 2 }]);
    assert_eq!(out, [Effect::ForgetLease { lease: L }, spool_acked(3)]);
}

#[test]
fn a_lease_that_ended_and_was_acknowledged_before_the_restart_is_forgotten_at_once() {
    let mut agent = Agent::new(BASE, Time(0));
    let out = run(&mut agent, [Input::SupervisorList(spool(chunk(0, 9), &[], 10, vec![]))]);
    assert_eq!(out, [Effect::ForgetLease { lease: L }]);
}

#[test]
fn a_scheduler_that_is_ahead_pulls_the_sequence_up() {
    let mut agent = Agent::new(0, Time(0));
    run(&mut agent, [Input::SupervisorList(Spool::default()), Input::Connected, welcome(41)]);
    let out = run(&mut agent, [Input::Granted(chunk(0, 0)), said(1, succeeded(0, 0))]);
    assert_eq!(out[1], Effect::SendReport { seq: 42, facts: vec![succeeded(0, 0)] });
}

#[test]
fn a_lost_supervisor_ends_what_began_and_returns_the_rest_once_its_processes_are_gone() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(0, 9)), said(1, started(0, 0)), ack(1)]);
    let left = spool(chunk(0, 9), &[(0, 9)], 5, vec![started(0, 0), succeeded(0, 2)]);
    let out = run(&mut agent, [Input::SupervisorLost(Some(left))]);
    assert_eq!(out, [Effect::KillLeftovers { lease: L }, report(2, vec![succeeded(0, 2)])]);
    assert_eq!(run(&mut agent, [revoke(RangeSet::new()), ack(2)]), [spool_acked(2)]);
    let dead = |index| ended(index, 0, Cause::Infra);
    assert_eq!(run(&mut agent, [gone(), gone()]), [report(3, vec![dead(3), dead(4), returned(5, 9)])]);
    assert_eq!(agent.held()[0].phase, Phase::Ended);
}

#[test]
fn a_lease_that_never_reached_the_dead_supervisor_costs_one_infra_start() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(4, 9)), Input::SupervisorLost(Some(Spool::default()))]);
    assert_eq!(run(&mut agent, [gone()]), [report(1, vec![start_failed(4, 0), returned(5, 9)])]);
}

#[test]
fn without_a_readable_spool_everything_open_counts_as_begun() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(0, 1)), Input::SupervisorLost(None)]);
    let dead = |index| ended(index, 0, Cause::Infra);
    assert_eq!(run(&mut agent, [gone()]), [report(1, vec![dead(0), dead(1)])]);
}

#[test]
fn a_gang_loses_its_ranks_by_whether_it_was_started() {
    let lost = |begun| {
        let mut agent = open();
        run(&mut agent, [Input::Granted(gang(&[0, 1]))]);
        let left = spool(gang(&[0, 1]), &[(0, 1)], begun, vec![prepared()]);
        run(&mut agent, [Input::SupervisorLost(Some(left)), ack(1)]);
        run(&mut agent, [gone()])
    };
    assert_eq!(lost(3), [report(2, vec![start_failed(3, 0), start_failed(3, 1)])]);
    let dead = |rank| ended(3, rank, Cause::Infra);
    assert_eq!(lost(4), [report(2, vec![dead(0), dead(1)])]);
}

#[test]
fn a_lease_the_living_supervisor_does_not_know_is_lost_alone() {
    let mut agent = open();
    let other = Terms { lease: LeaseId(8), ..chunk(0, 0) };
    run(&mut agent, [Input::Granted(chunk(0, 0)), Input::Granted(other.clone())]);
    let out = run(&mut agent, [Input::SupervisorList(spool(other, &[(0, 0)], 1, vec![]))]);
    assert_eq!(out, [Effect::KillLeftovers { lease: L }]);
}

#[test]
fn a_lease_that_died_with_an_earlier_supervisor_is_lost_though_another_lives() {
    let mut agent = Agent::new(BASE, Time(0));
    let mut list = spool(chunk(0, 9), &[(0, 9)], 3, vec![started(0, 0), succeeded(0, 1)]);
    list.leases[0].held = false;
    assert_eq!(run(&mut agent, [Input::SupervisorList(list)]), [Effect::KillLeftovers { lease: L }]);
    let out = run(&mut agent, [gone(), Input::Connected, welcome(0)]);
    let facts = vec![started(0, 0), succeeded(0, 1), ended(2, 0, Cause::Infra), returned(3, 9)];
    assert_eq!(out, [hello(Phase::Ended, 2), report(1, facts)]);
}

#[test]
fn heartbeats_carry_the_open_leases_and_a_mismatch_is_answered_on_a_new_stream() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(0, 2))]);
    assert_eq!(agent.next_tick(), Some(Time(5_000)));
    assert_eq!(agent.step(Time(4_999), Input::Tick), []);
    let lease_hash = liveness::lease_hash([L]);
    let beat = Effect::SendHeartbeat { sent: Time(5_000), lease_count: 1, lease_hash };
    assert_eq!(agent.step(Time(5_000), Input::Tick), [beat]);
    assert_eq!(agent.next_tick(), Some(Time(10_000)));
    run(&mut agent, [said(1, succeeded(0, 2))]);
    let beat = Effect::SendHeartbeat { sent: Time(10_000), lease_count: 0, lease_hash: 0 };
    assert_eq!(agent.step(Time(10_000), Input::Tick), [beat]);
    assert_eq!(run(&mut agent, [Input::Reconcile]), [Effect::Redial]);
    assert_eq!(agent.next_tick(), None);
    assert_eq!(run(&mut agent, [Input::Disconnected, Input::Connected]), [hello(Phase::Ended, 2)]);
    run(&mut agent, [Input::Disconnected]);
    assert_eq!(run(&mut agent, [Input::Reconcile, Input::Tick]), []);
}

#[test]
fn silence_is_counted_from_the_sending_of_the_last_acknowledged_heartbeat() {
    let mut agent = open();
    let terms = Terms { stop_after: Some(Millis::minutes(1)), ..chunk(0, 0) };
    let renew = |heard| order(Order::Renew { heard: Time(heard) });
    let out = run(&mut agent, [Input::Granted(terms)]);
    assert_eq!(out, [order(Order::Spawn { lease: L }), renew(0)]);
    assert_eq!(agent.step(Time(9_000), Input::HeartbeatAcked { sent: Time(5_000) }), [renew(5_000)]);
    assert_eq!(agent.step(Time(9_000), Input::HeartbeatAcked { sent: Time(4_000) }), []);
    agent.step(Time(9_000), Input::Disconnected);
    assert_eq!(agent.next_tick(), Some(Time(65_000)));
    assert_eq!(agent.step(Time(64_999), Input::Tick), []);
    let silence = stop(RangeSet::new(), GRACE, StopReason::Silence);
    assert_eq!(agent.step(Time(65_000), Input::Tick), [silence]);
    assert_eq!(agent.step(Time(66_000), Input::Tick), []);
    assert_eq!(agent.next_tick(), None);
}

#[test]
fn a_restarted_agent_counts_silence_from_what_the_supervisor_remembers() {
    let mut agent = Agent::new(BASE, Time(100_000));
    let terms = Terms { stop_after: Some(Millis::minutes(1)), ..chunk(0, 0) };
    let mut list = spool(terms, &[(0, 0)], 1, vec![]);
    list.leases[0].renewed = Time(50_000);
    agent.step(Time(100_000), Input::SupervisorList(list));
    assert_eq!(agent.next_tick(), Some(Time(110_000)));
}

#[test]
fn a_large_backlog_leaves_in_bounded_reports_one_after_the_other() {
    let mut agent = open();
    run(&mut agent, [Input::Granted(chunk(0, 5_000)), Input::Disconnected]);
    for index in 0..2_500 {
        run(&mut agent, [said(u64::from(index), ended(index, 0, Cause::Exit))]);
    }
    let sizes: Vec<usize> = [Input::Connected, welcome(0), ack(1), ack(2), ack(3)]
        .into_iter()
        .flat_map(|input| agent.step(Time(2), input))
        .filter_map(|effect| if let Effect::SendReport { facts, .. } = effect { Some(facts.len()) } else { None })
        .collect();
    assert_eq!(sizes, [1_000, 1_000, 500]);
}
