//! The session: lost streams, lost schedulers, wrong tokens, two agents, the end.

use std::time::{Duration, Instant};

use gangsaw_proto::node::v1::{attach_request, attach_response, ended};

use crate::Test;
use crate::node::{Node, grant, runs, wait_for};
use crate::scheduler::{Got, Scheduler};

pub(crate) const TESTS: &[Test] = &[
    ("report_is_resent_until_it_is_acknowledged", report_is_resent_until_it_is_acknowledged),
    ("agent_comes_back_to_a_new_scheduler_and_tasks_run_on", agent_comes_back_to_a_new_scheduler),
    ("heartbeats_carry_the_leases", heartbeats_carry_the_leases),
    ("reconcile_is_answered_with_a_hello", reconcile_is_answered_with_a_hello),
    ("silent_scheduler_stops_a_task_that_asked_for_it", silent_scheduler_stops_a_task_that_asked_for_it),
    ("silence_goes_on_counting_while_the_agent_is_restarted", silence_goes_on_counting),
    ("second_agent_on_the_same_folder_refuses", second_agent_on_the_same_folder_refuses),
    ("wrong_token_is_said_and_tried_again", wrong_token_is_said_and_tried_again),
    ("agent_leaves_tasks_running_when_it_is_told_to_stop", agent_leaves_tasks_running),
    ("agent_ends_tasks_and_supervisor_when_that_is_wanted", agent_ends_tasks_and_supervisor),
];

fn report_is_resent_until_it_is_acknowledged() {
    let (node, _) = Node::start(&[]);
    node.scheduler.acks(false);
    node.grant(1, "exit 5");
    let first = report(&node);
    node.scheduler.hang_up();
    let hello = node.hello();
    assert_eq!(hello.leases.len(), 1, "it is not acknowledged, so it is still held");
    let again = report(&node);
    assert_eq!(again, first);
    node.scheduler.acks(true);
    node.scheduler.hang_up();
    node.hello();
    assert_eq!(node.ended(1).exit_code, Some(5));
    node.scheduler.until("an idle heartbeat", |got| match got {
        Got::Message(attach_request::Message::Heartbeat(heartbeat)) => (heartbeat.lease_count == 0).then_some(()),
        _ => None,
    });
}

fn report(node: &Node) -> gangsaw_proto::node::v1::Report {
    node.scheduler.until("report", |got| match got {
        Got::Message(attach_request::Message::Report(report)) => Some(report),
        _ => None,
    })
}

fn agent_comes_back_to_a_new_scheduler() {
    let (mut node, _) = Node::start(&[]);
    let go = node.path("go");
    node.grant(1, &format!("while ! test -e {}; do sleep 0.02; done; exit 6", go.display()));
    let pid = node.started(1).pid;
    let address = node.scheduler.address;
    // The old one must free the port before the new one takes it.
    node.scheduler = Scheduler::start();
    node.scheduler = Scheduler::start_at(address);
    let hello = node.hello();
    assert_eq!(hello.leases.iter().map(|lease| lease.lease_id).collect::<Vec<_>>(), [1]);
    assert!(runs(pid));
    std::fs::write(go, "").unwrap();
    assert_eq!(node.ended(1).exit_code, Some(6));
}

fn heartbeats_carry_the_leases() {
    let (node, _) = Node::start(&[]);
    node.grant(41, "sleep 600");
    node.grant(42, "sleep 600");
    let hash = gangsaw_core::liveness::lease_hash([41, 42].map(gangsaw_core::id::LeaseId));
    node.scheduler.until("a heartbeat with both", |got| match got {
        Got::Message(attach_request::Message::Heartbeat(heartbeat)) => {
            (heartbeat.lease_count == 2 && heartbeat.lease_hash == hash).then_some(())
        }
        _ => None,
    });
}

fn reconcile_is_answered_with_a_hello() {
    let (node, _) = Node::start(&[]);
    node.grant(1, "sleep 600");
    node.started(1);
    node.scheduler.say(attach_response::Message::Reconcile(gangsaw_proto::node::v1::Reconcile {}));
    assert_eq!(node.hello().leases.len(), 1);
}

fn silent_scheduler_stops_a_task_that_asked_for_it() {
    let (node, _) = Node::start(&[]);
    let mut careful = grant(1, "sleep 600");
    let task = careful.task.as_mut().unwrap();
    (task.stop_after_ms, task.grace_ms) = (1_000, 500);
    node.say_grant(careful);
    node.grant(2, "sleep 600");
    node.started(1);
    node.started(2);
    wait_for("both sleeps", || node.running("sleep").len() == 2);
    node.scheduler.acks(false);
    wait_for("the end of the careful one", || node.running("sleep").len() == 1);
    node.scheduler.acks(true);
    node.scheduler.hang_up();
    let hello = node.hello();
    assert_eq!(hello.leases.len(), 2);
    assert_eq!(node.ended(1).cause(), ended::Cause::Disconnected);
}

/// The task is stopped `stop_after` after the last word of the scheduler, and the agent that was started later knows it.
fn silence_goes_on_counting() {
    const STOP_AFTER: Duration = Duration::from_secs(6);
    let (mut node, _) = Node::start(&[]);
    let told = node.path("told");
    let line = format!("trap 'echo > {}; exit 0' TERM; while :; do sleep 0.02; done", told.display());
    let mut careful = grant(1, &line);
    let task = careful.task.as_mut().unwrap();
    // The supervisor's own deadline is far away: it is the agent that has to act.
    (task.stop_after_ms, task.grace_ms) = (6_000, 60_000);
    node.say_grant(careful);
    node.started(1);
    node.scheduler.acks(false);
    node.kill_agent();
    let silent = Instant::now();
    wait_for("the end of the patience", || silent.elapsed() > STOP_AFTER);
    assert!(!told.exists(), "nobody was there to stop it");
    // No scheduler answers the new agent.
    let address = node.scheduler.address;
    node.scheduler = Scheduler::start();
    let mut command = node.command(&[]);
    command.env("GANGSAW_TEST_SERVER", format!("http://{address}"));
    let restarted = Instant::now();
    node.agent = Some(command.spawn().unwrap());
    wait_for("SIGTERM", || told.exists());
    assert!(restarted.elapsed() < STOP_AFTER / 2, "{:?} after the restart", restarted.elapsed());
}

fn second_agent_on_the_same_folder_refuses() {
    let (node, _) = Node::start(&[]);
    let output = node.command(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("another agent runs on"), "{error}");
    node.grant(1, "true");
    node.succeeded(1);
}

fn wrong_token_is_said_and_tried_again() {
    let mut node = Node::without_agent();
    node.env("GANGSAW_TOKEN", "wrong");
    let mut agent = node.command(&[]).spawn().unwrap();
    wait_for("a supervisor", || node.supervisor().is_some());
    assert_eq!(agent.try_wait().unwrap(), None);
    assert!(node.scheduler.drain().is_empty());
    agent.kill().unwrap();
    agent.wait().unwrap();
    // The credentials file of the address is as good as the variable.
    let folder = node.path("xdg/gangsaw/credentials");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(node.scheduler.address.to_string()), crate::scheduler::TOKEN).unwrap();
    let home = node.path("xdg");
    node.env("XDG_STATE_HOME", home.to_str().unwrap());
    node.env("GANGSAW_TOKEN", "");
    node.start_agent(&[]);
}

fn agent_leaves_tasks_running() {
    let (mut node, _) = Node::start(&[]);
    let go = node.path("go");
    node.grant(1, &format!("while ! test -e {}; do sleep 0.02; done; exit 4", go.display()));
    let pid = node.started(1).pid;
    let took = node.stop_agent();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(runs(pid));
    node.scheduler.drain();
    node.scheduler.forget();
    assert_eq!(node.start_agent(&[]).leases.len(), 1);
    std::fs::write(go, "").unwrap();
    assert_eq!(node.ended(1).exit_code, Some(4));
}

fn agent_ends_tasks_and_supervisor() {
    let (mut node, _) = Node::start(&["--stop-tasks"]);
    node.grant(1, "sleep 600");
    let mut stubborn = grant(2, "trap '' TERM; setsid sleep 600 & while :; do sleep 1; done");
    stubborn.task.as_mut().unwrap().grace_ms = 60_000;
    node.say_grant(stubborn);
    node.started(1);
    node.started(2);
    let took = node.stop_agent();
    assert!(took < Duration::from_secs(9), "{took:?}");
    assert_eq!(node.running("sleep"), Vec::<u32>::new());
    wait_for("the supervisor's end", || node.supervisor().is_none());
    let causes = [1, 2].map(|lease| node.ended(lease).cause());
    assert_eq!(causes, [ended::Cause::Revoked; 2]);
}
