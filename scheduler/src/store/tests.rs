//! A store comes back as it was, finds what was damaged, and stays small.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

pub(super) mod secure;
pub(super) mod server;
pub(super) mod suite;
pub(super) mod wire;

use suite::{Both, Ground};

use super::*;

/// A folder on this disk.
impl Ground for &Path {
    fn open(&self, snapshot_every: u64) -> (Box<dyn Store>, Loaded) {
        let (mut store, loaded) = SqliteStore::open(self, None).unwrap();
        store.snapshot_every = snapshot_every;
        (Box::new(store), loaded)
    }

    fn batches(&self) -> u64 {
        let database = sqlite::connect_read_only(&self.join("gangsaw.db")).unwrap();
        database.query_row("SELECT count(*) FROM batch", [], |row| row.get::<_, i64>(0)).unwrap().cast_unsigned()
    }
}

fn open(folder: &Path) -> Both {
    Both::open(&folder, SNAPSHOT_EVERY)
}

fn open_error(folder: &Path) -> OpenError {
    SqliteStore::open(folder, None).unwrap_err()
}

#[test]
fn a_store_folds_to_the_state_that_wrote_it() {
    let dir = tempfile::tempdir().unwrap();
    suite::folds_to_the_state_that_wrote_it(&dir.path());
}

#[test]
fn snapshots_and_archives_change_nothing_but_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let state = suite::snapshots_and_archives_change_nothing_but_the_place(&dir.path());
    let archives = archive::list(&dir.path().join("archive")).unwrap();
    assert!(!archives.is_empty(), "events below the snapshot were archived");

    let state_dir = tempfile::tempdir().unwrap();
    std::fs::rename(dir.path(), state_dir.path().join("scheduler")).unwrap();
    let mut folded = State::new();
    let mut next = 1;
    read_log(state_dir.path(), |record| {
        assert_eq!(record.seq, next);
        next += 1;
        apply(&mut folded, record.at, &record.event);
    })
    .unwrap();
    assert!(folded.same_as(&state), "archives and database together are the whole log");
    std::fs::create_dir(dir.path()).unwrap();
}

#[test]
fn a_log_that_cannot_be_folded_gives_way_to_a_snapshot_of_what_is_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut both = Both::open(&dir.path(), 20);
    (1..=9).for_each(|number| both.submit(number));
    let other = sqlite::connect(&dir.path().join("gangsaw.db")).unwrap();
    let spoilt =
        "UPDATE batch SET frames = zeroblob(length(frames)) WHERE first_seq = (SELECT max(first_seq) FROM batch)";
    other.execute(spoilt, []).unwrap();
    let before = both.store.last_seq();
    let mut number = 10;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    // The keeper looks when it is asked to, and the engine hears of it at a later append.
    while sqlite::meta(&other, "snapshot_seq").unwrap().is_none_or(|seq| seq.cast_unsigned() <= before) {
        assert!(std::time::Instant::now() < deadline, "no snapshot after {number} submits");
        both.submit(number);
        both.store.snapshot_if_due(&both.state, 1_000 + number);
        number += 1;
    }
    assert_eq!(both.store.keeper_failure(), None);
    drop((other, both.store));
    let again = Both::open(&dir.path(), 20);
    assert!(again.state.same_as(&both.state), "nothing is lost that was in memory");
}

#[test]
fn a_forgotten_job_is_found_in_its_rows_with_its_tasks() {
    let dir = tempfile::tempdir().unwrap();
    suite::a_forgotten_job_is_found_in_its_rows_with_its_tasks(&dir.path());
}

#[test]
fn a_second_store_on_the_same_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    assert!(matches!(open_error(dir.path()), OpenError::InUse(_)));
    drop(first);
    open(dir.path());
}

#[test]
fn a_flipped_bit_is_found_at_load_with_its_event_and_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut both = open(dir.path());
    (1..=9).for_each(|number| both.submit(number));
    drop(both.store);
    let path = dir.path().join("gangsaw.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    let frames: Vec<u8> =
        database.query_row("SELECT frames FROM batch WHERE first_seq = 5", [], |row| row.get(0)).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    drop(database);
    let at = bytes.windows(frames.len()).position(|window| window == frames).unwrap();
    bytes[at + frames.len() / 2] ^= 0x10;
    std::fs::write(&path, bytes).unwrap();
    let error = open_error(dir.path());
    let said = error.to_string();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    assert!(said.contains("gangsaw.db is damaged at event 5: "), "{said}");
}

#[test]
fn a_missing_batch_is_found_at_load() {
    let dir = tempfile::tempdir().unwrap();
    let mut both = open(dir.path());
    (1..=9).for_each(|number| both.submit(number));
    drop(both.store);
    let database = rusqlite::Connection::open(dir.path().join("gangsaw.db")).unwrap();
    database.execute("DELETE FROM batch WHERE first_seq = 4", []).unwrap();
    drop(database);
    assert!(open_error(dir.path()).to_string().ends_with("event 4: it is missing"));
}

#[test]
fn a_truncated_file_and_another_format_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut both = open(dir.path());
    (1..=400).for_each(|number| both.submit(number));
    drop(both.store);
    let path = dir.path().join("gangsaw.db");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = open_error(dir.path());
    assert!(matches!(error, OpenError::Sqlite { .. } | OpenError::Damaged { .. }), "{error:?}");
    std::fs::write(&path, &bytes).unwrap();
    let database = rusqlite::Connection::open(&path).unwrap();
    database.execute("UPDATE meta SET value = 99 WHERE key = 'format'", []).unwrap();
    drop(database);
    assert!(matches!(open_error(dir.path()), OpenError::Format { found: 99, .. }));
}

#[test]
fn after_a_failed_write_nothing_is_appended_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = SqliteStore::open(dir.path(), None).unwrap();
    store.database.connection.execute_batch("PRAGMA query_only=ON").unwrap();
    let event = Event::KeysExpired(Time(1));
    let failed = store.append(Time(2), 2, std::slice::from_ref(&event), &[]);
    assert!(matches!(failed, Err(AppendError::Latched(_))), "{failed:?}");
    store.database.connection.execute_batch("PRAGMA query_only=OFF").unwrap();
    let again = store.append(Time(2), 2, &[event], &[]);
    assert!(matches!(again, Err(AppendError::LatchedBefore)), "the disk works again, and the store stays latched");
}

#[test]
fn a_chunk_of_a_million_finished_tasks_takes_few_bytes() {
    use gangsaw_core::id::{JobId, LeaseId, NodeId};
    let mut bytes = Vec::new();
    let (lease, job) = (LeaseId(900_000), JobId(70_000));
    let succeeded = Event::ElementsSucceeded { lease, job, first: 900_000, last: 900_063, mean_us: 1 << 10 };
    frame::push(&mut bytes, 1, 2, |out| codec::encode(Time(1 << 36), &succeeded, out));
    let taken = Event::ReportTaken { node: NodeId(2_000), seq: 1 << 40 };
    frame::push(&mut bytes, 2, 2, |out| codec::encode(Time(1 << 36), &taken, out));
    // Even in chunks of 64 tasks, each with its own report, a million of them is 15,625 of these.
    assert!(bytes.len() * 15_625 < 2 << 20, "{} bytes a chunk", bytes.len());
}
