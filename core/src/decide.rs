//! What an input means: events to append and effects to perform after that. Changes nothing.

use crate::effect::Step;
use crate::input::Request;
use crate::state::State;
use crate::time::Time;

/// Requeues (`requeue_on`) an element may use: a command that always asks for another turn must end.
pub const REQUEUES_MAX: u32 = 100;

/// Decides what `request` means in `state` at `now`.
pub fn decide(_state: &State, _now: Time, _request: &Request) -> Step {
    Step::default()
}
