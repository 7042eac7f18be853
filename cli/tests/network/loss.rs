//! Packets that do not arrive, and connections that are reset.

use crate::cluster::eventually;
use crate::wire::{Net, Side};

/// Every job's state, and whether every task of it is in its first attempt.
fn is_over(net: &Net, job: u64) -> Option<bool> {
    let shown = net.json(&["show", &job.to_string()]);
    (shown["state"] == "COMPLETED").then(|| {
        let tasks = shown["tasks"].as_array().unwrap();
        tasks.iter().all(|task| task["attempt"] == 1)
    })
}

#[test]
fn with_a_third_of_the_packets_lost_work_goes_on_and_nothing_runs_twice() {
    let Some(mut net) = Net::new() else { return };
    net.agent(Side::Far, "far");
    for side in [Side::Near, Side::Far] {
        net.wire.arriving(side, &["-m", "statistic", "--mode", "random", "--probability", "0.3", "-j", "DROP"]);
    }
    let ran = net.place.path().join("ran");
    let line = format!("echo $GANGSAW_ARRAY_INDEX >> {}", ran.display());
    let array = net.submit(&["--array", "0-199", "--cpus", "0.5", "--", "sh", "-c", &line]);
    let singles: Vec<u64> = (0..5).map(|_| net.submit(&["--cpus", "0.1", "--", "true"])).collect();
    for job in singles.into_iter().chain([array]) {
        assert!(eventually("a finished job", || is_over(&net, job)), "job {job} needed another attempt");
    }
    let mut numbers: Vec<u32> =
        std::fs::read_to_string(ran).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>(), "each index ran exactly once");
}

/// Connections of a process that are established, by its namespace's table.
fn established(pid: u32) -> usize {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    table.lines().skip(1).filter(|line| line.split_whitespace().nth(3) == Some("01")).count()
}

#[test]
fn a_storm_of_resets_costs_no_task_and_no_line() {
    const STORMS: usize = 4;
    let Some(mut net) = Net::new() else { return };
    net.agent(Side::Far, "far");
    let agent = net.agents[0].child.id();
    let (gate, wait) = net.gate("gate");
    let lasting = net.submit(&["--cpus", "0.1", "--", "sh", "-c", &format!("{wait}; exit 5")]);
    let pid = net.until_running(lasting, 1);
    for storm in 0..STORMS {
        let job = net.submit(&["--cpus", "0.1", "--", "sh", "-c", &format!("echo storm {storm}; sleep 0.2; exit 3")]);
        net.until_running(job, 1);
        // Both ends answer every packet with a reset, until no connection is left.
        for side in [Side::Near, Side::Far] {
            net.wire.arriving(side, &["-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"]);
        }
        eventually("no connection", || (established(agent) == 0).then_some(()));
        net.wire.heal();
        let shown = net.until(job, "FAILED")["tasks"][0].clone();
        assert_eq!((&shown["exit_code"], &shown["attempt"]), (&3.into(), &1.into()));
        let logs = eventually("its log", || {
            let logs = net.run(&["logs", &job.to_string()]);
            logs.status.success().then(|| String::from_utf8(logs.stdout).unwrap()).filter(|text| !text.is_empty())
        });
        assert_eq!(logs, format!("storm {storm}\n"));
    }
    assert_eq!(net.until_running(lasting, 1), pid);
    std::fs::write(gate, "").unwrap();
    assert_eq!(net.until(lasting, "FAILED")["tasks"][0]["exit_code"], 5);
}
