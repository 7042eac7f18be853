//! A run as a scheduled task: environment in, exit code out.
//!
//! | variable                 | meaning                                                  |
//! |--------------------------|----------------------------------------------------------|
//! | `GANGSAW_OUTPUT_DIR`     | model, metrics, result; else `gangsaw-output`             |
//! | `GANGSAW_CHECKPOINT_DIR` | checkpoints; else `checkpoints` in the output folder      |
//! | `GANGSAW_RESUME_FROM`    | checkpoint(s) of an earlier attempt; empty or absent: none |
//! | `GANGSAW_PROGRESS`       | unix datagram socket for progress                         |
//!
//! | exit code | means                                                                  |
//! |-----------|------------------------------------------------------------------------|
//! | 0         | trained; the model is written                                           |
//! | 1         | loss or gradients were not finite                                       |
//! | 2         | the settings are wrong, or the checkpoint belongs to another run        |
//! | 65        | the data or a model file is damaged or missing                          |
//! | 70        | a fault of this program                                                 |
//! | 74        | a file cannot be written                                                |
//! | 75        | stopped by a signal after a checkpoint, with `requeue_on_stop` set      |
//! | 78        | the device cannot be used: this build has no CUDA                       |
//! | 130, 143  | stopped by SIGINT, SIGTERM after a checkpoint                           |
//!
//! `result.json` in the output folder says the same in words, whatever the end.

#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::config::TrainConfig;
use crate::durable;
use crate::error::TrainError;
use crate::report::{Progress, Sender, line};
use crate::train::{Dirs, Summary, train};

/// Start me again: exit code of a stopped run whose settings have `requeue_on_stop`.
pub const EXIT_REQUEUE: i32 = 75;

/// 128 + SIGTERM: exit code of a run that was stopped.
pub const EXIT_STOPPED: i32 = 143;

/// 128 + SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

/// `EX_CONFIG` of sysexits.h: the device asked for is not in this build.
pub const EXIT_NO_CUDA: i32 = 78;

/// The version of `result.json`.
const SCHEMA_VERSION: u32 = 1;

/// Opens a device by its name on the command line.
///
/// # Errors
/// Everything but `cpu`: this build has no CUDA, and training never moves to the CPU
/// unasked.
pub fn open_device(name: &str) -> Result<candle_core::Device, TrainError> {
    match name {
        "cpu" => Ok(candle_core::Device::Cpu),
        "cuda" => Err(TrainError::Device("this program was built without CUDA".to_owned())),
        other => Err(TrainError::Device(format!("device {other:?} is neither cpu nor cuda"))),
    }
}

/// Runs a training task from start to end and returns its exit code.
///
/// `settings` is a JSON object of the recipe's settings, or empty. Lines for people go
/// to standard output, errors to standard error. SIGTERM and SIGINT end the run after a
/// checkpoint; a second one ends it at once.
#[must_use]
pub fn run_from_env(recipe: &str, settings: &str, device: &str) -> i32 {
    let dirs = dirs_from(|name| std::env::var_os(name).map(PathBuf::from));
    let (stop, interrupted) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    if let Err(error) = catch_signals(&stop, &interrupted) {
        eprintln!("note: signals end this run without a checkpoint: {error}");
    }
    let parsed = TrainConfig::parse(recipe, settings).map_err(TrainError::from);
    let requeue = parsed.as_ref().is_ok_and(|config| config.requeue_on_stop);
    let ended = parsed.and_then(|config| run(&config, &dirs, device, &stop));
    let code = match &ended {
        Ok(_) => 0,
        Err(TrainError::Stopped { checkpoint: Some(_), .. }) if requeue => EXIT_REQUEUE,
        Err(TrainError::Stopped { .. }) if interrupted.load(Ordering::Relaxed) => EXIT_INTERRUPTED,
        Err(error) => error.exit_code(),
    };
    if let Err(error) = write_result(&dirs.output, &ended, code) {
        eprintln!("note: result.json could not be written: {error}");
    }
    match ended {
        Ok(summary) => say(&format!(
            "test accuracy {:.4} ({} of {}) after {} steps in {:.2} s: {}",
            summary.test_accuracy,
            summary.test_correct,
            summary.test_total,
            summary.steps,
            summary.train_seconds,
            summary.model_path.display()
        )),
        Err(error) => eprintln!("error[{}]: {error}", error.reason()),
    }
    code
}

/// Makes the first SIGTERM or SIGINT raise a flag, and the second end the process.
fn catch_signals(stop: &Arc<AtomicBool>, interrupted: &Arc<AtomicBool>) -> std::io::Result<()> {
    // In this order: a signal first looks whether an earlier one has raised the flag.
    flag::register_conditional_shutdown(SIGTERM, EXIT_STOPPED, stop.clone())?;
    flag::register_conditional_shutdown(SIGINT, EXIT_INTERRUPTED, stop.clone())?;
    flag::register(SIGTERM, stop.clone())?;
    flag::register(SIGINT, stop.clone())?;
    flag::register(SIGINT, interrupted.clone())?;
    Ok(())
}

/// The run's folders, from the environment.
fn dirs_from(variable: impl Fn(&str) -> Option<PathBuf>) -> Dirs {
    let given = |name| variable(name).filter(|path| !path.as_os_str().is_empty());
    let output = given("GANGSAW_OUTPUT_DIR").unwrap_or_else(|| PathBuf::from("gangsaw-output"));
    Dirs {
        checkpoint: given("GANGSAW_CHECKPOINT_DIR").unwrap_or_else(|| output.join("checkpoints")),
        resume_from: given("GANGSAW_RESUME_FROM"),
        output,
    }
}

fn run(config: &TrainConfig, dirs: &Dirs, device: &str, stop: &AtomicBool) -> Result<Summary, TrainError> {
    let device = open_device(device)?;
    let mut sender = match std::env::var_os("GANGSAW_PROGRESS").filter(|path| !path.is_empty()) {
        Some(path) => {
            Sender::new(path.into()).inspect_err(|error| eprintln!("note: no progress will be sent: {error}")).ok()
        }
        None => None,
    };
    let progress = |event: Progress| {
        if let Some(sender) = &mut sender {
            sender.send(&event);
        }
        if let Some(line) = line(&event) {
            say(&line);
        }
    };
    train(config, dirs, &device, progress, stop)
}

/// Writes a line to standard output; a reader that is gone does not end the run.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Writes `result.json`: what came out, or why nothing did.
fn write_result(folder: &Path, ended: &Result<Summary, TrainError>, code: i32) -> std::io::Result<()> {
    let mut result = match ended {
        Ok(summary) => serde_json::to_value(summary)?,
        Err(TrainError::Stopped { step, checkpoint }) => {
            json!({"step": step, "checkpoint": checkpoint})
        }
        Err(error) => json!({"reason": error.reason(), "message": error.to_string()}),
    };
    let outcome = match ended {
        Ok(_) => "finished",
        Err(TrainError::Stopped { .. }) => "stopped",
        Err(_) => "failed",
    };
    if let Value::Object(map) = &mut result {
        map.insert("schema_version".to_owned(), json!(SCHEMA_VERSION));
        map.insert("outcome".to_owned(), json!(outcome));
        map.insert("exit_code".to_owned(), json!(code));
    }
    std::fs::create_dir_all(folder)?;
    durable::write(&folder.join("result.json"), &serde_json::to_vec_pretty(&result)?)
}
