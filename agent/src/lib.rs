//! gangsaw-agent.

mod cgroup;
pub mod spool;
pub mod supervisor;
