//! Agents and supervisors that are killed.

use gangsaw_proto::node::v1::{ArrayBounds, ended, held_lease};

use crate::Test;
use crate::node::{Node, grant, runs, signal, wait_for};

pub(crate) const TESTS: &[Test] = &[
    ("killed_agent_finds_its_task_again_and_the_exit_code_is_right", killed_agent_finds_its_task_again),
    ("task_that_ended_while_no_agent_was_there_is_reported", task_that_ended_alone_is_reported),
    ("report_that_a_killed_agent_could_not_bring_through_is_made_again", unacknowledged_report_is_made_again),
    ("chunk_goes_on_without_an_agent_and_nothing_is_told_twice_or_lost", chunk_goes_on_without_an_agent),
    ("killed_supervisor_ends_attempts_as_infra_and_leaves_no_process", killed_supervisor_ends_attempts),
    ("element_that_a_killed_supervisor_had_just_begun_ends_as_infra", element_just_begun_ends_as_infra),
    ("agent_and_supervisor_killed_together_leave_no_process", both_killed_leave_no_process),
    ("node_without_a_supervisor_says_so_and_fails_its_leases_as_infra", node_without_a_supervisor_says_so),
    ("progress_goes_on_after_a_restart_of_the_agent", progress_goes_on_after_a_restart),
];

fn killed_agent_finds_its_task_again() {
    let (mut node, _) = Node::start(&[]);
    let go = node.path("go");
    node.grant(1, &format!("while ! test -e {}; do sleep 0.02; done; exit 7", go.display()));
    let started = node.started(1);
    node.kill_agent();
    let hello = node.start_agent(&[]);
    let lease = hello.leases.first().expect("the lease is found again");
    assert_eq!((lease.lease_id, lease.phase()), (1, held_lease::Phase::Running));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", started.pid)).unwrap();
    let ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse::<u64>().unwrap();
    assert_eq!(ticks, started.start_ticks, "the same process");
    std::fs::write(go, "").unwrap();
    assert_eq!(node.ended(1).exit_code, Some(7));
}

fn task_that_ended_alone_is_reported() {
    let (mut node, _) = Node::start(&[]);
    let go = node.path("go");
    node.grant(1, &format!("while ! test -e {}; do sleep 0.02; done; exit 8", go.display()));
    let pid = node.started(1).pid;
    node.kill_agent();
    std::fs::write(go, "").unwrap();
    wait_for("the task's end", || !runs(pid));
    let hello = node.start_agent(&[]);
    assert_eq!(hello.leases.first().map(|lease| lease.phase()), Some(held_lease::Phase::Ended));
    assert_eq!(node.ended(1).exit_code, Some(8));
}

fn unacknowledged_report_is_made_again() {
    let (mut node, _) = Node::start(&[]);
    node.scheduler.acks(false);
    node.grant(1, "exit 9");
    // Reports leave one at a time, so the end itself may still wait in the agent.
    let pid = node.started(1).pid;
    wait_for("the task's end", || !runs(pid));
    node.kill_agent();
    node.scheduler.acks(true);
    assert_eq!(node.start_agent(&[]).leases.len(), 1);
    assert_eq!(node.ended(1).exit_code, Some(9));
}

fn chunk_goes_on_without_an_agent() {
    let (mut node, _) = Node::start(&[]);
    let file = node.path("ran");
    let mut chunk = grant(1, &format!("echo $GANGSAW_ARRAY_INDEX >> {}; sleep 0.01", file.display()));
    chunk.last_index = 199;
    chunk.slots = 2;
    node.say_grant(chunk);
    let mut over = std::collections::BTreeSet::new();
    let mut take = |node: &Node, until: usize| {
        while over.len() < until {
            let run = node.fact("successes", 1, |fact| match fact {
                gangsaw_proto::node::v1::fact::Fact::Succeeded(run) => Some(run),
                gangsaw_proto::node::v1::fact::Fact::Started(_) => None,
                other => panic!("{other:?}"),
            });
            over.extend(run.first_index..=run.last_index);
        }
    };
    take(&node, 30);
    node.kill_agent();
    let lines = || std::fs::read_to_string(&file).unwrap().lines().count();
    wait_for("the supervisor's own work", || lines() > 120);
    node.start_agent(&[]);
    take(&node, 200);
    assert_eq!(lines(), 200, "each index ran exactly once");
}

fn killed_supervisor_ends_attempts() {
    let (node, _) = Node::start(&[]);
    node.grant(1, "setsid sleep 600 & sleep 600");
    let pid = node.started(1).pid;
    wait_for("both sleeps", || node.running("sleep").len() >= 2);
    signal(node.supervisor().unwrap(), "-KILL");
    let ended = node.ended(1);
    assert_eq!((ended.cause(), ended.exit_code), (ended::Cause::Infra, None));
    assert!(!runs(pid));
    assert_eq!(node.running("sleep"), Vec::<u32>::new(), "nothing of it is left when the end is told");
    node.grant(2, "exit 3");
    assert_eq!(node.ended(2).exit_code, Some(3));
}

/// The sixth element kills the supervisor with its first act, before anything of it can be told.
fn element_just_begun_ends_as_infra() {
    let (node, _) = Node::start(&[]);
    let go = node.path("go");
    let wait = format!("while ! test -e {}; do sleep 0.02; done", go.display());
    let line = format!("case $GANGSAW_ARRAY_INDEX in 4) {wait};; 5) kill -KILL $PPID; sleep 600;; esac");
    let mut chunk = grant(1, &line);
    (chunk.last_index, chunk.slots) = (9, 1);
    chunk.task.as_mut().unwrap().array = Some(ArrayBounds { count: 10, min: 0, max: 9 });
    node.say_grant(chunk);
    assert_eq!(node.started(1).index, 4);
    // Everything before it was told and acknowledged.
    node.succeeded(1);
    std::fs::write(go, "").unwrap();
    let mut lost = Vec::new();
    let returned = node.fact("what did not begin", 1, |fact| match fact {
        gangsaw_proto::node::v1::fact::Fact::Ended(ended) => {
            assert_eq!(ended.cause(), ended::Cause::Infra);
            lost.push(ended.index);
            None
        }
        gangsaw_proto::node::v1::fact::Fact::Returned(returned) => Some(returned),
        _ => None,
    });
    assert!(lost.contains(&5), "it had begun: {lost:?}");
    assert_eq!((returned.first_index, returned.last_index), (6, 9));
}

fn both_killed_leave_no_process() {
    let (mut node, _) = Node::start(&[]);
    let mut chunk = grant(1, "sleep 600");
    (chunk.last_index, chunk.slots) = (9, 2);
    node.say_grant(chunk);
    wait_for("two sleeps", || node.running("sleep").len() >= 2);
    node.started(1);
    node.kill_agent();
    signal(node.supervisor().unwrap(), "-KILL");
    wait_for("the supervisor's end", || node.supervisor().is_none());
    assert_eq!(node.start_agent(&[]).leases.len(), 1);
    // Two were begun; the others come back and use no attempt.
    let mut ends = Vec::new();
    let returned = node.fact("ends and the rest", 1, |fact| match fact {
        gangsaw_proto::node::v1::fact::Fact::Ended(ended) => {
            assert_eq!(ended.cause(), ended::Cause::Infra);
            ends.push(ended.index);
            None
        }
        gangsaw_proto::node::v1::fact::Fact::Returned(returned) => Some(returned),
        _ => None,
    });
    assert!(ends.starts_with(&[0, 1]), "{ends:?}");
    assert_eq!((returned.first_index, returned.last_index), (u32::try_from(ends.len()).unwrap(), 9));
    assert_eq!(node.running("sleep"), Vec::<u32>::new());
}

fn progress_goes_on_after_a_restart() {
    let (mut node, _) = Node::start(&[]);
    let go = node.path("go");
    let exe = std::env::current_exe().unwrap();
    let say = format!("{} say-progress '{{\"step\":77}}'", exe.display());
    node.grant(1, &format!("while ! test -e {}; do sleep 0.02; done; {say}; exit 1", go.display()));
    node.started(1);
    node.kill_agent();
    node.start_agent(&[]);
    std::fs::write(go, "").unwrap();
    node.scheduler.until("progress", |got| match got {
        crate::scheduler::Got::Message(gangsaw_proto::node::v1::attach_request::Message::Progress(batch)) => {
            batch.tasks.iter().any(|task| task.json == br#"{"step":77}"#).then_some(())
        }
        _ => None,
    });
}

fn node_without_a_supervisor_says_so() {
    let (node, hello) = Node::start(&["--no-exe"]);
    let notes = hello.inventory.unwrap().notes;
    assert!(notes.iter().any(|note| note.starts_with("supervisor: ")), "{notes:?}");
    node.grant(1, "true");
    let failed = node.start_failed(1);
    assert!(!failed.users_fault, "{failed:?}");
}
