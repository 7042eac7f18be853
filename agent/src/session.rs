//! The session with the scheduler: its certificate (`identity`), finding the token (`token`), holding the control stream (`uplink`), answering
//! questions about logs on a stream of their own (`logs`).
//!
//! Elsewhere: what is said on the control stream is decided by core's agent machine, which `driver` carries.

pub(crate) mod identity;
pub(crate) mod logs;
pub(crate) mod token;
pub(crate) mod uplink;
