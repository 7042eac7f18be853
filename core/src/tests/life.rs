//! One job's life: submitted, leased, run, ended; retried, cancelled, held.

use expect_test::expect;

use super::world::*;
use crate::effect::Reply;
use crate::id::JobId;
use crate::input::*;
use crate::job::draft::*;
use crate::job::record::Cause;
use crate::job::spec::DependencyKind;
use crate::ranges::RangeSet;

#[test]
fn a_job_is_submitted_leased_started_and_completes() {
    let mut w = World::with_nodes(&[(2, 0)]);
    let job = w.at(1).job(sleep());
    assert_eq!(w.states(job), "Running {Starting: 1}");
    w.at(2).report(1, &[(1, started(0, 0))]);
    assert_eq!(w.states(job), "Running {Running: 1}");
    w.at(3).report(1, &[(1, ended(0, 0, 0))]);
    assert_eq!(w.states(job), "Completed {Completed: 1}");
    expect![[r#"
        1.000s submitted [1]
            → reply Submitted { jobs: [JobId(1)], repeated: false }
        1.000s round 1 decided 1
        1.000s leased L1 1[0-0] attempt 1 n1 slots 1 alt 0 []
            → grant L1 to n1: 1[0-0] attempt 1
        2.000s started L1 1[0].0
        2.000s report 1 of n1
            → ack 1 to n1
        3.000s ended 1[0] attempt 1 Ok then End(Completed)
        3.000s report 2 of n1
            → ack 2 to n1
    "#]]
    .assert_eq(&w.told());
    let page = w.state.tasks(job, None, (0, 0), 10);
    expect![[r#"
        TaskPage {
            tasks: [
                TaskView {
                    index: 0,
                    rank: 0,
                    state: Completed,
                    attempt: 1,
                    node: Some(
                        NodeId(
                            1,
                        ),
                    ),
                    pid: Some(
                        100,
                    ),
                    exit_code: Some(
                        0,
                    ),
                    signal: None,
                    outcome: Some(
                        Ok,
                    ),
                    detail: "",
                    leased_at: Some(
                        Time(
                            1000,
                        ),
                    ),
                    started_at: Some(
                        Time(
                            2000,
                        ),
                    ),
                    ended_at: Some(
                        Time(
                            3000,
                        ),
                    ),
                    gpu_uuids: [],
                    output_dir: "/out",
                    spawn_us: Some(
                        900,
                    ),
                    ran_us: Some(
                        1000000,
                    ),
                    checkpoint: None,
                },
            ],
            next: None,
        }
    "#]]
    .assert_debug_eq(&page);
    w.replays();
}

#[test]
fn a_failing_job_is_retried_with_growing_back_off_until_its_budget_is_used() {
    let mut w = World::with_nodes(&[(2, 0)]);
    let job = w.job(JobDraft { retry: RetryDraft { failure: Some(2), ..RetryDraft::default() }, ..sleep() });
    w.at(1).report(1, &[(1, ended(0, 0, 3))]);
    assert_eq!(w.reasons(job), ["backoff: 1 element(s) wait before their next attempt, the first until 2.000s"]);
    w.at(2).tick();
    w.at(3).report(1, &[(2, ended(0, 0, 3))]);
    w.at(5).tick();
    w.at(6).report(1, &[(3, ended(0, 0, 3))]);
    assert_eq!(w.states(job), "Failed {Failed: 1}");
    expect![[r#"
        0.000s submitted [1]
            → reply Submitted { jobs: [JobId(1)], repeated: false }
        0.000s round 1 decided 1
        0.000s leased L1 1[0-0] attempt 1 n1 slots 1 alt 0 []
            → grant L1 to n1: 1[0-0] attempt 1
        1.000s ended 1[0] attempt 1 Failed then Retry { class: Failure, not_before: Time(2000) }
        1.000s report 1 of n1
            → ack 1 to n1
        2.000s round 2 decided 1
        2.000s leased L2 1[0-0] attempt 2 n1 slots 1 alt 0 []
            → grant L2 to n1: 1[0-0] attempt 2
        3.000s ended 1[0] attempt 2 Failed then Retry { class: Failure, not_before: Time(5000) }
        3.000s report 2 of n1
            → ack 2 to n1
        5.000s round 3 decided 1
        5.000s leased L3 1[0-0] attempt 3 n1 slots 1 alt 0 []
            → grant L3 to n1: 1[0-0] attempt 3
        6.000s ended 1[0] attempt 3 Failed then End(Failed)
        6.000s report 3 of n1
            → ack 3 to n1
    "#]]
    .assert_eq(&w.told());
    assert_eq!(w.state.job(job).unwrap().body.exit_code, Some(3));
}

#[test]
fn classes_have_their_own_budgets() {
    let mut w = World::with_nodes(&[(2, 0)]);
    let retry = RetryDraft { oom: Some(1), infra: Some(1), backoff_ms: Some(0), ..RetryDraft::default() };
    let job = w.job(JobDraft { retry, ..sleep() });
    w.report(1, &[(1, ended_by(0, 0, Cause::Oom))]);
    w.report(1, &[(2, ended_by(0, 0, Cause::Infra))]);
    for lease in 3..8 {
        w.report(1, &[(lease, ended_by(0, 0, Cause::Revoked))]);
    }
    w.report(1, &[(8, ended_by(0, 0, Cause::Oom))]);
    assert_eq!(w.states(job), "OutOfMemory {OutOfMemory: 1}");
    expect![[r#"
        0.000s submitted [1]
            → reply Submitted { jobs: [JobId(1)], repeated: false }
        0.000s round 1 decided 1
        0.000s leased L1 1[0-0] attempt 1 n1 slots 1 alt 0 []
            → grant L1 to n1: 1[0-0] attempt 1
        0.000s ended 1[0] attempt 1 Oom then Retry { class: Oom, not_before: Time(0) }
        0.000s report 1 of n1
            → ack 1 to n1
        0.000s round 2 decided 1
        0.000s leased L2 1[0-0] attempt 2 n1 slots 1 alt 0 []
            → grant L2 to n1: 1[0-0] attempt 2
        0.000s ended 1[0] attempt 2 Infra then Retry { class: Infra, not_before: Time(0) }
        0.000s report 2 of n1
            → ack 2 to n1
        0.000s round 3 decided 1
        0.000s leased L3 1[0-0] attempt 3 n1 slots 1 alt 0 []
            → grant L3 to n1: 1[0-0] attempt 3
        0.000s ended 1[0] attempt 3 Preempted then Retry { class: Preempted, not_before: Time(0) }
        0.000s report 3 of n1
            → ack 3 to n1
        0.000s round 4 decided 1
        0.000s leased L4 1[0-0] attempt 4 n1 slots 1 alt 0 []
            → grant L4 to n1: 1[0-0] attempt 4
        0.000s ended 1[0] attempt 4 Preempted then Retry { class: Preempted, not_before: Time(0) }
        0.000s report 4 of n1
            → ack 4 to n1
        0.000s round 5 decided 1
        0.000s leased L5 1[0-0] attempt 5 n1 slots 1 alt 0 []
            → grant L5 to n1: 1[0-0] attempt 5
        0.000s ended 1[0] attempt 5 Preempted then Retry { class: Preempted, not_before: Time(0) }
        0.000s report 5 of n1
            → ack 5 to n1
        0.000s round 6 decided 1
        0.000s leased L6 1[0-0] attempt 6 n1 slots 1 alt 0 []
            → grant L6 to n1: 1[0-0] attempt 6
        0.000s ended 1[0] attempt 6 Preempted then Retry { class: Preempted, not_before: Time(0) }
        0.000s report 6 of n1
            → ack 6 to n1
        0.000s round 7 decided 1
        0.000s leased L7 1[0-0] attempt 7 n1 slots 1 alt 0 []
            → grant L7 to n1: 1[0-0] attempt 7
        0.000s ended 1[0] attempt 7 Preempted then Retry { class: Preempted, not_before: Time(0) }
        0.000s report 7 of n1
            → ack 7 to n1
        0.000s round 8 decided 1
        0.000s leased L8 1[0-0] attempt 8 n1 slots 1 alt 0 []
            → grant L8 to n1: 1[0-0] attempt 8
        0.000s ended 1[0] attempt 8 Oom then End(OutOfMemory)
        0.000s report 8 of n1
            → ack 8 to n1
    "#]]
    .assert_eq(&w.told());
}

#[test]
fn a_command_that_does_not_exist_fails_at_once() {
    let mut w = World::with_nodes(&[(2, 0)]);
    let job = w.job(JobDraft { retry: RetryDraft { failure: Some(5), ..RetryDraft::default() }, ..sleep() });
    let detail = "exec: no such file".to_owned();
    w.report(1, &[(1, FactKind::StartFailed { index: 0, rank: 0, users_fault: true, detail })]);
    assert_eq!(w.states(job), "Failed {Failed: 1}");
    let task = w.state.tasks(job, None, (0, 0), 1).tasks.remove(0);
    assert_eq!((task.detail.as_str(), task.exit_code), ("exec: no such file", None));
}

#[test]
fn a_time_limit_is_never_retried() {
    let mut w = World::with_nodes(&[(2, 0)]);
    let job = w.job(JobDraft { retry: RetryDraft { failure: Some(5), ..RetryDraft::default() }, ..sleep() });
    w.report(1, &[(1, ended_by(0, 0, Cause::TimeLimit))]);
    assert_eq!(w.states(job), "Timeout {Timeout: 1}");
}

#[test]
fn an_exit_code_that_asks_for_another_turn_waits_ten_seconds_and_is_not_charged() {
    let mut w = World::with_nodes(&[(2, 0)]);
    let job = w.job(JobDraft { requeue_on: vec![75], ..sleep() });
    w.report(1, &[(1, ended(0, 0, 75))]);
    assert_eq!(w.reasons(job), ["backoff: 1 element(s) wait before their next attempt, the first until 10.000s"]);
    let mut seconds = 0;
    for lease in 2..=101 {
        seconds += 600;
        w.at(seconds).tick();
        assert_eq!(w.states(job), "Running {Starting: 1}");
        w.report(1, &[(lease, ended(0, 0, 75))]);
    }
    assert_eq!(w.states(job), "Failed {Failed: 1}");
    assert_eq!(w.state.job(job).unwrap().body.retries, 100);
}

#[test]
fn a_pending_job_is_cancelled_at_once_and_a_running_one_when_its_processes_are_gone() {
    let mut w = World::with_nodes(&[(1, 0)]);
    let runs = w.job(sleep());
    let waits = w.job(sleep());
    w.told();
    w.send(Input::Cancel { job: waits, elements: None });
    w.send(Input::Cancel { job: runs, elements: None });
    assert_eq!(
        (w.states(waits).as_str(), w.states(runs).as_str()),
        ("Cancelled {Cancelled: 1}", "Running {Completing: 1}")
    );
    w.send(Input::Cancel { job: runs, elements: None });
    w.report(1, &[(1, ended_by(0, 0, Cause::Revoked))]);
    assert_eq!(w.states(runs), "Cancelled {Cancelled: 1}");
    expect![[r#"
        0.000s cancelled 2[0-0] Asked
            → reply Cancelled { elements: 1 }
        0.000s cancelled 1[0-0] Asked
            → reply Cancelled { elements: 1 }
            → revoke L1 on n1 Cancelled []
            → reply Cancelled { elements: 0 }
        0.000s ended 1[0] attempt 1 Cancelled then End(Cancelled)
        0.000s report 1 of n1
            → ack 1 to n1
    "#]]
    .assert_eq(&w.told());
}

#[test]
fn a_job_that_completes_while_it_is_cancelled_has_completed() {
    let mut w = World::with_nodes(&[(1, 0)]);
    let job = w.job(sleep());
    w.send(Input::Cancel { job, elements: None });
    w.report(1, &[(1, ended(0, 0, 0))]);
    assert_eq!(w.states(job), "Completed {Completed: 1}");
}

#[test]
fn a_held_job_does_not_start_until_it_is_released() {
    let mut w = World::with_nodes(&[(1, 0)]);
    let job = w.job(JobDraft { hold: true, ..sleep() });
    assert_eq!((w.states(job), w.reasons(job)), ("Held {Held: 1}".into(), vec!["held: held by its owner".into()]));
    w.send(Input::Release { job });
    assert_eq!(w.states(job), "Running {Starting: 1}");
}

#[test]
fn ended_elements_are_retried_under_the_next_attempt() {
    let mut w = World::with_nodes(&[(2, 0)]);
    let job = w.job(array(1));
    w.report(1, &[(1, ended(0, 0, 1)), (2, ended(1, 0, 0))]);
    assert_eq!(w.states(job), "Failed {Completed: 1, Failed: 1}");
    w.told();
    w.send(Input::Retry { job, elements: None });
    w.report(1, &[(3, ended(0, 0, 0))]);
    w.send(Input::Retry { job, elements: Some(RangeSet::range(1, 1)) });
    w.report(1, &[(4, ended(1, 0, 0))]);
    assert_eq!(w.states(job), "Completed {Completed: 2}");
    assert_eq!(w.state.job(job).unwrap().body.exit_code, Some(0));
    expect![[r#"
        0.000s retried 1[0-0]
            → reply Retried { elements: 1 }
        0.000s round 2 decided 1
        0.000s leased L3 1[0-0] attempt 2 n1 slots 1 alt 0 []
            → grant L3 to n1: 1[0-0] attempt 2
        0.000s ended 1[0] attempt 2 Ok then End(Completed)
        0.000s report 2 of n1
            → ack 2 to n1
        0.000s retried 1[1-1]
            → reply Retried { elements: 1 }
        0.000s round 3 decided 1
        0.000s leased L4 1[1-1] attempt 2 n1 slots 1 alt 0 []
            → grant L4 to n1: 1[1-1] attempt 2
        0.000s ended 1[1] attempt 2 Ok then End(Completed)
        0.000s report 3 of n1
            → ack 3 to n1
    "#]]
    .assert_eq(&w.told());
}

#[test]
fn dependencies_start_end_and_cancel_jobs() {
    let mut w = World::with_nodes(&[(4, 0)]);
    let first = w.job(sleep());
    let after = |kind, job: JobId| {
        let on = DependencyDraft { kind: Some(kind), job: Some(JobRefDraft::Id(job.0)) };
        JobDraft { after: vec![on], ..sleep() }
    };
    let ok = w.job(after(DependencyKind::Ok, first));
    let any = w.job(after(DependencyKind::Any, first));
    let failed = w.job(after(DependencyKind::Failed, first));
    let chained = w.job(after(DependencyKind::Ok, ok));
    let chained_any = w.job(after(DependencyKind::Any, chained));
    assert_eq!(w.reasons(ok), ["dependency: waits for job 1"]);
    w.told();
    w.report(1, &[(1, ended(0, 0, 1))]);
    let states: Vec<String> = [ok, any, failed, chained, chained_any].map(|job| w.states(job)).to_vec();
    assert_eq!(
        states,
        [
            "Cancelled {Cancelled: 1}",
            "Running {Starting: 1}",
            "Running {Starting: 1}",
            "Cancelled {Cancelled: 1}",
            "Running {Starting: 1}"
        ]
    );
    expect![[r#"
        0.000s ended 1[0] attempt 1 Failed then End(Failed)
        0.000s report 1 of n1
            → ack 1 to n1
        0.000s round 2 decided 2
        0.000s leased L2 3[0-0] attempt 1 n1 slots 1 alt 0 []
        0.000s leased L3 4[0-0] attempt 1 n1 slots 1 alt 0 []
        0.000s cancelled 2[0-0] DependencyFailed { on: JobId(1) }
        0.000s cancelled 5[0-0] DependencyFailed { on: JobId(2) }
            → grant L2 to n1: 3[0-0] attempt 1
            → grant L3 to n1: 4[0-0] attempt 1
        0.000s round 3 decided 1
        0.000s leased L4 6[0-0] attempt 1 n1 slots 1 alt 0 []
            → grant L4 to n1: 6[0-0] attempt 1
    "#]]
    .assert_eq(&w.told());
}

#[test]
fn old_jobs_and_keys_are_forgotten() {
    let mut w = World::with_nodes(&[(1, 0)]);
    w.submit_as("once", vec![sleep()]);
    w.report(1, &[(1, ended(0, 0, 0))]);
    let day = 24 * 3_600;
    w.at(day - 1).tick();
    assert!(matches!(w.submit_as("once", vec![sleep()]), Reply::Submitted { repeated: true, .. }));
    w.at(day).tick();
    assert!(matches!(w.submit_as("once", vec![sleep()]), Reply::Submitted { repeated: false, .. }));
    assert_eq!(w.state.next_wake(), Some(crate::time::Time(2 * day * 1_000)));
    w.at(30 * day).tick();
    assert!(w.state.job(JobId(1)).is_none());
    assert!(w.state.job(JobId(2)).is_some());
}
