//! gangsaw-scheduler.
