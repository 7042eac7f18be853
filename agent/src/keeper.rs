//! Keeps a supervisor: finds the living one or starts one, carries commands and notices, and clears up after a death.
//!
//! A supervisor outlives agents, so the first thing is always to connect. When nobody listens, the last one is dead:
//! its spool tells what it did, the driver names the leases whose processes may be left, those are killed, and only
//! then a new supervisor starts.
//!
//! A supervisor of another version is left what it holds and told to retire (an *elder*), and one of our own version
//! starts beside it for everything new. The driver sees one supervisor: commands go to whoever holds the lease, lists
//! are put together, facts get one row of numbers.
//!
//! Invariants:
//! - `Dead` comes before anything is killed, `Cleared` after everything is, `Listed` after a supervisor answered.
//! - Commands travel on a channel that belongs to one connection: none reaches a later supervisor.
//! - A lease is never handed to an elder.
//!
//! Elsewhere: the machine that gives the orders is driven by `driver`; the process itself is `supervisor`.

mod elders;
mod numbers;
mod survey;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use gangsaw_proto::supervisor::v1::command::Command;
use gangsaw_proto::supervisor::v1::notice::Notice;
use gangsaw_proto::supervisor::v1::{Ack, Fact, Facts, HeldLease, Hello, Listing, Welcome};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::elders::{Elder, Place, next_word};
use self::numbers::Numbers;
use crate::spool;
use crate::supervisor::{
    Beside, KillReport, Launch, LaunchError, SupervisorClient, kill_all_leftovers, kill_leftovers, spawn_supervisor,
};

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
    /// No supervisor of our version lives. What its spool holds, absent when it cannot be read, and the leases that
    /// elders hold. Answered with the leases to clear.
    Dead(Option<Vec<Fact>>, BTreeSet<u64>),
    /// No process of these leases is left.
    Cleared(Vec<u64>),
    /// A supervisor answered: what it and the elders hold, the facts they have, and how to command them.
    Listed(Box<Welcome>, Vec<Fact>, mpsc::Sender<Command>),
    /// One of them said something.
    Notice(Notice),
    /// The connection ended. Either `Dead` or `Listed` follows.
    Lost,
    /// An elder is gone, and no process of these leases is left. The facts it had not told.
    Fallen(BTreeSet<u64>, Vec<Fact>),
    /// No supervisor can be started; it is tried again.
    Failed(String),
}

/// What a keeper is made of.
pub(crate) struct Parts {
    /// How a supervisor is started in the first place.
    pub(crate) launch: Launch,
    /// Our version: supervisors of another one are elders.
    pub(crate) version: String,
    pub(crate) clears: mpsc::Receiver<Vec<u64>>,
    pub(crate) heard: mpsc::Sender<Heard>,
    pub(crate) stop: CancellationToken,
}

/// The keeper's own state.
pub(crate) struct Keeper {
    parts: Parts,
    /// The agent's state folder.
    home: PathBuf,
    /// Where the supervisor of our version lives.
    place: Place,
    elders: Vec<Elder>,
    /// Places whose supervisor is gone and whose facts are not acknowledged.
    ruins: Vec<Place>,
    numbers: Numbers,
    /// Facts of ruins that the driver has not got.
    backlog: Vec<Fact>,
}

/// Why one connection ended.
enum End {
    /// The agent stops.
    Stopped,
    /// The other side, or the driver, dropped it.
    Closed,
}

impl Keeper {
    pub(crate) fn new(parts: Parts) -> Keeper {
        let home = parts.launch.state.clone();
        let place = Place::new(&home, 0);
        let (elders, ruins, numbers, backlog) = (Vec::new(), Vec::new(), Numbers::default(), Vec::new());
        Keeper { parts, home, place, elders, ruins, numbers, backlog }
    }

    /// Keeps a supervisor until `stop`. The supervisors themselves live on.
    pub(crate) async fn run(mut self) {
        if self.survey().await.is_none() {
            return;
        }
        let mut cleared = false;
        let mut pause = RETRY_MIN;
        let mut tries = 0;
        while !self.parts.stop.is_cancelled() {
            match SupervisorClient::connect(&self.place.state) {
                Ok(client) => match self.talk(client).await {
                    Ok(End::Stopped) => return,
                    Ok(End::Closed) => {
                        (cleared, pause, tries) = (false, RETRY_MIN, 0);
                        if self.say(Heard::Lost).await.is_none() {
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
                        if tries >= TRIES_BEFORE_FAILED && self.say(Heard::Failed(error)).await.is_none() {
                            return;
                        }
                    }
                },
            }
            tokio::select! {
                () = self.parts.stop.cancelled() => return,
                () = sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
            }
        }
    }

    /// Nothing when the driver is gone.
    async fn say(&self, heard: Heard) -> Option<()> {
        self.parts.heard.send(heard).await.ok()
    }

    /// Says that the last supervisor is dead, and kills what it left. Nothing when the driver is gone.
    async fn clear(&mut self) -> Option<()> {
        let state = self.place.state.clone();
        let facts = match blocking(move || spool::read(&state, 0)).await {
            Ok(facts) => Some(self.numbered(facts)),
            Err(error) => {
                warn!(%error, "the spool cannot be read");
                None
            }
        };
        // What an elder holds no more has ended there, and only its facts say how.
        let (held, more, fallen) = self.ask_elders().await;
        let facts = facts.map(|own| own.into_iter().chain(more).collect());
        let alive = held.iter().map(|held| held.lease_id).collect();
        self.say(Heard::Dead(facts, alive)).await?;
        let leases = self.parts.clears.recv().await?;
        let (state, killed) = (self.place.state.clone(), leases.clone());
        self.killed(move || kill_leftovers(&state, &killed)).await?;
        self.say(Heard::Cleared(leases)).await?;
        for elder in fallen {
            self.fell(elder).await?;
        }
        Some(())
    }

    /// Kills until nothing is left. Nothing when the agent stops.
    async fn killed(&self, kill: impl Fn() -> io::Result<KillReport> + Clone + Send + 'static) -> Option<()> {
        loop {
            match blocking(kill.clone()).await {
                Ok(report) if report.left.is_empty() => {
                    if report.killed > 0 {
                        info!(killed = report.killed, "processes of a dead supervisor were killed");
                    }
                    return Some(());
                }
                Ok(report) => warn!(left = ?report.left, "processes of a dead supervisor do not die"),
                // One lives after all: it looks after its own, and the next connect finds it.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(()),
                Err(error) => warn!(%error, "the leftovers of a dead supervisor cannot be killed"),
            }
            tokio::select! {
                () = self.parts.stop.cancelled() => return None,
                () = sleep(RETRY_MAX) => {}
            }
        }
    }

    async fn start(&self) -> Result<(), String> {
        let beside =
            (self.place.generation > 0).then(|| Beside { home: self.home.clone(), generation: self.place.generation });
        let launch = Launch {
            state: self.place.state.clone(),
            beside,
            version: Some(self.parts.version.clone()),
            ..self.parts.launch.clone()
        };
        match spawn_blocking(move || spawn_supervisor(&launch)).await {
            Ok(Ok(())) => Ok(()),
            // One holds the folder and does not listen: it has just begun, or is about to end.
            Ok(Err(LaunchError::Held)) => Err("another supervisor is ending".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Gives facts of our own place their numbers, after those that ruins left.
    fn numbered(&mut self, facts: Vec<Fact>) -> Vec<Fact> {
        let mut all = std::mem::take(&mut self.backlog);
        all.extend(self.numbers.take(self.place.generation, facts));
        all
    }

    /// Greets a supervisor, then carries commands to it and the elders, and notices from them.
    async fn talk(&mut self, client: SupervisorClient) -> io::Result<End> {
        let mut welcome = greeted(&client).await?;
        // Read from the file, because the supervisor sends what nobody acknowledged without saying where it ends.
        let facts = told(&self.place, welcome.last_seq).await?;
        let mut facts = self.numbered(facts);
        let (leases, more, fallen) = self.ask_elders().await;
        welcome.leases.extend(leases);
        facts.extend(more);
        let (commands, mut orders) = mpsc::channel(COMMANDS_MAX);
        if self.say(Heard::Listed(Box::new(welcome), facts, commands)).await.is_none() {
            return Ok(End::Stopped);
        }
        for elder in fallen {
            if self.fell(elder).await.is_none() {
                return Ok(End::Stopped);
            }
        }
        let stop = self.parts.stop.clone();
        loop {
            let done = tokio::select! {
                () = stop.cancelled() => return Ok(End::Stopped),
                order = orders.recv() => match order {
                    Some(command) => tokio::select! {
                        () = stop.cancelled() => return Ok(End::Stopped),
                        sent = self.send(&client, command) => sent.map(Some),
                    },
                    None => return Ok(End::Closed),
                },
                notice = client.receive() => match notice {
                    Ok(Some(notice)) => Ok(self.pass(self.place.generation, notice).await),
                    Ok(None) => return Ok(End::Closed),
                    Err(error) => Err(error),
                },
                (which, word) = next_word(&self.elders) => Ok(self.elder_said(which, word).await),
            };
            match done {
                Ok(Some(())) => {}
                Ok(None) => return Ok(End::Stopped),
                Err(error) => {
                    warn!(%error, "the connection to the supervisor broke");
                    return Ok(End::Closed);
                }
            }
        }
    }

    /// Sends a command to whom it is for. An elder that cannot be reached is found out when it is listened to.
    async fn send(&mut self, client: &SupervisorClient, command: Command) -> io::Result<()> {
        let lease = match &command {
            Command::Start(start) => Some(start.lease_id),
            Command::Trim(trim) => Some(trim.lease_id),
            Command::Stop(stop) => Some(stop.lease_id),
            Command::Ack(ack) => return self.acknowledge(client, ack.seq).await,
            // Deadlines of leases that one does not hold mean nothing to it.
            Command::Renew(_) | Command::Quit(_) => {
                for elder in &self.elders {
                    let _ = elder.client.send(command.clone()).await;
                }
                None
            }
            Command::Hello(_) | Command::Run(_) | Command::List(_) | Command::Retire(_) => None,
        };
        match self.elders.iter().find(|elder| lease.is_some_and(|lease| elder.holds(lease))) {
            Some(elder) => {
                let _ = elder.client.send(command).await;
                Ok(())
            }
            None => client.send(command).await,
        }
    }

    async fn acknowledge(&mut self, client: &SupervisorClient, number: u64) -> io::Result<()> {
        for (generation, seq) in self.numbers.acked(number) {
            let ack = Command::Ack(Ack { seq });
            if generation == self.place.generation {
                client.send(ack).await?;
            } else if let Some(elder) = self.elders.iter().find(|elder| elder.place.generation == generation) {
                let _ = elder.client.send(ack).await;
            }
        }
        let numbers = &self.numbers;
        self.ruins.retain(|ruin| {
            let waits = numbers.waits(ruin.generation);
            if !waits {
                ruin.remove();
            }
            waits
        });
        Ok(())
    }

    /// Passes on what one of them says. Nothing when the agent stops.
    async fn pass(&mut self, generation: u32, notice: Notice) -> Option<()> {
        match notice {
            Notice::Facts(facts) => {
                let facts = self.numbers.take(generation, facts.facts);
                if facts.is_empty() {
                    return Some(());
                }
                self.say(Heard::Notice(Notice::Facts(Facts { facts }))).await
            }
            Notice::Listing(listing) if generation == self.place.generation => {
                let (leases, facts, fallen) = self.ask_elders().await;
                self.say(Heard::Notice(Notice::Facts(Facts { facts }))).await?;
                let leases: Vec<HeldLease> = listing.leases.into_iter().chain(leases).collect();
                self.say(Heard::Notice(Notice::Listing(Listing { leases, ..listing }))).await?;
                for elder in fallen {
                    self.fell(elder).await?;
                }
                Some(())
            }
            Notice::Listing(_) => Some(()),
            notice @ (Notice::Welcome(_) | Notice::Unknown(_)) => self.say(Heard::Notice(notice)).await,
        }
    }
}

/// Whether an error of connect means that nobody listens there.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer")
}

/// Says Hello and waits for the Welcome.
async fn greeted(client: &SupervisorClient) -> io::Result<Welcome> {
    let hello = Hello { agent_pid: std::process::id(), protocol: PROTOCOL, acked_seq: 0 };
    let greet = async {
        client.send(Command::Hello(hello)).await?;
        while let Some(notice) = client.receive().await? {
            if let Notice::Welcome(welcome) = notice {
                return Ok(welcome);
            }
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the supervisor closed the connection"))
    };
    timeout(WELCOME_TIMEOUT, greet).await.map_err(|_| late())?
}

/// The facts in a place's spool up to `last`.
async fn told(place: &Place, last: u64) -> io::Result<Vec<Fact>> {
    let state = place.state.clone();
    let facts = blocking(move || spool::read(&state, 0)).await?;
    Ok(facts.into_iter().filter(|fact| fact.seq <= last).collect())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}
