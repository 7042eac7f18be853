//! The scheduler as it is: real engine, real store, real RPC over loopback; only the agents are played.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test waits for one message and fails on any other")]

mod admission;
mod common;
mod disk;
mod door;
mod foreign;
mod kill;
mod lead;
mod logs;
mod people;
mod promote;
mod rows;
#[path = "../../src/store/tests/server.rs"]
mod server;
mod silence;
mod straight_path;
