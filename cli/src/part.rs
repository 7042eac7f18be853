//! A part of a running cluster as a child process: started, kept, stopped.
//!
//! A part is this executable under another verb. It runs in a process group of its own, so that Ctrl-C at a terminal
//! reaches `up` alone and the parts stop in the right order; and it dies with its parent, through PDEATHSIG, which it
//! sets itself (`die_with_parent`).
//!
//! A part that ends is started again, after a wait that doubles; one that refuses its very first start ends the whole.

use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::fail::{Failure, SOFTWARE, failure};
use crate::output::note;

/// Wait before the first restart.
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// Longest wait before a restart.
const RESTART_MAX: Duration = Duration::from_secs(10);
/// A part that lived so long was well: its next restart waits as the first.
const WELL_AFTER: Duration = Duration::from_secs(20);
/// How long a part may take until it is ready: opening a large store takes seconds.
const READY_MAX: Duration = Duration::from_secs(60);
/// How often a stopped part is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Its verb.
    pub(crate) verb: &'static str,
    pub(crate) args: Vec<OsString>,
    /// Variables set for it.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Between SIGTERM and SIGKILL.
    pub(crate) grace: Duration,
}

/// A part that runs and has said that it is ready.
pub(crate) struct Running {
    pub(crate) part: Part,
    pub(crate) child: Child,
    /// What it said when it was ready.
    pub(crate) ready: Value,
    since: Instant,
}

/// Starts a part and waits until it says, in one JSON line on its stdout, that it is ready.
pub(crate) async fn start(part: Part) -> Result<Running, Failure> {
    let verb = part.verb;
    let mut child = Command::new(std::env::current_exe()?)
        .arg(verb)
        .args(["--output", "jsonl", "--die-with-parent"])
        .arg(std::process::id().to_string())
        .args(&part.args)
        .envs(part.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().ok_or_else(|| failure("io", "a child has no output", "", SOFTWARE))?;
    let mut line = String::new();
    let said = tokio::time::timeout(READY_MAX, BufReader::new(stdout).read_line(&mut line)).await;
    if let (Ok(Ok(1..)), Ok(ready)) = (said, serde_json::from_str::<Value>(&line)) {
        return Ok(Running { part, child, ready, since: Instant::now() });
    }
    let status = stop_child(&mut child, part.grace).await?;
    // It has said itself what is wrong; only its code is passed on.
    Err(Failure::Rendered { text: format!("gangsaw {verb} did not start\n"), exit: code(status) })
}

/// The exit code of a child, as a shell counts it.
pub(crate) fn code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    (code & 0xff).try_into().unwrap_or(1)
}

/// Keeps a part running until `stop`, then stops it. `told` hears of each new life.
pub(crate) async fn keep(
    mut running: Running,
    stop: CancellationToken,
    mut told: impl FnMut(&Running),
) -> Result<(), Failure> {
    let mut wait = RESTART_FIRST;
    loop {
        let status = tokio::select! {
            status = running.child.wait() => status?,
            () = stop.cancelled() => {
                stop_child(&mut running.child, running.part.grace).await?;
                return Ok(());
            }
        };
        if running.since.elapsed() >= WELL_AFTER {
            wait = RESTART_FIRST;
        }
        let verb = running.part.verb;
        note(&format!("gangsaw {verb} ended ({status}); starting it again in {wait:?}"));
        running = loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return Ok(()),
            }
            wait = (wait * 2).min(RESTART_MAX);
            tokio::select! {
                started = start(running.part.clone()) => match started {
                    Ok(started) => break started,
                    Err(failure) => note(&format!("{}; trying again in {wait:?}", failure.text().trim_end())),
                },
                () = stop.cancelled() => return Ok(()),
            }
        };
        told(&running);
    }
}

/// Stops a child: SIGTERM, the grace, SIGKILL.
pub(crate) async fn stop_child(child: &mut Child, grace: Duration) -> Result<ExitStatus, Failure> {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // A child that has ended meanwhile is found by `wait`.
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    match tokio::time::timeout(grace, child.wait()).await {
        Ok(status) => Ok(status?),
        Err(_) => {
            child.start_kill()?;
            Ok(child.wait().await?)
        }
    }
}

/// Makes this process die with the parent it was started by; it ends at once when that one has gone already.
pub(crate) fn die_with_parent(parent: Option<u32>, signal: Signal) -> Result<(), Failure> {
    let Some(parent) = parent else { return Ok(()) };
    rustix::process::set_parent_process_death_signal(Some(signal)).map_err(std::io::Error::from)?;
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    if now == Some(parent) {
        Ok(())
    } else {
        Err(failure("orphan", "the process that started this one has gone", "", SOFTWARE))
    }
}

/// Other processes of this executable that work in this folder, by their command line or environment.
pub(crate) fn processes_of(folder: &std::path::Path) -> Vec<i32> {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = folder.as_os_str().as_bytes();
    let own = (std::process::id().cast_signed(), std::env::current_exe().ok());
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let ours = |pid: &i32| *pid != own.0 && std::fs::read_link(format!("/proc/{pid}/exe")).ok() == own.1;
    let names_it = |pid: &i32| {
        ["cmdline", "environ"].iter().any(|file| {
            let words = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            words.windows(folder.len()).any(|window| window == folder)
        })
    };
    pids.filter(ours).filter(names_it).collect()
}

/// Waits until no process of ours works in this folder, at most `limit`, then kills what is left.
pub(crate) async fn until_gone(folder: &std::path::Path, limit: Duration) {
    let end = Instant::now() + limit;
    loop {
        let left = processes_of(folder);
        if left.is_empty() {
            return;
        }
        if Instant::now() >= end {
            for pid in left.into_iter().filter_map(Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Cancels `stop` at SIGTERM or Ctrl-C. The signals are caught from this call on.
pub(crate) fn until_told(stop: CancellationToken) -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    })
}
