//! A library that looks like `libnvidia-ml.so.1`, for machines without a GPU.
//!
//! The agent's own code loads it through nvml-wrapper when `LD_LIBRARY_PATH` leads there; the product has no switch
//! for it. What it says comes from the JSON file that `FAKE_NVML_STATE` names (see `state`), read again whenever it
//! changed, so a test can pull a card off the bus while the agent looks. Every call is appended to `FAKE_NVML_LOG`.
//!
//! `old.rs` is the same library as an old driver has it: without some functions, `nvmlShutdown` among them.
#![expect(unsafe_code, reason = "a C interface")]

mod calls;
mod recent;
mod state;
