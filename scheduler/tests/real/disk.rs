//! A full disk, and one that fails.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use gangsaw_proto::admin::v1::GetServerRequest;
use gangsaw_proto::jobs::v1 as jobs;
use tonic::Code;

use crate::common::{Scheduler, get, reason, shell, started};
use crate::kill::Process;

/// Says aloud why a test did not run; with `CI=true` that is a failure.
fn lacking(what: &str) {
    println!("not run: {what}");
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI must have it: {what}");
}

/// A tmpfs of its own, unmounted on drop.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(dir.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(dir));
        }
        lacking("mounting a tmpfs needs root and mount(8)");
        None
    }

    /// Leaves `free` bytes.
    fn fill(&self, free: u64) {
        let stat = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(self.0.path()).output().unwrap();
        let text = String::from_utf8(stat.stdout).unwrap();
        let (blocks, size) = text.trim().split_once(' ').unwrap();
        let available = blocks.parse::<u64>().unwrap() * size.parse::<u64>().unwrap();
        let hog = vec![7; usize::try_from(available.saturating_sub(free)).unwrap()];
        let name = format!("hog-{available}");
        std::fs::write(self.0.path().join(name), hog).unwrap();
    }

    fn empty(&self) {
        for entry in std::fs::read_dir(self.0.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with("hog") {
                std::fs::remove_file(path).unwrap();
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_submits_are_refused_completions_go_on_and_it_recovers_alone() {
    let Some(disk) = SmallDisk::mount(24 << 20) else { return };
    let scheduler = Scheduler::start(disk.0.path()).await;
    let mut client = scheduler.clients.jobs.clone();
    let mut agent = scheduler.agent("n1").await;
    let spec = jobs::JobSpec {
        array: Some(crate::common::array(199)),
        env: [("BALLAST".to_owned(), "x".repeat(1_000))].into(),
        ..shell("", "sleep 1").jobs.remove(0)
    };
    client.submit(crate::common::submit("k1", spec)).await.unwrap();
    let mut running = vec![agent.grant().await];

    disk.fill(300 << 10);
    let refused = client.submit(shell("k2", "true")).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).0.as_str()), (Code::ResourceExhausted, "disk-full"));
    let server = scheduler.clients.admin.clone().get_server(GetServerRequest {}).await.unwrap().into_inner();
    assert!(server.disk_full);

    disk.fill(0);
    let grant = running.remove(0);
    // Not a byte is free: these fit only because the ballast gives way.
    for _ in 0..60 {
        agent.report(grant.lease_id, vec![started(grant.first_index)]).await;
    }
    agent.run(&grant, 0).await;
    let state = get(&scheduler.clients, 1).await;
    assert_eq!(state.tasks[0].exit_code, Some(0), "the completion was taken");
    assert!(client.submit(shell("k3", "true")).await.is_err());

    disk.empty();
    client.submit(shell("k4", "true")).await.unwrap();
    let server = scheduler.clients.admin.clone().get_server(GetServerRequest {}).await.unwrap().into_inner();
    assert!(!server.disk_full, "it recovered alone");
    scheduler.stop().await;
    let scheduler = Scheduler::start(disk.0.path()).await;
    assert_eq!(get(&scheduler.clients, 1).await.tasks[0].exit_code, Some(0));
    scheduler.stop().await;
}

/// Makes fsync and fdatasync fail with EIO while the flag file exists.
const FAILING_SYNC: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
static int fails(void) {
    const char *flag = getenv("FAILING_SYNC_FLAG");
    return flag && access(flag, F_OK) == 0;
}
int fsync(int fd) {
    if (fails()) { errno = EIO; return -1; }
    return (int)syscall(SYS_fsync, fd);
}
int fdatasync(int fd) {
    if (fails()) { errno = EIO; return -1; }
    return (int)syscall(SYS_fdatasync, fd);
}
"#;

/// Builds the library. `None`: there is no C compiler, which the workspace needs anyway.
fn failing_sync(dir: &Path) -> Option<std::path::PathBuf> {
    let (source, library) = (dir.join("failing_sync.c"), dir.join("failing_sync.so"));
    std::fs::write(&source, FAILING_SYNC).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
    if built.is_ok_and(|output| output.status.success()) {
        return Some(library);
    }
    lacking("building a library needs cc");
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_latches_ends_with_74_and_acknowledges_nothing_that_is_not_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let Some(library) = failing_sync(dir.path()) else { return };
    let (state, flag) = (dir.path().join("state"), dir.path().join("flag"));
    let preload = [("LD_PRELOAD", library.as_os_str()), ("FAILING_SYNC_FLAG", flag.as_os_str())];
    let mut process = Process::start(&state, &preload);
    let clients = process.connect(&state).await.unwrap();
    clients.jobs.clone().submit(shell("k1", "true")).await.unwrap();
    std::fs::write(&flag, "").unwrap();
    let refused = clients.jobs.clone().submit(shell("k2", "true")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let status = process.0.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(74), None));

    std::fs::remove_file(&flag).unwrap();
    let mut process = Process::start(&state, &[]);
    let clients = process.connect(&state).await.unwrap();
    let again = clients.jobs.clone().submit(shell("k1", "true")).await.unwrap().into_inner();
    assert!(again.repeated, "what was acknowledged is there");
    process.kill();
}
