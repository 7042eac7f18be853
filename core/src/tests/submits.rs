//! Submits: all or none, all faults at once, once for each key.

use std::sync::Arc;

use expect_test::expect;

use super::world::*;
use crate::effect::Reply;
use crate::id::JobId;
use crate::job::draft::*;
use crate::job::spec::DependencyKind;

fn named(alias: &str, after: &[&str]) -> JobDraft {
    let on = |alias: &&str| {
        let job = Some(JobRefDraft::Alias((*alias).to_owned()));
        DependencyDraft { kind: Some(DependencyKind::Ok), job }
    };
    JobDraft { alias: alias.into(), after: after.iter().map(on).collect(), ..sleep() }
}

fn faults(reply: Reply) -> String {
    let Reply::Faults(faults) = reply else { panic!("{reply:?}") };
    let line = |fault: &crate::effect::SubmitFault| {
        let crate::job::spec::Fault { path, reason, message, hint } = &fault.fault;
        format!("job {} {path}: {reason}: {message} (hint: {hint})\n", fault.job)
    };
    faults.iter().map(line).collect()
}

#[test]
fn several_jobs_are_stored_together_and_may_name_each_other() {
    let mut w = World::with_nodes(&[(4, 0)]);
    let reply = w.submit(vec![named("train", &["data"]), named("data", &[]), named("report", &["train", "data"])]);
    assert_eq!(reply, Reply::Submitted { jobs: vec![JobId(1), JobId(2), JobId(3)], repeated: false });
    assert_eq!(w.state.leases().count(), 1);
    w.report(1, &[(1, ended(0, 0, 0))]);
    w.report(1, &[(2, ended(0, 0, 0))]);
    w.report(1, &[(3, ended(0, 0, 0))]);
    assert!(w.state.jobs().all(|job| job.body.ended_at.is_some()));
}

#[test]
fn cycles_and_unknown_names_are_refused_with_their_places() {
    let mut w = World::with_nodes(&[(4, 0)]);
    let jobs = vec![named("a", &["b"]), named("b", &["c"]), named("c", &["x", "a"]), named("self", &["self"])];
    expect![[r#"
        job 2 after[0]: unknown-alias: no job of this submit is called `x` (hint: write the name or the number of a job)
        job 2 after[1]: dependency-cycle: a cycle: a → b → c → a (hint: take one of them out)
        job 3 after[0]: dependency-cycle: a cycle: self → self (hint: take one of them out)
    "#]]
    .assert_eq(&faults(w.submit(jobs)));
    assert_eq!(w.state.jobs().count(), 0);
    expect![[r#"
        job 1 jobs: alias-twice: job 1 of this submit is called `a`, too (hint: give each job a name of its own)
    "#]]
    .assert_eq(&faults(w.submit(vec![named("a", &[]), named("a", &[])])));
    let unknown = DependencyDraft { kind: Some(DependencyKind::Any), job: Some(JobRefDraft::Id(9)) };
    expect![[r#"
        job 0 after[0]: unknown-job: there is no job 9 (hint: `gangsaw ps --all` lists jobs)
    "#]]
    .assert_eq(&faults(w.submit(vec![JobDraft { after: vec![unknown], ..sleep() }])));
}

#[test]
fn what_never_fits_is_refused_with_the_largest_that_could() {
    let mut w = World::with_nodes(&[(4, 8), (16, 0)]);
    let h200 = DemandDraft { gpus: 12, gpu_model: "h200".into(), ..DemandDraft::default() };
    let b200 = DemandDraft { gpus: 1, gpu_model: "b200".into(), ..DemandDraft::default() };
    let memory = DemandDraft { memory_bytes: 65 << 30, ..DemandDraft::default() };
    let with = |demand| JobDraft { demands: vec![demand], ..sleep() };
    let jobs = vec![with(h200), with(b200), needing(17, 0), with(memory), gang(21, 1), needing(5, 1)];
    expect![[r#"
        job 0 resources.gpus: never-fits: job needs 12 × h200, and the largest node has 8 (hint: ask for at most 8, or for several ranks with `replicas`)
        job 1 resources.gpus: never-fits: job needs 1 × b200, and no node has one that fits (hint: the nodes have: NVIDIA H200)
        job 2 resources.cpus: never-fits: job needs 17 CPUs, and the largest node has 16 (hint: ask for at most 16)
        job 3 resources.memory: never-fits: job needs 65 GiB, and the largest node has 64 GiB (hint: ask for at most 64 GiB)
        job 4 replicas: never-fits: job needs 21 ranks of 1 CPUs together, and all nodes have room for 20 (hint: ask for at most 20)
        job 5 resources: never-fits: job needs 1 × GPU, 5 CPUs on one node, and no node has all of it (hint: ask for less of one of them)
    "#]].assert_eq(&faults(w.submit(jobs)));
    assert_eq!(w.state.jobs().count(), 0);
}

#[test]
fn a_key_stands_for_one_submit() {
    let mut w = World::with_nodes(&[(4, 0)]);
    let first = w.submit_as("k", vec![sleep()]);
    assert_eq!(first, Reply::Submitted { jobs: vec![JobId(1)], repeated: false });
    let again = w.submit_as("k", vec![sleep()]);
    assert_eq!(again, Reply::Submitted { jobs: vec![JobId(1)], repeated: true });
    let Reply::Refused(refusal) = w.submit_as("k", vec![array(1)]) else { panic!("other jobs") };
    assert_eq!((refusal.reason, refusal.kind), ("key-used", crate::effect::RefusalKind::AlreadyExists));
    assert_eq!(w.state.jobs().count(), 1);
}

#[test]
fn the_number_of_jobs_and_queues_is_bounded() {
    let mut w = World::with_nodes(&[(4, 0)]);
    w.deep = false;
    assert!(matches!(w.submit(Vec::new()), Reply::Refused(_)));
    assert!(matches!(w.submit(vec![sleep(); 1_025]), Reply::Refused(_)));
    let queue = |at: usize| JobDraft { queue: format!("q{at}"), hold: true, ..sleep() };
    assert!(matches!(w.submit((0..1_000).map(queue).collect()), Reply::Submitted { .. }));
    let reply = w.submit(vec![queue(1_000)]);
    expect![[r#"
        job 0 queue: too-many-queues: there are 1000 queues, and `q1000` would be another (hint: use a queue of `gangsaw queue list`)
    "#]].assert_eq(&faults(reply));
}

#[test]
fn jobs_submitted_from_one_shell_share_its_environment() {
    let mut w = World::with_nodes(&[(4, 0)]);
    let with = |value: &str| JobDraft { exported_env: [("PATH".to_owned(), value.to_owned())].into(), ..sleep() };
    let jobs = [w.job(with("/bin")), w.job(with("/bin")), w.job(with("/usr/bin"))];
    let env = |job| w.state.job(job).unwrap().body.spec.exported_env.clone();
    assert!(std::sync::Arc::ptr_eq(&env(jobs[0]), &env(jobs[1])));
    assert_eq!(env(jobs[2])["PATH"], "/usr/bin");
}

#[test]
fn jobs_of_one_shell_share_what_they_have_in_common() {
    let mut w = World::with_nodes(&[]);
    let shell = |line: &str| JobDraft { work: Some(WorkDraft::Shell(line.to_owned())), ..sleep() };
    for line in ["a", "a", "b"] {
        let reply = w.submit(vec![shell(line)]);
        assert!(matches!(reply, Reply::Submitted { .. }), "{reply:?}");
    }
    let same = |w: &World| {
        let jobs: Vec<_> = w.state.jobs().collect();
        let [first, like, other] = jobs[..] else { panic!("{} jobs", jobs.len()) };
        let (a, b, c) = (&first.body, &like.body, &other.body);
        assert!(Arc::ptr_eq(&a.spec, &b.spec), "the same command from the same shell is one spec");
        assert!(!Arc::ptr_eq(&b.spec, &c.spec) && Arc::ptr_eq(&b.spec.exported_env, &c.spec.exported_env));
        assert!(Arc::ptr_eq(&first.shape, &other.shape));
        assert_ne!(b.spec.command(), c.spec.command());
    };
    same(&w);
    // A restart folds the snapshot, and that shares as well.
    let mut restored = crate::state::State::new();
    for event in crate::apply::snapshot_events(&w.state) {
        crate::apply::apply(&mut restored, w.state.now(), &event);
    }
    w.state = restored;
    same(&w);
}

#[test]
fn a_job_too_many_wakes_the_scheduler_that_forgets_it() {
    let mut w = World::with_nodes(&[]);
    let event = |id: u64| {
        let job = crate::event::NewJob { id: JobId(id), spec: spec(), after: Vec::new() };
        let by =
            crate::event::By { actor: crate::id::Actor::scheduler(), request_id: crate::id::RequestId::internal() };
        let key = crate::id::IdempotencyKey::new(&format!("k{id}")).unwrap();
        let (tenant, user) = (crate::id::Tenant::default(), String::from("ada"));
        crate::event::Event::JobsSubmitted { by, tenant, user, key, digest: id, jobs: vec![job] }
    };
    let cancel = |id: u64| crate::event::Event::JobCancelled {
        by: crate::event::By { actor: crate::id::Actor::scheduler(), request_id: crate::id::RequestId::internal() },
        job: JobId(id),
        elements: crate::ranges::RangeSet::range(0, 0),
        cause: crate::job::body::CancelCause::Asked,
    };
    let most = crate::decide::JOBS_ENDED_MAX as u64;
    for id in 1..=most + 1 {
        assert!(w.state.next_wake().is_none_or(|wake| wake > w.state.now()), "{id} jobs are not too many");
        crate::apply::apply(&mut w.state, crate::time::Time(5), &event(id));
        crate::apply::apply(&mut w.state, crate::time::Time(5), &cancel(id));
    }
    assert!(w.state.next_wake().unwrap() <= w.state.now());
}

fn spec() -> Arc<crate::job::spec::JobSpec> {
    Arc::new(crate::job::spec::JobSpec::try_from(sleep()).unwrap())
}
