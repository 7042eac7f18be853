//! What people's programs and nodes call: the services of jobs.v1, admin.v1 and node.v1.
//!
//! Generated types stop here. Each service copies a message field by field into the core's plain types, gives the
//! engine one input, and copies the answer back; it decides nothing.
//!
//! Elsewhere: who may call is `rules` and `auth`, who calls is `caller`; every refusal becomes a status in `errors` and nowhere else.

pub(crate) mod admin;
pub(crate) mod admission;
pub(crate) mod ask;
pub(crate) mod auth;
pub(crate) mod caller;
pub(crate) mod cut;
pub(crate) mod errors;
pub(crate) mod facts;
pub(crate) mod jobs;
pub(crate) mod join;
pub(crate) mod list;
pub(crate) mod node;
pub(crate) mod rules;
pub(crate) mod tokens;
pub(crate) mod watch;
