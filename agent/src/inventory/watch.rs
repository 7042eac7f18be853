//! Keeps the view of the GPUs fresh by asking the NVML child once a second.
//!
//! One child, one question at a time. A call that does not return within [`CALL_TIMEOUT`] means the library hangs:
//! the devices are withheld, the child is killed, and another one starts only after the first is really gone (a
//! process stuck in a driver may not die), with growing pauses. The agent's other tasks never wait for any of it.
//!
//! Invariants:
//! - At most one child exists.
//! - The view changes only when its content does; readers that wait for changes are not woken by equal readings.
//!
//! Elsewhere: the child's side is `nvml_child`, the judgement is `gpu`, who is ours is `ours`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::gpu::{Gpu, Gpus, UNANSWERED};
use super::ours::Marks;
use crate::nvml_child::{Line, Reading};

/// Longest a single call into the library may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest all calls of one reading may take together.
const READING_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Pause before the next child after one failed; doubles up to the maximum.
const RESTART_MIN: Duration = Duration::from_secs(2);
const RESTART_MAX: Duration = Duration::from_secs(60);
/// Longest line of the child: 128 devices with 512 processes each stay below it.
const LINE_MAX_BYTES: u64 = 8 << 20;

/// What is known of the GPUs now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GpuView {
    /// False until the first answer, or the first failure to get one.
    pub(crate) ready: bool,
    pub(crate) gpus: Vec<Gpu>,
    /// For people, for example `gpu: no libnvidia-ml.so`.
    pub(crate) note: Option<String>,
}

/// What the driver of the agent knows and the judgement needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// UUIDs of the devices that our leases hold.
    pub(crate) devices: BTreeSet<String>,
    pub(crate) marks: Marks,
}

/// Why a reading did not come.
#[derive(Debug)]
enum Failure {
    NoLibrary,
    Broken(String),
    /// The named call did not return.
    Hangs(String),
    /// The child ended or wrote nonsense.
    Lost(String),
}

/// Watches until `stop`, or until it is clear that this machine has no NVML.
pub(crate) async fn run(
    exe: PathBuf,
    held: watch::Receiver<Held>,
    view: watch::Sender<GpuView>,
    stop: CancellationToken,
) {
    let mut watcher = Watcher { exe, gpus: Gpus::default(), child: None, dying: None, pause: RESTART_MIN, wait: None };
    let mut tick = interval(POLL_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = tick.tick() => {}
        }
        let polled = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            polled = watcher.poll() => polled,
        };
        let Some(result) = polled else { continue };
        let finished = matches!(result, Err(Failure::NoLibrary));
        let note = watcher.take(result, &held.borrow().clone());
        publish(&view, GpuView { ready: true, gpus: watcher.gpus.list(), note });
        if finished {
            break;
        }
    }
    watcher.end().await;
}

fn publish(view: &watch::Sender<GpuView>, new: GpuView) {
    view.send_if_modified(|old| {
        let changed = *old != new;
        *old = new;
        changed
    });
}

struct Watcher {
    exe: PathBuf,
    gpus: Gpus,
    child: Option<Talk>,
    /// A killed child that has not gone yet. No other starts before it is.
    dying: Option<Child>,
    pause: Duration,
    /// When the next child may start.
    wait: Option<Instant>,
}

/// A running child and both ends of its pipes.
struct Talk {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Watcher {
    /// Asks once. Nothing when there is no child to ask yet.
    async fn poll(&mut self) -> Option<Result<Reading, Failure>> {
        if let Some(dying) = &mut self.dying {
            if matches!(dying.try_wait(), Ok(None)) {
                return None;
            }
            self.dying = None;
        }
        if self.wait.is_some_and(|wait| Instant::now() < wait) {
            return None;
        }
        let mut talk = match self.child.take() {
            Some(talk) => talk,
            None => match Talk::start(&self.exe) {
                Ok(talk) => talk,
                Err(error) => return Some(Err(Failure::Lost(format!("starting the nvml child: {error}")))),
            },
        };
        let result = talk.reading().await;
        match &result {
            Ok(_) => self.child = Some(talk),
            Err(_) => {
                // An error means that it is gone already.
                let _ = talk.child.start_kill();
                self.dying = Some(talk.child);
            }
        }
        Some(result)
    }

    /// Takes the outcome of a poll and returns the note for people.
    fn take(&mut self, result: Result<Reading, Failure>, held: &Held) -> Option<String> {
        let failure = match result {
            Ok(reading) => {
                self.pause = RESTART_MIN;
                self.wait = None;
                self.gpus.update(&reading, &held.devices, |pid| held.marks.are_on(pid));
                let unlisted = reading.devices.iter().any(|device| device.compute.is_none());
                return unlisted
                    .then(|| "gpu: nvml lists no processes, so foreign use is judged by memory alone".to_owned());
            }
            Err(failure) => failure,
        };
        self.wait = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(RESTART_MAX);
        match failure {
            Failure::NoLibrary => {
                info!("no libnvidia-ml.so: this node offers no GPU");
                Some("gpu: no libnvidia-ml.so".to_owned())
            }
            Failure::Broken(error) => {
                self.gpus.withhold(&format!("unknown: {error}"));
                Some(format!("gpu: nvml: {error}"))
            }
            Failure::Hangs(call) => {
                warn!(%call, "nvml does not answer");
                self.gpus.withhold(UNANSWERED);
                Some("gpu: nvml does not answer".to_owned())
            }
            Failure::Lost(why) => {
                warn!(%why, "the nvml child was lost");
                self.gpus.withhold("unknown: nvml ended its process");
                Some(format!("gpu: {why}"))
            }
        }
    }

    /// Ends the child. One that hangs is killed; it is not waited for longer than a moment.
    async fn end(self) {
        for mut child in self.child.map(|talk| talk.child).into_iter().chain(self.dying) {
            let _ = child.start_kill();
            let _ = timeout(Duration::from_secs(1), child.wait()).await;
        }
    }
}

impl Talk {
    fn start(exe: &PathBuf) -> std::io::Result<Talk> {
        let mut child = tokio::process::Command::new(exe)
            .arg("agent-nvml")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(ask), Some(answers)) => Ok(Talk { child, ask, answers: BufReader::new(answers) }),
            (None, _) | (_, None) => Err(std::io::Error::other("no pipes")),
        }
    }

    async fn reading(&mut self) -> Result<Reading, Failure> {
        let mut call = "start".to_owned();
        match timeout(READING_TIMEOUT, self.ask(&mut call)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Hangs(call)),
        }
    }

    async fn ask(&mut self, call: &mut String) -> Result<Reading, Failure> {
        let lost = |error: std::io::Error| Failure::Lost(format!("nvml child: {error}"));
        self.ask.write_all(b"p").await.map_err(lost)?;
        loop {
            let mut text = Vec::new();
            let mut limited = (&mut self.answers).take(LINE_MAX_BYTES);
            match timeout(CALL_TIMEOUT, limited.read_until(b'\n', &mut text)).await {
                Err(_) => return Err(Failure::Hangs(std::mem::take(call))),
                Ok(Err(error)) => return Err(lost(error)),
                Ok(Ok(0)) => return Err(Failure::Lost(format!("the nvml child ended in {call}"))),
                Ok(Ok(_)) => {}
            }
            match serde_json::from_slice(&text) {
                Ok(Line::Call(name)) => *call = name,
                Ok(Line::Reading(reading)) => return Ok(reading),
                Ok(Line::NoLibrary) => return Err(Failure::NoLibrary),
                Ok(Line::Broken(error)) => return Err(Failure::Broken(error)),
                Err(error) => return Err(Failure::Lost(format!("nvml child: {error}"))),
            }
        }
    }
}
