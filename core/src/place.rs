//! Placement: which elements start where, now.

use crate::effect::Step;
use crate::event::Record;
use crate::state::State;
use crate::time::Time;

/// Runs a placement round: also cancels jobs whose dependencies cannot be met.
pub fn place(_state: &State, _now: Time) -> Step {
    Step::default()
}

/// A recorded round that comes out otherwise when computed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayDiff {
    /// The record of RoundDecided.
    pub seq: u64,
    /// Its round.
    pub round: u64,
    /// As recorded.
    pub recorded: u64,
    /// As computed.
    pub computed: u64,
}

/// Computes every recorded round again, from `state` on, and returns those that differ.
pub fn replay<'a>(
    _state: State,
    _records: impl IntoIterator<Item = &'a Record>,
) -> Vec<ReplayDiff> {
    Vec::new()
}
