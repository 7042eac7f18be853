//! The scheduler as it is: real engine, real store, real RPC over loopback; only the agents are played.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;
mod door;
mod kill;
mod straight_path;
