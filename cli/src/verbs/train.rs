//! `gangsaw train`: a training run in the foreground, and the same run as the task of a job.
//!
//! The agent starts `train --recipe NAME --settings JSON --device DEVICE` with the folders in the environment. A person
//! writes `train cnn --seed 3`; that becomes the first form in a new folder.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::fail::{Failure, bad_input, failure};
use crate::output::{Format, note, object};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The recipe, such as cnn
    #[arg(value_name = "RECIPE", conflicts_with_all = ["recipe", "eval"])]
    name: Option<String>,
    /// The recipe, as the agent names it
    #[arg(long, value_name = "RECIPE", conflicts_with = "eval")]
    recipe: Option<String>,
    /// The recipe's settings as one JSON object
    #[arg(long, value_name = "JSON", default_value = "")]
    settings: String,
    /// What to compute on
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = ["cpu", "cuda"])]
    device: String,
    /// The run's seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Passes over the data
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// Where the model and its metrics go; default a new folder here
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Evaluate this model on the test set instead of training
    #[arg(long, value_name = "MODEL_PATH")]
    eval: Option<PathBuf>,
}

/// Runs the verb.
pub(crate) fn run(format: Format, args: &Args) -> Result<u8, Failure> {
    if let Some(model) = &args.eval {
        return evaluate(format, model);
    }
    let settings = settings(args)?;
    let in_a_task = std::env::var_os("GANGSAW_OUTPUT_DIR").is_some() && args.output_dir.is_none();
    match (&args.recipe, &args.name) {
        (Some(recipe), _) if in_a_task => {
            let code = gangsaw_trainer::run_from_env(recipe, &settings, &args.device);
            Ok((code & 0xff).try_into().unwrap_or(1))
        }
        (Some(recipe), _) | (None, Some(recipe)) => foreground(args, recipe, &settings),
        (None, None) => Err(bad_input("no-work", "no recipe was named", "write `gangsaw train cnn`")),
    }
}

/// The settings with what flags say.
fn settings(args: &Args) -> Result<String, Failure> {
    if args.seed.is_none() && args.epochs.is_none() {
        return Ok(args.settings.clone());
    }
    let mut map: Map<String, Value> = if args.settings.trim().is_empty() {
        Map::new()
    } else {
        serde_json::from_str(&args.settings).map_err(|error| {
            bad_input("bad-value", format!("`--settings` is no JSON object: {error}"), "write {\"epochs\": 5}")
        })?
    };
    if let Some(seed) = args.seed {
        map.insert("seed".into(), seed.into());
    }
    if let Some(epochs) = args.epochs {
        map.insert("epochs".into(), epochs.into());
    }
    Ok(Value::Object(map).to_string())
}

/// Becomes the task's form of this command, with its folders in the environment.
fn foreground(args: &Args, recipe: &str, settings: &str) -> Result<u8, Failure> {
    if let Err(wrong) = gangsaw_trainer::TrainConfig::parse(recipe, settings) {
        let known: Vec<&str> = gangsaw_trainer::recipes().iter().map(|recipe| recipe.name).collect();
        return Err(bad_input("bad-setting", wrong.to_string(), format!("recipes: {}", known.join(", "))));
    }
    let folder = match &args.output_dir {
        Some(folder) => folder.clone(),
        None => new_folder(recipe)?,
    };
    let folder = std::path::absolute(folder)?;
    let checkpoints = folder.join("checkpoints");
    std::fs::create_dir_all(&checkpoints)?;
    note(&format!("training {recipe} on {}; results in {}", args.device, folder.display()));
    let error = std::process::Command::new(std::env::current_exe()?)
        .args(["train", "--recipe", recipe, "--settings", settings, "--device", &args.device])
        .env("GANGSAW_OUTPUT_DIR", &folder)
        .env("GANGSAW_CHECKPOINT_DIR", &checkpoints)
        .env_remove("GANGSAW_RESUME_FROM")
        .exec();
    Err(error.into())
}

/// A folder in this one that is not there yet.
fn new_folder(recipe: &str) -> Result<PathBuf, Failure> {
    const TRIES: u32 = 10_000;
    for number in 1..=TRIES {
        let folder = PathBuf::from(format!("{recipe}-{number}"));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(bad_input(
        "bad-value",
        format!("there are {TRIES} folders of earlier runs here"),
        "choose one with --output-dir",
    ))
}

/// Evaluates a model on its test set.
fn evaluate(format: Format, model: &Path) -> Result<u8, Failure> {
    let found = gangsaw_trainer::evaluate(model).map_err(|error| {
        let exit = u8::try_from(error.exit_code()).unwrap_or(1);
        failure(error.reason(), error.to_string(), "give the .safetensors file of a trained model", exit)
    })?;
    let value = serde_json::to_value(&found).map_err(std::io::Error::other)?;
    object(format, value, || {
        format!("test_accuracy {} ({} of {})\n", found.test_accuracy, found.test_correct, found.test_total)
    })?;
    Ok(0)
}
