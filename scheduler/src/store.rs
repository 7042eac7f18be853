//! The log of events, its snapshot, and the rows that history queries read, in one SQLite file.
//!
//! The log is the truth and the state is its fold: `load` reads the newest snapshot and every later event through the
//! core's `apply`, and there is no second way to restore. Events below a snapshot move to compressed archives.
//!
//! Invariants:
//! - `append` returns only after its transaction is synced; after a failed one it never succeeds again.
//! - Sequence numbers begin at 1 and have no gaps.
//!
//! Elsewhere: what every store promises is `contract`; who appends, and when, is `engine`.

pub(crate) mod archive;
pub(crate) mod backup;
mod codec;
pub(crate) mod contract;
pub(crate) mod fail;
mod frame;
pub(crate) mod fsck;
#[cfg(fuzzing)]
pub mod fuzz;
pub(crate) mod history;
pub(crate) mod keeper;
pub(crate) mod old;
pub(crate) mod postgres;
pub(crate) mod project;
pub(crate) mod restore;
pub(crate) mod rows;
pub(crate) mod sqlite;
mod wal;

use std::path::Path;

use gangsaw_core::apply::{apply, snapshot_events};
use gangsaw_core::event::{Event, Record};
use gangsaw_core::state::State;
use gangsaw_core::time::Time;

use contract::{AppendError, History, Store};
use keeper::{Keeper, Snapshot};
use rows::Row;
use sqlite::{Batch, Database, OpenError};

/// Events between two snapshots: loading them takes well under a second.
const SNAPSHOT_EVERY: u64 = 100_000;
/// Appends between two checkpoints: the write-ahead log stays a few MB.
const CHECKPOINT_EVERY: u64 = 256;
/// Bytes of one part of a snapshot, so that writing it holds an append up for a few milliseconds at most.
const PART_BYTES: usize = 256 << 10;

/// What a store held when it was opened.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The fold of every event.
    pub(crate) state: State,
    /// Wall time of the last batch in ms; zero if there is none.
    pub(crate) last_wall_ms: u64,
}

/// The store of one scheduler.
#[derive(Debug)]
pub(crate) struct SqliteStore {
    database: Database,
    keeper: Keeper,
    next_seq: u64,
    since_checkpoint: u64,
    since_snapshot: u64,
    snapshot_every: u64,
}

impl SqliteStore {
    /// Opens the store of `folder` and folds what it holds.
    pub(crate) fn open(folder: &Path, fail: Option<fail::FailAt>) -> Result<(SqliteStore, Loaded), OpenError> {
        let database = Database::open(folder, fail)?;
        let mut loaded = Loaded { state: State::new(), last_wall_ms: 0 };
        let snapshot_seq = load_snapshot(&database.connection, &database.path, &mut loaded)?;
        let all = (snapshot_seq, u64::MAX);
        let last_seq = load_batches(&database.connection, &database.path, all, &mut loaded)?;
        let keeper = Keeper::start(&database, folder.join("archive")).map_err(|error| match error {
            keeper::KeeperError::Sqlite(source) => OpenError::Sqlite { path: database.path.clone(), source },
            keeper::KeeperError::Io(source) => OpenError::Io { path: folder.join("archive"), source },
        })?;
        let store = SqliteStore {
            database,
            keeper,
            next_seq: last_seq + 1,
            since_checkpoint: 0,
            since_snapshot: last_seq - snapshot_seq,
            snapshot_every: SNAPSHOT_EVERY,
        };
        Ok((store, loaded))
    }
}

impl Store for SqliteStore {
    fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    fn confirm(&mut self) -> Result<(), AppendError> {
        // The lock on the file keeps others away for as long as this process lives.
        Ok(())
    }

    fn append(&mut self, at: Time, wall_ms: u64, events: &[Event], rows: &[Row]) -> Result<u64, AppendError> {
        if events.is_empty() && rows.is_empty() {
            return Ok(self.last_seq());
        }
        let mut batch =
            Batch { first_seq: self.next_seq, count: events.len() as u64, wall_ms, frames: Vec::new(), rows };
        for (seq, event) in (self.next_seq..).zip(events) {
            frame::push(&mut batch.frames, seq, wall_ms, |out| codec::encode(at, event, out));
        }
        self.database.append(&batch)?;
        self.next_seq += batch.count;
        self.since_checkpoint += 1;
        self.since_snapshot += batch.count;
        if self.since_checkpoint >= CHECKPOINT_EVERY {
            self.since_checkpoint = 0;
            self.keeper.checkpoint();
        }
        Ok(self.last_seq())
    }

    /// Asks the keeper to fold the log, which takes this thread no time. Where the log on disk is damaged, what is in
    /// memory is the better copy, and is written instead.
    fn snapshot_if_due(&mut self, state: &State, wall_ms: u64) -> bool {
        let seq = self.last_seq();
        let taken = if self.keeper.found_damage() {
            self.keeper.write(Snapshot { seq, parts: parts(state, wall_ms) })
        } else if self.since_snapshot >= self.snapshot_every {
            self.keeper.fold(seq)
        } else {
            return false;
        };
        if taken {
            self.since_snapshot = 0;
        }
        taken
    }

    fn keeper_failure(&self) -> Option<String> {
        self.keeper.failure().map(|failure| failure.to_string())
    }

    fn history(&self) -> &dyn History {
        &self.database.connection
    }
}

/// Folds the log up to `seq`, as a start would, and encodes a snapshot of what comes out.
fn folded(connection: &rusqlite::Connection, path: &Path, seq: u64) -> Result<Snapshot, OpenError> {
    let mut loaded = Loaded { state: State::new(), last_wall_ms: 0 };
    let snapshot_seq = load_snapshot(connection, path, &mut loaded)?;
    let last = load_batches(connection, path, (snapshot_seq, seq), &mut loaded)?;
    if last != seq {
        return Err(OpenError::Damaged { path: path.to_owned(), place: format!("event {}: it is missing", last + 1) });
    }
    Ok(Snapshot { seq, parts: parts(&loaded.state, loaded.last_wall_ms) })
}

/// Encodes a snapshot. Its frames are numbered from 0 in each part, under the wall time of the last batch.
fn parts(state: &State, wall_ms: u64) -> Vec<(u64, Vec<u8>)> {
    let mut parts = vec![(0_u64, Vec::new())];
    for event in snapshot_events(state) {
        let full = parts.last().is_none_or(|(_, frames): &(u64, Vec<u8>)| frames.len() >= PART_BYTES);
        if full {
            parts.push((0, Vec::new()));
        }
        if let Some((count, frames)) = parts.last_mut() {
            frame::push(frames, *count, wall_ms, |out| codec::encode(state.now(), &event, out));
            *count += 1;
        }
    }
    // The wall time goes first, for it is part of every checksum.
    for (_, frames) in &mut parts {
        frames.splice(0..0, wall_ms.to_le_bytes());
    }
    parts
}

fn load_snapshot(connection: &rusqlite::Connection, path: &Path, loaded: &mut Loaded) -> Result<u64, OpenError> {
    let sqlite = |source| sqlite::unreadable(path, source);
    let Some(seq) = sqlite::meta(connection, "snapshot_seq").map_err(sqlite)? else { return Ok(0) };
    let sql = "SELECT part, count, frames FROM snapshot WHERE seq = ?1 ORDER BY part";
    let mut statement = connection.prepare(sql).map_err(sqlite)?;
    let mut rows = statement.query([seq]).map_err(sqlite)?;
    let mut parts = 0_i64;
    while let Some(row) = rows.next().map_err(sqlite)? {
        let place = |what: &str| OpenError::Damaged {
            path: path.to_owned(),
            place: format!("the snapshot of event {seq}, part {parts}: {what}"),
        };
        let (part, count): (i64, i64) = (row.get(0).map_err(sqlite)?, row.get(1).map_err(sqlite)?);
        let frames = row.get_ref(2).map_err(sqlite)?.as_blob().map_err(|_| place("no frames"))?;
        if part != parts {
            return Err(place("a part is missing"));
        }
        let (wall, mut bytes) = frames.split_first_chunk::<8>().ok_or_else(|| place("it is cut off"))?;
        loaded.last_wall_ms = u64::from_le_bytes(*wall);
        for number in 0..count.cast_unsigned() {
            fold(&mut loaded.state, &mut bytes, number, loaded.last_wall_ms).map_err(|why| place(&why))?;
        }
        parts += 1;
    }
    if parts == 0 {
        return Err(OpenError::Damaged { path: path.to_owned(), place: format!("the snapshot of event {seq}") });
    }
    Ok(seq.cast_unsigned())
}

/// Folds the batches that begin above the first of `bounds` and not above the second; returns the last sequence.
fn load_batches(
    connection: &rusqlite::Connection,
    path: &Path,
    bounds: (u64, u64),
    loaded: &mut Loaded,
) -> Result<u64, OpenError> {
    let sqlite = |source| sqlite::unreadable(path, source);
    let sql = "SELECT first_seq, last_seq, wall_ms, frames FROM batch WHERE first_seq > ?1 AND first_seq <= ?2
               ORDER BY first_seq";
    let mut statement = connection.prepare(sql).map_err(sqlite)?;
    let upto = i64::try_from(bounds.1).unwrap_or(i64::MAX);
    let mut rows = statement.query([bounds.0.cast_signed(), upto]).map_err(sqlite)?;
    let mut seq = bounds.0;
    while let Some(row) = rows.next().map_err(sqlite)? {
        let damaged =
            |seq: u64, why: &str| OpenError::Damaged { path: path.to_owned(), place: format!("event {seq}: {why}") };
        let first: i64 = row.get(0).map_err(sqlite)?;
        let last: i64 = row.get(1).map_err(sqlite)?;
        let wall_ms = row.get::<_, i64>(2).map_err(sqlite)?.cast_unsigned();
        if first.cast_unsigned() != seq + 1 {
            return Err(damaged(seq + 1, "it is missing"));
        }
        let mut bytes = row.get_ref(3).map_err(sqlite)?.as_blob().map_err(|_| damaged(seq + 1, "no frames"))?;
        while !bytes.is_empty() {
            seq += 1;
            fold(&mut loaded.state, &mut bytes, seq, wall_ms).map_err(|why| damaged(seq, &why))?;
        }
        if last.cast_unsigned() != seq {
            return Err(damaged(seq + 1, "its batch is cut off"));
        }
        loaded.last_wall_ms = wall_ms;
    }
    Ok(seq)
}

/// Takes one frame off `bytes` and folds it.
fn fold(state: &mut State, bytes: &mut &[u8], seq: u64, wall_ms: u64) -> Result<(), String> {
    let record = take(bytes, seq, wall_ms)?;
    apply(state, record.at, &record.event);
    Ok(())
}

/// Takes one frame off `bytes` and reads it.
fn take(bytes: &mut &[u8], seq: u64, wall_ms: u64) -> Result<Record, String> {
    let payload = frame::pop(bytes, seq, wall_ms).map_err(|error| error.to_string())?;
    let (at, event) = codec::decode(payload).map_err(|error| error.to_string())?;
    Ok(Record { seq, at, wall_ms, event })
}

/// Reads every event that the archives and the database of a state folder hold, oldest first, for replay and the like.
///
/// It takes no lock: beside a running scheduler it sees what was durable when it began.
///
/// # Errors
/// The first file or event that cannot be read.
pub fn read_log(state_dir: &Path, mut each: impl FnMut(Record)) -> Result<(), OpenError> {
    let folder = state_dir.join("scheduler");
    let (path, archives) = (folder.join("gangsaw.db"), folder.join("archive"));
    let mut next = 1;
    let mut give = |path: &Path, batch: &archive::Archived| -> Result<(), OpenError> {
        let mut bytes = batch.frames.as_slice();
        for seq in batch.first_seq..=batch.last_seq {
            let damaged = |why| OpenError::Damaged { path: path.to_owned(), place: format!("event {seq}: {why}") };
            let record = take(&mut bytes, seq, batch.wall_ms).map_err(damaged)?;
            // A crash between archiving and deleting leaves events in both places.
            if seq >= next {
                next = seq + 1;
                each(record);
            }
        }
        Ok(())
    };
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    };
    for (_, _, file) in archive::list(&archives).map_err(io(&archives))? {
        for batch in archive::read(&file).map_err(io(&file))? {
            give(&file, &batch)?;
        }
    }
    let sqlite = |source| OpenError::Sqlite { path: path.clone(), source };
    let connection = sqlite::connect_read_only(&path).map_err(sqlite)?;
    let sql = "SELECT first_seq, last_seq, wall_ms, frames FROM batch ORDER BY first_seq";
    let mut statement = connection.prepare(sql).map_err(sqlite)?;
    let mut rows = statement.query([]).map_err(sqlite)?;
    while let Some(row) = rows.next().map_err(sqlite)? {
        give(&path, &keeper::archived(row).map_err(sqlite)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
