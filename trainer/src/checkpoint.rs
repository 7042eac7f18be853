//! The state of a run on disk: complete or not there.
//!
//! A checkpoint is a folder `step-NNNNNNNNNN` with two safetensors files and a manifest:
//!
//! | file                    | holds                                                   |
//! |-------------------------|---------------------------------------------------------|
//! | `weights.safetensors`   | every parameter by name                                 |
//! | `optimizer.safetensors` | `first` and `second`, the optimiser's flat buffers      |
//! | `manifest.json`         | [`Manifest`]; written last, so its presence completes it |
//!
//! Each file is synced before the manifest appears by an atomic rename. Randomness,
//! schedule and data position follow from the step, so nothing about them is kept.
//!
//! Elsewhere: reading them back, and which one, is `resume`.

mod resume;
#[cfg(test)]
mod tests;

pub(crate) use resume::resume;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::durable::{self, sha256_hex};
use crate::model::Model;
use crate::optimizer::Flat;

/// The version of this format; another is refused.
const FORMAT_VERSION: u32 = 1;

/// Complete checkpoints that are kept.
const KEPT: usize = 3;

const MANIFEST: &str = "manifest.json";
const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";

/// What a checkpoint says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) format_version: u32,
    pub(crate) config_hash: String,
    pub(crate) data_fingerprint: String,
    /// Steps done.
    pub(crate) step: u32,
    /// Whole epochs done.
    pub(crate) epoch: u32,
    pub(crate) seed: u64,
    /// Threads of the process that wrote it; for information, no result depends on it.
    pub(crate) threads: usize,
    /// The bits of the f64 sum of this epoch's losses so far: JSON would round.
    pub(crate) loss_sum_bits: u64,
    /// The target accuracy was reached: nothing is left to train.
    pub(crate) target_reached: bool,
    pub(crate) config: TrainConfig,
    /// Size and SHA-256 of the other files.
    pub(crate) files: BTreeMap<String, Seal>,
}

/// What proves a file whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seal {
    bytes: u64,
    sha256: String,
}

/// What a run must share with a checkpoint to resume from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity<'a> {
    pub(crate) config: &'a TrainConfig,
    pub(crate) data_fingerprint: &'a str,
}

/// Where a run is, apart from its weights and moments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Position {
    pub(crate) step: u32,
    pub(crate) epoch: u32,
    pub(crate) loss_sum: f64,
    pub(crate) target_reached: bool,
}

/// Writes a checkpoint below `root` and returns its folder; older ones are pruned.
pub(crate) fn save(root: &Path, run: Identity<'_>, at: Position, model: &Model, flat: &Flat) -> io::Result<PathBuf> {
    let folder = root.join(format!("step-{:010}", at.step));
    if folder.exists() {
        remove(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let mut files = BTreeMap::new();
    for (name, bytes) in [(WEIGHTS, weights_bytes(model, flat, None)?), (OPTIMIZER, state_bytes(flat)?)] {
        durable::write(&folder.join(name), &bytes)?;
        let seal = Seal { bytes: bytes.len() as u64, sha256: sha256_hex(&bytes) };
        files.insert(name.to_owned(), seal);
    }
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        config_hash: run.config.hash(),
        data_fingerprint: run.data_fingerprint.to_owned(),
        step: at.step,
        epoch: at.epoch,
        seed: run.config.seed,
        threads: rayon::current_num_threads(),
        loss_sum_bits: at.loss_sum.to_bits(),
        target_reached: at.target_reached,
        config: run.config.clone(),
        files,
    };
    durable::sync_folder_of(&folder)?;
    durable::write(&folder.join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?)?;
    prune(root)?;
    Ok(folder)
}

/// The parameters by name as a safetensors file, with `note` in its metadata.
pub(crate) fn weights_bytes(model: &Model, flat: &Flat, note: Option<String>) -> io::Result<Vec<u8>> {
    let mut rest = flat.param.as_slice();
    let mut tensors = Vec::new();
    for p in &model.params {
        let (mine, others) = rest.split_at(p.var.elem_count());
        rest = others;
        tensors.push((p.name.as_str(), p.var.dims().to_vec(), little_endian(mine)));
    }
    serialize(&tensors, note)
}

fn state_bytes(flat: &Flat) -> io::Result<Vec<u8>> {
    let buffer = |name, data: &[f32]| (name, vec![data.len()], little_endian(data));
    serialize(&[buffer("first", &flat.first), buffer("second", &flat.second)], None)
}

fn serialize(tensors: &[(&str, Vec<usize>, Vec<u8>)], note: Option<String>) -> io::Result<Vec<u8>> {
    let mut views = Vec::new();
    for (name, dims, bytes) in tensors {
        let view = TensorView::new(Dtype::F32, dims.clone(), bytes).map_err(io::Error::other)?;
        views.push((*name, view));
    }
    // One entry only: the order of a map's entries in the file would not be fixed.
    let metadata = note.map(|note| [("gangsaw".to_owned(), note)].into());
    safetensors::serialize(views, metadata).map_err(io::Error::other)
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn from_little_endian(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Removes a checkpoint so that a crash half-way leaves an incomplete one.
fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(MANIFEST)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => durable::sync_folder_of(&folder.join(MANIFEST))?,
    }
    fs::remove_dir_all(folder)
}

fn prune(root: &Path) -> io::Result<()> {
    let complete = |folder: &PathBuf| folder.join(MANIFEST).exists();
    for old in newest_first(root)?.into_iter().filter(complete).skip(KEPT) {
        remove(&old)?;
    }
    Ok(())
}

/// The checkpoint folders below `root`, complete or not, the highest step first.
fn newest_first(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if let Some(step) = step_of(&path) {
            found.push((step, path));
        }
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn step_of(folder: &Path) -> Option<u32> {
    folder.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
}

/// Reads a network's parameters from a safetensors file, in the network's order.
pub(crate) fn load_params(bytes: &[u8], model: &Model) -> Result<Vec<f32>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    if file.len() != model.params.len() {
        return Err(format!("{} tensors for {} parameters", file.len(), model.params.len()));
    }
    let mut params = Vec::new();
    for p in &model.params {
        let tensor = file.tensor(&p.name).map_err(|_| format!("{} is missing", p.name))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != p.var.dims() {
            let (dtype, shape) = (tensor.dtype(), tensor.shape());
            return Err(format!("{} is {dtype:?} {shape:?} instead of F32 {:?}", p.name, p.var.dims()));
        }
        params.extend(from_little_endian(tensor.data()));
    }
    Ok(params)
}

/// Sets a network's variables to flat parameters.
pub(crate) fn set_params(model: &Model, params: &[f32], device: &Device) -> candle_core::Result<()> {
    let mut rest = params;
    for p in &model.params {
        let (mine, others) = rest.split_at(p.var.elem_count());
        rest = others;
        p.var.set(&Tensor::from_slice(mine, p.var.dims(), device)?)?;
    }
    Ok(())
}
