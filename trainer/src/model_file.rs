//! The result of a run: one safetensors file that is enough to evaluate it.
//!
//! The file's header metadata holds, under `gangsaw`, the whole [`ModelInfo`] as JSON:
//! settings, shape, the data's fingerprint, the measured accuracy. The same object lies
//! beside it as `model.json` for people and scripts; nothing reads that. The file holds
//! no time of day, so equal runs give equal files.

#[cfg(test)]
mod tests;

use std::path::Path;

use candle_core::{D, DType, Device};
use safetensors::tensor::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::batch;
use crate::checkpoint::{load_params, set_params, weights_bytes};
use crate::config::TrainConfig;
use crate::data::Dataset;
use crate::durable;
use crate::error::TrainError;
use crate::model::{Mode, Model, Shape};
use crate::optimizer::Flat;

/// The version of the metadata; another is refused.
const FORMAT_VERSION: u32 = 1;

/// Samples evaluated together. Fixed: the model file's accuracy and a later evaluation
/// must go through the same arithmetic.
const EVAL_BATCH: usize = 256;

/// What a model file says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ModelInfo {
    /// The version of this object.
    pub format_version: u32,
    /// The settings of the run, the recipe and the seed among them.
    pub config: TrainConfig,
    /// Pixel rows of the images it takes.
    pub height: usize,
    /// Pixel columns of the images it takes.
    pub width: usize,
    /// Classes it tells apart.
    pub classes: usize,
    /// SHA-256 of the data it was trained and tested on.
    pub data_fingerprint: String,
    /// Optimiser steps done.
    pub steps: u32,
    /// Share of the test rows it got right when it was written.
    pub test_accuracy: f64,
    /// Number of test rows it got right.
    pub test_correct: usize,
    /// Number of test rows.
    pub test_total: usize,
}

/// A model measured on its test rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Eval {
    /// Share of the test rows it got right, unrounded.
    pub test_accuracy: f64,
    /// Number of test rows it got right.
    pub test_correct: usize,
    /// Number of test rows.
    pub test_total: usize,
    /// Mean loss over the test rows.
    pub test_loss: f64,
    /// What the model file says about itself.
    pub model: ModelInfo,
}

/// Right answers and summed loss over some rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Score {
    pub(crate) correct: usize,
    pub(crate) total: usize,
    pub(crate) loss_sum: f64,
}

impl Score {
    /// Share of right answers; 0 without rows.
    pub(crate) fn accuracy(&self) -> f64 {
        self.correct as f64 / self.total.max(1) as f64
    }
}

/// Measures a network on `rows`, all of them, the short last batch too.
pub(crate) fn score(model: &Model, data: &Dataset, rows: &[u32], device: &Device) -> candle_core::Result<Score> {
    let mut score = Score::default();
    for rows in rows.chunks(EVAL_BATCH) {
        let batch = batch::make(data, rows, None, DType::F32, device)?;
        let logits = model.forward(&batch, Mode::Evaluate)?;
        let loss = logits.apply_op2_no_bwd(&batch.labels, &crate::ops::CrossEntropy)?;
        score.loss_sum += f64::from(loss.to_scalar::<f32>()?) * rows.len() as f64;
        let answers = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let right = |(answer, row): &(&u32, &u32)| **answer == u32::from(data.labels[**row as usize]);
        score.correct += answers.iter().zip(rows).filter(right).count();
        score.total += rows.len();
    }
    Ok(score)
}

/// Writes `model.safetensors` and `model.json` into `folder`.
pub(crate) fn write(
    folder: &Path,
    info: &ModelInfo,
    model: &Model,
    flat: &Flat,
) -> Result<std::path::PathBuf, TrainError> {
    let path = folder.join("model.safetensors");
    let note = serde_json::to_string(info).map_err(std::io::Error::other).map_err(TrainError::io(&path))?;
    let bytes = weights_bytes(model, flat, Some(note)).map_err(TrainError::io(&path))?;
    durable::write(&path, &bytes).map_err(TrainError::io(&path))?;
    let beside = folder.join("model.json");
    let text = serde_json::to_vec_pretty(info).map_err(std::io::Error::other);
    let written = text.and_then(|text| durable::write(&beside, &text));
    written.map_err(TrainError::io(&beside))?;
    Ok(path)
}

/// The object for a network that was just measured.
pub(crate) fn info(config: &TrainConfig, data: &Dataset, steps: u32, score: Score) -> ModelInfo {
    ModelInfo {
        format_version: FORMAT_VERSION,
        config: config.clone(),
        height: data.height,
        width: data.width,
        classes: data.classes,
        data_fingerprint: data.fingerprint(),
        steps,
        test_accuracy: score.accuracy(),
        test_correct: score.correct,
        test_total: score.total,
    }
}

/// Measures the model at `path` on the test rows of the data it was trained on.
///
/// The one file is enough; data that is not part of this program must still lie where
/// it lay. Runs on the CPU.
///
/// # Errors
/// `Model` if the file is not ours, is damaged, or the data changed since; `Data` if the
/// data cannot be read.
pub fn evaluate(path: &Path) -> Result<Eval, TrainError> {
    let device = Device::Cpu;
    let bad = |problem: String| TrainError::Model { path: path.to_owned(), problem };
    let bytes = std::fs::read(path).map_err(TrainError::io(path))?;
    let info = read_info(&bytes).map_err(bad)?;
    let data = Dataset::load(&info.config.data)?;
    if data.fingerprint() != info.data_fingerprint {
        return Err(bad("the data it was trained on has changed since".to_owned()));
    }
    let shape = Shape { height: info.height, width: info.width, classes: info.classes };
    let model = Model::new(&info.config, shape, DType::F32, &device)?;
    let params = load_params(&bytes, &model).map_err(bad)?;
    set_params(&model, &params, &device)?;
    let score = score(&model, &data, &data.test, &device)?;
    Ok(Eval {
        test_accuracy: score.accuracy(),
        test_correct: score.correct,
        test_total: score.total,
        test_loss: score.loss_sum / score.total.max(1) as f64,
        model: info,
    })
}

fn read_info(bytes: &[u8]) -> Result<ModelInfo, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| format!("not a safetensors file: {error}"))?;
    let note = header.metadata().as_ref().and_then(|metadata| metadata.get("gangsaw"));
    let Some(note) = note else {
        return Err("a safetensors file, but not a model of Gangsaw".to_owned());
    };
    let info: ModelInfo = serde_json::from_str(note).map_err(|error| format!("its metadata is not ours: {error}"))?;
    if info.format_version != FORMAT_VERSION {
        let version = info.format_version;
        return Err(format!("its format is version {version}, this program reads {FORMAT_VERSION}"));
    }
    Ok(info)
}
