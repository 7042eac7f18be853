//! What a run says while it runs: a metrics file, a progress socket, lines for people.
//!
//! The metrics file is complete: one line a step and one an epoch. The socket is lossy:
//! a full or absent receiver never slows or ends a run.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::config::Recipe;
use crate::error::TrainError;

/// Datagrams for steps are at least this far apart; epochs and checkpoints always go.
const DATAGRAM_INTERVAL: Duration = Duration::from_millis(100);

/// A message's size limit, as the receiver states it.
const DATAGRAM_BYTES_MAX: usize = 4096;

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Progress {
    /// Everything is loaded; the first step comes next.
    Started {
        /// The network.
        recipe: Recipe,
        /// Rows it trains on.
        train_samples: usize,
        /// Rows it is tested on.
        test_samples: usize,
        /// Number of parameters.
        parameters: usize,
        /// Steps of the whole run.
        steps: u32,
        /// Epochs of the whole run.
        epochs: u32,
        /// Threads of the pool.
        threads: usize,
        /// The step it resumes at; absent if it begins at zero.
        resumed_from_step: Option<u32>,
    },
    /// A step is done.
    Step {
        /// Steps done.
        step: u32,
        /// Steps of the whole run.
        steps: u32,
        /// The epoch it belongs to, counted from 1.
        epoch: u32,
        /// Epochs of the whole run.
        epochs: u32,
        /// The batch's mean loss.
        loss: f32,
        /// The learning rate it used.
        lr: f64,
        /// Training speed now.
        samples_per_second: f64,
    },
    /// An epoch is done and measured.
    Epoch {
        /// Epochs done.
        epoch: u32,
        /// Epochs of the whole run.
        epochs: u32,
        /// Steps done.
        step: u32,
        /// Steps of the whole run.
        steps: u32,
        /// Mean of the epoch's batch losses.
        loss: f64,
        /// Share of the test rows it gets right; for the record only.
        test_accuracy: f64,
        /// Share of the validation rows it gets right; absent without a target.
        validation_accuracy: Option<f64>,
        /// Training speed now.
        samples_per_second: f64,
    },
    /// A checkpoint is complete.
    Checkpoint {
        /// Steps done.
        step: u32,
        /// Its folder.
        path: PathBuf,
    },
    /// Something a person should know.
    Note(String),
}

/// The file `metrics.jsonl`, begun anew by every attempt.
#[derive(Debug)]
pub(crate) struct Metrics {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Metrics {
    pub(crate) fn create(folder: &Path) -> Result<Metrics, TrainError> {
        let path = folder.join("metrics.jsonl");
        let file = BufWriter::new(File::create(&path).map_err(TrainError::io(&path))?);
        Ok(Metrics { path, file })
    }

    /// Adds a line; the end of an epoch reaches the file at once.
    pub(crate) fn write(&mut self, event: &Progress) -> Result<(), TrainError> {
        let (line, flush) = match event {
            Progress::Step { step, epoch, loss, lr, samples_per_second, .. } => {
                let line = json!({"kind": "step", "step": step, "epoch": epoch, "loss": loss, "lr": lr,
                    "samples_per_second": samples_per_second});
                (line, false)
            }
            Progress::Epoch { epoch, step, loss, test_accuracy, validation_accuracy, samples_per_second, .. } => {
                let mut line = json!({"kind": "epoch", "step": step, "epoch": epoch, "loss": loss,
                    "test_accuracy": test_accuracy, "samples_per_second": samples_per_second});
                if let Some(accuracy) = validation_accuracy {
                    line["validation_accuracy"] = json!(accuracy);
                }
                (line, true)
            }
            Progress::Started { .. } | Progress::Checkpoint { .. } | Progress::Note(_) => {
                return Ok(());
            }
        };
        writeln!(self.file, "{line}").map_err(TrainError::io(&self.path))?;
        if flush { self.flush() } else { Ok(()) }
    }

    pub(crate) fn flush(&mut self) -> Result<(), TrainError> {
        self.file.flush().map_err(TrainError::io(&self.path))
    }
}

/// Sends progress to a unix datagram socket, and never waits for it.
#[derive(Debug)]
pub(crate) struct Sender {
    socket: UnixDatagram,
    to: PathBuf,
    last: Option<Instant>,
}

impl Sender {
    /// Prepares to send to the socket at `to`, which need not exist yet.
    pub(crate) fn new(to: PathBuf) -> std::io::Result<Sender> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Sender { socket, to, last: None })
    }

    /// Sends what the receiver wants of an event; a failure is a lost message.
    pub(crate) fn send(&mut self, event: &Progress) {
        let Some((message, urgent)) = message(event) else {
            return;
        };
        if !urgent && self.last.is_some_and(|last| last.elapsed() < DATAGRAM_INTERVAL) {
            return;
        }
        let text = message.to_string();
        if text.len() <= DATAGRAM_BYTES_MAX {
            // Lossy by contract: no receiver, or a full one, is no reason to stop training.
            let _ = self.socket.send_to(text.as_bytes(), &self.to);
        }
        self.last = Some(Instant::now());
    }
}

/// The datagram for an event, and whether it goes out regardless of the interval.
fn message(event: &Progress) -> Option<(Value, bool)> {
    match event {
        Progress::Step { step, steps, epoch, loss, lr, samples_per_second, .. } => {
            let metrics = json!({"loss": loss, "lr": lr, "samples_per_second": samples_per_second});
            Some((json!({"step": step, "total": steps, "epoch": epoch, "metrics": metrics}), step == steps))
        }
        Progress::Epoch { epoch, step, steps, loss, test_accuracy, validation_accuracy, .. } => {
            let mut metrics = json!({"epoch_loss": loss, "test_accuracy": test_accuracy});
            if let Some(accuracy) = validation_accuracy {
                metrics["validation_accuracy"] = json!(accuracy);
            }
            Some((json!({"step": step, "total": steps, "epoch": epoch, "metrics": metrics}), true))
        }
        Progress::Checkpoint { step, path } => Some((json!({"step": step, "checkpoint": path}), true)),
        Progress::Started { steps, resumed_from_step, .. } => {
            Some((json!({"step": resumed_from_step.unwrap_or(0), "total": steps}), true))
        }
        Progress::Note(_) => None,
    }
}

/// The line a person reads in the task's log, if the event deserves one.
pub(crate) fn line(event: &Progress) -> Option<String> {
    match event {
        Progress::Started { recipe, train_samples, parameters, steps, threads, resumed_from_step, .. } => {
            let from = resumed_from_step.map_or(String::new(), |step| format!(", resumed at step {step}"));
            Some(format!(
                "training {}: {parameters} parameters, {train_samples} samples, {steps} steps, {threads} threads{from}",
                recipe.name()
            ))
        }
        Progress::Epoch { epoch, epochs, loss, test_accuracy, validation_accuracy, samples_per_second, .. } => {
            let validation =
                validation_accuracy.map_or(String::new(), |accuracy| format!("  validation {accuracy:.4}"));
            Some(format!(
                "epoch {epoch}/{epochs}  loss {loss:.4}  test accuracy {test_accuracy:.4}{validation}  {samples_per_second:.0} samples/s"
            ))
        }
        Progress::Checkpoint { step, path } => Some(format!("checkpoint of step {step}: {}", path.display())),
        Progress::Note(text) => Some(format!("note: {text}")),
        Progress::Step { .. } => None,
    }
}
