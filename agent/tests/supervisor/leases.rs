//! Leases on a healthy node: what starts, what is told, what comes back.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use gangsaw_proto::supervisor::v1::{
    ArrayBounds, Limits, Rank, Renew, Renewal, Run, command::Command, ended::Cause, fact, start_failed::Step, stop,
};

use crate::node::{Node, all_of, command, eventually, is_root, lacking, runs, shell, text};

pub(crate) const TESTS: &[crate::Test] = &[
    ("single_task_is_told_as_started_then_succeeded", single_task_is_told_as_started_then_succeeded),
    ("ten_thousand_tasks_run_exactly_once_each", ten_thousand_tasks_run_exactly_once_each),
    ("script_and_program_start_and_stop_alike", script_and_program_start_and_stop_alike),
    ("exit_code_and_signal_are_told_apart", exit_code_and_signal_are_told_apart),
    (
        "faults_before_exec_name_step_and_errno_and_return_the_rest",
        faults_before_exec_name_step_and_errno_and_return_the_rest,
    ),
    ("trim_in_the_middle_returns_what_has_not_started", trim_in_the_middle_returns_what_has_not_started),
    ("stop_of_one_element_leaves_the_others", stop_of_one_element_leaves_the_others),
    (
        "repeated_run_changes_nothing_and_unknown_leases_are_named",
        repeated_run_changes_nothing_and_unknown_leases_are_named,
    ),
    ("environment_is_what_the_design_says", environment_is_what_the_design_says),
    ("task_of_a_named_user_runs_as_that_user", task_of_a_named_user_runs_as_that_user),
    ("lease_that_nobody_renews_stops_at_its_deadline", lease_that_nobody_renews_stops_at_its_deadline),
    ("quit_ends_the_supervisor_after_the_last_task", quit_ends_the_supervisor_after_the_last_task),
    ("idle_supervisor_leaves_within_five_seconds", idle_supervisor_leaves_within_five_seconds),
    ("second_supervisor_on_a_folder_refuses", second_supervisor_on_a_folder_refuses),
    ("state_path_longer_than_a_socket_address_works", state_path_longer_than_a_socket_address_works),
];

fn kinds(node: &Node, lease_id: u64) -> Vec<&'static str> {
    let kind = |fact: &fact::Fact| match fact {
        fact::Fact::Prepared(_) => "prepared",
        fact::Fact::StartFailed(_) => "start-failed",
        fact::Fact::Started(_) => "started",
        fact::Fact::Succeeded(_) => "succeeded",
        fact::Fact::Ended(_) => "ended",
        fact::Fact::Returned(_) => "returned",
    };
    node.facts.iter().filter(|fact| fact.lease_id == lease_id).map(|fact| kind(fact.fact.as_ref().unwrap())).collect()
}

fn single_task_is_told_as_started_then_succeeded() {
    let mut node = Node::new();
    println!("limits: {}; notes: {:?}", node.welcome.limits, node.welcome.notes);
    node.send(Command::Run(shell(1, "echo out; echo err >&2; echo kept > $GANGSAW_OUTPUT_DIR/file")));
    node.over(1, 1);
    assert_eq!(kinds(&node, 1), ["started", "succeeded"]);
    let started = node.started(1, 0);
    assert!(started.pid > 0 && started.start_ticks > 0 && started.spawn_us < 5_000_000);
    assert_eq!(fs::read_to_string(format!("{}/file", started.output_dir)).unwrap(), "kept\n");
    let chunks = node.read_logs(all_of(1001));
    assert_eq!(chunks.len(), 2);
    assert!(text(&chunks).contains("out\n") && text(&chunks).contains("err\n"));
    assert_eq!(node.facts.iter().map(|fact| fact.seq).collect::<Vec<_>>(), [1, 2]);
    println!("resident: {} bytes", node.rss_bytes());
    assert!(node.rss_bytes() <= 4 << 20, "resident: {}", node.rss_bytes());
}

fn ten_thousand_tasks_run_exactly_once_each() {
    const COUNT: u32 = 10_000;
    let mut node = Node::new();
    let started = Instant::now();
    let run = Run { first_index: 5, last_index: 4 + COUNT, slots: 2, ..command(1, &["/bin/true"]) };
    node.send(Command::Run(run));
    let ends = node.over(1, COUNT as usize);
    let rate = f64::from(COUNT) / started.elapsed().as_secs_f64();
    println!("{rate:.0} tasks/s; resident {} bytes; {} facts", node.rss_bytes(), node.facts.len());
    let stat = fs::read_to_string(format!("/proc/{}/stat", node.welcome.supervisor_pid)).unwrap();
    let ticks: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(4).collect();
    println!("CPU for them, in 1/100 s: supervisor user, system, tasks user, system {ticks:?}");
    assert!(ends.values().all(|end| *end == "succeeded"));
    assert_eq!(ends.keys().copied().collect::<Vec<_>>(), (5..5 + COUNT).collect::<Vec<_>>());
    assert!(node.rss_bytes() <= 4 << 20);
    assert!(!node.state.join("agent/attempts/1001").exists(), "untouched attempt folders are not kept");
    assert!(!node.state.join("agent/logs/1001").exists(), "no log before the first byte");
    // The second chunk writes its own index: the command itself proves that each ran once.
    let script = "echo $GANGSAW_ARRAY_INDEX";
    let array = Some(ArrayBounds { count: 500, min: 0, max: 499 });
    node.send(Command::Run(Run { last_index: 499, slots: 2, array, ..shell(2, script) }));
    node.over(2, 500);
    let printed = text(&node.read_logs(all_of(1002)));
    let mut numbers: Vec<u32> = printed.lines().map(|line| line.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..500).collect::<Vec<_>>());
}

fn exit_code_and_signal_are_told_apart() {
    let mut node = Node::new();
    node.send(Command::Run(shell(1, "exit 7")));
    node.send(Command::Run(shell(2, "kill -ABRT $$")));
    let ended = node.ended(1, 0);
    assert_eq!((ended.exit_code, ended.signal, ended.cause()), (Some(7), None, Cause::Exit));
    assert!(ended.max_rss_bytes > 0);
    let ended = node.ended(2, 0);
    assert_eq!((ended.exit_code, ended.signal, ended.cause()), (None, Some(6), Cause::Exit));
}

/// A script's interpreter may be anywhere, so its child gets a memory of its own; a program's borrows the supervisor's.
fn script_and_program_start_and_stop_alike() {
    let mut node = Node::new();
    let script = node.folder.path().join("script");
    fs::write(&script, "#!/bin/sh\ntest \"$1\" = wait && exec sleep 100\nexit 3\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let script = script.to_str().unwrap();
    let pairs =
        [(command(1, &[script]), command(2, &[script, "wait"])), (shell(3, "exit 3"), shell(4, "exec sleep 100"))];
    for (short, long) in pairs {
        let (first, second) = (short.lease_id, long.lease_id);
        node.send(Command::Run(Run { last_index: 49, slots: 2, ..short }));
        assert!(node.over(first, 50).values().all(|end| *end == "ended"));
        assert_eq!(node.ended(first, 49).exit_code, Some(3));
        node.send(Command::Run(Run { time_limit_ms: 200, ..long }));
        assert!(node.started(second, 0).start_ticks > 0);
        let ended = node.ended(second, 0);
        assert_eq!((ended.signal, ended.cause()), (Some(15), Cause::TimeLimit));
    }
}

fn faults_before_exec_name_step_and_errno_and_return_the_rest() {
    let mut node = Node::new();
    let script = node.folder.path().join("not-executable");
    fs::write(&script, "echo hello\n").unwrap();
    let script = script.to_str().unwrap();
    let no_first_line = node.folder.path().join("no-first-line");
    fs::write(&no_first_line, "echo hello\n").unwrap();
    fs::set_permissions(&no_first_line, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let no_first_line = no_first_line.to_str().unwrap();
    let cases = [
        (command(1, &["no-such-command"]), Step::Exec, 2, "no such file or directory"),
        (command(2, &["/no/such/file"]), Step::Exec, 2, "no such file or directory"),
        (command(3, &[script]), Step::Exec, 13, "permission denied"),
        (command(4, &[no_first_line]), Step::Exec, 8, "#!/bin/sh"),
        (Run { workdir: "/no/such/folder".into(), ..command(5, &["true"]) }, Step::Workdir, 2, "/no/such/folder"),
        (Run { workdir: script.into(), ..command(6, &["true"]) }, Step::Workdir, 20, "not a directory"),
        (Run { output_dir: format!("{script}/out"), ..command(7, &["true"]) }, Step::Directories, 20, "output folders"),
        (command(8, &[]), Step::Request, 0, "no command"),
    ];
    for (run, step, errno, words) in cases {
        let lease_id = run.lease_id;
        node.send(Command::Run(Run { last_index: 9, ..run }));
        let ends = node.over(lease_id, 10);
        let failed = node.start_failed(lease_id);
        assert_eq!((failed.step(), failed.errno, failed.users_fault), (step, errno, true), "{failed:?}");
        assert!(failed.detail.contains(words), "{failed:?}");
        assert_eq!(ends.values().filter(|end| **end == "start-failed").count(), 1);
        assert_eq!(ends.values().filter(|end| **end == "returned").count(), 9);
    }
    assert!(node.list().is_empty());
}

fn trim_in_the_middle_returns_what_has_not_started() {
    let mut node = Node::new();
    node.send(Command::Run(Run { last_index: 99, slots: 2, ..shell(1, "read line < /dev/null; sleep 0.03") }));
    node.until(|fact| matches!(&fact.fact, Some(fact::Fact::Succeeded(done)) if done.last_index >= 4).then_some(()));
    node.trim(1, 49, false);
    node.until(|fact| matches!(&fact.fact, Some(fact::Fact::Returned(_))).then_some(()));
    node.trim(1, 0, true);
    let ends = node.over(1, 100);
    let first_back = *ends.iter().find(|(_, end)| **end == "returned").unwrap().0;
    assert!((5..50).contains(&first_back), "{first_back}");
    assert!(
        ends.iter().all(|(index, end)| *end == if *index < first_back { "succeeded" } else { "returned" }),
        "{ends:?}"
    );
}

fn stop_of_one_element_leaves_the_others() {
    let mut node = Node::new();
    let go = node.folder.path().join("go");
    let script = format!("until test -e {}; do sleep 0.01; done", go.display());
    node.send(Command::Run(Run { first_index: 1, last_index: 4, slots: 2, ..shell(1, &script) }));
    node.started(1, 1);
    node.started(1, 2);
    node.stop(1, &[2, 4], None);
    let ended = node.ended(1, 2);
    assert_eq!((ended.signal, ended.cause(), ended.reason()), (Some(15), Cause::Stopped, stop::Reason::Cancelled));
    let [held] = node.list().try_into().unwrap();
    assert_eq!((held.next_index, held.last_index, held.returned_indices), (4, 4, vec![4]));
    fs::write(go, "").unwrap();
    let wanted = BTreeMap::from([(1, "succeeded"), (2, "ended"), (3, "succeeded"), (4, "returned")]);
    assert_eq!(node.over(1, 4), wanted);
}

fn repeated_run_changes_nothing_and_unknown_leases_are_named() {
    let mut node = Node::new();
    let run = shell(1, "echo once");
    node.send(Command::Run(run.clone()));
    node.send(Command::Run(run.clone()));
    node.over(1, 1);
    // Not acknowledged yet: still known.
    node.send(Command::Run(run));
    node.stop(1, &[], None);
    node.list();
    assert_eq!(node.unknown, [1]);
    assert_eq!(kinds(&node, 1), ["started", "succeeded"]);
    assert_eq!(text(&node.read_logs(all_of(1001))), "once\n");
}

fn environment_is_what_the_design_says() {
    let mut node = Node::new();
    let env = [
        ("PATH", "/usr/bin:/bin"),
        ("MINE", "a=b c"),
        ("OMP_NUM_THREADS", "3"),
        ("CUDA_VISIBLE_DEVICES", "0"),
        ("RANK", "9"),
    ];
    let run = Run {
        first_index: 3,
        last_index: 3,
        attempt: 2,
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        array: Some(ArrayBounds { count: 5, min: 1, max: 9 }),
        limits: Some(Limits { milli_cpus: 1500, ..Limits::default() }),
        resume_from: "/ckpt/1".into(),
        ranks: vec![Rank { rank: 0, gpu_uuids: vec!["GPU-a".into(), "GPU-b".into()] }],
        ..command(1, &["env"])
    };
    node.send(Command::Run(run));
    node.over(1, 1);
    let printed = text(&node.read_logs(all_of(1001)));
    let variables: BTreeMap<&str, &str> = printed.lines().filter_map(|line| line.split_once('=')).collect();
    let attempt = node.state.join("agent/attempts/1001/3.0-2");
    let path = |name: &str| attempt.join(name).to_str().unwrap().to_owned();
    let (output, checkpoints, notice) = (path("output"), path("checkpoints"), path("notice"));
    let wanted = [
        ("MINE", "a=b c"),
        ("OMP_NUM_THREADS", "3"),
        ("MKL_NUM_THREADS", "2"),
        ("RAYON_NUM_THREADS", "2"),
        ("PYTHONUNBUFFERED", "1"),
        ("RANK", "9"),
        ("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b"),
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        ("GANGSAW_JOB_ID", "1001"),
        ("GANGSAW_TASK_ID", "1001[3]"),
        ("GANGSAW_ATTEMPT", "2"),
        ("GANGSAW_LEASE_ID", "1"),
        ("GANGSAW_ARRAY_INDEX", "3"),
        ("GANGSAW_ARRAY_COUNT", "5"),
        ("GANGSAW_ARRAY_MIN", "1"),
        ("GANGSAW_ARRAY_MAX", "9"),
        ("GANGSAW_RESUME_FROM", "/ckpt/1"),
        ("GANGSAW_OUTPUT_DIR", output.as_str()),
        ("GANGSAW_CHECKPOINT_DIR", checkpoints.as_str()),
        ("GANGSAW_NOTICE", notice.as_str()),
    ];
    for (name, value) in wanted {
        assert_eq!(variables.get(name), Some(&value), "{name}");
    }
    assert_eq!(variables.get("HOME"), None, "nothing of the supervisor's own environment leaks");
    node.send(Command::Run(shell(
        2,
        "echo $CUDA_VISIBLE_DEVICES $GANGSAW_TASK_ID; pwd; cat; ls /proc/self/fd | tr '\\n' ' '",
    )));
    node.over(2, 1);
    let cwd = node.state.join("agent/attempts/1002/0.0-1");
    assert_eq!(text(&node.read_logs(all_of(1002))), format!("-1 1002\n{}\n0 1 2 3 ", cwd.display()));
}

fn task_of_a_named_user_runs_as_that_user() {
    if !is_root() {
        return lacking("root, to run a task as somebody else");
    }
    let mut node = Node::new();
    let user = gangsaw_proto::supervisor::v1::User { uid: 12_345, gid: 12_346, groups: vec![12_347] };
    let script = "id -u; id -g; id -G; touch $GANGSAW_OUTPUT_DIR/x && echo writable; grep -c . /proc/self/environ > /dev/null && echo own";
    node.send(Command::Run(Run { user: Some(user), ..shell(1, script) }));
    node.over(1, 1);
    assert_eq!(text(&node.read_logs(all_of(1001))), "12345\n12346\n12346 12347\nwritable\nown\n");
    let socket = node.state.join("agent/supervisor.sock");
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(socket).unwrap()) & 0o777, 0o600);
}

fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap() * 1000 + u64::try_from(now.tv_nsec).unwrap() / 1_000_000
}

fn lease_that_nobody_renews_stops_at_its_deadline() {
    let mut node = Node::new();
    let deadline_ms = now_ms() + 400;
    node.send(Command::Run(Run { deadline_ms, ..shell(1, "exec sleep 100") }));
    node.send(Command::Run(Run { deadline_ms, ..shell(2, "exec sleep 100") }));
    node.started(1, 0);
    node.started(2, 0);
    node.send(Command::Renew(Renew { renewals: vec![Renewal { lease_id: 2, deadline_ms: 0 }] }));
    // Also without an agent.
    node.disconnect();
    eventually("the deadline passes", || now_ms() > deadline_ms + 100);
    node.connect(0);
    node.facts.clear();
    let ended = node.ended(1, 0);
    assert_eq!((ended.cause(), ended.signal), (Cause::Disconnected, Some(15)));
    assert_eq!(node.list().iter().map(|lease| lease.lease_id).collect::<Vec<_>>(), [2]);
}

fn quit_ends_the_supervisor_after_the_last_task() {
    let mut node = Node::new();
    let pid = node.welcome.supervisor_pid;
    node.send(Command::Run(shell(1, "sleep 0.3; echo done")));
    node.started(1, 0);
    node.quit();
    node.send(Command::Run(shell(2, "true")));
    assert_eq!(node.over(2, 1)[&0], "returned");
    assert_eq!(node.over(1, 1)[&0], "succeeded");
    assert!(!node.take(), "the connection ends with the supervisor");
    eventually("the supervisor leaves", || !runs(pid));
    assert!(!node.state.join("agent/supervisor.sock").exists());
    // What it told and nobody acknowledged is still there for the next one.
    node.launch().unwrap();
    node.connect(0);
    assert_eq!(node.welcome.last_seq, 3);
    node.facts.clear();
    assert_eq!(node.over(1, 1)[&0], "succeeded");
}

fn idle_supervisor_leaves_within_five_seconds() {
    let mut node = Node::new();
    let pid = node.welcome.supervisor_pid;
    node.disconnect();
    let since = Instant::now();
    eventually("the supervisor leaves", || !runs(pid));
    assert!((Duration::from_secs(2)..Duration::from_secs(5)).contains(&since.elapsed()), "{:?}", since.elapsed());
}

fn second_supervisor_on_a_folder_refuses() {
    let mut node = Node::new();
    let refused = node.launch().unwrap_err();
    assert_eq!(refused.to_string(), "another supervisor holds this state folder");
    let leftovers = gangsaw_agent::supervisor::kill_leftovers(&node.state, &[1]).unwrap_err();
    assert_eq!(leftovers.kind(), std::io::ErrorKind::WouldBlock);
    node.send(Command::Run(shell(1, "true")));
    node.over(1, 1);
}

fn state_path_longer_than_a_socket_address_works() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("x".repeat(120)).join("y".repeat(120));
    let mut node = Node::at(folder, state, &[]);
    node.send(Command::Run(shell(1, "true")));
    node.over(1, 1);
}
