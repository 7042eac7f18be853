//! The supervisor: one small process that holds all tasks of a node and outlives its agent.
//!
//! It is the same executable, started as `gangsaw supervisor --state DIR`. One thread, epoll, no runtime, and a memory
//! of a few megabytes, so that a plain fork for each task is cheap and safe. It starts what the agent hands it, keeps
//! each task in a slot with limits, pumps its output into the logs, ends it at its time limit or on command, and
//! writes every end into the spool before it tells the agent. A lease of many elements is run by it alone: an agent
//! that is restarted, upgraded or stuck delays nothing.
//!
//! Invariants:
//! - A task's end is told once its whole process tree is gone, and after it is in the spool.
//! - When the supervisor dies, its tasks die: the parent-death signal takes the main processes, and whoever comes next
//!   calls [`kill_leftovers`] for the rest.
//! - One supervisor for a state folder: it holds a lock as long as it lives.
//! - With no task and no agent it ends by itself within five seconds.
//!
//! Neighbours: `server` is the loop; `command`, `starting`, `ending` and `report` are its parts; `slot`, `lease`,
//! `template` and `attempt` what it holds; `spawn` the unsafe code; [`logs`] output; `crate::spool` and `crate::cgroup`
//! the layers below; [`SupervisorClient`] and [`spawn_supervisor`] the agent's side.

mod args;
mod attempt;
mod client;
mod clock;
mod command;
mod ending;
mod kill;
mod launch;
mod lease;
pub mod logs;
pub(crate) mod paths;
mod report;
mod server;
mod slot;
mod spawn;
mod starting;
mod template;
mod wire;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

pub use client::{Connection, SupervisorClient};
pub use kill::{KillReport, kill_all_leftovers, kill_leftovers};
pub use launch::{Beside, Launch, LaunchError, spawn_supervisor};

use paths::Paths;

/// How long a lock that nobody listens behind is waited for.
const HOLD_PATIENCE: Duration = Duration::from_secs(2);
const HOLD_RETRY: Duration = Duration::from_millis(5);
/// Lines a supervisor may say in its life, so that a fault that repeats cannot fill the disk.
const LINES_MAX: u32 = 10_000;

/// Runs `gangsaw supervisor` with the arguments after the verb.
///
/// Started plainly, it starts itself again in a session of its own and returns once that one listens: exit code 0, or
/// 2 for bad arguments, 3 when another supervisor holds the state folder, 74 for anything else, with the reason on
/// standard error.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let given: Vec<OsString> = args.collect();
    let parsed = match args::parse(given.iter().cloned()) {
        Ok(parsed) => parsed,
        Err(fault) => {
            eprintln!("error[bad-arguments]: {fault}");
            return ExitCode::from(launch::EXIT_USAGE);
        }
    };
    let paths = Paths::below(&parsed.state, parsed.home.as_deref().unwrap_or(&parsed.state));
    if !parsed.detached {
        return launch::detach(&paths, &given);
    }
    match start(&parsed, paths) {
        Ok(supervisor) => {
            spawn::memory::give_back();
            launch::report_ready();
            supervisor.run()
        }
        Err(fault) => {
            let held = fault.kind() == io::ErrorKind::WouldBlock;
            println!(
                "{}",
                if held { "another supervisor holds this state folder".to_owned() } else { fault.to_string() }
            );
            ExitCode::from(if held { launch::EXIT_HELD } else { launch::EXIT_IO })
        }
    }
}

fn start(args: &args::Args, paths: Paths) -> io::Result<server::Supervisor> {
    let Some(lock) = hold(&paths)? else { return Err(io::ErrorKind::WouldBlock.into()) };
    server::Supervisor::new(args, paths, lock)
}

/// Takes the lock of a state folder. A supervisor that listens keeps it: `None` at once. One that is on its way out
/// is waited for, and so are its last children, which hold a copy until their exec.
fn hold(paths: &Paths) -> io::Result<Option<File>> {
    let started = Instant::now();
    loop {
        if let Some(lock) = try_hold(paths)? {
            return Ok(Some(lock));
        }
        if wire::dial(paths, false).is_ok() || started.elapsed() > HOLD_PATIENCE {
            return Ok(None);
        }
        std::thread::sleep(HOLD_RETRY);
    }
}

/// Makes STATE/agent and takes its lock; `None` when somebody has it.
fn try_hold(paths: &Paths) -> io::Result<Option<File>> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(&paths.agent)?;
    // Tasks that run as other users must get to their attempt folders, and need not list anything on the way.
    fs::set_permissions(&paths.agent, fs::Permissions::from_mode(0o711))?;
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(paths.lock())?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(fault) => Err(fault.into()),
    }
}

/// Says something to people, in STATE/agent/supervisor.log.
fn say(what: &str) {
    static SAID: AtomicU32 = AtomicU32::new(0);
    if SAID.fetch_add(1, Ordering::Relaxed) < LINES_MAX {
        // It may be on a full disk, and then there is nobody to tell.
        let _ = writeln!(io::stderr(), "{} {what}", clock::wall_ms());
    }
}
