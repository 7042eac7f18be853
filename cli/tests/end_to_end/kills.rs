//! What survives kill -9, and what does not.

use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::cluster::{
    Cluster, Daemon, cannot_run, err, eventually, is_alive, kill, out, processes_naming, start_ticks,
};

/// Submits one held job after the other until it fails or has done enough; returns the acknowledged numbers.
fn submit_in_a_loop(cluster: &Cluster) -> Vec<u64> {
    const ENOUGH: usize = 150;
    let mut ids = Vec::new();
    while ids.len() < ENOUGH {
        let output = cluster.run(&["submit", "--hold", "--output", "json", "--", "true"]);
        match serde_json::from_slice::<Value>(&output.stdout) {
            Ok(value) => ids.push(value["job_id"].as_u64().unwrap()),
            Err(_) => break,
        }
    }
    ids
}

#[test]
fn a_killed_scheduler_loses_no_acknowledged_job_and_touches_no_task() {
    let mut cluster = Cluster::scheduler();
    cluster.start_agent("node");
    let job = cluster.submit(&["--", "sleep", "600"]);
    let pid = cluster.until_running(job);
    let ticks = start_ticks(pid);
    let (acknowledged, again) = std::thread::scope(|scope| {
        let cluster = &cluster;
        let loops: Vec<_> = (0..4).map(|_| scope.spawn(move || submit_in_a_loop(cluster))).collect();
        eventually("submits in flight", || {
            (cluster.json(&["ps", "--limit", "9"])["jobs"].as_array()?.len() >= 9).then_some(())
        });
        let first = u64::from(cluster.daemons[0].child.id());
        kill(first, Signal::KILL);
        // The store is free for the next one when the process is gone, which a loaded machine takes its time for.
        eventually("the first scheduler is gone", || (!is_alive(first)).then_some(()));
        let again = cluster.scheduler_again();
        let ids: Vec<u64> = loops.into_iter().flat_map(|submitter| submitter.join().unwrap()).collect();
        (ids, again)
    });
    cluster.daemons[0] = again;
    let stored = cluster.json(&["ps", "--all"]);
    let stored: Vec<u64> =
        stored["jobs"].as_array().unwrap().iter().map(|job| job["job_id"].as_u64().unwrap()).collect();
    let lost: Vec<&u64> = acknowledged.iter().filter(|id| !stored.contains(id)).collect();
    assert!(acknowledged.len() >= 8, "{acknowledged:?}");
    assert_eq!(lost, Vec::<&u64>::new());
    let mut unique = acknowledged.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), acknowledged.len(), "no number was given twice");
    cluster.until_node("node");
    assert_eq!(cluster.until_running(job), pid);
    assert_eq!(start_ticks(pid), ticks, "the task was not touched");
    cluster.run(&["cancel", &job.to_string()]);
    cluster.until(job, "CANCELLED");
}

#[test]
fn five_kills_of_the_scheduler_lose_nothing_and_run_nothing_twice() {
    const ROUNDS: usize = 5;
    let mut cluster = Cluster::scheduler();
    cluster.start_agent("node");
    let ran = cluster.place.path().join("ran");
    let line = format!("echo $GANGSAW_JOB_ID >> {}", ran.display());
    let mut acknowledged: Vec<u64> = Vec::new();
    for _ in 0..ROUNDS {
        let first = u64::from(cluster.daemons[0].child.id());
        let lines = || std::fs::read_to_string(&ran).unwrap_or_default().lines().count();
        let before = lines();
        let (told, again) = std::thread::scope(|scope| {
            let submits = scope.spawn(|| {
                let submit = || cluster.run(&["submit", "--cpus", "0.1", "--output", "json", "--", "sh", "-c", &line]);
                let id = |output: std::process::Output| {
                    serde_json::from_slice::<Value>(&output.stdout).ok()?["job_id"].as_u64()
                };
                (0..12).filter_map(|_| id(submit())).collect::<Vec<u64>>()
            });
            eventually("tasks that ran in this round", || (lines() >= before + 2).then_some(()));
            kill(first, Signal::KILL);
            eventually("the scheduler is gone", || (!is_alive(first)).then_some(()));
            let again = cluster.scheduler_again();
            (submits.join().unwrap(), again)
        });
        acknowledged.extend(told);
        cluster.daemons[0] = again;
        cluster.until_node("node");
    }
    for job in &acknowledged {
        let shown = cluster.until(*job, "COMPLETED");
        assert_eq!(shown["tasks"][0]["attempt"], 1, "{shown}");
    }
    let mut runs: Vec<u64> = std::fs::read_to_string(&ran).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    runs.sort_unstable();
    assert!(runs.windows(2).all(|pair| pair[0] < pair[1]), "each job ran once: {runs:?}");
    assert!(acknowledged.len() >= 2 * ROUNDS && acknowledged.iter().all(|job| runs.binary_search(job).is_ok()));
}

#[test]
fn up_starts_a_killed_scheduler_again_and_run_does_not_notice() {
    let cluster = Cluster::up();
    let gate = cluster.place.path().join("gate");
    let script = format!("echo before; until [ -e {} ]; do sleep 0.02; done; echo after; exit 4", gate.display());
    let run =
        cluster.command(&["run", "--", "sh", "-c", &script]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    eventually("the job", || cluster.json(&["ps"])["jobs"].get(0).map(|_| ()));
    cluster.until_running(1);
    kill(cluster.daemons[0].number("scheduler_pid"), Signal::KILL);
    cluster.place.file("gate", "");
    let ran = run.wait_with_output().unwrap();
    assert_eq!((out(&ran).as_str(), ran.status.code()), ("before\nafter\n", Some(4)));
}

#[test]
fn run_does_not_notice_a_killed_agent() {
    let cluster = Cluster::up();
    let gate = cluster.place.path().join("gate");
    let script = format!("echo before; until [ -e {} ]; do sleep 0.02; done; echo after; exit 4", gate.display());
    let run =
        cluster.command(&["run", "--", "sh", "-c", &script]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    eventually("the job", || cluster.json(&["ps"])["jobs"].get(0).map(|_| ()));
    cluster.until_running(1);
    kill(cluster.daemons[0].number("agent_pid"), Signal::KILL);
    cluster.place.file("gate", "");
    let ran = run.wait_with_output().unwrap();
    assert_eq!((out(&ran).as_str(), ran.status.code()), ("before\nafter\n", Some(4)));
}

#[test]
fn up_ends_stubborn_tasks_the_supervisor_and_itself_within_ten_seconds() {
    let mut cluster = Cluster::up();
    let script =
        "trap '' TERM; (setsid sh -c \"trap '' TERM; while :; do sleep 0.1; done\" &); while :; do sleep 0.1; done";
    let job = cluster.submit(&["--grace", "1h", "--", "sh", "-c", script]);
    cluster.until_running(job);
    let begun = std::time::Instant::now();
    let status = cluster.daemons[0].end(Signal::TERM);
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(status.code(), Some(0));
    assert_eq!(processes_naming(cluster.place.path().to_str().unwrap()), []);
}

#[test]
fn a_killed_agent_leaves_its_tasks_running_and_finds_them_again() {
    let cluster = Cluster::up();
    let gate = cluster.place.path().join("gate");
    let script = format!("until [ -e {} ]; do sleep 0.02; done; exit 6", gate.display());
    let job = cluster.submit(&["--", "sh", "-c", &script]);
    let pid = cluster.until_running(job);
    let ticks = start_ticks(pid);
    kill(cluster.daemons[0].number("agent_pid"), Signal::KILL);
    cluster.until_nodes(1);
    assert!(is_alive(pid));
    assert_eq!(start_ticks(pid), ticks);
    cluster.place.file("gate", "");
    let task = cluster.until(job, "FAILED")["tasks"][0].clone();
    assert_eq!((task["exit_code"].as_i64(), task["attempt"].as_u64()), (Some(6), Some(1)));
}

#[test]
fn a_killed_supervisors_tasks_are_gone_and_tried_again() {
    let cluster = Cluster::up();
    let job = cluster.submit(&["--", "sh", "-c", "setsid sleep 601 & sleep 602"]);
    let pid = cluster.until_running(job);
    let strayed = || processes_naming("sleep\u{0}601").first().map(|(pid, _)| *pid);
    let stray = eventually("the child in a session of its own", strayed);
    let supervisors: Vec<u64> = processes_naming(cluster.place.path().to_str().unwrap())
        .into_iter()
        .filter(|(_, line)| line.contains(" supervisor "))
        .map(|(pid, _)| pid)
        .collect();
    assert_eq!(supervisors.len(), 1, "{supervisors:?}");
    kill(supervisors[0], Signal::KILL);
    let second = eventually("a second attempt", || {
        let task = cluster.show(job)["tasks"][0].clone();
        (task["attempt"] == 2 && task["state"] == "RUNNING").then(|| task["pid"].as_u64()).flatten()
    });
    assert!(!is_alive(pid) && !is_alive(stray) && second != pid, "nothing of the first attempt is left");
    let show = cluster.show(job);
    assert_eq!(show["retries"], 1);
}

#[test]
fn a_tree_that_ignores_term_is_gone_after_the_grace() {
    let cluster = Cluster::up();
    let mark = cluster.place.path().join("tree");
    let child = format!("trap '' TERM; echo > {}; while :; do sleep 0.1; done", mark.display());
    let script =
        format!("trap '' TERM; setsid sh -c \"{child}\" & (setsid sh -c 'sleep 777' &) ; while :; do sleep 0.1; done");
    let job = cluster.submit(&["--grace", "200ms", "--name", "stubborn", "--", "sh", "-c", &script]);
    cluster.until_running(job);
    eventually("the tree is up", || mark.exists().then_some(()));
    let of_job = || {
        processes_naming(&format!("GANGSAW_JOB_ID={job}\u{0}"))
            .into_iter()
            .filter(|(_, line)| !line.contains(" cancel "))
            .collect::<Vec<_>>()
    };
    assert!(of_job().len() >= 3, "{:?}", of_job());
    cluster.run(&["cancel", &job.to_string()]);
    cluster.until(job, "CANCELLED");
    assert_eq!(left_of(&cluster), Vec::<String>::new());
}

/// Processes of this cluster's tasks.
fn left_of(cluster: &Cluster) -> Vec<String> {
    let all = processes_naming(cluster.place.path().to_str().unwrap());
    let tasks = all.into_iter().filter(|(pid, line)| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        !line.contains("gangsaw") && environ.windows(17).any(|window| window == b"GANGSAW_LEASE_ID=")
    });
    tasks.map(|(_, line)| line).collect()
}

#[test]
fn a_gang_whose_rank_fails_ends_as_one_and_with_that_ranks_code() {
    let cluster = Cluster::up();
    let script = "if [ \"$RANK\" = 1 ]; then exit 9; fi; sleep 600";
    let ran = cluster.run(&[
        "run",
        "--replicas",
        "2",
        "--cpus",
        "0.1",
        "--rendezvous",
        "per-process",
        "--",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(ran.status.code(), Some(9), "{}", err(&ran));
    assert_eq!(left_of(&cluster), Vec::<String>::new());
}

#[test]
fn a_gang_that_one_node_cannot_start_ends_everywhere() {
    let unshare = Command::new("unshare").args(["-m", "true"]).output();
    if !unshare.is_ok_and(|output| output.status.success()) {
        return cannot_run("mount namespaces need root");
    }
    let mut cluster = Cluster::scheduler();
    let outer = cluster.place.path().join("outer");
    std::fs::create_dir_all(outer.join("work")).unwrap();
    cluster.start_agent("sees");
    // The second node sees an empty folder where the workdir should be.
    let blind = cluster.agent("blind");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "mount -t tmpfs none \"$0\" && exec \"$@\""]).arg(&outer);
    command.arg(blind.get_program()).args(blind.get_args());
    command.env_clear().envs(blind.get_envs().filter_map(|(name, value)| Some((name, value?))));
    cluster.daemons.push(Daemon::start(command));
    cluster.until_node("blind");
    let cores = cluster.json(&["nodes"])["nodes"][0]["milli_cpus"].as_u64().unwrap() as f64 / 1000.0;
    let workdir = outer.join("work").display().to_string();
    let cpus = cores.to_string();
    let job = cluster.submit(&["--replicas", "2", "--cpus", &cpus, "--workdir", &workdir, "--", "sleep", "600"]);
    let shown = cluster.until(job, "FAILED");
    for task in shown["tasks"].as_array().unwrap() {
        assert_eq!((&task["state"], &task["attempt"]), (&"FAILED".into(), &1.into()), "{task}");
    }
    eventually("the cores are free again", || {
        let nodes = cluster.json(&["nodes"]);
        let nodes = nodes["nodes"].as_array().unwrap();
        nodes.iter().all(|node| node["milli_cpus"] == node["milli_cpus_free"]).then_some(())
    });
    assert_eq!(left_of(&cluster), Vec::<String>::new());
}
