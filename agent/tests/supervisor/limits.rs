//! Time limits, stops, whole trees, memory, processes; with cgroups and without.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use gangsaw_agent::supervisor::logs::{LogQuery, Stream};
use gangsaw_proto::supervisor::v1::{Limits, Run, command::Command, ended::Cause};
use rustix::process::Signal;

use crate::node::{Node, all_of, command, eventually, kill, lacking, runs, shell, text};

pub(crate) const TESTS: &[crate::Test] = &[
    ("time_limit_is_notice_then_term_then_kill", time_limit_is_notice_then_term_then_kill),
    ("stopped_process_still_hears_term", stopped_process_still_hears_term),
    ("task_leads_a_session_of_its_own_and_its_children_hear_term", task_leads_a_session_of_its_own),
    ("tree_that_ignores_term_is_gone_after_the_grace", tree_that_ignores_term_is_gone_after_the_grace),
    ("what_a_task_leaves_behind_is_killed_when_it_exits", what_a_task_leaves_behind_is_killed_when_it_exits),
    ("fork_bomb_is_held_and_killed", fork_bomb_is_held_and_killed),
    ("out_of_memory_names_limit_and_peak", out_of_memory_names_limit_and_peak),
    ("memory_limit_without_cgroups_is_of_each_process", memory_limit_without_cgroups_is_of_each_process),
    ("task_is_inside_every_group_of_its_slot", task_is_inside_every_group_of_its_slot),
    ("slot_is_reused_with_the_next_leases_limits", slot_is_reused_with_the_next_leases_limits),
];

/// A tree of three generations in three sessions, none of which hears SIGTERM; it writes its pids to a file.
const STUBBORN: &str = r#"
trap '' TERM
echo $$ >> pids
setsid sh -c 'trap "" TERM; echo $$ >> pids; setsid sh -c "trap \"\" TERM; echo \$\$ >> pids; echo all >> pids; while :; do sleep 1; done" & while :; do sleep 1; done' &
while :; do sleep 1; done
"#;

fn modes() -> [Node; 2] {
    [Node::new(), Node::with(&["--limits", "rlimit"])]
}

fn stubborn(node: &mut Node, run: Run) -> Vec<u32> {
    let workdir = node.folder.path().join(format!("tree-{}", run.lease_id));
    fs::create_dir(&workdir).unwrap();
    let pids = workdir.join("pids");
    node.send(Command::Run(Run { workdir: workdir.to_str().unwrap().into(), ..run }));
    eventually("the tree grows", || fs::read_to_string(&pids).is_ok_and(|text| text.contains("all")));
    let pids: Vec<u32> = fs::read_to_string(&pids).unwrap().lines().filter_map(|pid| pid.parse().ok()).collect();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| runs(*pid)));
    pids
}

fn time_limit_is_notice_then_term_then_kill() {
    let mut node = Node::new();
    let polite = "trap 'cat $GANGSAW_NOTICE; exit 75' TERM; while :; do sleep 0.01; done";
    node.send(Command::Run(Run { time_limit_ms: 300, grace_ms: 5_000, ..shell(1, polite) }));
    let deaf = "trap '' TERM; while :; do sleep 0.01; done";
    node.send(Command::Run(Run { time_limit_ms: 300, grace_ms: 200, ..shell(2, deaf) }));
    let ended = node.ended(1, 0);
    assert_eq!((ended.exit_code, ended.signal, ended.cause()), (Some(75), None, Cause::TimeLimit));
    assert!((300_000..2_000_000).contains(&ended.ran_us), "{}", ended.ran_us);
    assert!(ended.detail.contains("300 ms"));
    let notice = text(&node.read_logs(all_of(1001)));
    assert!(notice.contains("\"reason\":\"time-limit\"") && notice.contains("\"grace_ms\":5000"), "{notice}");
    let ended = node.ended(2, 0);
    assert_eq!((ended.exit_code, ended.signal, ended.cause()), (None, Some(9), Cause::TimeLimit));
    assert!((500_000..3_000_000).contains(&ended.ran_us), "{}", ended.ran_us);
}

fn stopped_process_still_hears_term() {
    let mut node = Node::new();
    node.send(Command::Run(Run { grace_ms: 20_000, ..command(1, &["sleep", "100"]) }));
    let pid = node.started(1, 0).pid;
    kill(pid, Signal::STOP);
    let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Until then both signals could be pending, and the lower number is heard first.
    eventually("it stands still", || state().rsplit_once(')').unwrap().1.trim_start().starts_with('T'));
    let since = Instant::now();
    node.stop(1, &[], None);
    assert_eq!(node.ended(1, 0).signal, Some(15));
    assert!(since.elapsed() < Duration::from_secs(10));
}

fn task_leads_a_session_of_its_own() {
    let mut node = Node::new();
    let child = "trap \"echo child heard it; exit 0\" TERM; echo up; while :; do sleep 0.01; done";
    let script = format!("trap 'wait; exit 3' TERM; echo leader $$; sh -c '{child}' & wait");
    node.send(Command::Run(Run { grace_ms: 20_000, ..shell(1, &script) }));
    let pid = node.started(1, 0).pid;
    eventually("the child listens", || text(&node.read_logs(all_of(1001))).contains("up\n"));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(2).take(2).collect();
    let own = pid.to_string();
    assert_eq!(fields, [own.as_str(), own.as_str()], "group and session");
    node.stop(1, &[], None);
    assert_eq!(node.ended(1, 0).exit_code, Some(3));
    assert!(text(&node.read_logs(all_of(1001))).contains("child heard it\n"));
}

fn tree_that_ignores_term_is_gone_after_the_grace() {
    for mut node in modes() {
        let pids = stubborn(&mut node, shell(1, STUBBORN));
        let since = Instant::now();
        node.stop(1, &[], Some(400));
        let ended = node.ended(1, 0);
        assert_eq!((ended.signal, ended.cause()), (Some(9), Cause::Stopped));
        assert!(since.elapsed() >= Duration::from_millis(400));
        assert!(!pids.iter().any(|pid| runs(*pid)), "all of the tree is gone when its end is told");
        // And with no grace at all; a second stop shortens the first one's grace.
        let pids = stubborn(&mut node, shell(2, STUBBORN));
        node.stop(2, &[], Some(60_000));
        node.stop(2, &[], Some(0));
        assert_eq!(node.ended(2, 0).signal, Some(9));
        assert!(!pids.iter().any(|pid| runs(*pid)));
        assert!(node.processes().is_empty());
    }
}

fn what_a_task_leaves_behind_is_killed_when_it_exits() {
    for mut node in modes() {
        let script = "setsid sh -c 'echo $$ > pid; exec sleep 100' & until test -s pid; do :; done; exit 3";
        let workdir = node.folder.path().join("work");
        fs::create_dir(&workdir).unwrap();
        node.send(Command::Run(Run { workdir: workdir.to_str().unwrap().into(), ..shell(1, script) }));
        let ended = node.ended(1, 0);
        assert_eq!((ended.exit_code, ended.cause()), (Some(3), Cause::Exit));
        let pid = fs::read_to_string(workdir.join("pid")).unwrap().trim().parse().unwrap();
        assert!(!runs(pid));
    }
}

fn fork_bomb_is_held_and_killed() {
    let mut node = Node::new();
    if !node.has_cgroups() {
        return lacking("cgroups, to hold a fork bomb");
    }
    let limits = Some(Limits { milli_cpus: 1000, memory_bytes: 0, pids_max: 50 });
    // Up to 500 at a time, each in a session of its own; xargs goes on when fork is refused.
    let bomb = "trap '' TERM; yes 100 | xargs -P 500 -n 1 setsid sleep";
    node.send(Command::Run(Run { limits, ..shell(1, bomb) }));
    node.started(1, 0);
    let mut most = 0;
    eventually("the bomb reaches its limit", || {
        most = node.processes().len().max(most);
        most >= 45
    });
    assert!(most <= 50, "{most} processes");
    let since = Instant::now();
    node.stop(1, &[], Some(200));
    node.ended(1, 0);
    assert!(since.elapsed() < Duration::from_secs(5));
    assert!(node.processes().is_empty());
}

/// Holds `mib` MiB in the memory of one process, then prints it is there.
fn hold(mib: u32) -> String {
    format!("head -c {mib}M /dev/zero | tail -c {mib}M | wc -c")
}

fn out_of_memory_names_limit_and_peak() {
    let mut node = Node::new();
    if !node.has_cgroups() {
        return lacking("cgroups, for a memory limit");
    }
    let limit = 48 << 20;
    let limits = Some(Limits { milli_cpus: 1000, memory_bytes: limit, pids_max: 0 });
    let script = "head -c 200M /dev/zero | tail -c 200M > /dev/null; exit 9";
    node.send(Command::Run(Run { limits, ..shell(1, script) }));
    let ended = node.ended(1, 0);
    assert_eq!((ended.exit_code, ended.cause()), (Some(9), Cause::Oom), "{ended:?}");
    assert!(ended.detail.contains(&format!("limit {limit} bytes, peak ")), "{}", ended.detail);
    println!("{}", ended.detail);
    // The same slot, the same limit, no fault: an old count is not taken for a new one.
    node.send(Command::Run(Run { limits, ..shell(2, "exit 9") }));
    assert_eq!(node.ended(2, 0).cause(), Cause::Exit);
}

fn memory_limit_without_cgroups_is_of_each_process() {
    let mut node = Node::with(&["--limits", "rlimit"]);
    assert!(node.welcome.notes.iter().any(|note| note.contains("best effort")), "{:?}", node.welcome.notes);
    let limits = Some(Limits { milli_cpus: 1000, memory_bytes: 48 << 20, pids_max: 0 });
    let script = hold(200);
    node.send(Command::Run(Run { limits, ..shell(1, &format!("set -e; {script}")) }));
    node.over(1, 1);
    let printed = text(&node.read_logs(all_of(1001)));
    assert!(printed.contains("memory exhausted"), "{printed}");
}

/// Whether its memory is a copy or borrowed until exec, which is how it is spawned, and again in a used slot.
fn task_is_inside_every_group_of_its_slot() {
    let mut node = Node::new();
    if !node.has_cgroups() {
        return lacking("cgroups, to be inside");
    }
    for (lease, memory_bytes) in [(1, 0), (2, 4 << 20), (3, 0)] {
        let limits = Some(Limits { milli_cpus: 1000, memory_bytes, pids_max: 0 });
        node.send(Command::Run(Run { limits, ..command(lease, &["cat", "/proc/self/cgroup"]) }));
        node.over(lease, 1);
        let printed = text(&node.read_logs(all_of(1000 + lease)));
        let groups = fs::read_to_string(node.state.join("agent/supervisor.cgroups")).unwrap();
        for group in groups.lines() {
            let name = Path::new(group).file_name().unwrap().to_str().unwrap();
            let inside = printed.lines().filter(|line| line.ends_with(&format!("{name}/slot-0"))).count();
            assert_eq!(inside, groups.lines().count(), "{groups}{printed}");
        }
    }
}

fn slot_is_reused_with_the_next_leases_limits() {
    let mut node = Node::new();
    if !node.has_cgroups() {
        return lacking("cgroups, for a memory limit");
    }
    let limits = |memory_bytes| Some(Limits { milli_cpus: 1000, memory_bytes, pids_max: 0 });
    node.send(Command::Run(Run { limits: limits(32 << 20), ..shell(1, "true") }));
    node.over(1, 1);
    node.send(Command::Run(Run { limits: limits(0), ..shell(2, &hold(100)) }));
    node.over(2, 1);
    assert_eq!(text(&node.read_logs(all_of(1002))).trim(), (100 << 20).to_string());
    node.send(Command::Run(Run { limits: limits(32 << 20), ..shell(3, &format!("set -e; {}", hold(100))) }));
    node.over(3, 1);
    let stdout = LogQuery { stream: Some(Stream::Stdout), ..all_of(1003) };
    assert_eq!(text(&node.read_logs(stdout)).trim(), "0");
}
