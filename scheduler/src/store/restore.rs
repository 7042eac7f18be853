//! Makes a store of a backup again.
//!
//! Every file of the backup is compared with its list before anything is made. The new store gets one event more, the
//! core's `ClusterRestored`: numbers go on above all that was given since the backup, and nodes and leases of the lost
//! time are stopped or adopted, never confused.
//!
//! Into PostgreSQL it is the same: the folder is made, with the new event, and then the database is made of it.
//!
//! Invariant: the store has its name only when it is whole, opened once, and its new event is synced. A database gets its
//! tables in one transaction.
//!
//! Elsewhere: what the event means is `gangsaw_core::restore`; backups are made by `backup`.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use gangsaw_core::event::{By, Event};
use gangsaw_core::id::{Actor, NameError, RequestId};
use gangsaw_core::restore::restored;
use gangsaw_core::time::{Millis, Time};

use super::backup::{MANIFEST, MANIFEST_FORMAT, Manifest, copy, sum};
use super::contract::{AppendError, Store};
use super::postgres::PgOpenError;
use super::postgres::copy as database;
use super::postgres::link::Target;
use super::project::Projection;
use super::sqlite::{self, OpenError};
use super::{Loaded, SqliteStore};
use crate::clock::{Clock, wall_ms};
use crate::wire::view::Now;

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// How often this cluster was restored.
    pub epoch: u64,
    /// Sequence of the event that says so.
    pub last_seq: u64,
    /// Milliseconds between the backup's newest event and now: what happened then is not known.
    pub lost_ms: u64,
    /// The number of the next job.
    pub next_job: u64,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is a scheduler's state already.
    #[error("{0} exists")]
    Occupied(PathBuf),
    /// There is a scheduler's state in the database already.
    #[error("{0} has tables of gangsaw already")]
    Taken(String),
    /// PostgreSQL cannot be used.
    #[error("cannot write the store")]
    Database(#[source] OpenError),
    /// The folder is no backup, or one of another version.
    #[error("{path} is no backup that this version reads: {why}")]
    NotABackup {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        why: String,
    },
    /// A file is not as it was.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What differs.
        why: String,
    },
    /// The name of who asked cannot be one.
    #[error("who asks {0}")]
    BadName(#[from] NameError),
    /// The store that was made cannot be opened.
    #[error("cannot open what was restored: {0}")]
    Open(#[from] OpenError),
    /// The event cannot be appended.
    #[error("cannot append to what was restored: {0}")]
    Append(#[from] AppendError),
    /// A file cannot be read or written.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::Io { path, source }
}

/// Restores `backup` into a state folder that has no scheduler's state; `actor` is who asked.
///
/// # Errors
/// The backup is damaged, the folder is in use, or something cannot be written; then the folder is as before.
pub fn restore(backup: &Path, state_dir: &Path, actor: &str) -> Result<Restored, RestoreError> {
    let target = state_dir.join("scheduler");
    if target.symlink_metadata().is_ok() {
        return Err(RestoreError::Occupied(target));
    }
    make(backup, state_dir, actor, |fresh| settle(fresh, state_dir))
}

/// Restores `backup` into the database that `url` names, which has no tables of a scheduler. The small files go into the
/// state folder, if it has no scheduler's yet; one that is there is left as it is.
///
/// It waits on the calling thread, which must not be one of a runtime's.
///
/// # Errors
/// The backup is damaged, the database is in use, or something cannot be written; then the database is as before.
pub fn restore_postgres(backup: &Path, state_dir: &Path, url: &str, actor: &str) -> Result<Restored, RestoreError> {
    let refused = |error: PgOpenError| RestoreError::Database(error.into());
    let target = Target::open(url).map_err(refused)?;
    let taken = || RestoreError::Taken(target.shown());
    // Told before anything is copied; that it is still so is looked at again with the tables.
    if database::is_taken(&target).map_err(refused)? {
        return Err(taken());
    }
    make(backup, state_dir, actor, |fresh| {
        if !database::copy_in(&target, fresh).map_err(RestoreError::Database)? {
            return Err(taken());
        }
        if state_dir.join("scheduler").symlink_metadata().is_ok() {
            return std::fs::remove_dir_all(fresh).map_err(at(fresh));
        }
        for file in ["gangsaw.db", "gangsaw.db-wal", "gangsaw.db-shm", "gangsaw.db.lock"] {
            // Closing a database takes two of them away.
            let _ = std::fs::remove_file(fresh.join(file));
        }
        let archives = fresh.join("archive");
        if archives.exists() {
            std::fs::remove_dir_all(&archives).map_err(at(&archives))?;
        }
        settle(fresh, state_dir)
    })
}

/// Makes a scheduler's folder of a backup under a name of its own, and has it `settled`.
fn make(
    backup: &Path,
    state_dir: &Path,
    actor: &str,
    settled: impl FnOnce(&Path) -> Result<(), RestoreError>,
) -> Result<Restored, RestoreError> {
    let by = By { actor: Actor::new(actor)?, request_id: RequestId::new("restore")? };
    let manifest = verified(backup)?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(at(state_dir))?;
    let fresh = state_dir.join(format!("scheduler.unfinished-{}", std::process::id()));
    let done = fill(backup, &manifest, &fresh, by).and_then(|restored| {
        settled(&fresh)?;
        Ok(restored)
    });
    if done.is_err() {
        // It never had its name; the error says why.
        let _ = std::fs::remove_dir_all(&fresh);
    }
    done
}

/// Gives the folder its name.
fn settle(fresh: &Path, state_dir: &Path) -> Result<(), RestoreError> {
    let target = state_dir.join("scheduler");
    std::fs::rename(fresh, &target).map_err(at(&target))?;
    std::fs::File::open(state_dir).and_then(|folder| folder.sync_all()).map_err(at(state_dir))
}

/// Reads the list of a backup and compares every file with it.
fn verified(backup: &Path) -> Result<Manifest, RestoreError> {
    let path = backup.join(MANIFEST);
    let not = |why: String| RestoreError::NotABackup { path: path.clone(), why };
    let text = std::fs::read(&path).map_err(|error| not(error.to_string()))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| not(error.to_string()))?;
    if (manifest.format, manifest.store_format) != (MANIFEST_FORMAT, sqlite::FORMAT) {
        return Err(not(format!("it has format {} with store format {}", manifest.format, manifest.store_format)));
    }
    for entry in &manifest.files {
        let relative = Path::new(&entry.path);
        let plain = |part| matches!(part, std::path::Component::Normal(_));
        if !relative.starts_with("scheduler") || !relative.components().all(plain) {
            return Err(not(format!("it names {:?}, which is not below it", entry.path)));
        }
        let file = backup.join(relative);
        let damaged = |why: String| RestoreError::Damaged { path: file.clone(), why };
        let (bytes, crc32) = sum(&file).map_err(|error| damaged(error.to_string()))?;
        if bytes != entry.bytes {
            return Err(damaged(format!("it has {bytes} bytes, not {}", entry.bytes)));
        }
        if crc32 != entry.crc32 {
            return Err(damaged("its checksum does not match".to_owned()));
        }
    }
    Ok(manifest)
}

fn fill(backup: &Path, manifest: &Manifest, fresh: &Path, by: By) -> Result<Restored, RestoreError> {
    let folder = |path: &Path| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path));
    folder(fresh)?;
    for entry in &manifest.files {
        let below = Path::new(&entry.path).strip_prefix("scheduler").unwrap_or(Path::new(&entry.path));
        let to = fresh.join(below);
        folder(to.parent().unwrap_or(fresh))?;
        copy(&backup.join(&entry.path), &to).map_err(at(&to))?;
    }
    let (mut store, Loaded { mut state, last_wall_ms }) = SqliteStore::open(fresh, None)?;
    let lost_ms = if last_wall_ms == 0 { 0 } else { wall_ms().saturating_sub(last_wall_ms) };
    let time = Clock::resume(state.now().0, last_wall_ms).now_ms().max(state.now().0);
    let now = Now { time: Time(time), wall_ms: wall_ms() };
    let event = restored(&state, by, Millis(lost_ms));
    let mut projection = Projection::default();
    projection.fold(&mut state, now, &event);
    let rows = projection.rows(&state, now);
    let events: [Event; 1] = [event];
    let last_seq = store.append(now.time, now.wall_ms, &events, &rows)?;
    drop(store);
    let counters = state.counters();
    Ok(Restored { epoch: counters.epoch, last_seq, lost_ms, next_job: counters.job })
}
