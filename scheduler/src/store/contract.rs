//! What every store promises, whatever holds its tables.
//!
//! The engine speaks to its store through one virtual call a batch; everything else about the tables is the
//! implementation's own.
//!
//! Invariants of every implementation, held to one suite of tests (`tests/suite.rs`):
//! - `append` returns only after events and rows are durable, all of them or none; after a failure that leaves it in
//!   doubt, it never succeeds again.
//! - Sequence numbers begin at 1 and have no gaps.
//! - A store that is opened again folds to the state that wrote it.
//!
//! Elsewhere: a file on this machine is `sqlite`; what the rows mean is `rows`.

use gangsaw_core::event::Event;
use gangsaw_core::state::State;
use gangsaw_core::time::Time;

use super::history::{Filter, OldJob, OldTasks};
use super::rows::Row;

/// Why a store or its tables refused, whichever they are.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a batch was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk is full and nothing was written. It may be tried again.
    #[error("the disk is full")]
    Full,
    /// Whether the batch is durable is unknown. Nothing is appended any more.
    #[error("the log cannot be trusted after a failed write")]
    Latched(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An earlier failure latched.
    #[error("an earlier write to the log failed")]
    LatchedBefore,
    /// Another scheduler leads, or may: this one writes nothing any more.
    #[error("another scheduler leads")]
    Fenced,
}

/// The store of one scheduler: the log, its snapshot, and the rows that queries read.
pub(crate) trait Store: Send {
    /// Returns the sequence of the last durable event.
    fn last_seq(&self) -> u64;

    /// Makes sure that the state may be shown and decided on: nobody else writes the log.
    fn confirm(&mut self) -> Result<(), AppendError>;

    /// Makes events and rows durable together.
    fn append(&mut self, at: Time, wall_ms: u64, events: &[Event], rows: &[Row]) -> Result<u64, AppendError>;

    /// Takes a snapshot of `state`, the fold of every durable event, when one is due. Says whether it was.
    fn snapshot_if_due(&mut self, state: &State, wall_ms: u64) -> bool;

    /// Returns what ended the store's housekeeping: what it lies on is not to be trusted any more.
    fn keeper_failure(&self) -> Option<String>;

    /// Returns where old jobs are looked up.
    fn history(&self) -> &dyn History;
}

/// Jobs that left the state, as their rows have them.
pub(crate) trait History {
    /// Returns up to `limit` old jobs, newest first.
    fn jobs(&self, filter: &Filter, limit: usize) -> Result<Vec<OldJob>, Cause>;

    /// Returns an old job.
    fn job(&self, job_id: u64) -> Result<Option<OldJob>, Cause>;

    /// Returns up to `limit` runs of tasks that end at or after `(element, rank)`, in order.
    fn tasks(&self, job_id: u64, from: (u32, u32), limit: usize) -> Result<Vec<OldTasks>, Cause>;
}
