//! Training: recipes, data, optimisers, checkpoints, metrics.
//!
//! A run is a pure function of its settings and its data, given the kind of processor:
//! all randomness is counter-based ([`philox`]), sums have a fixed order, and a run that
//! is interrupted and resumed ends in the same bits as one that is not. [`train`] does
//! the work in this thread; [`run_from_env`] is the whole of `gangsaw train` as a task:
//! it reads the `GANGSAW_*` variables, trains, reports, and returns the exit code.
//!
//! | module      | the one thing it is for                                        |
//! |-------------|----------------------------------------------------------------|
//! | `config`    | settings, parsed and checked as a whole                         |
//! | `data`      | labelled images: packed digits, IDX; the split                  |
//! | `batch`     | batch i as a function of (seed, epoch, i)                       |
//! | `random`    | Philox4x32-10                                                   |
//! | `ops`       | our tensor operations with written-out gradients                |
//! | `model`     | recipes as layers over parameters                               |
//! | `optimizer` | AdamW and SGD over flat buffers, schedule, clipping             |
//! | `checkpoint`| the state of a run on disk, complete or not there               |
//! | `model_file`| the result: one safetensors file that is enough to evaluate     |
//! | `train`     | the loop                                                        |
//! | `task`      | a run as a scheduled task: environment, signals, exit code      |
//! | `report`    | metrics file, progress socket, lines for people                 |
//! | `error`     | why a run ended without a model                                 |
//! | `durable`   | files that are whole or not there                               |
//!
//! Absent on purpose: CUDA (this build is CPU-only and says so), mixed precision,
//! several ranks, data over the network.

mod batch;
mod checkpoint;
mod config;
mod data;
mod durable;
mod error;
mod model;
mod model_file;
mod ops;
mod optimizer;
mod random;
mod report;
mod task;
mod train;

pub use candle_core::Device;
pub use config::{ConfigError, DataSource, Fault, Optimizer, Recipe, RecipeInfo, TrainConfig, recipes};
pub use data::DataError;
pub use error::TrainError;
pub use model_file::{Eval, ModelInfo, evaluate};
pub use random::philox;
pub use report::Progress;
pub use task::{EXIT_NO_CUDA, EXIT_REQUEUE, EXIT_STOPPED, open_device, run_from_env};
pub use train::{Dirs, Summary, train};
