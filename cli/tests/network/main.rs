//! The real executable on a real network: two network namespaces and a cable between them that can be cut.
//!
//! The scheduler has no TLS here and so listens on loopback only. 127.0.0.0/8 but for one address is therefore taken
//! off `lo` in both namespaces and routed over the cable (`route_localnet`): every packet between agent and scheduler
//! passes the cable, with no relay in between that would hide what TCP does. Cables are cut by iptables.
//!
//! Needs root, `ip`, `nsenter` and `iptables`; a test that lacks them says so, and fails where `CI=true`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "the other tests of this executable need more of it")]
#[path = "../end_to_end/cluster.rs"]
mod cluster;
mod leader;
mod loss;
mod partition;
#[expect(dead_code, reason = "the other tests of this executable need more of it")]
#[path = "../../../scheduler/src/store/tests/server.rs"]
mod server;
mod stops;
mod wire;
