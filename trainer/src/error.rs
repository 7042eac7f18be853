//! Why a run ended without a model, and the exit code that says so.

use std::path::{Path, PathBuf};

use crate::config::{ConfigError, Fault};
use crate::data::DataError;
use crate::task::{EXIT_NO_CUDA, EXIT_STOPPED};

/// Why training or evaluation gave no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The settings are wrong.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The data cannot be read.
    #[error("{0}")]
    Data(#[from] DataError),
    /// The device cannot be used.
    #[error("{0}")]
    Device(String),
    /// A checkpoint belongs to another run.
    #[error("checkpoint {} cannot be resumed: {reason}", path.display())]
    Resume {
        /// The checkpoint.
        path: PathBuf,
        /// How this run differs.
        reason: String,
    },
    /// Loss or gradients stopped being numbers; the weights were not updated with them.
    #[error("{what} is not finite at step {step} of {steps}; a lower lr or clip_norm may help")]
    NonFinite {
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// The step, counted from 1.
        step: u32,
        /// All steps of the run.
        steps: u32,
    },
    /// The run was asked to stop, and did so between two steps.
    #[error("stopped as asked after step {step}")]
    Stopped {
        /// Steps done so far, all attempts together.
        step: u32,
        /// The checkpoint written for this stop; absent if it could not be written.
        checkpoint: Option<PathBuf>,
    },
    /// A file of ours cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
    /// A model file is not one of ours, or is damaged.
    #[error("{}: {problem}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An operation refused: a fault of this program.
    #[error("{0}")]
    Tensor(#[from] candle_core::Error),
}

impl TrainError {
    pub(crate) fn config(key: &str, problem: String) -> TrainError {
        TrainError::Config(ConfigError(vec![Fault { key: key.to_owned(), problem }]))
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> TrainError {
        let path = path.to_owned();
        move |error| TrainError::Io { path, error }
    }

    /// The stable word for this kind of error.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            TrainError::Config(_) => "bad-settings",
            TrainError::Data(_) => "bad-data",
            TrainError::Device(_) => "no-device",
            TrainError::Resume { .. } => "other-run",
            TrainError::NonFinite { .. } => "not-finite",
            TrainError::Stopped { .. } => "stopped",
            TrainError::Io { .. } => "io",
            TrainError::Model { .. } => "bad-model",
            TrainError::Tensor(_) => "internal",
        }
    }

    /// The exit code of a task that ends with this error: those of sysexits.h where one
    /// fits, 2 for what the user wrote, and 143 for a stop (128 + SIGTERM).
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            TrainError::Config(_) | TrainError::Resume { .. } => 2,
            TrainError::Data(_) | TrainError::Model { .. } => 65,
            TrainError::Device(_) => EXIT_NO_CUDA,
            TrainError::NonFinite { .. } => 1,
            TrainError::Stopped { .. } => EXIT_STOPPED,
            TrainError::Io { .. } => 74,
            TrainError::Tensor(_) => 70,
        }
    }
}
