//! The session with the scheduler.

pub(crate) mod token;
