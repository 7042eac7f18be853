//! Checks a store and trusts nothing of it: every checksum, every number, the snapshot, and the rows people read.
//!
//! The log is read twice: once for what can be wrong with bytes, and, where it is whole, once more to fold it. The fold
//! must pass through the snapshot, hold every invariant of the core, and project to the rows that are in the tables.
//! Where archives were deleted for their age the fold begins at the snapshot, and what older events said is not judged.
//! A whole log is also read by the history checker, the one that judges the simulator: what must hold between events,
//! found without the code that decided and folded them.
//!
//! A store that a scheduler uses is copied first (`VACUUM INTO`), so that checking never holds it up, and a database
//! always is; nothing but `rebuild`, which wants the store for itself, writes.
//!
//! Elsewhere: comparing and rewriting rows is `tables`; backups are `backup`; copying a database is `postgres::copy`.

mod database;
mod place;
mod tables;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use gangsaw_core::check::{History, Unseen, check};
use gangsaw_core::event::Record;
use gangsaw_core::state::State;
use rusqlite::Connection;

use super::archive::{self, Archived};
use super::project::Projection;
use super::sqlite::{self, OpenError};
use super::wal::{self, Tail};
use super::{Loaded, keeper, load_snapshot, take};
use crate::wire::view::Now;
pub use database::fsck_postgres;
pub(super) use place::Place;
use tables::Tables;

/// What is wrong, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Stable: `store-damaged`, `store-incomplete`, `snapshot-differs`, `state-contradicts`,
    /// `history-contradicts`, `rows-differ`, `store-format`.
    pub reason: &'static str,
    /// The place, and what is wrong there.
    pub message: String,
    /// What to do.
    pub hint: &'static str,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Sequence of the oldest event there is; 0 if there is none.
    pub first_seq: u64,
    /// Sequence of the newest event.
    pub last_seq: u64,
    /// Archives read.
    pub archives: u64,
    /// The event the snapshot follows.
    pub snapshot_seq: Option<u64>,
    /// A scheduler uses the store: a copy of it was checked.
    pub live: bool,
    /// The fold began with the first event, so that every row was compared.
    pub whole: bool,
    /// What the whole log tells of, where there is all of it.
    pub history: Told,
    /// Rows that differed and were written again.
    pub rebuilt: u64,
    /// Everything that is wrong.
    pub faults: Vec<Fault>,
}

/// What a whole log tells of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Jobs that were ever submitted.
    pub jobs: u64,
    /// Leases that were ever granted.
    pub leases: u64,
    /// Elements that have not ended.
    pub open: u64,
}

/// The longest run of sound events up to the end.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    from: u64,
    next: u64,
}

/// A check on its way.
struct Check<'a> {
    archives: PathBuf,
    place: &'a Place,
    connection: Connection,
    report: Report,
}

/// Checks the store of a state folder; `rebuild` also writes the rows again that differ.
///
/// # Errors
/// The store cannot be read at all, or `rebuild` was asked for while a scheduler uses it.
pub fn fsck(state_dir: &Path, rebuild: bool) -> Result<Report, OpenError> {
    let folder = state_dir.join("scheduler");
    let path = folder.join("gangsaw.db");
    let io = |source| OpenError::Io { path: path.clone(), source };
    std::fs::metadata(&path).map_err(io)?;
    let lock = match sqlite::lock(&folder, &path) {
        Ok(lock) => Some(lock),
        Err(OpenError::InUse(_)) if !rebuild => None,
        Err(error) => return Err(error),
    };
    let scratch = tempfile::tempdir().map_err(io)?;
    let copy = scratch.path().join("copy.db");
    let live = lock.is_none();
    let reading = if live {
        vacuum_into(&path, &copy).map_err(|source| OpenError::Sqlite { path: path.clone(), source })?;
        copy.as_path()
    } else {
        path.as_path()
    };
    let place = Place::file(&path);
    let mut report = examine(&folder, (&place, reading), scratch.path(), rebuild)?;
    report.live = live;
    if let (false, Ok(Tail::Damaged { frame })) = (live, wal::inspect(&folder.join("gangsaw.db-wal"))) {
        let message = format!("{} is damaged at frame {frame}", folder.join("gangsaw.db-wal").display());
        report.faults.insert(0, Fault { reason: "store-damaged", message, hint: place.restore });
    }
    Ok(report)
}

/// Writes a copy of the database at one moment, however busy it is.
pub(super) fn vacuum_into(path: &Path, copy: &Path) -> rusqlite::Result<()> {
    let connection = sqlite::connect_read_only(path)?;
    connection.execute("VACUUM INTO ?1", [copy.to_string_lossy()]).map(|_| ())
}

/// Checks the archives of `folder` and the database that is read from `reading` and called `place`.
pub(super) fn examine(
    folder: &Path,
    (place, reading): (&Place, &Path),
    scratch: &Path,
    rebuild: bool,
) -> Result<Report, OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: place.database.clone(), source };
    let connection = sqlite::connect_read_only(reading).map_err(sqlite)?;
    let mut check = Check { archives: folder.join("archive"), place, connection, report: Report::default() };
    if let Err(source) = check.pages() {
        check.lost("store-damaged", format!("{} is damaged: {source}", place.database.display()));
    }
    if check.report.faults.is_empty() {
        let run = check.bytes()?;
        check.fold(run, reading, scratch, rebuild)?;
    }
    Ok(check.report)
}

impl Check<'_> {
    fn fault(&mut self, reason: &'static str, message: String, hint: &'static str) {
        self.report.faults.push(Fault { reason, message, hint });
    }

    /// A fault that only a backup undoes.
    fn lost(&mut self, reason: &'static str, message: String) {
        self.fault(reason, message, self.place.restore);
    }

    fn damaged(&mut self, place: &Path, what: &str) {
        self.lost("store-damaged", format!("{} is damaged at {what}", place.display()));
    }

    /// Lets SQLite look at its pages, and reads the format.
    fn pages(&mut self) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare("PRAGMA integrity_check(10)")?;
        let said = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
        drop(statement);
        for line in said.iter().filter(|line| *line != "ok") {
            self.damaged(&self.place.database, &line.replace('\n', ", "));
        }
        let found = sqlite::meta(&self.connection, "format")?.unwrap_or(0);
        if found != sqlite::FORMAT {
            let message = format!("{} has store format {found}, not {}", self.place.database.display(), sqlite::FORMAT);
            self.fault("store-format", message, "use the version of gangsaw that wrote it");
        }
        Ok(())
    }

    /// Reads every batch of the log, oldest first: archives, then the database.
    fn batches(&mut self, each: &mut dyn FnMut(&mut Self, &Path, &Archived)) -> Result<(), OpenError> {
        let archives = self.archives.clone();
        let listed = archive::list(&archives).map_err(|source| OpenError::Io { path: archives, source })?;
        for (first, last, file) in listed {
            let called = self.place.archive(&file, first);
            match archive::read(&file) {
                Ok(batches) => batches.iter().for_each(|batch| each(self, &called, batch)),
                Err(error) => {
                    // Its events are not missing: they cannot be read, which is said once.
                    let what = format!("events {first} to {last}: {error}");
                    if !self.report.faults.iter().any(|fault| fault.message.contains(&what)) {
                        self.damaged(&called, &what);
                    }
                    each(self, &called, &Archived { first_seq: first, last_seq: last, wall_ms: 0, frames: Vec::new() });
                }
            }
        }
        let path = self.place.database.clone();
        let sqlite = |source| OpenError::Sqlite { path: path.clone(), source };
        let sql = "SELECT first_seq, last_seq, wall_ms, frames FROM batch WHERE first_seq > ?1 ORDER BY first_seq";
        let mut after = 0_i64;
        loop {
            let mut statement = self.connection.prepare(&format!("{sql} LIMIT 1000")).map_err(sqlite)?;
            let rows = statement.query_map([after], keeper::archived).map_err(sqlite)?;
            let page = rows.collect::<rusqlite::Result<Vec<_>>>().map_err(sqlite)?;
            drop(statement);
            let Some(last) = page.last() else { return Ok(()) };
            after = last.first_seq.cast_signed();
            page.iter().for_each(|batch| each(self, &path, batch));
        }
    }

    /// Checks every checksum and number, and returns the run of sound events that reaches the end.
    fn bytes(&mut self) -> Result<Run, OpenError> {
        let mut run = Run::default();
        let mut archived = 0;
        self.report.archives = archive::list(&self.archives).map_or(0, |files| files.len() as u64);
        self.batches(&mut |check, source, batch| {
            if source != check.place.database {
                archived = batch.last_seq;
            }
            check.batch(source, batch, &mut run);
        })?;
        self.report.last_seq = run.next.saturating_sub(1);
        let ends: Option<i64> = self
            .connection
            .query_row("SELECT max(last_seq) FROM batch", [], |row| row.get(0))
            .map_err(|source| OpenError::Sqlite { path: self.place.database.clone(), source })?;
        let snapshot = sqlite::meta(&self.connection, "snapshot_seq").ok().flatten().unwrap_or(0);
        let ends = ends.unwrap_or(0).max(snapshot).cast_unsigned();
        if ends < archived {
            let message = format!(
                "{} ends at event {ends}, and an archive has events up to {archived}",
                self.place.database.display()
            );
            self.lost("store-incomplete", message);
        }
        Ok(run)
    }

    fn batch(&mut self, source: &Path, batch: &Archived, run: &mut Run) {
        // A crash between archiving and deleting leaves events in both places.
        if batch.last_seq < run.next {
            return;
        }
        if run.next == 0 {
            self.report.first_seq = batch.first_seq;
            run.from = batch.first_seq;
        } else if batch.first_seq > run.next {
            let missing = format!("events {} to {} are missing", run.next, batch.first_seq - 1);
            self.lost("store-incomplete", format!("{}: {missing}", source.display()));
            run.from = batch.first_seq;
        }
        run.next = batch.last_seq + 1;
        if let Err((seq, why)) = records(batch) {
            run.from = run.next;
            // An archive that cannot be read at all was told of.
            if !batch.frames.is_empty() {
                self.damaged(source, &format!("event {seq}: {why}"));
            }
        }
    }

    /// Folds the log from as early as it is whole, and compares what comes out.
    fn fold(&mut self, run: Run, reading: &Path, scratch: &Path, rebuild: bool) -> Result<(), OpenError> {
        let mut loaded = Loaded { state: State::new(), last_wall_ms: 0 };
        let snapshot = match load_snapshot(&self.connection, &self.place.database, &mut loaded) {
            Ok(seq) => seq,
            Err(error) => {
                self.lost("store-damaged", error.to_string());
                0
            }
        };
        self.report.snapshot_seq = (snapshot > 0).then_some(snapshot);
        self.report.last_seq = self.report.last_seq.max(snapshot);
        self.report.whole = run.from <= 1 && (run.next > 0 || snapshot == 0);
        if !self.report.whole && snapshot + 1 < run.from {
            let message = format!("{} has no snapshot that event {} follows", self.place.database.display(), run.from);
            self.lost("store-incomplete", message);
            return Ok(());
        }
        let sqlite = |source| OpenError::Sqlite { path: self.place.database.clone(), source };
        let mut tables = Tables::new(&scratch.join("folded.db")).map_err(sqlite)?;
        let (mut state, mut done) = (State::new(), 0);
        if !self.report.whole {
            (state, done) = (loaded.state.clone(), snapshot);
            let now = Now { time: state.now(), wall_ms: loaded.last_wall_ms };
            tables.write(&Projection::of_all(&state).rows(&state, now)).map_err(sqlite)?;
            tables.begins_wall_ms = loaded.last_wall_ms;
        }
        let mut broken = None;
        let mut history = self.report.whole.then(History::default);
        self.batches(&mut |check, _, batch| {
            if batch.last_seq <= done || batch.first_seq < run.from || broken.is_some() {
                return;
            }
            done = batch.last_seq;
            match catch_unwind(AssertUnwindSafe(|| fold_batch(&mut state, batch, &mut tables, history.as_mut()))) {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(contradiction))) => broken = Some(("history-contradicts", contradiction)),
                Ok(Err(error)) => broken = Some(("state-contradicts", format!("event {}: {error}", batch.first_seq))),
                Err(_) => {
                    let place = format!("one of the events {} to {}", batch.first_seq, batch.last_seq);
                    broken = Some(("state-contradicts", format!("{place} contradicts what was before it")));
                }
            }
            if done == snapshot && !state.same_as(&loaded.state) {
                let message =
                    format!("{}: the snapshot is not what {snapshot} events come to", check.place.database.display());
                check.lost("snapshot-differs", message);
            }
        })?;
        if broken.is_none() {
            broken = check(&state).err().map(|violation| ("state-contradicts", violation.to_string()));
        }
        self.report.history = history.map_or(Told::default(), |history| Told {
            jobs: history.jobs(),
            leases: history.leases(),
            open: history.open(),
        });
        if let Some((reason, message)) = broken {
            self.lost(reason, message);
        } else if self.report.faults.is_empty() {
            let (rebuilt, faults) = tables.settle(reading, self.report.whole, rebuild).map_err(sqlite)?;
            self.report.rebuilt = rebuilt;
            for message in faults {
                self.fault("rows-differ", format!("{}: {message}", self.place.database.display()), self.place.rebuild);
            }
        }
        Ok(())
    }
}

/// Reads all of an archive.
///
/// # Errors
/// What cannot be read.
pub(super) fn readable(file: &Path) -> Result<(), String> {
    for batch in archive::read(file).map_err(|error| error.to_string())? {
        records(&batch).map_err(|(seq, why)| format!("event {seq}: {why}"))?;
    }
    Ok(())
}

/// Reads the events of a batch, or says which cannot be read.
fn records(batch: &Archived) -> Result<Vec<Record>, (u64, String)> {
    let mut bytes = batch.frames.as_slice();
    let read = |seq| take(&mut bytes, seq, batch.wall_ms).map_err(|why| (seq, why));
    let records = (batch.first_seq..=batch.last_seq).map(read).collect::<Result<Vec<_>, _>>()?;
    if bytes.is_empty() { Ok(records) } else { Err((batch.last_seq, "more bytes follow".to_owned())) }
}

/// Folds a batch, and shows it to the history checker: what contradicts the events before it, if anything does.
fn fold_batch(
    state: &mut State,
    batch: &Archived,
    tables: &mut Tables,
    history: Option<&mut History>,
) -> Result<Option<String>, String> {
    let records = records(batch).map_err(|(_, why)| why)?;
    let Some(last) = records.last() else { return Ok(None) };
    let now = Now { time: last.at, wall_ms: batch.wall_ms };
    let mut projection = Projection::default();
    records.iter().for_each(|record| projection.fold(state, now, &record.event));
    tables.write(&projection.rows(state, now)).map_err(|error| error.to_string())?;
    let Some(history) = history else { return Ok(None) };
    let found = records.iter().find_map(|record| Some((record.seq, history.observe(record, &Unseen).err()?)));
    Ok(found.map(|(seq, violation)| format!("event {seq}: {violation}")))
}

#[cfg(test)]
mod tests;
