//! What a restored backup means: the log ends earlier than what nodes and people have seen.
//!
//! Between the backup and the restore jobs were submitted, leases granted, attempts begun and reports acknowledged, and
//! none of it is known any more. One event, [`Event::ClusterRestored`], makes that safe:
//!
//! - Numbers go on above all that can have been given in the lost time. A lease of that time is therefore never taken
//!   for a new one: its node says in its Hello that it holds it, and is told to stop it, as with any unknown lease.
//! - Attempts go on above all that can have been begun, so that a new attempt writes to a folder of its own.
//! - Every node is silent until its Hello, so nothing is placed on devices whose processes are not known.
//! - Every lease in the backup may have begun. One that its node still holds goes on, whatever happened since (it is
//!   adopted); one that it does not hold ended in the lost time, and its elements are tried again.
//!
//! Restoring the same backup a second time yields higher numbers, for more time was lost.

use crate::event::{By, Event, Raised};
use crate::id::Attempt;
use crate::state::State;
use crate::time::Millis;

/// Jobs a second that can have been submitted in the lost time: more than a scheduler takes.
const JOBS_PER_SECOND: u64 = 20_000;
/// Leases a second that can have been granted in the lost time.
const LEASES_PER_SECOND: u64 = 200_000;
/// Numbers that are skipped however little time was lost: clocks may be wrong.
const LEAST: u64 = 1_000_000;
/// Nodes that can have registered in the lost time.
const NODES: u32 = 100_000;
/// Attempts an element can have begun in a short time: its retries of each class.
const ATTEMPTS: Attempt = 5_000;

/// Returns the event that follows the last one of a backup; `lost` is the time since that one.
pub fn restored(state: &State, by: By, lost: Millis) -> Event {
    let counters = state.counters();
    let seconds = lost.0.div_ceil(1_000);
    let above = |next: u64, per_second: u64| {
        let least = next.saturating_add(seconds.saturating_mul(per_second)).saturating_add(LEAST);
        // Numbers that people read begin anew at a round one.
        least.checked_next_multiple_of(LEAST).unwrap_or(least)
    };
    let attempts = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_add(ATTEMPTS);
    Event::ClusterRestored(Raised {
        by,
        epoch: counters.epoch + 1,
        job: above(counters.job, JOBS_PER_SECOND),
        lease: above(counters.lease, LEASES_PER_SECOND),
        node: counters.node.saturating_add(NODES),
        attempt_base: counters.attempt_base.saturating_add(attempts),
    })
}

#[cfg(test)]
mod tests;
