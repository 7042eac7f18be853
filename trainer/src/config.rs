//! What to train and how: the settings of a run, parsed and checked as a whole.
//!
//! Settings come as one JSON object. Every key has a default that belongs to the recipe,
//! an unknown key is a fault, and all faults are told at once, each with its key. What
//! parses is valid: [`TrainConfig::parse`] is the only way in, also for the config that
//! a model file or a checkpoint carries.
//!
//! Elsewhere: whether a network fits the data's shape is checked where both are known,
//! in `model`.

mod fields;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::durable::sha256_hex;
use fields::Fields;

/// A network that can be trained by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// Fully connected layers with ReLU.
    Mlp,
    /// Blocks of 3×3 convolution, ReLU and 2×2 max pooling, then fully connected layers.
    Cnn,
}

impl Recipe {
    /// All recipes.
    pub const ALL: [Recipe; 2] = [Recipe::Mlp, Recipe::Cnn];

    /// The recipe's name in specs and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Recipe::Mlp => "mlp",
            Recipe::Cnn => "cnn",
        }
    }

    /// One line for people who choose.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Recipe::Mlp => "fully connected layers (hidden) with ReLU",
            Recipe::Cnn => "3×3 convolutions (channels) with pooling, then fully connected (hidden)",
        }
    }
}

/// Where the samples come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DataSource {
    /// The UCI digits in this program. Rows with index mod 5 = 4 are the test set.
    Digits,
    /// A file in our packed format, split like the digits.
    Packed(PathBuf),
    /// A folder with the four MNIST-style IDX files, plain or `.gz`; its `t10k` files
    /// are the test set.
    Idx(PathBuf),
}

/// How gradients become updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Adam with decoupled weight decay and bias correction.
    Adamw,
    /// Stochastic gradient descent with momentum; the decay is decoupled here too.
    Sgd,
}

/// The settings of a run, complete and valid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
#[non_exhaustive]
pub struct TrainConfig {
    /// The network.
    pub recipe: Recipe,
    /// The samples.
    pub data: DataSource,
    /// Passes over the training rows.
    pub epochs: u32,
    /// Samples per step; the last batch of an epoch may be smaller.
    pub batch: u32,
    /// The learning rate at the end of the warm-up.
    pub lr: f64,
    /// The update rule.
    pub optimizer: Optimizer,
    /// Decay of weights (not of biases) per step and learning rate.
    pub weight_decay: f64,
    /// Momentum of `sgd`; `adamw` does not read it.
    pub momentum: f64,
    /// Share of all steps during which the learning rate rises from zero.
    pub warmup: f64,
    /// Gradients are scaled down to this global norm; absent: never.
    pub clip_norm: Option<f64>,
    /// Training images are shifted by up to this many pixels in each direction.
    pub shift: u32,
    /// Share of activations dropped before the last layer while training.
    pub dropout: f64,
    /// Sizes of the fully connected layers before the last.
    pub hidden: Vec<u32>,
    /// Output channels of the convolution blocks; empty for `mlp`.
    pub channels: Vec<u32>,
    /// Everything random follows from it.
    pub seed: u64,
    /// Training ends at the first epoch whose accuracy on the validation rows (every
    /// tenth training row, then not trained on) reaches this; absent: after `epochs`.
    pub target_accuracy: Option<f64>,
    /// Steps between checkpoints.
    pub checkpoint_every: u32,
    /// A run that is asked to stop exits by 75 (start me again) after its checkpoint,
    /// not by 143.
    pub requeue_on_stop: bool,
}

/// All faults of the settings, at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct ConfigError(pub Vec<Fault>);

/// One fault, at one key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct Fault {
    /// The key at fault, or `settings` for the whole.
    pub key: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl Fault {
    fn new(key: &str, problem: impl Into<String>) -> Fault {
        Fault { key: key.to_owned(), problem: problem.into() }
    }
}

/// A recipe as it is shown to people.
#[derive(Clone, Debug, PartialEq)]
pub struct RecipeInfo {
    /// Its name.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// The settings it has where none are given.
    pub defaults: TrainConfig,
}

/// Lists the recipes with their defaults.
#[must_use]
pub fn recipes() -> Vec<RecipeInfo> {
    let info = |recipe: Recipe| RecipeInfo {
        name: recipe.name(),
        about: recipe.about(),
        defaults: TrainConfig::default_of(recipe),
    };
    Recipe::ALL.map(info).to_vec()
}

impl TrainConfig {
    /// The settings a recipe has where none are given.
    #[must_use]
    pub fn default_of(recipe: Recipe) -> TrainConfig {
        let (lr, weight_decay, dropout) = match recipe {
            Recipe::Mlp => (2e-3, 0.01, 0.2),
            Recipe::Cnn => (4e-3, 0.1, 0.4),
        };
        let (hidden, channels) = match recipe {
            Recipe::Mlp => (vec![256, 128], vec![]),
            Recipe::Cnn => (vec![128], vec![32, 64]),
        };
        TrainConfig {
            recipe,
            data: DataSource::Digits,
            epochs: 25,
            batch: 64,
            lr,
            optimizer: Optimizer::Adamw,
            weight_decay,
            momentum: 0.9,
            warmup: 0.1,
            clip_norm: None,
            shift: 0,
            dropout,
            hidden,
            channels,
            seed: 0,
            target_accuracy: None,
            checkpoint_every: 200,
            requeue_on_stop: false,
        }
    }

    /// Reads the settings of the recipe called `recipe` from a JSON object; an empty
    /// text means the defaults.
    ///
    /// # Errors
    /// Lists every fault with its key.
    pub fn parse(recipe: &str, settings: &str) -> Result<TrainConfig, ConfigError> {
        let mut map: Map<String, Value> = if settings.trim().is_empty() {
            Map::new()
        } else {
            serde_json::from_str(settings)
                .map_err(|error| ConfigError(vec![Fault::new("settings", format!("not a JSON object: {error}"))]))?
        };
        match map.get("recipe") {
            Some(given) if given.as_str() != Some(recipe) => {
                let problem = format!("is {given} in the settings and {recipe:?} by name");
                Err(ConfigError(vec![Fault::new("recipe", problem)]))
            }
            Some(_) | None => {
                map.insert("recipe".to_owned(), recipe.into());
                TrainConfig::try_from(map)
            }
        }
    }

    /// Hashes what decides the result: settings that only say when to save or where
    /// the data lies are left out, and the data itself has its own fingerprint.
    pub(crate) fn hash(&self) -> String {
        let text = serde_json::to_string(&self.deciding()).unwrap_or_default();
        sha256_hex(text.as_bytes())
    }

    /// Says how `self` differs from `other` in what decides the result, key by key.
    pub(crate) fn differences(&self, other: &TrainConfig) -> Vec<String> {
        let (ours, theirs) = (self.deciding(), other.deciding());
        let differs = |(key, value): (&String, &Value)| {
            let before = theirs.get(key).unwrap_or(&Value::Null);
            (before != value).then(|| format!("{key} was {before} and is {value}"))
        };
        ours.iter().filter_map(differs).collect()
    }

    fn deciding(&self) -> Map<String, Value> {
        let Ok(Value::Object(mut map)) = serde_json::to_value(self) else {
            return Map::new();
        };
        for key in ["data", "checkpoint_every", "requeue_on_stop"] {
            map.remove(key);
        }
        map
    }
}

impl TryFrom<Map<String, Value>> for TrainConfig {
    type Error = ConfigError;

    fn try_from(map: Map<String, Value>) -> Result<TrainConfig, ConfigError> {
        let mut fields = Fields::new(map);
        let Some(recipe) = fields.recipe() else {
            return Err(ConfigError(fields.faults));
        };
        let base = TrainConfig::default_of(recipe);
        let config = TrainConfig {
            recipe,
            data: fields.take("data", base.data, "\"digits\", {\"idx\": FOLDER} or {\"packed\": FILE}"),
            epochs: fields.whole("epochs", base.epochs, 1..=100_000),
            batch: fields.whole("batch", base.batch, 1..=65_536),
            lr: fields.real("lr", base.lr, 1e-9..=100.0),
            optimizer: fields.take("optimizer", base.optimizer, "\"adamw\" or \"sgd\""),
            weight_decay: fields.real("weight_decay", base.weight_decay, 0.0..=1.0),
            momentum: fields.real("momentum", base.momentum, 0.0..=0.999_999),
            warmup: fields.real("warmup", base.warmup, 0.0..=1.0),
            clip_norm: fields.optional_real("clip_norm", 1e-9..=1e9),
            shift: fields.whole("shift", base.shift, 0..=8),
            dropout: fields.real("dropout", base.dropout, 0.0..=0.95),
            hidden: fields.sizes("hidden", base.hidden, 16_384),
            channels: match recipe {
                Recipe::Mlp => fields.absent("channels", base.channels),
                Recipe::Cnn => fields.sizes("channels", base.channels, 1_024),
            },
            seed: fields.take("seed", base.seed, "a whole number from 0 to 2^64 - 1"),
            target_accuracy: fields.optional_real("target_accuracy", 0.0..=1.0),
            checkpoint_every: fields.whole("checkpoint_every", base.checkpoint_every, 1..=1_000_000),
            requeue_on_stop: fields.take("requeue_on_stop", base.requeue_on_stop, "true or false"),
        };
        let faults = fields.finish();
        if faults.is_empty() { Ok(config) } else { Err(ConfigError(faults)) }
    }
}
