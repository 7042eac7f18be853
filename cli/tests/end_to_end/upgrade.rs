//! An agent is replaced by one of the next version, and by one that is too far ahead.

use std::process::Stdio;

use rustix::process::Signal;

use crate::cluster::{Cluster, Daemon, eventually, is_alive, processes_naming, start_ticks};

/// The supervisors of this cluster.
fn supervisors(cluster: &Cluster) -> usize {
    let all = processes_naming(cluster.place.path().to_str().unwrap());
    all.into_iter().filter(|(_, line)| line.contains(" supervisor ")).count()
}

/// An agent on the node's folder that says it is of this version, and leaves tasks alone when it ends.
fn agent(cluster: &Cluster, version: &str) -> std::process::Command {
    let state = cluster.place.path().join("node").display().to_string();
    let words = ["agent", "--state", &state, "--server", &cluster.server, "--node-name", "node", "--no-gpus"];
    let words: Vec<&str> = words.into_iter().chain(["--output", "jsonl", "--as-version", version]).collect();
    cluster.place.gangsaw(&words)
}

#[test]
fn an_upgraded_agent_leaves_tasks_running_and_one_too_far_ahead_is_refused_by_name() {
    let mut cluster = Cluster::scheduler();
    let gates = ["one", "two"].map(|name| cluster.place.path().join(name));
    let script =
        |gate: usize, code| format!("until [ -e {} ]; do sleep 0.05; done; exit {code}", gates[gate].display());
    let submit =
        |cluster: &Cluster, gate, code| cluster.submit(&["--cpus", "0.1", "--", "sh", "-c", &script(gate, code)]);
    let mut first = Daemon::start(agent(&cluster, "0.1.0"));
    let old = submit(&cluster, 0, 4);
    let pid = cluster.until_running(old);
    let ticks = start_ticks(pid);
    first.end(Signal::TERM);
    assert!(is_alive(pid));

    let mut second = Daemon::start(agent(&cluster, "0.2.0"));
    let new = submit(&cluster, 1, 5);
    let new_pid = cluster.until_running(new);
    assert_eq!((cluster.until_running(old), start_ticks(pid)), (pid, ticks));
    assert_eq!(supervisors(&cluster), 2);
    std::fs::write(&gates[0], "").unwrap();
    let task = cluster.until(old, "FAILED")["tasks"][0].clone();
    assert_eq!((task["exit_code"].as_i64(), task["attempt"].as_u64()), (Some(4), Some(1)));
    eventually("the old supervisor's end", || (supervisors(&cluster) == 1).then_some(()));
    second.end(Signal::TERM);

    let said = cluster.place.path().join("said");
    let mut far = agent(&cluster, "0.3.0");
    let mut far = Daemon::start({
        far.stderr(Stdio::from(std::fs::File::create(&said).unwrap()));
        far
    });
    eventually("the refusal", || {
        let text = std::fs::read_to_string(&said).unwrap();
        text.contains("the agent is version 0.3.0 and the scheduler 0.1.0").then_some(())
    });
    far.end(Signal::TERM);
    assert!(is_alive(new_pid), "its tasks run on");
    std::fs::write(&gates[1], "").unwrap();
    let words = agent(&cluster, "0.2.0");
    let mut last = words;
    last.arg("--stop-tasks");
    cluster.daemons.push(Daemon::start(last));
    let task = cluster.until(new, "FAILED")["tasks"][0].clone();
    assert_eq!((task["exit_code"].as_i64(), task["attempt"].as_u64()), (Some(5), Some(1)));
}
