//! gangsaw-core.
