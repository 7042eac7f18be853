//! Copies of a store that can be restored, made while its scheduler works.
//!
//! A backup is a folder: the database as it was at one moment, the archives of what was moved out of it before, and the
//! small files that make a scheduler itself again (token, certificates). It is the same folder whichever kind the store
//! is, so that it can be restored into either. `backup.json` lists every file with its length
//! and checksum, and is written last. Copies of tasks' logs are not in it.
//!
//! Invariants:
//! - The folder has its name only when it is whole, synced, and was checked as `fsck` checks.
//! - The database is copied before the archives, so what moves meanwhile is in one of them; an archive that goes beyond
//!   the database is left out, for its events would come a second time after a restore.
//!
//! Elsewhere: `restore` makes a store of it again.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::fsck::Place;
use super::postgres::copy as database;
use super::postgres::link::Target;
use super::sqlite::OpenError;
use super::{archive, fsck, sqlite};
use crate::clock::wall_ms;

/// Version of [`Manifest`].
pub(super) const MANIFEST_FORMAT: u64 = 1;
/// Name of the file that lists the others.
pub(super) const MANIFEST: &str = "backup.json";
/// What of a scheduler's folder belongs to a running one, is copied in another way, or can be lost.
const LEFT_OUT: [&str; 7] =
    ["gangsaw.db", "gangsaw.db-wal", "gangsaw.db-shm", "gangsaw.db.lock", "address", "archive", "logs"];

/// What a backup holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) format: u64,
    pub(super) store_format: i64,
    /// The version of gangsaw that made it.
    pub(super) version: String,
    pub(super) taken_wall_ms: u64,
    pub(super) last_seq: u64,
    pub(super) files: Vec<Entry>,
}

/// One file of a backup.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Below the backup's folder.
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) crc32: u32,
}

/// What was backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backed {
    /// Sequence of the newest event in it.
    pub last_seq: u64,
    /// How many files it has.
    pub files: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something has its name.
    #[error("{0} exists")]
    Exists(PathBuf),
    /// What would be copied is damaged.
    #[error("{0}")]
    Damaged(String),
    /// The database cannot be copied.
    #[error("cannot copy {path}: {source}")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
    /// PostgreSQL cannot be copied.
    #[error("cannot copy the store")]
    Database(#[source] OpenError),
    /// A file cannot be read or written.
    #[error("cannot copy {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}

/// Backs the store of a state folder up as the new folder `dest`.
///
/// # Errors
/// `dest` exists, the store is damaged, or something cannot be copied; then there is no `dest`.
pub fn backup(state_dir: &Path, dest: &Path) -> Result<Backed, BackupError> {
    let source = state_dir.join("scheduler");
    let path = source.join("gangsaw.db");
    std::fs::metadata(&path).map_err(at(&path))?;
    make(dest, Place::file(&path), |folder| {
        copy_store(&source, folder)?;
        copy_others(&source, folder, &LEFT_OUT)
    })
}

/// Backs the store in the database that `url` names up as the new folder `dest`, with the small files of the scheduler
/// in `state_dir` if there is one.
///
/// It waits on the calling thread, which must not be one of a runtime's.
///
/// # Errors
/// As those of [`backup`].
pub fn backup_postgres(url: &str, state_dir: &Path, dest: &Path) -> Result<Backed, BackupError> {
    let target = Target::open(url).map_err(|error| BackupError::Database(error.into()))?;
    let source = state_dir.join("scheduler");
    make(dest, Place::database(&target), |folder| {
        database::copy_out(&target, folder).map_err(BackupError::Database)?;
        if source.is_dir() { copy_others(&source, folder, &LEFT_OUT) } else { Ok(()) }
    })
}

/// Makes the folder `dest` of what `copy` puts into a scheduler's folder.
fn make(dest: &Path, place: Place, copy: impl FnOnce(&Path) -> Result<(), BackupError>) -> Result<Backed, BackupError> {
    if dest.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(dest.to_owned()));
    }
    let mut name = dest.file_name().unwrap_or_default().to_owned();
    name.push(format!(".unfinished-{}", std::process::id()));
    let fresh = dest.with_file_name(name);
    let folder = fresh.join("scheduler");
    let private = |path: &Path| std::fs::DirBuilder::new().mode(0o700).create(path).map_err(at(path));
    let done = private(&fresh)
        .and_then(|()| private(&folder))
        .and_then(|()| private(&folder.join("archive")))
        .and_then(|()| copy(&folder))
        .and_then(|()| seal(&fresh, &folder, &place))
        .and_then(|backed| {
            std::fs::rename(&fresh, dest).map_err(at(dest))?;
            sync(dest.parent().unwrap_or(Path::new("/")))?;
            Ok(backed)
        });
    if done.is_err() {
        // What is left of it is of no use to anybody; the error says why.
        let _ = std::fs::remove_dir_all(&fresh);
    }
    done
}

/// Copies database and archives of a scheduler's folder.
fn copy_store(source: &Path, folder: &Path) -> Result<(), BackupError> {
    let (from, to) = (source.join("gangsaw.db"), folder.join("gangsaw.db"));
    let sqlite = |source| BackupError::Sqlite { path: from.clone(), source };
    fsck::vacuum_into(&from, &to).map_err(sqlite)?;
    let last_seq = last_seq(&to).map_err(sqlite)?;
    for (_, last, file) in archive::list(&source.join("archive")).map_err(at(&source.join("archive")))? {
        if last <= last_seq {
            let to = folder.join("archive").join(file.file_name().unwrap_or_default());
            copy(&file, &to).map_err(at(&file))?;
        }
    }
    Ok(())
}

/// Checks what was copied, lists it, and syncs it.
fn seal(fresh: &Path, folder: &Path, place: &Place) -> Result<Backed, BackupError> {
    let database = folder.join("gangsaw.db");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&database, private).map_err(at(&database))?;
    let last_seq = last_seq(&database).map_err(|source| BackupError::Sqlite { path: database.clone(), source })?;
    let scratch = tempfile::tempdir().map_err(at(fresh))?;
    let checked = fsck::examine(folder, (place, &database), scratch.path(), false)
        .map_err(|error| BackupError::Damaged(error.to_string()))?;
    // Rows can be written again from the log; the log cannot.
    if let Some(fault) = checked.faults.iter().find(|fault| fault.reason != "rows-differ") {
        return Err(BackupError::Damaged(fault.message.clone()));
    }
    for left in ["gangsaw.db-wal", "gangsaw.db-shm"] {
        let _ = std::fs::remove_file(folder.join(left));
    }
    let mut files = Vec::new();
    list(fresh, folder, &mut files)?;
    let backed =
        Backed { last_seq, files: files.len() as u64, bytes: files.iter().map(|entry| entry.bytes).sum::<u64>() };
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        store_format: sqlite::FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        taken_wall_ms: wall_ms(),
        last_seq,
        files,
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| BackupError::Damaged(error.to_string()))?;
    write(&fresh.join(MANIFEST), &text).map_err(at(&fresh.join(MANIFEST)))?;
    for synced in [&folder.join("archive"), folder, fresh] {
        sync(synced)?;
    }
    Ok(backed)
}

/// Returns the sequence of the newest event of a database: in its log, or what its snapshot follows.
pub(super) fn last_seq(path: &Path) -> rusqlite::Result<u64> {
    let connection = sqlite::connect_read_only(path)?;
    let last: Option<i64> = connection.query_row("SELECT max(last_seq) FROM batch", [], |row| row.get(0))?;
    let snapshot = sqlite::meta(&connection, "snapshot_seq")?.unwrap_or(0);
    Ok(last.unwrap_or(0).max(snapshot).cast_unsigned())
}

/// Copies every file below `from` whose name is not left out; links and sockets are nobody's state.
fn copy_others(from: &Path, to: &Path, left_out: &[&str]) -> Result<(), BackupError> {
    for entry in std::fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        let (name, path) = (entry.file_name(), entry.path());
        let kind = entry.file_type().map_err(at(&path))?;
        if left_out.iter().any(|left| name == *left) {
            continue;
        }
        let target = to.join(&name);
        if kind.is_dir() {
            std::fs::DirBuilder::new().mode(0o700).create(&target).map_err(at(&target))?;
            copy_others(&path, &target, &[])?;
            sync(&target)?;
        } else if kind.is_file() {
            copy(&path, &target).map_err(at(&path))?;
        }
    }
    Ok(())
}

/// Copies a file for its owner only, synced.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut target = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut std::fs::File::open(from)?, &mut target)?;
    target.sync_all()
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync(folder: &Path) -> Result<(), BackupError> {
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

fn list(root: &Path, folder: &Path, files: &mut Vec<Entry>) -> Result<(), BackupError> {
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(at(folder))?;
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            list(root, &path, files)?;
            continue;
        }
        std::fs::File::open(&path).and_then(|file| file.sync_all()).map_err(at(&path))?;
        let (bytes, crc32) = sum(&path).map_err(at(&path))?;
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        files.push(Entry { path: name, bytes, crc32 });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(())
}

/// Returns a file's length and checksum.
pub(super) fn sum(path: &Path) -> io::Result<(u64, u32)> {
    use std::io::Read;
    let mut file = std::fs::File::open(path)?;
    let (mut hasher, mut bytes, mut buffer) = (crc32fast::Hasher::new(), 0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}
