//! The same core under simulated time, network and faults.
//!
//! A [`World`] holds the real scheduler's core and the real agents' machines. Clock, wire, disk, supervisors, tasks and
//! people are simulated, and everything that goes wrong in a cluster goes wrong here, by seed: a seed is a whole run,
//! and run twice it gives one trace. After every step the invariants hold, the state is the fold of the log, every
//! placement round replays to the same decisions, and the history checker finds nothing.
//!
//! Deliberately absent: traces of real workloads and other policies (a later issue).

mod counters;
mod disk;
mod driver;
mod faults;
mod jobs;
mod net;
mod node;
mod queue;
mod rng;
mod run;
mod scheduler;
mod supervisor;
mod trace;
mod truth;
mod world;

pub use counters::{Counters, Group};
pub use faults::Fault;
pub use run::{Broken, Outcome, Plan, run, run_and_explain, run_many};
pub use world::World;
