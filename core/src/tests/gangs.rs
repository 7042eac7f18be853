//! Gangs: prepared everywhere, started together, stopped together.

use expect_test::expect;

use super::world::*;
use crate::effect::Effect;
use crate::id::NodeId;
use crate::input::*;
use crate::job::draft::*;
use crate::job::record::Cause;

fn prepared(port: u16) -> FactKind {
    FactKind::Prepared { port }
}

#[test]
fn a_gang_starts_when_every_node_is_prepared_and_completes_when_every_rank_has() {
    let mut w = World::with_nodes(&[(2, 0), (1, 0)]);
    let job = w.job(gang(3, 1));
    w.report(2, &[(2, prepared(7_002))]);
    w.report(1, &[(1, prepared(7_001))]);
    w.report(1, &[(1, started(0, 0)), (1, started(0, 1))]);
    w.report(2, &[(2, started(0, 2))]);
    assert_eq!(w.states(job), "Running {Running: 1}");
    w.report(1, &[(1, ended(0, 0, 0)), (1, ended(0, 1, 0))]);
    w.report(2, &[(2, ended(0, 2, 0))]);
    assert_eq!(w.states(job), "Completed {Completed: 1}");
    expect![[r#"
        0.000s submitted [1]
            → reply Submitted { jobs: [JobId(1)], repeated: false }
        0.000s round 1 decided 1
        0.000s gang 1[0] attempt 1 L1:n1×2 L2:n2×1
            → grant L1 to n1: 1[0-0] attempt 1
            → grant L2 to n2: 1[0-0] attempt 1
        0.000s prepared L2
        0.000s report 1 of n2
            → ack 1 to n2
        0.000s prepared L1
        0.000s gang 1[0] started 10.0.0.1:7001
        0.000s report 1 of n1
            → start L1 on n1 10.0.0.1:7001
            → start L2 on n2 10.0.0.1:7001
            → ack 1 to n1
        0.000s started L1 1[0].0
        0.000s started L1 1[0].1
        0.000s report 2 of n1
            → ack 2 to n1
        0.000s started L2 1[0].2
        0.000s report 2 of n2
            → ack 2 to n2
        0.000s rank L1.0 ended Exit Some(0)
        0.000s rank L1.1 ended Exit Some(0)
        0.000s report 3 of n1
            → ack 3 to n1
        0.000s rank L2.2 ended Exit Some(0)
        0.000s ended 1[0] attempt 1 Ok then End(Completed)
        0.000s report 3 of n2
            → ack 3 to n2
    "#]]
    .assert_eq(&w.told());
    let tasks = w.state.tasks(job, None, (0, 0), 9).tasks;
    let tasks: Vec<_> = tasks.iter().map(|task| (task.rank, task.node.unwrap().0, task.pid, task.exit_code)).collect();
    assert_eq!(tasks, [(0, 1, Some(100), Some(0)), (1, 1, Some(101), Some(0)), (2, 2, Some(102), Some(0))]);
}

#[test]
fn the_first_rank_to_fail_stops_the_others_and_its_code_is_the_elements() {
    let mut w = World::with_nodes(&[(1, 0), (1, 0)]);
    let job = w.job(gang(2, 1));
    w.report(1, &[(1, prepared(1))]);
    w.report(2, &[(2, prepared(2))]);
    w.told();
    w.report(2, &[(2, ended(0, 1, 3))]);
    assert_eq!(w.states(job), "Running {Completing: 1}");
    w.report(1, &[(1, ended_by(0, 0, Cause::Revoked))]);
    assert_eq!(w.states(job), "Failed {Failed: 1}");
    assert_eq!(w.state.job(job).unwrap().body.exit_code, Some(3));
    expect![[r#"
        0.000s rank L2.1 ended Exit Some(3)
        0.000s gang 1[0] stopping Failed
        0.000s report 2 of n2
            → revoke L1 on n1 Gang []
            → ack 2 to n2
        0.000s rank L1.0 ended Revoked None
        0.000s ended 1[0] attempt 1 Failed then End(Failed)
        0.000s report 2 of n1
            → ack 2 to n1
    "#]]
    .assert_eq(&w.told());
}

#[test]
fn one_node_that_cannot_start_ends_the_attempt_everywhere_and_devices_return_when_stops_are_confirmed() {
    let mut w = World::with_nodes(&[(1, 1), (1, 1)]);
    let job = w.job(JobDraft { replicas: 2, ..needing(1, 1) });
    let free = |w: &World| w.state.nodes().map(|node| node.free_devices().count()).collect::<Vec<_>>();
    w.report(1, &[(1, prepared(1))]);
    let detail = "port taken".to_owned();
    w.report(2, &[(2, FactKind::StartFailed { index: 0, rank: 1, users_fault: false, detail })]);
    assert_eq!(free(&w), [0, 1]);
    w.told();
    w.report(1, &[(1, FactKind::Returned { first: 0, last: 0 })]);
    assert_eq!(free(&w), [1, 1]);
    expect![[r#"
        0.000s rank L1.0 ended Revoked None
        0.000s ended 1[0] attempt 1 Infra then Retry { class: Infra, not_before: Time(1000) }
        0.000s report 2 of n1
            → ack 2 to n1
    "#]]
    .assert_eq(&w.told());
    w.at(1).tick();
    assert_eq!(w.states(job), "Running {Starting: 1}");
}

#[test]
fn a_gang_that_is_not_prepared_in_a_minute_is_taken_back() {
    let mut w = World::with_nodes(&[(1, 0), (1, 0)]);
    let job = w.job(gang(2, 1));
    w.report(1, &[(1, prepared(1))]);
    w.told();
    w.at(59).tick();
    assert_eq!(w.told(), "");
    w.at(60).tick();
    w.report(1, &[(1, FactKind::Returned { first: 0, last: 0 })]);
    w.report(2, &[(2, prepared(2))]);
    w.report(2, &[(2, FactKind::Returned { first: 0, last: 0 })]);
    expect![[r#"
        60.000s gang 1[0] stopping Infra
            → revoke L1 on n1 Gang []
            → revoke L2 on n2 Gang []
        60.000s rank L1.0 ended Revoked None
        60.000s report 2 of n1
            → ack 2 to n1
        60.000s prepared L2
        60.000s report 1 of n2
            → ack 1 to n2
        60.000s rank L2.1 ended Revoked None
        60.000s ended 1[0] attempt 1 Infra then Retry { class: Infra, not_before: Time(61000) }
        60.000s report 2 of n2
            → ack 2 to n2
    "#]]
    .assert_eq(&w.told());
    assert_eq!(w.states(job), "Pending {Pending: 1}");
}

#[test]
fn a_gangs_bad_workdir_is_the_jobs_fault() {
    let mut w = World::with_nodes(&[(2, 0)]);
    let job = w.job(gang(2, 1));
    let detail = "workdir /nowhere: no such directory".to_owned();
    w.report(1, &[(1, FactKind::StartFailed { index: 0, rank: 0, users_fault: true, detail })]);
    assert_eq!(w.states(job), "Failed {Failed: 1}");
}

#[test]
fn a_cancelled_gang_is_revoked_on_every_node() {
    let mut w = World::with_nodes(&[(1, 0), (1, 0)]);
    let job = w.job(gang(2, 1));
    w.told();
    w.send(Input::Cancel { job, elements: None });
    w.report(1, &[(1, FactKind::Returned { first: 0, last: 0 })]);
    w.report(2, &[(2, FactKind::Returned { first: 0, last: 0 })]);
    assert_eq!(w.states(job), "Cancelled {Cancelled: 1}");
    expect![[r#"
        0.000s cancelled 1[0-0] Asked
            → reply Cancelled { elements: 1 }
            → revoke L1 on n1 Cancelled []
            → revoke L2 on n2 Cancelled []
        0.000s rank L1.0 ended Revoked None
        0.000s gang 1[0] stopping Cancelled
        0.000s report 1 of n1
            → ack 1 to n1
        0.000s rank L2.1 ended Revoked None
        0.000s ended 1[0] attempt 1 Cancelled then End(Cancelled)
        0.000s report 1 of n2
            → ack 1 to n2
    "#]]
    .assert_eq(&w.told());
}

#[test]
fn a_gang_that_lost_a_node_waits_for_the_others_to_stop() {
    let mut w = World::with_nodes(&[(1, 0), (1, 0)]);
    let job = w.job(gang(2, 1));
    w.report(1, &[(1, prepared(1))]);
    w.report(2, &[(2, prepared(2))]);
    w.send(Input::NodeSilent { node: crate::id::NodeId(2) });
    w.told();
    let effects = w.at(600).tick();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Revoke { .. })));
    assert_eq!(w.states(job), "Running {Completing: 1}");
    w.report(1, &[(1, ended_by(0, 0, Cause::Revoked))]);
    assert_eq!(w.states(job), "Pending {Pending: 1}");
    expect![[r#"
        600.000s fenced L2
        600.000s gang 1[0] stopping Fenced
            → revoke L1 on n1 Gang []
            → revoke L2 on n2 Fenced []
        600.000s rank L1.0 ended Revoked None
        600.000s ended 1[0] attempt 1 Fenced then Retry { class: Infra, not_before: Time(601000) }
        600.000s report 2 of n1
            → ack 2 to n1
    "#]]
    .assert_eq(&w.told());
}

#[test]
fn ranks_go_on_as_few_nodes_as_possible() {
    let mut w = World::with_nodes(&[(2, 0), (8, 0), (4, 0), (4, 0)]);
    w.job(gang(4, 1));
    w.job(gang(10, 1));
    let trace = w.told();
    let gangs: Vec<&str> = trace.lines().filter(|line| line.contains("gang ")).collect();
    expect![[r#"
        0.000s gang 1[0] attempt 1 L1:n3×4
        0.000s gang 2[0] attempt 1 L2:n2×8 L3:n1×2"#]]
    .assert_eq(&gangs.join("\n"));
}

#[test]
fn a_node_that_is_late_for_a_gang_three_times_is_kept_from_the_job() {
    let mut w = World::with_nodes(&[(1, 0), (1, 0)]);
    let job = w.job(gang(2, 1));
    let mut now = 0;
    for attempt in 0..3 {
        let (first, second) = (2 * attempt + 1, 2 * attempt + 2);
        w.at(now).report(1, &[(first, prepared(7_001))]);
        let told = w.told();
        assert!(!told.contains("kept from"), "{told}");
        now += 60;
        w.at(now).tick();
        w.report(1, &[(first, FactKind::Returned { first: 0, last: 0 })]);
        w.report(2, &[(second, FactKind::Returned { first: 0, last: 0 })]);
        now += 1 << attempt;
        w.at(now).tick();
    }
    let told = w.told();
    assert!(told.contains("job 1 kept from n2 until"), "{told}");
    assert!(!told.contains("kept from n1"), "the node that was ready is not to blame: {told}");
    assert_eq!(w.states(job), "Pending {Pending: 1}");
    let starts = &w.state.job(job).unwrap().body.excluded;
    assert_eq!(starts[&NodeId(2)].reason, "node `n2` was not ready in time");
    w.replays();
}
