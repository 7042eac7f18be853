//! The database file: batches of events, the snapshot, and the rows that history queries read.
//!
//! One connection appends; the keeper has a second one that only copies, moves and deletes what is already old. Every
//! append is one transaction and one fsync of the write-ahead log; moving the log into the database is the keeper's. The
//! two take turns by a lock of their own: who waits for SQLite's sleeps between two looks, and a keeper with many small
//! transactions would have the next one begun at every look.
//!
//! Invariants:
//! - After an append failed for any reason but a full disk, this store never appends again: SQLite would let the next
//!   commit succeed on top of lost pages.
//! - Batches are contiguous: each begins one after the last ended.
//!
//! Elsewhere: what the frames hold is `codec`, their checksums `frame`, moving old events out `keeper`.

pub(crate) mod tables;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::FairMutex;
use rusqlite::{Connection, OpenFlags, params};

use super::contract::AppendError;
use super::fail::{FailAt, FailMoment};
use super::postgres::PgOpenError;
use super::rows::Row;
use super::wal::{self, Tail};
use tables::{PROJECTED, SCHEMA};

/// Version of the tables in `tables`. A file with another one is refused.
pub(crate) const FORMAT: i64 = 2;
/// How long a transaction waits for another process's, such as a backup's.
const BUSY_WAIT: Duration = Duration::from_secs(20);
/// How long another scheduler's lock is waited for, and the pause between two looks: of one that was killed, threads may
/// still be ending.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Why a database cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another scheduler holds the file.
    #[error("another scheduler is using {0}")]
    InUse(PathBuf),
    /// The file was written by another version.
    #[error("{path} has store format {found}, and this version reads {FORMAT}")]
    Format {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// Something that was once good is not now.
    #[error("{path} is damaged at {place}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The event or frame.
        place: String,
    },
    /// SQLite refused.
    #[error("cannot read {path}")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// Its reason.
        source: rusqlite::Error,
    },
    /// PostgreSQL refused.
    #[error(transparent)]
    Postgres(#[from] PgOpenError),
    /// The file system refused.
    #[error("cannot use {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
}

/// Frames that become durable together.
#[derive(Debug, Default)]
pub(crate) struct Batch<'a> {
    pub(crate) first_seq: u64,
    pub(crate) count: u64,
    pub(crate) wall_ms: u64,
    pub(crate) frames: Vec<u8>,
    pub(crate) rows: &'a [Row],
}

/// The database file, locked for this process.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) connection: Connection,
    pub(crate) path: PathBuf,
    /// Held over every write transaction; who waits for it is next.
    pub(crate) turns: Arc<FairMutex<()>>,
    wal: PathBuf,
    appends: u64,
    fail: Option<FailAt>,
    latched: bool,
    _lock: std::fs::File,
}

impl Database {
    /// Locks, checks and opens `folder/gangsaw.db`, making it if there is none.
    pub(crate) fn open(folder: &Path, fail: Option<FailAt>) -> Result<Database, OpenError> {
        let path = folder.join("gangsaw.db");
        let wal = folder.join("gangsaw.db-wal");
        let lock = lock(folder, &path)?;
        match wal::inspect(&wal) {
            Ok(Tail::Sound) => {}
            Ok(Tail::Damaged { frame }) => {
                return Err(OpenError::Damaged { path: wal, place: format!("frame {frame} of the write-ahead log") });
            }
            Err(source) => return Err(OpenError::Io { path: wal, source }),
        }
        // SQLite would make an empty database of a missing one.
        let archives = super::archive::list(&folder.join("archive"))
            .map_err(|source| OpenError::Io { path: folder.join("archive"), source })?;
        let shrunk = std::fs::metadata(&path).map_or(0, |database| database.len()) == 0;
        if shrunk && (!archives.is_empty() || std::fs::metadata(&wal).is_ok_and(|wal| wal.len() > 0)) {
            let place = "its first byte: it is missing or empty, and files beside it belong to it".to_owned();
            return Err(OpenError::Damaged { path, place });
        }
        let connection = connect(&path).map_err(|source| unreadable(&path, source))?;
        let turns = Arc::default();
        let database = Database { connection, path, turns, wal, appends: 0, fail, latched: false, _lock: lock };
        database.check_format()?;
        Ok(database)
    }

    fn check_format(&self) -> Result<(), OpenError> {
        let wrap = |source| unreadable(&self.path, source);
        let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'meta'";
        let made: i64 = self.connection.query_row(tables, [], |row| row.get(0)).map_err(wrap)?;
        if made == 0 {
            let create =
                format!("BEGIN IMMEDIATE; {SCHEMA} {PROJECTED} INSERT INTO meta VALUES ('format', {FORMAT}); COMMIT");
            return self.connection.execute_batch(&create).map_err(wrap);
        }
        let found = meta(&self.connection, "format").map_err(wrap)?.unwrap_or(0);
        if found != FORMAT {
            return Err(OpenError::Format { path: self.path.clone(), found });
        }
        Ok(())
    }

    /// Makes `batch` durable: one transaction, one fsync.
    pub(crate) fn append(&mut self, batch: &Batch<'_>) -> Result<(), AppendError> {
        if self.latched {
            return Err(AppendError::LatchedBefore);
        }
        self.appends += 1;
        self.strike(FailMoment::Before);
        match self.transact(batch) {
            Ok(()) => {
                self.strike(FailMoment::Torn);
                self.strike(FailMoment::After);
                Ok(())
            }
            Err(error) if is_full(&error) && self.connection.is_autocommit() => Err(AppendError::Full),
            Err(error) => {
                self.latched = true;
                Err(AppendError::Latched(error.into()))
            }
        }
    }

    fn strike(&self, moment: FailMoment) {
        if let Some(fail) = self.fail {
            fail.strike(self.appends, moment, &self.wal);
        }
    }

    fn transact(&mut self, batch: &Batch<'_>) -> rusqlite::Result<()> {
        let _turn = self.turns.lock();
        let done = write(&self.connection, batch);
        if done.is_err() && !self.connection.is_autocommit() {
            // A failed roll-back leaves the transaction open, which `append` takes for a latch.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        done
    }
}

fn write(connection: &Connection, batch: &Batch<'_>) -> rusqlite::Result<()> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    if batch.count > 0 {
        connection.prepare_cached("INSERT INTO batch VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            batch.first_seq.cast_signed(),
            (batch.first_seq + batch.count - 1).cast_signed(),
            batch.wall_ms.cast_signed(),
            batch.frames,
        ])?;
    }
    for row in batch.rows {
        tables::write(connection, row)?;
    }
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

/// Returns damage where SQLite found damage, and its refusal otherwise.
pub(crate) fn unreadable(path: &Path, source: rusqlite::Error) -> OpenError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match source.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => {
            OpenError::Damaged { path: path.to_owned(), place: format!("a page of it: {source}") }
        }
        Some(_) | None => OpenError::Sqlite { path: path.to_owned(), source },
    }
}

/// Takes the lock that keeps a second scheduler away. A file of its own: closing any handle of the database would drop
/// SQLite's own locks.
pub(crate) fn lock(folder: &Path, path: &Path) -> Result<std::fs::File, OpenError> {
    use rustix::fs::{FlockOperation, flock};
    let lock_path = folder.join("gangsaw.db.lock");
    let io = |source| OpenError::Io { path: lock_path.clone(), source };
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).map_err(io)?;
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(LOCK_RETRY),
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::InUse(path.to_owned())),
            Err(error) => return Err(io(error.into())),
        }
    }
}

/// Opens a connection with the settings that durability rests on.
pub(crate) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_WAIT)?;
    let mode: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(rusqlite::Error::InvalidParameterName(format!("journal mode {mode}")));
    }
    // The keeper checkpoints, so that no append ever waits for the database file's fsync.
    connection.execute_batch("PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0; PRAGMA cell_size_check=ON")?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Opens a connection that only reads.
pub(crate) fn connect_read_only(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_WAIT)?;
    Ok(connection)
}

/// Returns a number from the `meta` table.
pub(crate) fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    let mut rows = statement.query([key])?;
    rows.next()?.map(|row| row.get(0)).transpose()
}

/// Returns whether `error` says that the disk is full and nothing else is wrong.
pub(crate) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|inner| {
        inner.code == rusqlite::ErrorCode::DiskFull
            // The shared index beside the log could not grow: no page of the log was touched.
            || inner.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
    })
}
