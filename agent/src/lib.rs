//! The node agent: what a machine offers, what it runs for the scheduler, and what became of it.
//!
//! The agent dials the scheduler, holds the leases of its node in core's agent machine, and has the supervisor, a small
//! process that outlives it, start and stop the tasks. It decides nothing that another node could notice by itself.
//!
//! | module | is |
//! |---|---|
//! | [`run()`] | the agent's process: makes the parts, joins them, ends them in order |
//! | `driver` | carries core's agent machine between the uplink and the supervisor |
//! | `session` | the streams to the scheduler, and the token |
//! | `keeper`, `adopt`, `journal` | the supervisor's life, and what it holds after a restart |
//! | `disk` | whether what is promised here can be kept |
//! | `launch`, `users`, `checkpoint` | from a grant to what is run |
//! | [`clean()`] | giving disk space back |
//! | [`trust`] | which scheduler is believed |
//! | `inventory`, [`nvml_child`] | what the node offers |
//! | `progress` | what tasks say of themselves |
//! | [`Hollow`] | a node without processes, to make load with |
//! | [`supervisor`], [`spool`], `cgroup` | the process that holds the tasks |
//!
//! Elsewhere: the machine's rules are `gangsaw_core::agent`; the wire is `gangsaw_proto::node`.

mod adopt;
mod cgroup;
mod checkpoint;
mod clean;
mod convert;
mod disk;
mod driver;
mod folder;
mod hollow;
mod inventory;
mod journal;
mod keeper;
mod launch;
pub mod nvml_child;
mod progress;
mod run;
mod session;
pub mod spool;
pub mod supervisor;
pub mod trust;
mod users;

pub use clean::{Cleaned, Retention, clean};
pub use folder::FolderError;
pub use hollow::{Hollow, Tally, Tasks};
pub use progress::{DATAGRAM_MAX, send_progress};
pub use run::{AgentError, Config, run};
pub use session::identity::JoinError;
pub use session::token::ServerError;
