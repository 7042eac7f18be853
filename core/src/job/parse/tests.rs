//! Drafts become specs, or all of their faults are told at once.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use expect_test::expect;

use crate::job::draft::*;
use crate::job::spec::*;
use crate::time::Millis;

fn draft() -> JobDraft {
    JobDraft { work: Some(WorkDraft::Shell("python3 train.py --lr 1".into())), ..JobDraft::default() }
}

fn faults(draft: JobDraft) -> String {
    let faults = JobSpec::try_from(draft).unwrap_err().0;
    faults
        .iter()
        .map(|fault| format!("{}: {}: {} ({})\n", fault.path, fault.reason, fault.message, fault.hint))
        .collect()
}

fn fault(draft: JobDraft) -> (String, &'static str) {
    let faults = JobSpec::try_from(draft).unwrap_err().0;
    assert_eq!(faults.len(), 1, "{faults:?}");
    (faults[0].path.clone(), faults[0].reason)
}

#[test]
fn defaults_are_filled_in() {
    let spec = JobSpec::try_from(draft()).unwrap();
    assert_eq!((spec.name.as_str(), spec.queue.as_str(), spec.priority, spec.replicas), ("python3", "default", 0, 1));
    assert_eq!((spec.grace, spec.lost_after), (Millis::seconds(10), Millis::minutes(10)));
    assert_eq!((spec.retry, spec.on_disconnect), (Retry::default(), OnDisconnect::Keep));
    assert_eq!((spec.demands.len(), spec.demands[0].milli_cpus, spec.element_count()), (1, 1_000, 1));
}

#[test]
fn a_job_without_a_name_is_called_after_what_runs() {
    let name = |work| JobSpec::try_from(JobDraft { work: Some(work), ..draft() }).unwrap().name.to_string();
    assert_eq!(name(WorkDraft::Argv(vec!["/usr/bin/true".into()])), "true");
    assert_eq!(name(WorkDraft::Recipe { name: "cnn".into(), settings_json: String::new() }), "cnn");
    assert_eq!(name(WorkDraft::Argv(vec!["\u{1b}".into()])), "job");
}

#[test]
fn all_faults_are_told_at_once() {
    let bad = JobDraft {
        name: "a\u{7}b".into(),
        priority: Some(1_001),
        work: None,
        demands: vec![DemandDraft { gpu_memory_bytes: 1, gpus: 0, ..DemandDraft::default() }],
        replicas: 5_000,
        time_limit_ms: Some(0),
        retry: RetryDraft { failure: Some(1_001), backoff_ms: Some(-1), ..RetryDraft::default() },
        env: [("A=B".to_owned(), String::new())].into(),
        workdir: "here".into(),
        grace_ms: Some(-5),
        stop_after_ms: Some(1_000),
        requeue_on: vec![256],
        after: vec![DependencyDraft { kind: None, job: None }],
        labels: [(String::new(), "x".to_owned())].into(),
        array: Some(ArrayDraft { ranges: vec![StepRange { first: 5, last: 1, step: 1 }], running_max: 0 }),
        ..JobDraft::default()
    };
    expect![[r#"
        run: no-work: the job says neither `run` nor `recipe` (add `run: COMMAND`)
        name: bad-name: the name has a control character at position 1 ()
        grace: out-of-range: -5 ms is not within 0 s to 1 h ()
        stop_after: stop-without-stop: it means nothing with `on_disconnect: keep` (add `on_disconnect: stop`)
        priority: out-of-range: 1001 is not within -1000..=1000 ()
        labels.: bad-label: key and value have 1 to 256 bytes ()
        resources.gpu_memory: no-gpus: it means nothing without GPUs (add `gpus: 1`)
        array: bad-range: 5-1 runs downwards ()
        replicas: out-of-range: 5000 is above 4096 ()
        after[0]: bad-dependency: it says neither ok, any nor failed (write `ok:JOB`)
        after[0]: bad-dependency: it names no job (write `ok:JOB`)
        time_limit: out-of-range: 0 ms is not within 1 ms to 87600 h ()
        retry.failure: out-of-range: it is above 1000 ()
        retry.backoff: out-of-range: -1 ms is not within 0 s to 10 min ()
        env.A=B: bad-env: a name has no `=`, and neither it nor the value a NUL byte ()
        workdir: not-absolute: it is not an absolute path (begin it with `/`)
        requeue_on: out-of-range: 256 is not within 1..=255 ()
    "#]]
    .assert_eq(&faults(bad));
}

#[test]
fn an_array_of_a_milliard_is_refused_before_it_is_built() {
    let array = |ranges: Vec<StepRange>| JobDraft { array: Some(ArrayDraft { ranges, running_max: 0 }), ..draft() };
    let range = |first, last, step| StepRange { first, last, step };
    assert_eq!(fault(array(vec![range(0, 999_999_999, 1)])), ("array".into(), "array-too-large"));
    assert_eq!(fault(array(vec![range(0, u32::MAX, 2)])), ("array".into(), "array-too-large"));
    assert_eq!(fault(array(vec![range(0, 9_999_999, 3)])), ("array".into(), "array-too-sparse"));
    assert_eq!(fault(array(vec![range(0, 5, 1), range(5, 9, 1)])), ("array".into(), "bad-range"));
    assert_eq!(fault(array(Vec::new())), ("array".into(), "empty-array"));
    let spec = JobSpec::try_from(array(vec![range(0, 9, 3), range(20, 9_999_999, 1)])).unwrap();
    assert_eq!(spec.element_count(), 4 + 9_999_980);
}

#[test]
fn a_node_stops_a_task_well_before_another_attempt_may_begin() {
    let stop =
        |stop_after_ms, lost_after_ms| JobDraft { stop_on_disconnect: true, stop_after_ms, lost_after_ms, ..draft() };
    // 100 s + 2 × 10 s + 10 % = 132 s.
    assert_eq!(fault(stop(Some(100_000), Some(132_000))), ("stop_after".into(), "stop-too-late"));
    let spec = JobSpec::try_from(stop(Some(100_000), Some(132_001))).unwrap();
    assert_eq!(spec.on_disconnect, OnDisconnect::Stop { after: Millis::seconds(100) });
    assert_eq!(fault(stop(None, None)), ("stop_after".into(), "missing"));
    let without = JobDraft { stop_after_ms: Some(1_000), ..draft() };
    assert_eq!(fault(without), ("stop_after".into(), "stop-without-stop"));
}

#[test]
fn a_recipe_of_several_ranks_may_ask_for_another_turn() {
    let recipe = WorkDraft::Recipe { name: "cnn".into(), settings_json: String::new() };
    let spec = JobSpec::try_from(JobDraft { work: Some(recipe), replicas: 2, ..draft() }).unwrap();
    assert_eq!(spec.requeue_on, [75].into());
    let spec = JobSpec::try_from(JobDraft { replicas: 2, ..draft() }).unwrap();
    assert!(spec.requeue_on.is_empty());
}

#[test]
fn what_is_too_long_is_refused() {
    let long = "x".repeat(128 * 1_024 + 1);
    assert_eq!(fault(JobDraft { work: Some(WorkDraft::Shell(long.clone())), ..draft() }), ("run".into(), "too-long"));
    let work = Some(WorkDraft::Argv(vec!["true".into(), long.clone()]));
    assert_eq!(fault(JobDraft { work, ..draft() }), ("run".into(), "too-long"));
    let env = [("A".to_owned(), "x".repeat(256 * 1_024))].into();
    assert_eq!(fault(JobDraft { env, ..draft() }), ("env".into(), "too-long"));
    assert_eq!(fault(JobDraft { name: "n".repeat(129), ..draft() }), ("name".into(), "bad-name"));
    assert!(JobSpec::try_from(JobDraft { name: "ü".repeat(128), ..draft() }).is_ok());
    let nul = Some(WorkDraft::Shell("a\0b".into()));
    assert_eq!(fault(JobDraft { work: nul, ..draft() }), ("run".into(), "nul"));
}
