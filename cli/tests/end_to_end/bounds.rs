//! Floods and full disks.

use std::process::Command;

use crate::cluster::{Cluster, Daemon, Place, cannot_run, err, eventually, out};

/// Bytes in a folder, on disk.
fn disk_use(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(found) = std::fs::symlink_metadata(path) else { return 0 };
    let below = if found.is_dir() {
        std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| disk_use(&entry.path())).sum()
    } else {
        0
    };
    found.blocks() * 512 + below
}

#[test]
fn a_flood_of_output_is_bounded_and_says_what_was_dropped() {
    let cluster = Cluster::up();
    let state = cluster.place.path().join("state");
    let before = disk_use(&state);
    let job = cluster.submit(&["--", "sh", "-c", "head -c 400000000 /dev/zero | tr '\\\\0' x; echo end"]);
    cluster.until(job, "COMPLETED");
    let grown = disk_use(&state).saturating_sub(before);
    assert!(grown < 300 << 20, "{grown} bytes of 400 MB were kept");
    let logs = cluster.run(&["logs", &job.to_string()]);
    assert!(err(&logs).contains("bytes dropped"), "{}", err(&logs));
    assert!(logs.stdout.len() as u64 <= grown.max(1 << 20) * 2, "{}", logs.stdout.len());
}

#[test]
fn a_full_disk_refuses_submits_keeps_completions_and_recovers() {
    let place = Place::new();
    let state = place.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "none"]).arg(&state).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return cannot_run("mounting a small tmpfs needs root");
    }
    let _mount = Mount(state.clone());
    let args = ["scheduler", "--state", state.to_str().unwrap(), "--listen", "127.0.0.1:0", "--output", "jsonl"];
    let scheduler = Daemon::start(place.gangsaw(&args));
    let server = scheduler.ready["server"].as_str().unwrap().to_owned();
    let mut cluster = Cluster { daemons: vec![scheduler], server, place };
    cluster.start_agent("node");
    let gate = cluster.place.path().join("gate");
    let running = cluster.submit(&["--", "sh", "-c", &format!("until [ -e {} ]; do sleep 0.02; done", gate.display())]);
    cluster.until_running(running);
    let filler = state.join("filler");
    // As much as there is: the disk ends it.
    let _ = Command::new("dd").args(["if=/dev/zero", "bs=4k"]).arg(format!("of={}", filler.display())).output();
    let refused = eventually("a refusal", || {
        let output = cluster.run(&["submit", "--", "true"]);
        (!output.status.success()).then_some(output)
    });
    assert_eq!(refused.status.code(), Some(74), "{}", err(&refused));
    assert!(err(&refused).starts_with("error[disk-full]: "), "{}", err(&refused));
    cluster.place.file("gate", "");
    cluster.until(running, "COMPLETED");
    std::fs::remove_file(&filler).unwrap();
    let after = eventually("submits are taken again", || {
        let output = cluster.run(&["submit", "--output", "json", "--", "true"]);
        output.status.success().then_some(out(&output))
    });
    let after: serde_json::Value = serde_json::from_str(&after).unwrap();
    cluster.until(after["job_id"].as_u64().unwrap(), "COMPLETED");
}

/// A mount that goes with its test. Declared before the cluster, so that it goes after it.
struct Mount(std::path::PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = self.0.parent().map(std::fs::remove_dir_all);
    }
}
