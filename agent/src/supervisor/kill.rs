//! Finding and killing a task's whole tree without its cgroup, and what a dead supervisor left.
//!
//! A process belongs to a task when its initial environment holds the task's lease id and this state folder's tag.
//! A tree that forks while it is killed could win a race of single signals, so all that is found is stopped first,
//! again and again until a walk finds nobody new, and only then killed.
//!
//! Best effort by nature: a process that was started with an empty environment is not found here; as long as the
//! supervisor lives it is its child (it is the subreaper), which [`strays`] tells.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use super::paths::Paths;
use super::template::{LEASE_ENV, NODE_ENV, TASK_ENV};
use crate::cgroup::leftover;

/// Walks over /proc before a tree that grows all the time is killed as far as it is known.
const STOP_ROUNDS: usize = 30;
/// How long [`kill_leftovers`] tries.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whose processes are looked for.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    wanted: Vec<Vec<u8>>,
}

impl Mark {
    /// Everything of one supervisor.
    fn all(tag: &str) -> Self {
        Self { wanted: vec![format!("{NODE_ENV}={tag}").into_bytes()] }
    }

    /// Those of a lease, or of one task of it.
    pub(super) fn new(tag: &str, lease_id: u64, task: Option<&str>) -> Self {
        let mut wanted = vec![format!("{NODE_ENV}={tag}").into_bytes(), format!("{LEASE_ENV}={lease_id}").into_bytes()];
        wanted.extend(task.map(|task| format!("{TASK_ENV}={task}").into_bytes()));
        Self { wanted }
    }

    /// Whether a process carries it. A process whose environment cannot be read does not.
    pub(super) fn is_on(&self, pid: Pid) -> bool {
        let Ok(environ) = fs::read(format!("/proc/{pid}/environ")) else { return false };
        self.wanted.iter().all(|wanted| environ.split(|byte| *byte == 0).any(|variable| variable == wanted))
    }
}

fn walk(marks: &[Mark]) -> BTreeSet<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeSet::new() };
    let pids =
        entries.filter_map(Result::ok).filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter(|pid| marks.iter().any(|mark| mark.is_on(*pid))).map(|pid| pid.as_raw_nonzero().get()).collect()
}

/// Signals a process of ours. With a pidfd the mark is looked at again, so that a pid used anew is not hit.
fn signal(pid: i32, marks: &[Mark], signal: Signal) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) if marks.iter().any(|mark| mark.is_on(pid)) => {
            let _ = pidfd_send_signal(fd, signal);
        }
        Ok(_) | Err(rustix::io::Errno::SRCH) => {}
        Err(_) => {
            let _ = kill_process(pid, signal);
        }
    }
}

/// Stops, then kills everything that carries one of the marks, and returns how many there were.
pub(super) fn tree(marks: &[Mark]) -> u32 {
    let mut known = BTreeSet::new();
    for _ in 0..STOP_ROUNDS {
        let fresh: Vec<i32> = walk(marks).difference(&known).copied().collect();
        if fresh.is_empty() {
            break;
        }
        for pid in fresh {
            signal(pid, marks, Signal::STOP);
            known.insert(pid);
        }
    }
    for pid in &known {
        signal(*pid, marks, Signal::KILL);
    }
    u32::try_from(known.len()).unwrap_or(u32::MAX)
}

/// Children of this process that are none of `mains`: what ended tasks left behind came to us, the subreaper.
/// `None` where the kernel does not list children.
pub(super) fn strays(mains: impl Fn(i32) -> bool) -> Option<Vec<Pid>> {
    let own = rustix::process::getpid();
    let text = fs::read_to_string(format!("/proc/self/task/{own}/children")).ok()?;
    let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
    Some(pids.filter(|pid| !mains(*pid)).filter_map(Pid::from_raw).collect())
}

/// What [`kill_leftovers`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KillReport {
    /// Processes found in a slot or by their environment.
    pub killed: u32,
    /// Processes that were still there after five seconds, for example in uninterruptible sleep.
    pub left: Vec<u32>,
}

/// Kills what a dead supervisor's tasks left: everything in its slot cgroups, and every process whose environment
/// names one of `leases` and this state folder. Returns when nothing is left, or after five seconds.
///
/// # Errors
/// `WouldBlock` when a supervisor holds the state folder: it looks after its own.
pub fn kill_leftovers(state: &Path, leases: &[u64]) -> io::Result<KillReport> {
    kill_marked(state, |tag| leases.iter().map(|lease| Mark::new(tag, *lease, None)).collect())
}

/// Kills everything that any task of a dead supervisor left, as [`kill_leftovers`] does for some of its leases.
///
/// # Errors
/// `WouldBlock` when a supervisor holds the state folder.
pub fn kill_all_leftovers(state: &Path) -> io::Result<KillReport> {
    kill_marked(state, |tag| vec![Mark::all(tag)])
}

fn kill_marked(state: &Path, marks: impl FnOnce(&str) -> Vec<Mark>) -> io::Result<KillReport> {
    let paths = Paths::new(state);
    let Some(_lock) = super::hold(&paths)? else { return Err(io::ErrorKind::WouldBlock.into()) };
    let marks = marks(&paths.tag()?);
    let cgroups = fs::read_to_string(paths.cgroups()).unwrap_or_default();
    let started = Instant::now();
    let mut report = KillReport::default();
    loop {
        let inside: usize = cgroups.lines().map(|folder| leftover::kill(Path::new(folder))).sum();
        let found = tree(&marks);
        if inside == 0 && found == 0 {
            break;
        }
        report.killed = report.killed.max(found.max(u32::try_from(inside).unwrap_or(u32::MAX)));
        if started.elapsed() > PATIENCE {
            report.left = walk(&marks).into_iter().filter_map(|pid| u32::try_from(pid).ok()).collect();
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    for folder in cgroups.lines() {
        leftover::remove(Path::new(folder));
    }
    Ok(report)
}
