//! The loop: batch, loss, gradients, clip, update, report, checkpoint.
//!
//! Invariants:
//! - A step is all or nothing: loss and gradient norm are checked before the update, and
//!   the stop flag is read between steps.
//! - What follows a step depends on the settings, the data and the step alone, so a
//!   resumed run continues bit for bit.
//! - Test rows are measured after each epoch for the record; no decision reads that.
//!
//! Elsewhere: exit codes and signals are `task`; the file formats are `checkpoint` and
//! `model_file`.

mod meter;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{DType, Device};
use serde::Serialize;

use crate::batch::{self, Augment};
use crate::checkpoint::{self, Identity, Position};
use crate::config::{Recipe, TrainConfig};
use crate::data::Dataset;
use crate::error::TrainError;
use crate::model::{self, Gradients, Mode, Model, Shape};
use crate::model_file::{self, Score};
use crate::optimizer::{Flat, clip_scale, learning_rate};
use crate::random::Random;
use crate::report::{Metrics, Progress};
use meter::Meter;

/// The folders of a run; those to write to are made if they are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    /// Model, metrics and result go here.
    pub output: PathBuf,
    /// Checkpoints go here.
    pub checkpoint: PathBuf,
    /// A folder of checkpoints, or one checkpoint, of an earlier attempt.
    pub resume_from: Option<PathBuf>,
}

/// What came out of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// The network.
    pub recipe: Recipe,
    /// `cpu`, or `cuda:N`.
    pub device: String,
    /// The seed.
    pub seed: u64,
    /// Optimiser steps, all attempts together.
    pub steps: u32,
    /// Whole epochs, all attempts together.
    pub epochs: u32,
    /// The step this attempt resumed at; absent if it began at zero.
    pub resumed_from_step: Option<u32>,
    /// Share of the test rows the model gets right, unrounded.
    pub test_accuracy: f64,
    /// Number of test rows it gets right.
    pub test_correct: usize,
    /// Number of test rows.
    pub test_total: usize,
    /// Whether the target accuracy was reached; absent if none was set.
    pub target_reached: Option<bool>,
    /// The mean loss of the last step of this attempt; absent if it had none to do.
    pub final_loss: Option<f32>,
    /// Time this attempt spent in the loop, epoch measurements included.
    pub train_seconds: f64,
    /// Samples this attempt trained on, by that time; 0 without a step.
    pub samples_per_second: f64,
    /// Threads of the pool.
    pub threads: usize,
    /// Number of parameters.
    pub parameters: usize,
    /// The model file.
    pub model_path: PathBuf,
    /// SHA-256 of the data.
    pub data_fingerprint: String,
}

/// Trains as `config` says and writes the model; the work happens in this thread and on
/// rayon's pool.
///
/// `progress` is called between steps and should return soon. When `stop` becomes true
/// the run ends between two steps, after a checkpoint, with [`TrainError::Stopped`].
///
/// # Errors
/// Every variant says what to do about it; no model is written then.
pub fn train(
    config: &TrainConfig,
    dirs: &Dirs,
    device: &Device,
    progress: impl FnMut(Progress),
    stop: &AtomicBool,
) -> Result<Summary, TrainError> {
    for folder in [&dirs.output, &dirs.checkpoint] {
        std::fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
    }
    let data = Dataset::load(&config.data)?;
    let mut run = Run::new(config, dirs, device, &data, progress)?;
    let resumed = run.resume()?;
    run.started(resumed);
    let began = Instant::now();
    run.all_steps(stop)?;
    let train_seconds = began.elapsed().as_secs_f64();
    run.finish(resumed, train_seconds)
}

/// A run in progress.
struct Run<'a, P> {
    config: &'a TrainConfig,
    dirs: &'a Dirs,
    device: &'a Device,
    data: &'a Dataset,
    fingerprint: String,
    train_rows: Vec<u32>,
    validation_rows: Vec<u32>,
    steps_per_epoch: u32,
    steps: u32,
    model: Model,
    flat: Flat,
    at: Position,
    order: Vec<u32>,
    last_loss: Option<f32>,
    samples: u64,
    meter: Meter,
    metrics: Metrics,
    progress: P,
}

impl<'a, P: FnMut(Progress)> Run<'a, P> {
    fn new(
        config: &'a TrainConfig,
        dirs: &'a Dirs,
        device: &'a Device,
        data: &'a Dataset,
        progress: P,
    ) -> Result<Run<'a, P>, TrainError> {
        let shape = Shape { height: data.height, width: data.width, classes: data.classes };
        model::check(config, shape).map_err(|(key, problem)| TrainError::config(key, problem))?;
        let (train_rows, validation_rows) = match config.target_accuracy {
            Some(_) => data.validation_split(),
            None => (data.train.clone(), Vec::new()),
        };
        if train_rows.is_empty() || (config.target_accuracy.is_some() && validation_rows.is_empty()) {
            return Err(TrainError::config("data", "has too few training rows".to_owned()));
        }
        let steps_per_epoch = train_rows.len().div_ceil(config.batch as usize);
        let steps = steps_per_epoch as u64 * u64::from(config.epochs);
        let too_many = |_| TrainError::config("epochs", format!("make {steps} steps, more than 2^32"));
        let model = Model::new(config, shape, DType::F32, device)?;
        let flat = Flat::new(config, &model)?;
        Ok(Run {
            config,
            dirs,
            device,
            data,
            fingerprint: data.fingerprint(),
            train_rows,
            validation_rows,
            steps: u32::try_from(steps).map_err(too_many)?,
            steps_per_epoch: u32::try_from(steps_per_epoch).map_err(too_many)?,
            model,
            flat,
            at: Position::default(),
            order: Vec::new(),
            last_loss: None,
            samples: 0,
            meter: Meter::new(),
            metrics: Metrics::create(&dirs.output)?,
            progress,
        })
    }

    /// Loads the newest usable checkpoint, if one was named; returns the step it is at.
    fn resume(&mut self) -> Result<Option<u32>, TrainError> {
        let Some(from) = &self.dirs.resume_from else {
            return Ok(None);
        };
        let run = Identity { config: self.config, data_fingerprint: &self.fingerprint };
        let note = |text| (self.progress)(Progress::Note(text));
        self.at = checkpoint::resume(from, run, &self.model, &mut self.flat, note)?;
        Ok((self.at.step > 0).then_some(self.at.step))
    }

    fn started(&mut self, resumed_from_step: Option<u32>) {
        (self.progress)(Progress::Started {
            recipe: self.config.recipe,
            train_samples: self.train_rows.len(),
            test_samples: self.data.test.len(),
            parameters: self.flat.param.len(),
            steps: self.steps,
            epochs: self.config.epochs,
            threads: rayon::current_num_threads(),
            resumed_from_step,
        });
    }

    fn all_steps(&mut self, stop: &AtomicBool) -> Result<(), TrainError> {
        while self.at.step < self.steps && !self.at.target_reached {
            if stop.load(Ordering::Relaxed) {
                return Err(self.stopped());
            }
            self.step()?;
            if self.at.step.is_multiple_of(self.steps_per_epoch) {
                self.end_of_epoch()?;
            }
            if self.at.step.is_multiple_of(self.config.checkpoint_every) && self.at.step < self.steps {
                self.checkpoint();
            }
        }
        Ok(())
    }

    /// One optimiser step; counts it only when it is done.
    fn step(&mut self) -> Result<(), TrainError> {
        let (step, epoch) = (self.at.step, self.at.step / self.steps_per_epoch);
        let in_epoch = step % self.steps_per_epoch;
        let random = Random::new(self.config.seed);
        if self.order.is_empty() || in_epoch == 0 {
            self.order = batch::order(random, epoch, &self.train_rows);
        }
        let rows = &self.order[batch::positions(self.order.len(), self.config.batch, in_epoch)];
        let augment = Augment { random, epoch, shift: self.config.shift };
        let batch = batch::make(self.data, rows, Some(augment), DType::F32, self.device)?;
        let mode = Mode::Train { random, step, dropout: self.config.dropout };
        let Gradients { loss, of } = self.model.gradients(&batch, mode)?;
        let value = self.finite("loss", loss.to_scalar::<f32>()?)?;
        let norm = self.flat.gather(&of)?;
        self.finite("gradient norm", norm as f32)?;
        let lr = learning_rate(self.config, step, self.steps);
        self.flat.step(u64::from(step) + 1, lr, clip_scale(norm, self.config.clip_norm))?;
        self.flat.scatter(&self.model)?;
        let samples = rows.len();
        self.at.step += 1;
        self.at.loss_sum += f64::from(value);
        self.last_loss = Some(value);
        self.samples += samples as u64;
        let samples_per_second = self.meter.add(samples);
        self.report(Progress::Step {
            step: self.at.step,
            steps: self.steps,
            epoch: epoch + 1,
            epochs: self.config.epochs,
            loss: value,
            lr,
            samples_per_second,
        })
    }

    fn finite(&self, what: &'static str, value: f32) -> Result<f32, TrainError> {
        if value.is_finite() {
            return Ok(value);
        }
        Err(TrainError::NonFinite { what, step: self.at.step + 1, steps: self.steps })
    }

    fn score(&self, rows: &[u32]) -> Result<Score, TrainError> {
        Ok(model_file::score(&self.model, self.data, rows, self.device)?)
    }

    fn end_of_epoch(&mut self) -> Result<(), TrainError> {
        self.at.epoch += 1;
        let loss = self.at.loss_sum / f64::from(self.steps_per_epoch);
        self.at.loss_sum = 0.0;
        let validation_accuracy = match self.config.target_accuracy {
            Some(target) => {
                let accuracy = self.score(&self.validation_rows)?.accuracy();
                self.at.target_reached = accuracy >= target;
                Some(accuracy)
            }
            None => None,
        };
        let test_accuracy = self.score(&self.data.test)?.accuracy();
        self.report(Progress::Epoch {
            epoch: self.at.epoch,
            epochs: self.config.epochs,
            step: self.at.step,
            steps: self.steps,
            loss,
            test_accuracy,
            validation_accuracy,
            samples_per_second: self.meter.rate(),
        })
    }

    fn report(&mut self, event: Progress) -> Result<(), TrainError> {
        self.metrics.write(&event)?;
        (self.progress)(event);
        Ok(())
    }

    /// Writes a checkpoint; a failure is said and the run goes on with the earlier ones.
    fn checkpoint(&mut self) -> Option<PathBuf> {
        let run = Identity { config: self.config, data_fingerprint: &self.fingerprint };
        let saved = checkpoint::save(&self.dirs.checkpoint, run, self.at, &self.model, &self.flat);
        let step = self.at.step;
        match saved {
            Ok(path) => {
                (self.progress)(Progress::Checkpoint { step, path: path.clone() });
                Some(path)
            }
            Err(error) => {
                let text = format!("the checkpoint of step {step} could not be written: {error}");
                (self.progress)(Progress::Note(text));
                None
            }
        }
    }

    fn stopped(&mut self) -> TrainError {
        let checkpoint = self.checkpoint();
        TrainError::Stopped { step: self.at.step, checkpoint }
    }

    fn finish(mut self, resumed: Option<u32>, train_seconds: f64) -> Result<Summary, TrainError> {
        let score = self.score(&self.data.test)?;
        let info = model_file::info(self.config, self.data, self.at.step, score);
        let model_path = model_file::write(&self.dirs.output, &info, &self.model, &self.flat)?;
        self.metrics.flush()?;
        Ok(Summary {
            recipe: self.config.recipe,
            device: device_name(self.device),
            seed: self.config.seed,
            steps: self.at.step,
            epochs: self.at.epoch,
            resumed_from_step: resumed,
            test_accuracy: score.accuracy(),
            test_correct: score.correct,
            test_total: score.total,
            target_reached: self.config.target_accuracy.map(|_| self.at.target_reached),
            final_loss: self.last_loss,
            train_seconds,
            samples_per_second: self.samples as f64 / train_seconds.max(1e-9),
            threads: rayon::current_num_threads(),
            parameters: self.flat.param.len(),
            model_path,
            data_fingerprint: self.fingerprint,
        })
    }
}

fn device_name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}
