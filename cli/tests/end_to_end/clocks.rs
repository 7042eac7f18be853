//! Wall clocks that are wrong by years: cluster time is counted on the boot clock, so nothing but what people read moves.

use std::process::Command;

use rustix::process::Signal;

use crate::cluster::{Cluster, Daemon, cannot_run, eventually, is_alive, start_ticks};

/// What `faketime` preloads; it would stand between a test and the process it is to kill.
fn library() -> Option<String> {
    let said = Command::new("faketime").args(["-f", "+0", "sh", "-c", "printf %s \"$LD_PRELOAD\""]).output().ok()?;
    said.status.success().then(|| String::from_utf8_lossy(&said.stdout).into_owned()).filter(|path| !path.is_empty())
}

/// The same command with another wall clock. Its boot clock stays the machine's.
fn shifted(mut command: Command, library: &str, shift: &str) -> Command {
    command.env("LD_PRELOAD", library).env("FAKETIME", shift).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}

/// The year by the clock of a shifted process.
fn year(library: &str, shift: &str) -> u64 {
    let mut date = Command::new("date");
    date.arg("+%Y");
    let said = shifted(date, library, shift).output().unwrap();
    String::from_utf8_lossy(&said.stdout).trim().parse().unwrap()
}

#[test]
fn a_wall_clock_ten_years_wrong_either_way_touches_no_task_and_loses_no_job() {
    let Some(library) = library() else { return cannot_run("a wrong clock needs faketime") };
    assert_eq!(year(&library, "+10y"), year(&library, "-10y") + 20, "the clock is really wrong");
    let mut cluster = Cluster::scheduler();
    // The agent's clock is wrong all the time, and the scheduler's jumps both ways.
    let agent = shifted(cluster.agent("node"), &library, "-10y");
    cluster.daemons.push(Daemon::start(agent));
    cluster.until_node("node");
    let gate = cluster.place.path().join("gate");
    let script = format!("until [ -e {} ]; do sleep 0.05; done; exit 5", gate.display());
    let job = cluster.submit(&["--cpus", "0.1", "--", "sh", "-c", &script]);
    let pid = cluster.until_running(job);
    let ticks = start_ticks(pid);
    for shift in ["+10y", "-10y", "+0"] {
        let first = u64::from(cluster.daemons[0].child.id());
        cluster.daemons[0].end(Signal::KILL);
        eventually("the scheduler is gone", || (!is_alive(first)).then_some(()));
        cluster.daemons[0] = Daemon::start(shifted(cluster.scheduler_command(), &library, shift));
        cluster.until_node("node");
        assert_eq!((cluster.until_running(job), start_ticks(pid)), (pid, ticks), "{shift}");
        let later = cluster.submit(&["--cpus", "0.1", "--", "true"]);
        let shown = cluster.until(later, "COMPLETED");
        assert_eq!(shown["tasks"][0]["attempt"], 1, "{shift}");
    }
    std::fs::write(gate, "").unwrap();
    let task = cluster.until(job, "FAILED")["tasks"][0].clone();
    assert_eq!((task["exit_code"].as_i64(), task["attempt"].as_u64()), (Some(5), Some(1)));
}
