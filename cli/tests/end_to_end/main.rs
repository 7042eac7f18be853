//! The real executable, end to end on loopback.
//!
//! Each test has its own folder, state and free port, and its end asserts that nothing of it is left running. Tests of
//! one layer below are where that layer is; here is what people see and what survives being killed.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod backup;
mod bounds;
mod broken;
mod clean;
mod clocks;
mod cluster;
mod database;
mod diagnostics;
mod disk;
mod door;
mod drains;
mod exits;
mod failover;
mod gpus;
mod joins;
mod kills;
mod logs;
mod notify;
mod pages;
mod people;
mod quickstart;
mod relay;
#[path = "../../../scheduler/src/store/tests/secure.rs"]
mod secure;
#[path = "../../../scheduler/src/store/tests/server.rs"]
mod server;
mod shapes;
mod straight;
mod sweep;
mod tls;
mod upgrade;
