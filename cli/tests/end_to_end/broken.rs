//! The disk under an agent's state, or under the copies of logs, fails or becomes read-only.
//!
//! Two ways: a library that makes the system's calls fail below one folder while a flag file exists, so that the disk
//! comes back; and a real ext4 that has found an error and takes nothing any more, which only a new mount repairs. (An
//! admin's `mount -o remount,ro` is refused by the kernel while an agent has its files open.)

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::cluster::{Cluster, Daemon, cannot_run, eventually, is_alive, kill, out, processes_naming, start_ticks};

/// Below `BROKEN_FOLDER` nothing can be written while the file `BROKEN_FLAG` holds an error's number. With EIO every
/// other write tears: half of it is done.
const BROKEN: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>
static int fault(const char *path) {
    const char *folder = getenv("BROKEN_FOLDER"), *flag = getenv("BROKEN_FLAG");
    if (!folder || !flag || strncmp(path, folder, strlen(folder)) != 0) return 0;
    char text[8] = {0};
    int fd = (int)syscall(SYS_openat, AT_FDCWD, flag, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    syscall(SYS_read, fd, text, 7);
    syscall(SYS_close, fd);
    return atoi(text);
}
static int fault_of(int fd) {
    char link[32], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return fault(path);
}
static int tears(int error, size_t bytes) {
    static int count;
    return error == EIO && bytes > 1 && count++ % 2 == 0;
}
#define FAIL(code) do { int found = (code); if (found) { errno = found; return -1; } } while (0)
ssize_t write(int fd, const void *bytes, size_t count) {
    int error = fault_of(fd);
    if (tears(error, count)) return syscall(SYS_write, fd, bytes, count / 2);
    FAIL(error);
    return syscall(SYS_write, fd, bytes, count);
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t at) {
    int error = fault_of(fd);
    if (tears(error, count)) return syscall(SYS_pwrite64, fd, bytes, count / 2, at);
    FAIL(error);
    return syscall(SYS_pwrite64, fd, bytes, count, at);
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return pwrite64(fd, bytes, count, at); }
int ftruncate64(int fd, off_t length) { FAIL(fault_of(fd)); return (int)syscall(SYS_ftruncate, fd, length); }
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }
int fsync(int fd) { FAIL(fault_of(fd)); return (int)syscall(SYS_fsync, fd); }
int fdatasync(int fd) { FAIL(fault_of(fd)); return (int)syscall(SYS_fdatasync, fd); }
int mkdir(const char *path, mode_t mode) {
    struct stat there;
    if (stat(path, &there) != 0) FAIL(fault(path));
    return (int)syscall(SYS_mkdir, path, mode);
}
int rename(const char *from, const char *to) { FAIL(fault(to)); return (int)syscall(SYS_rename, from, to); }
int unlink(const char *path) { FAIL(fault(path)); return (int)syscall(SYS_unlink, path); }
int rmdir(const char *path) { FAIL(fault(path)); return (int)syscall(SYS_rmdir, path); }
int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    if (flags & (O_WRONLY | O_RDWR | O_CREAT)) FAIL(fault(path));
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
"#;
const EIO: i32 = 5;
const EROFS: i32 = 30;

/// A cluster whose first daemon, or whose agent, has a disk that can be broken.
struct Breakable {
    cluster: Cluster,
    library: PathBuf,
    flag: PathBuf,
}

impl Breakable {
    fn new() -> Option<Breakable> {
        let cluster = Cluster::scheduler();
        let (source, library) = (cluster.place.file("broken.c", BROKEN), cluster.place.path().join("broken.so"));
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
        if !built.is_ok_and(|output| output.status.success()) {
            cannot_run("building a library needs cc");
            return None;
        }
        let flag = cluster.place.path().join("broken");
        Some(Breakable { cluster, library, flag })
    }

    /// Gives a daemon a disk that can be broken, below one folder.
    fn on(&self, command: &mut Command, folder: &Path) {
        command.env("LD_PRELOAD", &self.library).env("BROKEN_FOLDER", folder).env("BROKEN_FLAG", &self.flag);
    }

    fn agent(&self) -> Command {
        let mut agent = self.cluster.agent("node");
        self.on(&mut agent, &self.cluster.place.path().join("node"));
        agent
    }

    /// Breaks the disk from one call to the next.
    fn breaks(&self, error: i32) {
        let fresh = self.flag.with_extension("new");
        std::fs::write(&fresh, error.to_string()).unwrap();
        std::fs::rename(&fresh, &self.flag).unwrap();
    }

    fn is_well(&self) {
        std::fs::remove_file(&self.flag).unwrap();
    }
}

/// What `gangsaw nodes` says of the one node.
fn notes(cluster: &Cluster) -> String {
    let nodes = cluster.json(&["nodes"]);
    let notes: Vec<&str> = nodes["nodes"][0]["notes"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    notes.join("\n")
}

fn until_withheld(cluster: &Cluster, why: &str) {
    eventually("the node takes no work", || {
        let notes = notes(cluster);
        (notes.contains("takes no work: cannot write to ") && notes.contains(why)).then_some(())
    });
}

/// A task that prints a line a moment until its gate opens.
fn until_gate(cluster: &Cluster, gate: &str, code: i32) -> (u64, PathBuf) {
    let path = cluster.place.path().join(gate);
    let line =
        format!("echo first; until [ -e {} ]; do echo waits; sleep 0.02; done; echo last; exit {code}", path.display());
    (cluster.submit(&["--cpus", "0.1", "--", "sh", "-c", &line]), path)
}

/// Running tasks go on, an end waits, nothing new comes, and all by itself everything is well again.
fn agents_disk(error: i32, said: &str) {
    let Some(broken) = Breakable::new() else { return };
    let mut agent = Daemon::start(broken.agent());
    let cluster = &broken.cluster;
    cluster.until_node("node");
    let ((ends, opened), (lives, later)) = (until_gate(cluster, "opened", 5), until_gate(cluster, "later", 6));
    let (ending, living) = (cluster.until_running(ends), cluster.until_running(lives));
    let ticks = start_ticks(living);

    broken.breaks(error);
    std::fs::write(&opened, "").unwrap();
    eventually("the end of a process", || (!is_alive(ending)).then_some(()));
    until_withheld(cluster, said);
    let waits = cluster.submit(&["--cpus", "0.1", "--", "true"]);
    let shown = cluster.show(waits);
    assert_eq!((&shown["state"], &shown["reasons"][0]["reason"]), (&"PENDING".into(), &"nodes-withheld".into()));
    assert_eq!(cluster.show(ends)["state"], "RUNNING", "its end is not on any disk");
    assert!(is_alive(living) && start_ticks(living) == ticks);
    // The agent dies: the next one cannot start, says why, and touches nothing.
    agent.end(Signal::KILL);
    let refused = broken.agent().stdout(Stdio::piped()).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains(said), "{text}");
    assert!(is_alive(living));

    broken.is_well();
    let agent = Daemon::start(broken.agent());
    for (job, code) in [(ends, 5), (lives, 6)] {
        if job == lives {
            std::fs::write(&later, "").unwrap();
        }
        let task = cluster.until(job, "FAILED")["tasks"][0].clone();
        assert_eq!((&task["exit_code"], &task["attempt"]), (&code.into(), &1.into()), "{task}");
    }
    let task = cluster.until(waits, "COMPLETED")["tasks"][0].clone();
    assert_eq!(task["attempt"], 1, "it was not tried on a disk that cannot be written: {task}");
    assert!(!notes(cluster).contains("takes no work"), "{}", notes(cluster));
    let printed = out(&cluster.run(&["logs", &lives.to_string()]));
    assert!(printed.starts_with("first\n") && printed.ends_with("last\n"), "{printed}");
    drop(agent);
}

#[test]
fn on_a_read_only_disk_an_agent_keeps_what_runs_and_takes_nothing_new_until_it_can_write() {
    agents_disk(EROFS, "Read-only file system");
}

#[test]
fn on_a_disk_that_tears_and_fails_an_agent_keeps_what_runs_and_takes_nothing_new_until_it_can_write() {
    agents_disk(EIO, "Input/output error");
}

#[test]
fn an_agent_that_lives_through_a_broken_disk_tells_every_end_once_and_by_itself() {
    let Some(broken) = Breakable::new() else { return };
    let agent = Daemon::start(broken.agent());
    let cluster = &broken.cluster;
    cluster.until_node("node");
    for error in [EROFS, EIO] {
        let name = |what: &str| format!("{what}-{error}");
        let tasks: Vec<_> = (0..3).map(|at| until_gate(cluster, &name(&at.to_string()), 3)).collect();
        let pids: Vec<u64> = tasks.iter().map(|(job, _)| cluster.until_running(*job)).collect();
        broken.breaks(error);
        for (_, gate) in &tasks {
            std::fs::write(gate, "").unwrap();
        }
        for pid in pids {
            eventually("the end of a process", || (!is_alive(pid)).then_some(()));
        }
        until_withheld(cluster, "");
        let ended = cluster.submit(&["--cpus", "0.1", "--", "true"]);
        broken.is_well();
        for (job, _) in tasks {
            let task = cluster.until(job, "FAILED")["tasks"][0].clone();
            assert_eq!((&task["exit_code"], &task["attempt"]), (&3.into(), &1.into()), "{task}");
        }
        cluster.until(ended, "COMPLETED");
    }
    drop(agent);
}

#[test]
fn copies_of_logs_wait_for_their_disk_and_their_node_keeps_them_until_then() {
    let Some(mut broken) = Breakable::new() else { return };
    let logs = broken.cluster.place.path().join("state/scheduler/logs");
    broken.cluster.daemons.remove(0).end(Signal::TERM);
    let mut scheduler = broken.cluster.scheduler_command();
    broken.on(&mut scheduler, &logs);
    broken.cluster.daemons.push(Daemon::start(scheduler));
    broken.cluster.start_agent("node");
    let cluster = &broken.cluster;
    broken.breaks(EIO);
    let job = cluster.submit(&["--cpus", "0.1", "--", "sh", "-c", "echo kept; exit 3"]);
    cluster.until(job, "FAILED");
    let copies = || {
        let files = std::fs::read_dir(logs.join(job.to_string())).into_iter().flatten().flatten();
        files.filter(|file| file.path().extension().is_some_and(|kind| kind == "zst")).count()
    };
    let printed = || out(&cluster.run(&["logs", &job.to_string()]));
    assert_eq!((printed().as_str(), copies()), ("kept\n", 0), "its node has it");
    broken.is_well();
    eventually("a copy", || (copies() == 1).then_some(()));
    assert_eq!(printed(), "kept\n");
    // The copy is whole: it is read when the node is gone.
    let mut agent = broken.cluster.daemons.pop().unwrap();
    agent.end(Signal::TERM);
    assert_eq!(out(&broken.cluster.run(&["logs", &job.to_string()])), "kept\n");
}

/// A real ext4 in a file, mounted; unmounted whatever the test came to.
struct Ext4 {
    image: PathBuf,
    at: PathBuf,
}

fn does(words: &[&str]) -> bool {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    output.is_ok_and(|output| output.status.success())
}

impl Ext4 {
    fn mount(cluster: &Cluster, name: &str) -> Option<Ext4> {
        let disk = Ext4 { image: cluster.place.path().join("image"), at: cluster.place.path().join(name) };
        let (image, at) = (disk.image.to_str().unwrap(), disk.at.to_str().unwrap());
        std::fs::create_dir(&disk.at).unwrap();
        // Without a journal it stays readable after an error, as one does that is mounted for that.
        let made = does(&["truncate", "-s", "32M", image]) && does(&["mkfs.ext4", "-q", "-O", "^has_journal", image]);
        if made && does(&["mount", "-o", "loop,errors=remount-ro", image, at]) && disk.trigger().exists() {
            return Some(disk);
        }
        cannot_run("a disk of its own needs root, mkfs.ext4 and loop devices");
        None
    }

    /// Where the kernel is told that it has found an error.
    fn trigger(&self) -> PathBuf {
        let found = Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(&self.at).output().unwrap();
        let device = out(&found).trim().trim_start_matches("/dev/").to_owned();
        Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error")
    }

    fn unmount(&self) {
        assert!(does(&["umount", self.at.to_str().unwrap()]));
    }

    fn repair(&self) {
        // 1: it has repaired something.
        let status = Command::new("e2fsck").args(["-f", "-y"]).arg(&self.image).output().unwrap().status;
        assert!(matches!(status.code(), Some(0 | 1)), "{status}");
        assert!(does(&["mount", "-o", "loop", self.image.to_str().unwrap(), self.at.to_str().unwrap()]));
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        does(&["umount", "-l", self.at.to_str().unwrap()]);
    }
}

#[test]
fn on_a_real_disk_with_an_error_the_node_says_so_and_after_its_repair_the_lost_end_is_tried_again() {
    let cluster = Cluster::scheduler();
    let Some(disk) = Ext4::mount(&cluster, "node") else { return };
    let mut agent = Daemon::start(cluster.agent("node"));
    cluster.until_node("node");
    let ((ends, opened), (lives, later)) = (until_gate(&cluster, "opened", 0), until_gate(&cluster, "later", 0));
    let (ending, living) = (cluster.until_running(ends), cluster.until_running(lives));
    std::fs::write(disk.trigger(), "1").unwrap();
    until_withheld(&cluster, "Read-only file system");
    std::fs::write(&opened, "").unwrap();
    eventually("the end of a process", || (!is_alive(ending)).then_some(()));
    let waits = cluster.submit(&["--cpus", "0.1", "--", "true"]);
    assert_eq!(cluster.show(waits)["state"], "PENDING");
    assert_eq!(cluster.show(ends)["state"], "RUNNING");
    assert!(is_alive(living), "what runs goes on");

    // It is repaired as such a disk must be: nothing may hold it.
    std::fs::write(&later, "").unwrap();
    agent.end(Signal::KILL);
    for (pid, _) in processes_naming(disk.at.to_str().unwrap()) {
        kill(pid, Signal::KILL);
    }
    eventually("nobody holds it", || processes_naming(disk.at.to_str().unwrap()).is_empty().then_some(()));
    disk.unmount();
    disk.repair();
    let mut agent = Daemon::start(cluster.agent("node"));
    for job in [ends, lives] {
        let task = cluster.until(job, "COMPLETED")["tasks"][0].clone();
        assert_eq!(task["attempt"], 2, "its end was kept by nobody who lives: {task}");
    }
    cluster.until(waits, "COMPLETED");
    agent.end(Signal::TERM);
    drop(disk);
}
