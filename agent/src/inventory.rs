//! What this node has and offers: the machine (`host`), its GPUs (`gpu`), and how both are kept fresh (`watch`).
//!
//! Elsewhere: the child process that speaks to NVML is `nvml_child`; what the scheduler is told is `session`.

pub(crate) mod gpu;
pub(crate) mod host;
pub(crate) mod offer;
pub(crate) mod ours;
pub(crate) mod watch;
