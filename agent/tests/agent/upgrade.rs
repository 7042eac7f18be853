//! Agents of several versions, one after the other, on one state folder.

use std::path::Path;

use gangsaw_proto::node::v1::{Revoke, ServeLogsResponse, attach_response, ended, held_lease, revoke};

use crate::Test;
use crate::node::{Node, grant, runs, signal, wait_for};

pub(crate) const TESTS: &[Test] = &[
    ("new_version_starts_its_own_supervisor_and_the_old_one_finishes_what_it_has", new_version_starts_its_own),
    ("old_supervisor_stays_until_its_last_end_is_acknowledged", old_supervisor_stays_until_acknowledged),
    ("chunk_and_revoke_of_the_old_supervisor_go_on_under_the_new_agent", chunk_and_revoke_go_on),
    ("killed_old_supervisor_takes_its_own_tasks_with_it_and_no_others", killed_old_supervisor),
    ("killed_new_supervisor_takes_its_own_tasks_with_it_and_no_others", killed_new_supervisor),
    ("everything_killed_during_an_upgrade_ends_once_and_leaves_nothing", everything_killed),
    ("log_of_a_job_that_two_supervisors_run_is_read_as_one", log_of_two_supervisors),
    ("version_that_comes_back_starts_another_supervisor_and_all_go_on", version_that_comes_back),
    ("scheduler_of_a_far_version_is_not_served_and_tasks_run_on", far_scheduler_is_not_served),
];

/// The next agent says that it is of this version.
fn version(node: &mut Node, version: &str) {
    node.env("GANGSAW_TEST_VERSION", version);
}

/// A shell that waits for a file and ends with a code.
fn waiting(go: &Path, code: u32) -> String {
    format!("while ! test -e {}; do sleep 0.02; done; exit {code}", go.display())
}

/// The process that started this one: a task's supervisor.
fn parent(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A node whose lease 1 runs under the supervisor of version 1 and lease 2 under that of version 2, each with the
/// process that runs it, and the files that let them end with 4 and 5.
fn upgraded() -> (Node, [u32; 2], [std::path::PathBuf; 2]) {
    let mut node = Node::without_agent();
    let gates = ["one", "two"].map(|name| node.path(name));
    version(&mut node, "1.0.0");
    node.start_agent(&[]);
    node.grant(1, &waiting(&gates[0], 4));
    let old = node.started(1).pid;
    node.kill_agent();
    version(&mut node, "2.0.0");
    let hello = node.start_agent(&[]);
    assert_eq!(hello.agent_version, "2.0.0");
    let held: Vec<_> = hello.leases.iter().map(|lease| (lease.lease_id, lease.phase())).collect();
    assert_eq!(held, [(1, held_lease::Phase::Running)]);
    node.grant(2, &waiting(&gates[1], 5));
    let new = node.started(2).pid;
    assert!(runs(old), "the old task is not touched");
    assert_ne!(parent(old), parent(new), "each version's tasks have their own supervisor");
    (node, [old, new], gates)
}

fn new_version_starts_its_own() {
    let (node, [old, new], gates) = upgraded();
    let supervisors = [parent(old), parent(new)];
    std::fs::write(&gates[0], "").unwrap();
    assert_eq!(node.ended(1).exit_code, Some(4));
    wait_for("the old supervisor's end", || !runs(supervisors[0]));
    assert!(runs(new) && runs(supervisors[1]));
    node.grant(3, "exit 6");
    assert_eq!(node.ended(3).exit_code, Some(6));
    std::fs::write(&gates[1], "").unwrap();
    assert_eq!(node.ended(2).exit_code, Some(5));
}

fn old_supervisor_stays_until_acknowledged() {
    let (mut node, [old, new], gates) = upgraded();
    let supervisor = parent(old);
    node.scheduler.acks(false);
    std::fs::write(&gates[0], "").unwrap();
    assert_eq!(node.ended(1).exit_code, Some(4));
    // Another end comes after it, so the old supervisor has had its turns since.
    wait_for("the old task's end", || !runs(old));
    node.kill_agent();
    assert!(runs(supervisor), "its fact is acknowledged by nobody");
    node.scheduler.acks(true);
    let hello = node.start_agent(&[]);
    assert_eq!(hello.leases.iter().map(|lease| lease.lease_id).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(node.ended(1).exit_code, Some(4));
    wait_for("the old supervisor's end", || !runs(supervisor));
    assert!(runs(new));
}

fn chunk_and_revoke_go_on() {
    let mut node = Node::without_agent();
    version(&mut node, "1.0.0");
    node.start_agent(&[]);
    let ran = node.path("ran");
    let mut chunk = grant(1, &format!("echo $GANGSAW_ARRAY_INDEX >> {}; sleep 0.05", ran.display()));
    (chunk.last_index, chunk.slots) = (49, 2);
    node.say_grant(chunk);
    node.grant(2, "sleep 600");
    let sleeper = node.started(2).pid;
    let supervisor = parent(sleeper);
    node.kill_agent();
    version(&mut node, "2.0.0");
    assert_eq!(node.start_agent(&[]).leases.len(), 2);
    let mut over = std::collections::BTreeSet::new();
    while over.len() < 50 {
        let run = node.fact("successes", 1, |fact| match fact {
            gangsaw_proto::node::v1::fact::Fact::Succeeded(run) => Some(run),
            gangsaw_proto::node::v1::fact::Fact::Started(_) => None,
            other => panic!("{other:?}"),
        });
        over.extend(run.first_index..=run.last_index);
    }
    assert_eq!(std::fs::read_to_string(&ran).unwrap().lines().count(), 50, "each index ran exactly once");
    let reason = revoke::Reason::Cancelled.into();
    node.scheduler.say(attach_response::Message::Revoke(Revoke { lease_id: 2, reason, elements: Vec::new() }));
    assert_eq!(node.ended(2).cause(), ended::Cause::Revoked);
    wait_for("the old supervisor's end", || !runs(supervisor));
}

fn killed_old_supervisor() {
    let (node, [old, new], gates) = upgraded();
    signal(parent(old), "-KILL");
    let ended = node.ended(1);
    assert_eq!((ended.cause(), ended.exit_code), (ended::Cause::Infra, None));
    assert!(!runs(old) && runs(new));
    std::fs::write(&gates[1], "").unwrap();
    assert_eq!(node.ended(2).exit_code, Some(5));
}

fn killed_new_supervisor() {
    let (node, [old, new], gates) = upgraded();
    signal(parent(new), "-KILL");
    let ended = node.ended(2);
    assert_eq!((ended.cause(), ended.exit_code), (ended::Cause::Infra, None));
    assert!(runs(old) && !runs(new));
    node.grant(3, "exit 6");
    assert_eq!(node.ended(3).exit_code, Some(6));
    std::fs::write(&gates[0], "").unwrap();
    assert_eq!(node.ended(1).exit_code, Some(4));
}

fn everything_killed() {
    let (mut node, [old, new], _gates) = upgraded();
    let supervisors = [parent(old), parent(new)];
    node.kill_agent();
    for supervisor in supervisors {
        signal(supervisor, "-KILL");
    }
    wait_for("their deaths", || !supervisors.into_iter().any(runs));
    version(&mut node, "3.0.0");
    assert_eq!(node.start_agent(&[]).leases.len(), 2);
    for lease in [1, 2] {
        assert_eq!(node.ended(lease).cause(), ended::Cause::Infra);
    }
    assert!(!runs(old) && !runs(new));
    node.grant(3, "exit 6");
    assert_eq!(node.ended(3).exit_code, Some(6));
    let versions = node.path("agent/versions");
    wait_for("the end of the ruin", || std::fs::read_dir(&versions).unwrap().count() == 0);
}

fn log_of_two_supervisors() {
    let mut node = Node::without_agent();
    version(&mut node, "1.0.0");
    node.start_agent(&[]);
    let go = node.path("go");
    let line = format!("echo begin; {}", waiting(&go, 1).replace("; exit", "; echo end; exit"));
    node.grant(1, &line);
    node.started(1);
    let all = ServeLogsResponse { job_id: 1, last_index: 9, ..ServeLogsResponse::default() };
    // It is started before it has printed anything.
    let mut id = 100;
    wait_for("its first line", || {
        id += 1;
        node.scheduler.ask(ServeLogsResponse { query_id: id, ..all });
        crate::logs::answer(&node, id).0 == "begin\n"
    });
    node.kill_agent();
    version(&mut node, "2.0.0");
    node.start_agent(&[]);
    // A follower that began before the second supervisor printed a byte of this job.
    node.scheduler.ask(ServeLogsResponse { query_id: 6, follow: true, ..all });
    assert_eq!(node.scheduler.piece(6).data, b"begin\n");
    let mut second = grant(2, "echo other; exit 1");
    (second.job_id, second.first_index, second.last_index) = (1, 1, 1);
    node.say_grant(second);
    node.ended(2);
    assert_eq!(node.scheduler.piece(6).data, b"other\n");
    std::fs::write(&go, "").unwrap();
    node.ended(1);
    assert_eq!(node.scheduler.piece(6).data, b"end\n");
    node.scheduler.ask(ServeLogsResponse { query_id: 7, ..all });
    assert_eq!(crate::logs::answer(&node, 7).0, "begin\nother\nend\n");
    node.scheduler.ask(ServeLogsResponse { copied: true, ..all });
    let mut id = 7;
    wait_for("the drop of both", || {
        id += 1;
        node.scheduler.ask(ServeLogsResponse { query_id: id, attempt: u32::MAX, ..all });
        crate::logs::answer(&node, id).0.is_empty()
    });
}

fn version_that_comes_back() {
    let (mut node, [old, new], gates) = upgraded();
    node.kill_agent();
    version(&mut node, "1.0.0");
    assert_eq!(node.start_agent(&[]).leases.len(), 2);
    // The first version's supervisor was told to retire: what comes now goes to a third one, and all three go on.
    let gate = node.path("three");
    node.grant(3, &waiting(&gate, 6));
    let third = node.started(3).pid;
    assert!(runs(old) && runs(new));
    std::fs::write(gate, "").unwrap();
    assert_eq!(node.ended(3).exit_code, Some(6));
    gates.iter().for_each(|gate| std::fs::write(gate, "").unwrap());
    assert_eq!(node.ended(1).exit_code, Some(4));
    assert_eq!(node.ended(2).exit_code, Some(5));
    wait_for("one supervisor", || node.running("supervisor").len() == 1);
    assert!(!runs(third));
}

fn far_scheduler_is_not_served() {
    let mut node = Node::without_agent();
    version(&mut node, "1.4.0");
    node.start_agent(&[]);
    let gate = node.path("gate");
    node.grant(1, &waiting(&gate, 4));
    let pid = node.started(1).pid;
    node.scheduler.version("1.6.0");
    node.scheduler.hang_up();
    // It dials, hears the version, and leaves; and tries again, for a scheduler may be upgraded or rolled back.
    for _ in 0..3 {
        node.hello();
        node.scheduler.until("the end of the stream", |got| matches!(got, crate::scheduler::Got::Gone).then_some(()));
    }
    assert!(runs(pid));
    node.scheduler.version("1.5.0");
    std::fs::write(gate, "").unwrap();
    assert_eq!(node.ended(1).exit_code, Some(4));
}
