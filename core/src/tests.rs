//! Tests of the core as a whole: exact traces for each behaviour, and random runs that check every invariant.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod access;
mod chunks;
mod fuzz;
mod gangs;
mod history;
mod join;
mod life;
mod limits;
mod nodes;
mod notices;
mod placement;
mod random;
mod sizes;
mod submits;
mod world;
