//! Checking a store in PostgreSQL: a copy of it is checked as any other store.

use super::super::postgres::copy;
use super::super::postgres::link::Target;
use super::super::sqlite::OpenError;
use super::{Place, Report, examine};

/// Checks the store in the database that `url` names; `rebuild` also writes the rows again that differ.
///
/// It waits on the calling thread, which must not be one of a runtime's.
///
/// # Errors
/// The store cannot be read at all, or `rebuild` was asked for while a scheduler leads there, or began to meanwhile.
pub fn fsck_postgres(url: &str, rebuild: bool) -> Result<Report, OpenError> {
    let target = Target::open(url)?;
    let epoch = if rebuild { Some(copy::claim(&target)?) } else { None };
    let scratch = tempfile::tempdir().map_err(|source| OpenError::Io { path: std::env::temp_dir(), source })?;
    let live = copy::copy_out(&target, scratch.path())?;
    let copied = scratch.path().join("gangsaw.db");
    let mut report = examine(scratch.path(), (&Place::database(&target), &copied), scratch.path(), rebuild)?;
    report.live = live;
    if let Some(epoch) = epoch.filter(|_| report.rebuilt > 0 && report.faults.is_empty()) {
        copy::write_rows(&target, scratch.path(), epoch)?;
    }
    Ok(report)
}
