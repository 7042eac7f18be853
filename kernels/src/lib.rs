//! The device: what CUDA hardware is here, and the kernels we run on it.
//!
//! Two things live here. [`probe`](mod@probe) asks the driver which devices exist, and
//! never panics on a machine without one. Each kernel is a `.cu` text, a Rust wrapper
//! that compiles it with NVRTC when it is loaded, and a CPU `reference` that defines
//! what it computes. A plain build needs no CUDA toolkit and the program starts on any
//! machine: every CUDA library is opened at run time, and only after asking whether it
//! is there.
//!
//! Invariants:
//! - Nothing here panics because a library, a device or a symbol is missing.
//! - A kernel is equal to its reference bit for bit: both use only correctly rounded
//!   IEEE operations in the same order, and neither may be contracted.
//!
//! **No kernel here has run on a GPU yet.** What is tested is the CPU reference, that
//! the probe answers on a machine without CUDA, and (by name, where NVRTC is installed)
//! that the `.cu` text compiles.
//!
//! Elsewhere: training is the crate `gangsaw-trainer`; NVML inventory is the agent's.

pub mod adamw;
pub mod probe;

pub use probe::{Device, NoDevice, probe};
