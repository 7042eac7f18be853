//! Jobs: what is asked for (`draft`, `spec`), and what became of it (`record`, `body`).
//!
//! job → elements (array indices; one if no array) → ranks. The element is what is leased, retried, cancelled and
//! finished; a job's state is derived from its elements and kept nowhere.
//!
//! Elsewhere: leases of elements are `lease`; transitions are `decide` and `apply`.

pub mod body;
pub mod draft;
pub mod notice;
pub mod parse;
pub mod record;
pub mod spec;
