//! GPUs that are not there: the real executable on the agent's fake `libnvidia-ml.so.1`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Daemon, eventually, out};

/// The library that the agent's own tests use. `cargo test --workspace` builds it with the tests; `cargo test -p
/// gangsaw` alone does not, and what it built before may be older than its source.
fn library() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let target = exe.parent().and_then(|deps| deps.parent()).unwrap();
    let path = target.join("examples").join("libfake_nvml.so");
    let changed = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests/fake-nvml");
    let newest = std::fs::read_dir(source).unwrap().filter_map(|file| changed(&file.unwrap().path())).max();
    if changed(&path) < newest {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--offline", "-p", "gangsaw-agent", "--example", "fake-nvml"]);
        if target.file_name().is_some_and(|profile| profile == "release") {
            cargo.arg("--release");
        }
        assert!(cargo.arg("--target-dir").arg(target.parent().unwrap()).status().unwrap().success());
    }
    path
}

/// A cluster whose one node has two GPUs, as far as its library says.
fn cluster() -> Cluster {
    let mut cluster = Cluster::scheduler();
    let folder = cluster.place.path().join("lib");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(library(), folder.join("libnvidia-ml.so.1")).unwrap();
    let device = |number: u32| {
        json!({
            "uuid": format!("GPU-0000000{number}-aaaa-bbbb-cccc-0123456789ab"),
            "name": "NVIDIA H200",
            "memory_mib": 143_771,
            "used_mib": 4,
            "pci": format!("00000000:{}:00.0", 18 + number),
            "capability": [9, 0],
            "utilisation": 0,
            "compute": [],
            "graphics": [],
        })
    };
    let says = json!({ "driver": "580.95.05", "devices": [device(0), device(1)], "faults": {} });
    let says = cluster.place.file("nvml.json", &says.to_string());
    let mut agent = cluster.agent("node");
    agent.env("LD_LIBRARY_PATH", folder).env("FAKE_NVML_STATE", says);
    cluster.daemons.push(Daemon::start(agent));
    eventually("two GPUs", || {
        let nodes = cluster.json(&["nodes"]);
        (nodes["nodes"][0]["devices"].as_array()?.len() == 2).then_some(())
    });
    cluster
}

#[test]
fn a_queue_holds_no_more_gpus_than_its_limit() {
    let cluster = cluster();
    let set = |limit: &str| {
        let set = cluster.run(&["queue", "set", "vision", "--gpus-max", limit]);
        assert!(set.status.success(), "{set:?}");
    };
    let queue = || {
        let queues = cluster.json(&["queue"]);
        queues["queues"].as_array().unwrap().iter().find(|queue| queue["name"] == "vision").cloned().unwrap()
    };
    let job = |queue: &str, gpus: &str, command: &str| {
        cluster.submit(&["--queue", queue, "--cpus", "0.1", "--gpus", gpus, "--", "sh", "-c", command])
    };
    set("1");
    let first = job("vision", "1", "echo $CUDA_VISIBLE_DEVICES; exec sleep 600");
    cluster.until_running(first);
    let second = job("vision", "1", "exec sleep 600");
    let waiting = cluster.show(second);
    assert_eq!(waiting["state"], "PENDING");
    assert_eq!(waiting["reasons"][0]["reason"], "queue-limit", "{}", waiting["reasons"]);
    assert_eq!((&queue()["gpus_max"], &queue()["gpus"]), (&json!(1), &json!(1)));
    let elsewhere = job("other", "h200:1", "true");
    cluster.until(elsewhere, "COMPLETED");
    set("none");
    cluster.until_running(second);
    assert_eq!((&queue()["gpus_max"], &queue()["gpus"]), (&Value::Null, &json!(2)));
    let given = out(&cluster.run(&["logs", &first.to_string()]));
    assert!(given.starts_with("GPU-0000000"), "{given}");
    cluster.run(&["cancel", &first.to_string(), &second.to_string()]);
    cluster.until(first, "CANCELLED");
    cluster.until(second, "CANCELLED");
    assert_eq!(queue()["gpus"], 0);
}
