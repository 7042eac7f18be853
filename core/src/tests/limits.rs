//! Queues and their limits.

use super::world::*;
use crate::effect::Reply;
use crate::id::{QueueName, Tenant};
use crate::input::*;
use crate::job::draft::{DemandDraft, JobDraft};

fn set(w: &mut World, running: Change, queued: Change, gpus: Change) {
    let name = QueueName::default();
    w.send(Input::SetQueue { name, running_max: running, queued_max: queued, gpus_max: gpus });
}

#[test]
fn a_queue_runs_no_more_elements_than_it_may() {
    let mut w = World::with_nodes(&[(8, 0)]);
    set(&mut w, Change::Set(2), Change::Keep, Change::Keep);
    let job = w.job(array(4));
    assert_eq!(w.states(job), "Running {Pending: 3, Starting: 2}");
    assert_eq!(w.reasons(job), ["queue-limit: the queue's running_max is 2, and 2 are in use"]);
    let other = w.job(JobDraft { queue: "other".into(), ..sleep() });
    assert_eq!(w.states(other), "Running {Starting: 1}");
    set(&mut w, Change::Unlimited, Change::Keep, Change::Keep);
    assert_eq!(w.states(job), "Running {Starting: 5}");
}

#[test]
fn a_full_queue_refuses_more_and_says_so() {
    let mut w = World::with_nodes(&[(1, 0)]);
    set(&mut w, Change::Keep, Change::Set(3), Change::Keep);
    w.job(sleep());
    w.job(array(1));
    let Reply::Faults(faults) = w.submit(vec![array(1)]) else { panic!("the queue is full") };
    let fault = &faults[0].fault;
    assert_eq!((fault.path.as_str(), fault.reason), ("queue", "queue-full"));
    assert_eq!(fault.message, "queue `default` may hold 3 waiting elements and has 2; 2 more");
}

#[test]
fn a_queue_holds_no_more_gpus_than_it_may() {
    let mut w = World::with_nodes(&[(8, 4)]);
    set(&mut w, Change::Keep, Change::Keep, Change::Set(3));
    let two = w.job(needing(1, 2));
    let more = w.job(needing(1, 2));
    let one = w.job(needing(1, 1));
    assert_eq!(w.states(two), "Running {Starting: 1}");
    assert_eq!(w.reasons(more), ["queue-limit: the queue's gpus_max is 3, and 3 are in use"]);
    assert_eq!(w.states(one), "Running {Starting: 1}");
    w.report(1, &[(1, ended(0, 0, 0))]);
    assert_eq!(w.states(more), "Running {Starting: 1}");
}

#[test]
fn a_job_that_changes_its_queue_frees_the_old_ones_quota() {
    let mut w = World::with_nodes(&[(8, 0)]);
    set(&mut w, Change::Set(1), Change::Keep, Change::Keep);
    let runs = w.job(sleep());
    let waits = w.job(sleep());
    assert_eq!(w.states(waits), "Pending {Pending: 1}");
    let queue = Some(QueueName::new("other").unwrap());
    w.send(Input::Update { job: runs, priority: None, queue, time_limit: None });
    assert_eq!(w.states(waits), "Running {Starting: 1}");
}

fn set_tenant(w: &mut World, running_max: Change, queued_max: Change, gpus_max: Change) {
    w.send(Input::SetTenant { name: Tenant::default(), running_max, queued_max, gpus_max });
}

fn in_queue(queue: &str, draft: JobDraft) -> JobDraft {
    JobDraft { queue: queue.into(), ..draft }
}

#[test]
fn a_tenants_limit_holds_across_its_queues_and_both_must_have_room() {
    let mut w = World::with_nodes(&[(8, 0)]);
    set_tenant(&mut w, Change::Set(2), Change::Keep, Change::Keep);
    w.job(in_queue("blue", sleep()));
    let green = w.job(in_queue("green", sleep()));
    let waits = w.job(in_queue("red", sleep()));
    assert_eq!(w.states(green), "Running {Starting: 1}");
    assert_eq!(
        w.reasons(waits),
        ["tenant-limit: the running_max of tenant default, for all of its queues, is 2, and 2 are in use"]
    );
    w.report(1, &[(1, ended(0, 0, 0))]);
    assert_eq!(w.states(waits), "Running {Starting: 1}", "what ends in one queue makes room in another");
    let next = w.job(in_queue("red", sleep()));
    set_tenant(&mut w, Change::Unlimited, Change::Keep, Change::Keep);
    assert_eq!(w.states(next), "Running {Starting: 1}");
    w.replays();
}

#[test]
fn one_tenants_limit_is_not_anothers() {
    let mut w = World::with_nodes(&[(8, 0)]);
    let other = Tenant::new("other").unwrap();
    w.send(Input::SetTenant {
        name: other,
        running_max: Change::Set(0),
        queued_max: Change::Keep,
        gpus_max: Change::Keep,
    });
    let job = w.job(sleep());
    assert_eq!(w.states(job), "Running {Starting: 1}");
}

#[test]
fn a_tenant_holds_no_more_gpus_in_all_queues_together_than_it_may() {
    let mut w = World::with_nodes(&[(8, 4)]);
    set_tenant(&mut w, Change::Keep, Change::Keep, Change::Set(3));
    w.job(in_queue("blue", needing(1, 2)));
    let more = w.job(in_queue("green", needing(1, 2)));
    let gpu = DemandDraft { gpus: 2, ..DemandDraft::default() };
    let either = w.job(JobDraft { demands: vec![gpu, DemandDraft::default()], ..in_queue("red", sleep()) });
    assert_eq!(w.states(more), "Pending {Pending: 1}");
    assert_eq!(w.states(either), "Running {Starting: 1}", "its other alternative needs no GPU");
    assert_eq!(w.state.tenant(&Tenant::default()).usage.gpus, 2);
    w.report(1, &[(1, ended(0, 0, 0))]);
    assert_eq!(w.states(more), "Running {Starting: 1}");
}

#[test]
fn a_tenant_may_hold_no_more_waiting_elements_than_it_may_in_all_queues_together() {
    let mut w = World::new();
    set_tenant(&mut w, Change::Keep, Change::Set(3), Change::Keep);
    w.job(in_queue("blue", array(1)));
    let Reply::Faults(faults) = w.submit(vec![in_queue("green", array(1))]) else { panic!("the tenant is full") };
    assert_eq!(faults[0].fault.reason, "tenant-full");
    assert_eq!(faults[0].fault.message, "tenant `default` may hold 3 waiting elements and has 2; 2 more");
    w.job(in_queue("green", sleep()));
}
