//! Starting a supervisor that survives whoever starts it.
//!
//! Without unsafe code: the first process makes a session of its own, starts the same executable again with
//! `--detached`, waits for its word on standard output, and ends. The second one is an orphan in a session without a
//! terminal from then on.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use super::paths::Paths;

pub(super) const EXIT_USAGE: u8 = 2;
pub(super) const EXIT_HELD: u8 = 3;
pub(super) const EXIT_IO: u8 = 74;
/// The detached process's first word.
const READY: &str = "ready\n";
/// The messages of earlier supervisors are kept until there are so many bytes of them.
const MESSAGES_MAX: u64 = 1 << 20;

/// How to start a supervisor.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The executable whose `verb` leads to [`super::main`].
    pub exe: PathBuf,
    /// What comes before the supervisor's own arguments: `["supervisor"]`.
    pub verb: Vec<OsString>,
    /// The agent's state folder.
    pub state: PathBuf,
    /// A cgroup to make slots in, instead of our own.
    pub cgroup_root: Option<PathBuf>,
    /// Do not use cgroups.
    pub rlimit_only: bool,
    /// Not the first supervisor of its node: where the others' tasks have their folders.
    pub beside: Option<Beside>,
    /// What the supervisor says its version is. Absent: the executable's.
    pub version: Option<String>,
}

/// A supervisor that stands beside another version's.
#[derive(Clone, Debug)]
pub struct Beside {
    /// The agent's state folder.
    pub home: PathBuf,
    /// Above those of the others.
    pub generation: u32,
}

/// Why there is no new supervisor.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Connect to that one.
    #[error("another supervisor holds this state folder")]
    Held,
    /// It started and gave up.
    #[error("the supervisor does not start: {0}")]
    Refused(String),
    /// The executable could not be started.
    #[error("cannot execute the supervisor")]
    Io(#[from] io::Error),
}

/// Starts a supervisor; returns when it listens. Blocks for some milliseconds.
///
/// # Errors
/// When one is there already, or it does not start; nothing is left running then.
pub fn spawn_supervisor(launch: &Launch) -> Result<(), LaunchError> {
    let mut command = Command::new(&launch.exe);
    command.args(&launch.verb).arg("--state").arg(&launch.state);
    if let Some(root) = &launch.cgroup_root {
        command.arg("--cgroup-root").arg(root);
    }
    if launch.rlimit_only {
        command.args(["--limits", "rlimit"]);
    }
    if let Some(beside) = &launch.beside {
        command.arg("--home").arg(&beside.home).arg("--generation").arg(beside.generation.to_string());
    }
    if let Some(version) = &launch.version {
        command.args(["--as-version", version]);
    }
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    match output.status.code() {
        Some(0) => Ok(()),
        Some(code) if code == i32::from(EXIT_HELD) => Err(LaunchError::Held),
        _ => Err(LaunchError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// The first process: starts the second one and waits for its word.
pub(super) fn detach(paths: &Paths, given: &[OsString]) -> ExitCode {
    match try_detach(paths, given) {
        Ok(code) => code,
        Err(fault) => {
            eprintln!("error[supervisor]: {fault}");
            ExitCode::from(EXIT_IO)
        }
    }
}

fn try_detach(paths: &Paths, given: &[OsString]) -> io::Result<ExitCode> {
    fs::create_dir_all(&paths.agent)?;
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    let messages = options.open(paths.messages())?;
    if messages.metadata()?.len() > MESSAGES_MAX {
        messages.set_len(0)?;
    }
    // A terminal's signals and hang-up end here. It fails only for a leader of a group, which a child is not.
    let _ = rustix::process::setsid();
    let all: Vec<OsString> = std::env::args_os().collect();
    let verb = all.get(1..all.len().saturating_sub(given.len())).unwrap_or_default();
    // The file we run from may have been replaced by an upgrade; this is still the same program.
    let mut child = Command::new("/proc/self/exe")
        .args(verb)
        .args(given)
        .arg("--detached")
        .current_dir(&paths.state)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(messages)
        .spawn()?;
    let mut word = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut word)?;
    }
    if word == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait()?;
    eprintln!("error[supervisor]: {}", if word.is_empty() { status.to_string() } else { word.trim().to_owned() });
    Ok(ExitCode::from(
        status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(EXIT_IO),
    ))
}

/// The second process listens: says so. Nobody reads its standard output from then on, and it prints nothing more.
pub(super) fn report_ready() {
    print!("{READY}");
    let _ = io::Write::flush(&mut io::stdout());
}
