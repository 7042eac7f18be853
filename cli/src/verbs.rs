//! What people can ask for; one module a verb or a family of verbs.

pub(crate) mod agent;
pub(crate) mod change;
pub(crate) mod clean;
pub(crate) mod logs;
pub(crate) mod nodes;
pub(crate) mod own;
pub(crate) mod progress;
pub(crate) mod ps;
pub(crate) mod queue;
pub(crate) mod quickstart;
pub(crate) mod run;
pub(crate) mod scheduler;
pub(crate) mod show;
pub(crate) mod submit;
pub(crate) mod token;
pub(crate) mod train;
pub(crate) mod up;
pub(crate) mod wait;
