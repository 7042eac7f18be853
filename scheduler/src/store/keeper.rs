//! The store's housekeeping thread: checkpoints, snapshots, archives.
//!
//! It works through a connection of its own, in transactions of a few milliseconds, so that an append never waits for
//! more than one of them: the two take turns. Nothing it does changes what the log says: it copies first, syncs, and deletes afterwards, and
//! dying anywhere in between leaves a store that loads the same state.
//!
//! A snapshot is the fold of the last one and the events since, read from disk by the same code as a start: the engine
//! goes on meanwhile, and what a start would stumble over is found while the state in memory can still replace it.
//!
//! Invariants:
//! - A snapshot counts from the moment its sequence is in `meta`; all its parts are there before.
//! - Events are deleted only below a snapshot that counts, and only when an archive holds them.
//! - Any failure but a full disk is told to the engine, which ends the process: a disk that fails one write is not
//!   trusted with the next.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::SystemTime;

use parking_lot::FairMutex;
use rusqlite::{Connection, Params, params};

use super::archive::{self, Archived};
use super::sqlite::{self, Database, OpenError};

/// Jobs that may wait for the keeper. Checkpoints are dropped when it is busy; a snapshot is asked for again.
const INBOX: usize = 4;
/// Bytes of batches that one archiving step reads, and so holds in memory.
const STEP_BYTES: usize = 8 << 20;
/// Frames of the write-ahead log, 4 KiB each, above which appends wait until it is empty: 64 MB.
const WAL_FRAMES_MAX: i64 = 16_384;
/// Rows that one deletion takes, so that an append waits a few milliseconds at most.
const DELETE_ROWS: i64 = 256;

/// A snapshot ready to be written: parts of at most a few hundred KiB, with the number of events in each.
pub(crate) struct Snapshot {
    pub(crate) seq: u64,
    pub(crate) parts: Vec<(u64, Vec<u8>)>,
}

enum Chore {
    Checkpoint,
    /// Make a snapshot of the log up to this event.
    Fold(u64),
    Write(Snapshot),
}

/// What went wrong in the keeper.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperError {
    #[error("the database cannot be tidied")]
    Sqlite(#[from] rusqlite::Error),
    #[error("old events cannot be archived")]
    Io(#[from] std::io::Error),
}

impl KeeperError {
    fn is_full(&self) -> bool {
        match self {
            KeeperError::Sqlite(error) => sqlite::is_full(error),
            KeeperError::Io(error) => error.kind() == std::io::ErrorKind::StorageFull,
        }
    }
}

/// The thread and the way to it. Dropping it stops the thread after its present chore.
#[derive(Debug)]
pub(crate) struct Keeper {
    inbox: Option<SyncSender<Chore>>,
    damaged: Arc<AtomicBool>,
    failures: Receiver<KeeperError>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread for a database; archives go to `folder`.
    pub(crate) fn start(database: &Database, folder: PathBuf) -> Result<Keeper, KeeperError> {
        let connection = sqlite::connect(&database.path)?;
        let (inbox, chores) = sync_channel(INBOX);
        let (failed, failures) = sync_channel(1);
        let damaged = Arc::new(AtomicBool::new(false));
        let (path, turns) = (database.path.clone(), Arc::clone(&database.turns));
        let work = Work { connection, turns, path, folder, damaged: Arc::clone(&damaged) };
        let thread = std::thread::Builder::new().name("store-keeper".to_owned()).spawn(move || {
            if let Err(error) = work.run(&chores) {
                let _ = failed.try_send(error);
            }
        })?;
        Ok(Keeper { inbox: Some(inbox), damaged, failures, thread: Some(thread) })
    }

    /// Moves the write-ahead log into the database soon, unless the keeper is busy.
    pub(crate) fn checkpoint(&self) {
        if let Some(inbox) = &self.inbox {
            let _ = inbox.try_send(Chore::Checkpoint);
        }
    }

    /// Makes a snapshot of the log up to `seq`, where a batch ends. False: the keeper is busy.
    pub(crate) fn fold(&self, seq: u64) -> bool {
        self.ask(Chore::Fold(seq))
    }

    /// Writes a snapshot of what is in memory. False: the keeper is busy.
    pub(crate) fn write(&self, snapshot: Snapshot) -> bool {
        let taken = self.ask(Chore::Write(snapshot));
        self.damaged.fetch_and(!taken, Ordering::Relaxed);
        taken
    }

    /// Says whether the log cannot be folded, and no snapshot was written since.
    pub(crate) fn found_damage(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    fn ask(&self, chore: Chore) -> bool {
        self.inbox.as_ref().is_some_and(|inbox| inbox.try_send(chore).is_ok())
    }

    /// Returns what ended the keeper, once.
    pub(crate) fn failure(&self) -> Option<KeeperError> {
        self.failures.try_recv().ok()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.inbox = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    connection: Connection,
    turns: Arc<FairMutex<()>>,
    path: PathBuf,
    folder: PathBuf,
    damaged: Arc<AtomicBool>,
}

impl Work {
    fn run(&self, chores: &Receiver<Chore>) -> Result<(), KeeperError> {
        // What a crash between snapshot and deletion left behind.
        tolerate_full(self.archive())?;
        // Files nobody has read since they were written, newest last.
        let mut unread = archive::list(&self.folder)?;
        loop {
            let next = match unread.pop() {
                None => chores.recv().map_err(|_| TryRecvError::Disconnected),
                Some((_, _, file)) => match chores.try_recv() {
                    Err(TryRecvError::Empty) => {
                        look_at(&file);
                        continue;
                    }
                    other => other,
                },
            };
            let Ok(chore) = next else { break };
            match chore {
                Chore::Checkpoint => tolerate_full(self.checkpoint("PASSIVE"))?,
                Chore::Fold(seq) => tolerate_full(self.fold(seq))?,
                Chore::Write(snapshot) => tolerate_full(self.finish(&snapshot))?,
            }
        }
        tolerate_full(self.checkpoint("TRUNCATE"))
    }

    fn checkpoint(&self, mode: &str) -> Result<(), KeeperError> {
        let pragma = format!("PRAGMA wal_checkpoint({mode})");
        let frames: i64 = self.connection.query_row(&pragma, [], |row| row.get(1))?;
        if mode == "PASSIVE" && frames > WAL_FRAMES_MAX {
            // Who appends all the time never lets a passive one reach the end, and the log would grow for ever. What is
            // left after one is little, so appends wait for milliseconds.
            let _turn = self.turns.lock();
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        }
        Ok(())
    }

    fn fold(&self, seq: u64) -> Result<(), KeeperError> {
        match super::folded(&self.connection, &self.path, seq) {
            Ok(snapshot) => self.finish(&snapshot),
            Err(OpenError::Sqlite { source, .. }) => Err(source.into()),
            Err(damage) => {
                tracing::error!(%damage, "a snapshot is taken from memory: the log on disk cannot be folded");
                self.damaged.store(true, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    fn finish(&self, snapshot: &Snapshot) -> Result<(), KeeperError> {
        self.write_snapshot(snapshot)?;
        self.archive()?;
        self.checkpoint("PASSIVE")
    }

    fn write_snapshot(&self, snapshot: &Snapshot) -> Result<(), KeeperError> {
        let counts = sqlite::meta(&self.connection, "snapshot_seq")?.unwrap_or(0);
        // Parts of one that was never finished.
        self.delete_slices(
            "DELETE FROM snapshot WHERE (seq, part) IN (SELECT seq, part FROM snapshot WHERE seq <> ?1 LIMIT ?2)",
            counts,
        )?;
        let seq = snapshot.seq.cast_signed();
        for (part, (count, frames)) in snapshot.parts.iter().enumerate() {
            let part = i64::try_from(part).unwrap_or(i64::MAX);
            let row = params![seq, part, count.cast_signed(), frames];
            self.write("INSERT INTO snapshot VALUES (?1, ?2, ?3, ?4)", row)?;
        }
        self.write("INSERT OR REPLACE INTO meta VALUES ('snapshot_seq', ?1)", [seq])?;
        self.delete_slices(
            "DELETE FROM snapshot WHERE (seq, part) IN (SELECT seq, part FROM snapshot WHERE seq < ?1 LIMIT ?2)",
            seq,
        )
    }

    /// Moves every batch that the snapshot covers to archives.
    fn archive(&self) -> Result<(), KeeperError> {
        let Some(covered) = sqlite::meta(&self.connection, "snapshot_seq")? else { return Ok(()) };
        let archived = archive::list(&self.folder)?.iter().map(|(_, last, _)| *last).max().unwrap_or(0);
        self.delete_batches(archived.min(covered.cast_unsigned()))?;
        if self.step(covered)? {
            let archived = archive::list(&self.folder)?.iter().map(|(_, last, _)| *last).max().unwrap_or(0);
            self.delete_batches(archived.min(covered.cast_unsigned()))?;
        }
        archive::retain(&self.folder, SystemTime::now())?;
        Ok(())
    }

    /// Writes one archive of every batch up to `covered`; returns whether there was any.
    fn step(&self, covered: i64) -> Result<bool, KeeperError> {
        let mut writer: Option<archive::Writer> = None;
        let mut after = 0_i64;
        loop {
            let page = self.page(after, covered)?;
            let Some(last) = page.last() else { break };
            after = last.first_seq.cast_signed();
            let open = match writer.take() {
                Some(open) => open,
                None => archive::Writer::create(&self.folder)?,
            };
            let open = writer.insert(open);
            for batch in &page {
                open.push(batch)?;
            }
        }
        let any = writer.is_some();
        writer.map_or(Ok(()), archive::Writer::finish)?;
        Ok(any)
    }

    fn page(&self, after: i64, covered: i64) -> Result<Vec<Archived>, KeeperError> {
        let sql = "SELECT first_seq, last_seq, wall_ms, frames FROM batch
                   WHERE first_seq > ?1 AND first_seq <= ?2 ORDER BY first_seq LIMIT 1000";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([after, covered])?;
        let mut page = Vec::new();
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let batch = archived(row)?;
            bytes += batch.frames.len();
            page.push(batch);
            if bytes > STEP_BYTES {
                break;
            }
        }
        Ok(page)
    }

    fn delete_batches(&self, last: u64) -> Result<(), KeeperError> {
        self.delete_slices(
            "DELETE FROM batch WHERE first_seq IN (SELECT first_seq FROM batch WHERE first_seq <= ?1 ORDER BY first_seq LIMIT ?2)",
            last.cast_signed(),
        )
    }

    fn delete_slices(&self, sql: &str, bound: i64) -> Result<(), KeeperError> {
        while self.write(sql, [bound, DELETE_ROWS])? > 0 {}
        Ok(())
    }

    /// Makes one small change in its turn; returns how many rows it was.
    fn write(&self, sql: &str, values: impl Params) -> Result<usize, KeeperError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let _turn = self.turns.lock();
        Ok(statement.execute(values)?)
    }
}

/// Reads an archive, and says aloud if it is damaged: nothing that runs depends on it, and a backup may still have it.
fn look_at(file: &Path) {
    let Err(what) = super::fsck::readable(file) else { return };
    tracing::error!(
        file = %file.display(),
        what,
        "an archive of old events is damaged; `gangsaw fsck` names every fault, and a backup (`gangsaw restore`) has the file as it was"
    );
}

/// Reads a row of first sequence, last sequence, wall time and frames.
pub(crate) fn archived(row: &rusqlite::Row<'_>) -> rusqlite::Result<Archived> {
    Ok(Archived {
        first_seq: row.get::<_, i64>(0)?.cast_unsigned(),
        last_seq: row.get::<_, i64>(1)?.cast_unsigned(),
        wall_ms: row.get::<_, i64>(2)?.cast_unsigned(),
        frames: row.get(3)?,
    })
}

/// A full disk ends a chore, not the keeper: the disk guard makes room, and the chore comes again.
fn tolerate_full(done: Result<(), KeeperError>) -> Result<(), KeeperError> {
    match done {
        Err(error) if error.is_full() => Ok(()),
        other => other,
    }
}
