//! The fake library of an old driver: no `nvmlShutdown`, no list of compute processes. See `lib.rs`.
#![expect(unsafe_code, reason = "a C interface")]

mod calls;
mod state;

/// What the state says of compute processes has no function here to say it.
#[expect(dead_code, reason = "keeps the field read in both variants")]
fn unlisted(device: &state::Device) -> usize {
    device.compute.len()
}
