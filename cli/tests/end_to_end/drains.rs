//! Draining with an eviction, and limits of a tenant across its queues, as people use them.

use crate::cluster::{Cluster, eventually, is_alive};

#[test]
fn an_evicted_task_is_stopped_and_tried_again_on_another_node_without_using_a_retry() {
    let mut cluster = Cluster::scheduler();
    cluster.start_agent("one");
    let job = cluster.submit(&["--retry", "0", "--", "sleep", "600"]);
    let first = cluster.until_running(job);
    cluster.start_agent("two");
    let drained = cluster.json(&["nodes", "drain", "one", "--evict", "--reason", "fan"]);
    assert_eq!(drained["mode"], "draining");
    let second = eventually("the second attempt", || {
        let task = cluster.show(job)["tasks"][0].clone();
        let runs = task["state"] == "RUNNING" && task["attempt"] == 2;
        runs.then(|| task["pid"].as_u64().filter(|_| task["node"] == "two")).flatten()
    });
    assert!(!is_alive(first) && is_alive(second));
    let shown = cluster.show(job);
    assert_eq!(shown["tasks"][0]["outcome"], "preempted", "{shown}");
    cluster.run(&["cancel", &job.to_string()]);
    cluster.until(job, "CANCELLED");
}

#[test]
fn a_drain_with_a_deadline_says_when_and_evicts_then() {
    let mut cluster = Cluster::scheduler();
    cluster.start_agent("one");
    let job = cluster.submit(&["--", "sleep", "600"]);
    let pid = cluster.until_running(job);
    cluster.json(&["nodes", "drain", "one", "--deadline", "1h"]);
    let nodes = cluster.json(&["nodes"]);
    assert!(nodes["nodes"][0]["evicts_at"].as_str().is_some_and(|at| at.contains('T')), "{nodes}");
    assert!(is_alive(pid));
    cluster.json(&["nodes", "drain", "one", "--deadline", "100ms"]);
    let waits = cluster.until(job, "PENDING");
    assert!(!is_alive(pid));
    assert_eq!(waits["tasks"][0]["outcome"], "preempted", "{waits}");
    assert_eq!(cluster.json(&["nodes"])["nodes"][0]["evicts_at"], serde_json::Value::Null);
    cluster.run(&["cancel", &job.to_string()]);
    cluster.until(job, "CANCELLED");
}

#[test]
fn a_tenants_limit_holds_across_its_queues() {
    let mut cluster = Cluster::scheduler();
    cluster.start_agent("one");
    let set = cluster.json(&["queue", "set", "--tenant", "default", "--max-running", "1"]);
    assert_eq!(set["name"], "default");
    let runs = cluster.submit(&["--queue", "blue", "--cpus", "0.1", "--", "sleep", "600"]);
    cluster.until_running(runs);
    let waits = cluster.submit(&["--queue", "green", "--cpus", "0.1", "--", "sleep", "600"]);
    let shown = cluster.show(waits);
    assert_eq!(
        (&shown["state"], &shown["reasons"][0]["reason"]),
        (&"PENDING".into(), &"tenant-limit".into()),
        "{shown}"
    );
    let tenants = cluster.json(&["queue", "tenants"]);
    assert_eq!((&tenants["tenants"][0]["running"], &tenants["tenants"][0]["queued"]), (&1.into(), &1.into()));
    cluster.json(&["queue", "set", "--tenant", "default", "--max-running", "none"]);
    cluster.until_running(waits);
    for job in [runs, waits] {
        cluster.run(&["cancel", &job.to_string()]);
        cluster.until(job, "CANCELLED");
    }
    cluster.json(&["queue", "set", "blue", "--tenant", "default", "--max-running", "3"]);
    let queues = cluster.json(&["queue", "list"]);
    let blue = queues["queues"].as_array().unwrap().iter().find(|queue| queue["name"] == "blue").cloned().unwrap();
    assert_eq!((&blue["tenant"], &blue["max_running"]), (&"default".into(), &3.into()), "a queue of that tenant");
}
