//! The kill matrix: supervisor, task, agent.

use std::fs;

use gangsaw_agent::spool;
use gangsaw_agent::supervisor::kill_leftovers;
use gangsaw_agent::supervisor::logs::{LogQuery, Stream};
use gangsaw_proto::supervisor::v1::{Run, command::Command, ended::Cause, fact};
use rustix::process::Signal;

use crate::node::{Node, all_of, command, eventually, kill, runs, shell, text};

pub(crate) const TESTS: &[crate::Test] = &[
    ("agent_that_returns_finds_its_tasks_and_every_fact", agent_that_returns_finds_its_tasks_and_every_fact),
    ("chunk_goes_on_while_no_agent_is_there", chunk_goes_on_while_no_agent_is_there),
    ("acknowledged_facts_are_not_told_again", acknowledged_facts_are_not_told_again),
    ("agent_that_does_not_read_loses_nothing", agent_that_does_not_read_loses_nothing),
    ("killed_supervisor_leaves_no_process", killed_supervisor_leaves_no_process),
    ("next_supervisor_tells_what_the_killed_one_wrote", next_supervisor_tells_what_the_killed_one_wrote),
    ("killed_task_ends_once_with_its_signal", killed_task_ends_once_with_its_signal),
    ("term_to_the_supervisor_stops_its_tasks", term_to_the_supervisor_stops_its_tasks),
];

fn agent_that_returns_finds_its_tasks_and_every_fact() {
    let mut node = Node::new();
    let go = node.folder.path().join("go");
    let wait = format!("until test -e {}; do sleep 0.01; done; exit 5", go.display());
    node.send(Command::Run(shell(1, &wait)));
    node.send(Command::Run(shell(2, "exit 6")));
    let before = node.started(1, 0);
    node.ended(2, 0);
    let supervisor = node.welcome.supervisor_pid;
    node.disconnect();
    node.facts.clear();
    node.connect(0);
    assert_eq!(node.welcome.supervisor_pid, supervisor);
    let [lease] = node.welcome.leases.as_slice() else { panic!("{:?}", node.welcome.leases) };
    let [task] = lease.tasks.as_slice() else { panic!("{lease:?}") };
    assert_eq!((lease.lease_id, lease.attempt, lease.next_index, lease.last_index), (1, 1, 1, 0));
    assert_eq!((task.pid, task.start_ticks), (before.pid, before.start_ticks));
    assert!(runs(task.pid));
    // What was told and not acknowledged is told again; then what happens now.
    assert_eq!(node.ended(2, 0).exit_code, Some(6));
    node.disconnect();
    fs::write(go, "").unwrap();
    eventually("the task ends", || !runs(before.pid));
    node.connect(0);
    node.facts.clear();
    let ended = node.ended(1, 0);
    assert_eq!((ended.exit_code, ended.cause()), (Some(5), Cause::Exit));
}

fn chunk_goes_on_while_no_agent_is_there() {
    let mut node = Node::new();
    node.send(Command::Run(Run { last_index: 1999, slots: 2, ..command(1, &["/bin/true"]) }));
    node.until(|fact| matches!(fact.fact, Some(fact::Fact::Succeeded(_))).then_some(()));
    for _ in 0..5 {
        let told = node.facts.last().map_or(0, |fact| fact.seq);
        node.disconnect();
        node.connect(told);
    }
    let ends = node.over(1, 2000);
    assert!(ends.values().all(|end| *end == "succeeded"));
    let seqs: Vec<u64> = node.facts.iter().map(|fact| fact.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "gapless, in order, each once");
}

fn acknowledged_facts_are_not_told_again() {
    let mut node = Node::new();
    for lease_id in 1..=3 {
        node.send(Command::Run(shell(lease_id, "exit 1")));
        node.ended(lease_id, 0);
    }
    let acked =
        node.until(|fact| (fact.lease_id == 2 && matches!(fact.fact, Some(fact::Fact::Ended(_)))).then_some(fact.seq));
    node.ack(acked);
    node.disconnect();
    node.facts.clear();
    node.connect(acked);
    node.ended(3, 0);
    assert!(node.facts.iter().all(|fact| fact.seq > acked));
    // Acknowledged and ended: the id is free again, as far as the supervisor knows.
    node.send(Command::Run(shell(1, "exit 4")));
    node.until(|fact| match &fact.fact {
        Some(fact::Fact::Ended(ended)) if fact.lease_id == 1 && ended.exit_code == Some(4) => Some(()),
        _ => None,
    });
}

fn agent_that_does_not_read_loses_nothing() {
    let mut node = Node::new();
    // Far more facts than a socket holds: each failure is told by itself.
    node.send(Command::Run(Run { last_index: 2999, slots: 2, ..command(1, &["/bin/false"]) }));
    let path = node.state.clone();
    eventually("all have ended", || {
        spool::read(&path, 0).unwrap().iter().filter(|fact| matches!(fact.fact, Some(fact::Fact::Ended(_)))).count()
            == 3000
    });
    assert!(node.rss_bytes() <= 4 << 20, "{}", node.rss_bytes());
    let ends = node.over(1, 3000);
    assert!(ends.values().all(|end| *end == "ended"));
}

fn killed_supervisor_leaves_no_process() {
    for args in [&[][..], &["--limits", "rlimit"]] {
        let mut node = Node::with(args);
        let pids = node.folder.path().join("pids");
        let script = format!(
            "trap '' TERM; echo $$ >> {0}; setsid sh -c 'trap \"\" TERM; echo $$ >> {0}; echo all >> {0}; while :; do sleep 1; done' & while :; do sleep 1; done",
            pids.display()
        );
        node.send(Command::Run(Run { slots: 1, ..shell(1, &script) }));
        eventually("the tree grows", || fs::read_to_string(&pids).is_ok_and(|text| text.contains("all")));
        let pids: Vec<u32> = fs::read_to_string(&pids).unwrap().lines().filter_map(|pid| pid.parse().ok()).collect();
        let main = node.started(1, 0).pid;
        kill(node.welcome.supervisor_pid, Signal::KILL);
        eventually("the main process dies with its supervisor", || !runs(main));
        let report = kill_leftovers(&node.state, &[1]).unwrap();
        assert!(report.left.is_empty());
        assert!(report.killed >= 1, "the grandchild was still there");
        assert!(!pids.iter().any(|pid| runs(*pid)));
        assert!(node.processes().is_empty());
        assert_eq!(kill_leftovers(&node.state, &[1]).unwrap().killed, 0);
        // A new supervisor works on the same folder.
        node.launch().unwrap();
        node.connect(0);
        assert!(node.welcome.leases.is_empty());
        node.send(Command::Run(shell(2, "true")));
        node.over(2, 1);
    }
}

fn next_supervisor_tells_what_the_killed_one_wrote() {
    let mut node = Node::new();
    node.send(Command::Run(shell(1, "exit 3")));
    node.ended(1, 0);
    let told = node.facts.clone();
    kill(node.welcome.supervisor_pid, Signal::KILL);
    eventually("it dies", || !runs(node.welcome.supervisor_pid));
    assert_eq!(spool::read(&node.state, 0).unwrap(), told);
    node.launch().unwrap();
    node.connect(0);
    node.facts.clear();
    node.ended(1, 0);
    assert_eq!(node.facts, told);
    node.send(Command::Run(shell(2, "true")));
    node.over(2, 1);
    assert!(node.facts.iter().filter(|fact| fact.lease_id == 2).all(|fact| fact.seq > told.last().unwrap().seq));
}

fn killed_task_ends_once_with_its_signal() {
    let mut node = Node::new();
    node.send(Command::Run(command(1, &["sleep", "100"])));
    let pid = node.started(1, 0).pid;
    kill(pid, Signal::KILL);
    let ended = node.ended(1, 0);
    assert_eq!((ended.exit_code, ended.signal, ended.cause()), (None, Some(9), Cause::Exit));
    assert!(node.list().is_empty());
}

fn term_to_the_supervisor_stops_its_tasks() {
    let mut node = Node::new();
    let pid = node.welcome.supervisor_pid;
    node.send(Command::Run(shell(1, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done")));
    node.started(1, 0);
    eventually("the task listens", || text(&node.read_logs(all_of(1001))) == "up\n");
    kill(pid, Signal::TERM);
    let ended = node.ended(1, 0);
    assert_eq!((ended.exit_code, ended.cause()), (Some(0), Cause::Stopped));
    assert!(!node.take());
    eventually("the supervisor leaves", || !runs(pid));
    let stdout = LogQuery { stream: Some(Stream::Stdout), ..all_of(1001) };
    assert_eq!(text(&node.read_logs(stdout)), "up\nbye\n");
}
