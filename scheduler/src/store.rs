//! The log of events, its snapshot, and the rows that history queries read, in one SQLite file.
pub(crate) mod archive;
pub(crate) mod fail;
pub(crate) mod frame;
pub(crate) mod keeper;
pub(crate) mod sqlite;
pub(crate) mod wal;
