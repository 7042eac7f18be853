//! From the newest usable checkpoint back into a run.
//!
//! Reading goes from the newest to the oldest: a checkpoint that is torn or does not
//! match its checksums is passed over and said. One that is whole but belongs to another
//! run (other settings, data or seed) is refused, with what differs: it was named by
//! someone who expects it to be used.

use std::fs;
use std::io;
use std::path::Path;

use safetensors::tensor::SafeTensors;

use super::{
    FORMAT_VERSION, Identity, MANIFEST, Manifest, OPTIMIZER, Position, WEIGHTS, from_little_endian, load_params,
    newest_first, step_of,
};
use crate::durable::sha256_hex;
use crate::error::TrainError;
use crate::model::Model;
use crate::optimizer::Flat;

/// Loads the newest usable checkpoint at or below `from` into the run.
///
/// `from` is a folder of checkpoints, or one checkpoint, whose older neighbours then
/// count too. Without a usable one the run starts from zero. Whatever was passed over is
/// said through `note`.
pub(crate) fn resume(
    from: &Path,
    run: Identity<'_>,
    model: &Model,
    flat: &mut Flat,
    mut note: impl FnMut(String),
) -> Result<Position, TrainError> {
    let (root, highest) = match step_of(from) {
        Some(step) => (from.parent().unwrap_or(Path::new(".")), step),
        None => (from, u32::MAX),
    };
    let folders = match newest_first(root) {
        Ok(folders) => folders,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(TrainError::io(root)(error)),
    };
    for folder in folders.into_iter().filter(|folder| step_of(folder) <= Some(highest)) {
        match read(&folder) {
            Ok(read) => {
                fits(&folder, &read.manifest, run)?;
                let problem = read.fill(model, flat);
                problem.map_err(|reason| TrainError::Resume { path: folder.clone(), reason })?;
                note(format!("resuming from {} (step {})", folder.display(), read.manifest.step));
                return Ok(read.manifest.position());
            }
            Err(problem) => {
                note(format!("checkpoint {} is passed over: {problem}", folder.display()));
            }
        }
    }
    note(format!("{} holds no complete checkpoint: starting from zero", from.display()));
    Ok(Position::default())
}

impl Manifest {
    fn position(&self) -> Position {
        Position {
            step: self.step,
            epoch: self.epoch,
            loss_sum: f64::from_bits(self.loss_sum_bits),
            target_reached: self.target_reached,
        }
    }
}

/// A checkpoint whose files match its manifest.
struct Read {
    manifest: Manifest,
    weights: Vec<u8>,
    state: Vec<u8>,
}

fn read(folder: &Path) -> Result<Read, String> {
    let text = match fs::read(folder.join(MANIFEST)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(format!("it is incomplete, {MANIFEST} is missing"));
        }
        Err(error) => return Err(format!("{MANIFEST}: {error}")),
    };
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| format!("{MANIFEST}: {error}"))?;
    if manifest.format_version != FORMAT_VERSION {
        let version = manifest.format_version;
        return Err(format!("its format is version {version}, this program reads {FORMAT_VERSION}"));
    }
    let file = |name: &str| -> Result<Vec<u8>, String> {
        let seal = manifest.files.get(name).ok_or(format!("{MANIFEST} does not list {name}"))?;
        let bytes = fs::read(folder.join(name)).map_err(|error| format!("{name}: {error}"))?;
        if bytes.len() as u64 != seal.bytes {
            return Err(format!("{name} has {} bytes instead of {}", bytes.len(), seal.bytes));
        }
        if sha256_hex(&bytes) != seal.sha256 {
            return Err(format!("{name} does not match its checksum"));
        }
        Ok(bytes)
    };
    let (weights, state) = (file(WEIGHTS)?, file(OPTIMIZER)?);
    Ok(Read { manifest, weights, state })
}

/// Refuses a whole checkpoint of another run.
fn fits(folder: &Path, manifest: &Manifest, run: Identity<'_>) -> Result<(), TrainError> {
    // The hash settles it. Without it the settings are compared one by one, so that a
    // setting this version added, at its default, is no difference.
    let mut reasons = Vec::new();
    if manifest.config_hash != run.config.hash() {
        reasons = run.config.differences(&manifest.config);
    }
    if manifest.data_fingerprint != run.data_fingerprint {
        let short = |hash: &str| hash.chars().take(12).collect::<String>();
        let (was, is) = (short(&manifest.data_fingerprint), short(run.data_fingerprint));
        reasons.push(format!("the data's fingerprint was {was}… and is {is}…"));
    }
    if reasons.is_empty() {
        return Ok(());
    }
    Err(TrainError::Resume { path: folder.to_owned(), reason: reasons.join("; ") })
}

impl Read {
    /// Copies weights and state in; the checksums matched, so a misfit is another run's.
    fn fill(&self, model: &Model, flat: &mut Flat) -> Result<(), String> {
        let params = load_params(&self.weights, model)?;
        let state = SafeTensors::deserialize(&self.state).map_err(|error| error.to_string())?;
        for (name, buffer) in [("first", &mut flat.first), ("second", &mut flat.second)] {
            let tensor = state.tensor(name).map_err(|error| error.to_string())?;
            if tensor.data().len() != buffer.len() * 4 {
                return Err(format!("optimiser state {name} has another size"));
            }
            buffer.clear();
            buffer.extend(from_little_endian(tensor.data()));
        }
        flat.param = params;
        flat.scatter(model).map_err(|error| error.to_string())
    }
}
