//! Keeps a supervisor: finds the living one or starts one, carries commands and notices, and clears up after a death.
//!
//! A supervisor outlives agents, so the first thing is always to connect. When nobody listens, the last one is dead:
//! its spool tells what it did, the driver names the leases whose processes may be left, those are killed, and only
//! then a new supervisor starts.
//!
//! Invariants:
//! - `Dead` comes before anything is killed, `Cleared` after everything is, `Listed` after a supervisor answered.
//! - Commands travel on a channel that belongs to one connection: none reaches a later supervisor.
//!
//! Elsewhere: the machine that gives the orders is driven by `driver`; the process itself is `supervisor`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gangsaw_proto::supervisor::v1::command::Command;
use gangsaw_proto::supervisor::v1::notice::Notice;
use gangsaw_proto::supervisor::v1::{Fact, Hello, Welcome};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::spool;
use crate::supervisor::{Launch, LaunchError, SupervisorClient, kill_leftovers, spawn_supervisor};

/// Version of the supervisor's protocol that this agent speaks.
const PROTOCOL: u32 = 1;
/// Commands on their way; each lease needs a handful.
const COMMANDS_MAX: usize = 4_096;
/// A living supervisor answers Hello in milliseconds.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before the next try to start or reach a supervisor; doubles up to the maximum.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Tries after which the driver is told that there is no supervisor to be had.
const TRIES_BEFORE_FAILED: u32 = 6;

/// What the keeper tells the driver.
#[derive(Debug)]
pub(crate) enum Heard {
    /// No supervisor lives. What its spool holds; absent when it cannot be read. Answered with the leases to clear.
    Dead(Option<Vec<Fact>>),
    /// No process of these leases is left.
    Cleared(Vec<u64>),
    /// A supervisor answered: what it holds, the facts it has, and how to command it.
    Listed(Box<Welcome>, Vec<Fact>, mpsc::Sender<Command>),
    /// It said something.
    Notice(Notice),
    /// The connection ended. Either `Dead` or `Listed` follows.
    Lost,
    /// No supervisor can be started; it is tried again.
    Failed(String),
}

/// The keeper's side of the channels.
pub(crate) struct Keeper {
    pub(crate) launch: Launch,
    pub(crate) clears: mpsc::Receiver<Vec<u64>>,
    pub(crate) heard: mpsc::Sender<Heard>,
    pub(crate) stop: CancellationToken,
}

/// Why one connection ended.
enum End {
    /// The agent stops.
    Stopped,
    /// The other side, or the driver, dropped it.
    Closed,
}

impl Keeper {
    /// Keeps a supervisor until `stop`. The supervisor itself lives on.
    pub(crate) async fn run(mut self) {
        let mut cleared = false;
        let mut pause = RETRY_MIN;
        let mut tries = 0;
        while !self.stop.is_cancelled() {
            match SupervisorClient::connect(&self.launch.state) {
                Ok(client) => match self.talk(client).await {
                    Ok(End::Stopped) => return,
                    Ok(End::Closed) => {
                        (cleared, pause, tries) = (false, RETRY_MIN, 0);
                        if self.heard.send(Heard::Lost).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => warn!(%error, "the supervisor did not answer"),
                },
                Err(error) if !is_nobody(&error) => warn!(%error, "the supervisor cannot be reached"),
                Err(_) if !cleared => {
                    if self.clear().await.is_none() {
                        return;
                    }
                    cleared = true;
                    continue;
                }
                Err(_) => match self.start().await {
                    Ok(()) => continue,
                    Err(error) => {
                        tries += 1;
                        warn!(%error, "no supervisor could be started");
                        let failed = tries >= TRIES_BEFORE_FAILED;
                        if failed && self.heard.send(Heard::Failed(error)).await.is_err() {
                            return;
                        }
                    }
                },
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
            }
        }
    }

    /// Says that the last supervisor is dead, and kills what it left. Nothing when the driver is gone.
    async fn clear(&mut self) -> Option<()> {
        let state = self.launch.state.clone();
        let facts = blocking(move || spool::read(&state, 0)).await;
        if let Err(error) = &facts {
            warn!(%error, "the spool cannot be read");
        }
        self.heard.send(Heard::Dead(facts.ok())).await.ok()?;
        let leases = self.clears.recv().await?;
        loop {
            let (state, killed) = (self.launch.state.clone(), leases.clone());
            match blocking(move || kill_leftovers(&state, &killed)).await {
                Ok(report) if report.left.is_empty() => {
                    if report.killed > 0 {
                        info!(killed = report.killed, "processes of a dead supervisor were killed");
                    }
                    break;
                }
                Ok(report) => warn!(left = ?report.left, "processes of a dead supervisor do not die"),
                // One lives after all: it looks after its own, and the next connect finds it.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => warn!(%error, "the leftovers of a dead supervisor cannot be killed"),
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = sleep(RETRY_MAX) => {}
            }
        }
        self.heard.send(Heard::Cleared(leases)).await.ok()
    }

    async fn start(&self) -> Result<(), String> {
        let launch = self.launch.clone();
        match spawn_blocking(move || spawn_supervisor(&launch)).await {
            Ok(Ok(())) => Ok(()),
            // One holds the folder and does not listen: it has just begun, or is about to end.
            Ok(Err(LaunchError::Held)) => Err("another supervisor is ending".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Greets a supervisor, then carries commands to it and notices from it.
    async fn talk(&mut self, client: SupervisorClient) -> io::Result<End> {
        let hello = Hello { agent_pid: std::process::id(), protocol: PROTOCOL, acked_seq: 0 };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no welcome");
        let welcome = timeout(WELCOME_TIMEOUT, greet(&client, hello)).await.map_err(|_| late())??;
        // Read from the file, because the supervisor sends what nobody acknowledged without saying where it ends.
        let (state, last) = (self.launch.state.clone(), welcome.last_seq);
        let facts = blocking(move || spool::read(&state, 0)).await?;
        let facts = facts.into_iter().filter(|fact| fact.seq <= last).collect();
        let (commands, mut orders) = mpsc::channel(COMMANDS_MAX);
        if self.heard.send(Heard::Listed(Box::new(welcome), facts, commands)).await.is_err() {
            return Ok(End::Stopped);
        }
        let send = async {
            while let Some(command) = orders.recv().await {
                client.send(command).await?;
            }
            io::Result::Ok(())
        };
        let heard = &self.heard;
        let receive = async {
            while let Some(notice) = client.receive().await? {
                if heard.send(Heard::Notice(notice)).await.is_err() {
                    break;
                }
            }
            io::Result::Ok(())
        };
        tokio::select! {
            () = self.stop.cancelled() => return Ok(End::Stopped),
            result = send => log_end(result),
            result = receive => log_end(result),
        }
        Ok(End::Closed)
    }
}

/// Whether an error of connect means that nobody listens there.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn log_end(result: io::Result<()>) {
    if let Err(error) = result {
        warn!(%error, "the connection to the supervisor broke");
    }
}

async fn greet(client: &SupervisorClient, hello: Hello) -> io::Result<Welcome> {
    client.send(Command::Hello(hello)).await?;
    while let Some(notice) = client.receive().await? {
        if let Notice::Welcome(welcome) = notice {
            return Ok(welcome);
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the supervisor closed the connection"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

/// The supervisor's launch for an agent.
pub(crate) fn launch(exe: &Path, state: &Path, cgroup_root: Option<PathBuf>) -> Launch {
    Launch {
        exe: exe.to_owned(),
        verb: vec!["supervisor".into()],
        state: state.to_owned(),
        cgroup_root,
        rlimit_only: false,
    }
}
