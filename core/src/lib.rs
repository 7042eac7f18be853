//! The decisions of Gangsaw, pure: no async, no clock, no randomness, no IO, no lock, no log.
//!
//! | word | direction | rule |
//! |---|---|---|
//! | [`input::Input`] | outside → core | carries data only; time is an argument |
//! | [`event::Event`] | core → log | the only thing that changes [`state::State`] |
//! | [`effect::Effect`] | core → outside | performed after its events are durable |
//!
//! [`decide::decide`] says what an input means, [`place::place`] runs a placement round, [`apply::apply`] folds an
//! event, [`owed::owed`] derives what a node must be told, [`place::replay`] computes recorded rounds again. The same
//! code runs in production, in the simulator and in tests.
//!
//! Everything that a decision reads is in the state, and the state changes only by events.

pub mod access;
pub mod agent;
pub mod apply;
pub mod check;
pub mod decide;
pub mod effect;
pub mod event;
mod grant;
mod hash;
pub mod id;
pub mod input;
pub mod job;
pub mod join;
mod keys;
pub mod lease;
pub mod liveness;
pub mod mutations;
pub mod node;
pub mod owed;
pub mod place;
pub mod queue;
pub mod ranges;
pub mod rare;
pub mod reason;
pub mod resources;
pub mod restore;
pub mod state;
pub mod time;
pub mod token;
pub mod version;

#[cfg(test)]
mod tests;
