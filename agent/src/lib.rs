#![allow(dead_code)]
//! The node agent: what a machine offers, what it runs for the scheduler, and what became of it.
//!
//! The agent dials the scheduler, holds the leases of its node in core's agent machine, and has the supervisor, a small
//! process that outlives it, start and stop the tasks. It decides nothing that another node could notice by itself.
//!
//! Elsewhere: the machine's rules are `gangsaw_core::agent`; the wire is `gangsaw_proto::node`.

mod cgroup;
mod inventory;
pub mod nvml_child;
mod progress;
mod session;
pub mod spool;
pub mod supervisor;

pub use progress::{DATAGRAM_MAX, send_progress};
pub use session::token::ServerError;
