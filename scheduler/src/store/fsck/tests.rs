//! Whatever was changed in a store is found, with its place; what can be written again is; backups come back.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use gangsaw_core::decide::decide;
use gangsaw_core::event::Event;
use gangsaw_core::id::{Actor, IdempotencyKey, JobId, NodeId, NodeName, RequestId, Tenant};
use gangsaw_core::input::{Fact, FactKind, Input, NodeHello, Request, Submit};
use gangsaw_core::job::draft::{JobDraft, WorkDraft};
use gangsaw_core::job::spec::JobSpec;
use gangsaw_core::place::place;
use gangsaw_core::resources::Inventory;
use gangsaw_core::time::Time;

use super::super::backup::{BackupError, backup};
use super::super::contract::Store;
use super::super::restore::{RestoreError, restore};
use super::super::{SqliteStore, parts};
use super::*;
use crate::clock::wall_ms;

mod database;

/// A store at work, with rows, as the engine writes it.
struct Work {
    store: Box<dyn Store>,
    state: State,
    at: u64,
    base_wall_ms: u64,
    reports: u64,
}

impl Work {
    fn open(state_dir: &Path, snapshot_every: u64) -> Work {
        let folder = state_dir.join("scheduler");
        std::fs::create_dir_all(&folder).unwrap();
        let (mut store, loaded) = SqliteStore::open(&folder, None).unwrap();
        store.snapshot_every = snapshot_every;
        Work::on(Box::new(store), loaded)
    }

    fn on(store: Box<dyn Store>, loaded: Loaded) -> Work {
        let at = loaded.state.now().0;
        Work { store, state: loaded.state, at, base_wall_ms: wall_ms() - 1_000_000, reports: 0 }
    }

    fn append(&mut self, events: &[Event], more: impl Fn(&State, Time) -> Vec<Event>) {
        self.at += 7;
        let now = Now { time: Time(self.at), wall_ms: self.base_wall_ms + self.at };
        let mut projection = Projection::default();
        let (mut all, mut next) = (Vec::new(), events.to_vec());
        while !next.is_empty() {
            next.iter().for_each(|event| projection.fold(&mut self.state, now, event));
            all.extend(next);
            next = more(&self.state, now.time);
        }
        let rows = projection.rows(&self.state, now);
        self.store.append(now.time, now.wall_ms, &all, &rows).unwrap();
        self.store.snapshot_if_due(&self.state, now.wall_ms);
    }

    fn send(&mut self, input: Input) {
        let (actor, request_id) = (Actor::new("ada").unwrap(), RequestId::new("r").unwrap());
        let reach = gangsaw_core::access::Reach::Tenant;
        let request = Request { actor, tenant: Tenant::default(), reach, request_id, input };
        let events = decide(&self.state, Time(self.at + 7), &request).events;
        self.append(&events, |state, now| if state.wants_round(now) { place(state, now).events } else { Vec::new() });
    }

    fn hello(&mut self) {
        self.send(Input::NodeHello(NodeHello {
            name: NodeName::new("n1").unwrap(),
            uuid: "u".into(),
            boot_id: "b".into(),
            agent_version: "1".into(),
            inventory: Inventory { milli_cpus: 2_000, address: "127.0.0.1".into(), ..Inventory::default() },
            leases: Vec::new(),
        }));
    }

    fn submit(&mut self) -> JobId {
        let id = self.state.counters().job;
        let env = [("A", "1"), ("B", "2"), ("C", "3")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let draft = JobDraft { work: Some(WorkDraft::Shell("true".into())), env, ..JobDraft::default() };
        let key = IdempotencyKey::new(&format!("k{id}")).unwrap();
        self.send(Input::Submit(Submit { key, user: "ada".into(), jobs: vec![JobSpec::try_from(draft).unwrap()] }));
        JobId(id)
    }

    /// Ends the oldest lease.
    fn end(&mut self, code: i32) {
        let lease = self.state.leases().next().unwrap();
        let (lease, index) = (lease.id, lease.first);
        let exit = gangsaw_core::job::record::Exit {
            cause: gangsaw_core::job::record::Cause::Exit,
            exit_code: Some(code),
            signal: None,
            detail: String::new(),
            ran_us: 1_000,
            checkpoint: None,
            max_rss_bytes: 0,
        };
        self.reports += 1;
        let facts = vec![Fact { lease, kind: FactKind::Ended { index, rank: 0, exit } }];
        self.send(Input::NodeReport { node: NodeId(1), seq: self.reports, facts });
    }

    fn forget(&mut self, job: JobId) {
        self.append(&[Event::JobForgotten(job)], |_, _| Vec::new());
    }
}

/// A store with a snapshot, archives, ended, failed, cancelled, forgotten, running and waiting jobs.
fn sample(state_dir: &Path) -> State {
    let state = sample_of(|snapshot_every| Work::open(state_dir, snapshot_every), || ());
    std::fs::write(state_dir.join("scheduler/token"), "ab".repeat(32)).unwrap();
    state
}

/// The same wherever it is opened; `archived` waits until the store has archived something.
fn sample_of(open: impl Fn(u64) -> Work, archived: impl Fn()) -> State {
    let mut work = open(25);
    work.hello();
    for number in 0..30 {
        work.submit();
        if number % 2 == 1 {
            work.end(i32::from(number % 6 == 1));
        }
    }
    work.send(Input::Cancel { job: JobId(28), elements: None });
    let ended = |state: &State, id: u64| state.job(JobId(id)).is_some_and(|job| job.body.ended_at.is_some());
    for id in (1..6).filter(|id| ended(&work.state, *id)).collect::<Vec<_>>() {
        work.forget(JobId(id));
    }
    archived();
    drop(work.store);
    // The first start archives what the last snapshot covers; the rest stays in the database.
    let mut work = open(1_000_000);
    work.submit();
    drop(work.store);
    work.state
}

fn archives(state_dir: &Path) -> Vec<PathBuf> {
    archive::list(&state_dir.join("scheduler/archive")).unwrap().into_iter().map(|(_, _, file)| file).collect()
}

fn database(state_dir: &Path) -> PathBuf {
    state_dir.join("scheduler/gangsaw.db")
}

fn edit(state_dir: &Path, sql: &str) {
    Connection::open(database(state_dir)).unwrap().execute_batch(sql).unwrap();
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 0x20;
    std::fs::write(file, bytes).unwrap();
}

/// Checks and returns the reasons and messages.
fn faults(state_dir: &Path) -> Vec<(&'static str, String)> {
    let report = fsck(state_dir, false).unwrap();
    report.faults.into_iter().map(|fault| (fault.reason, fault.message)).collect()
}

fn found(state_dir: &Path, reason: &str, what: &str) {
    let faults = faults(state_dir);
    assert!(faults.iter().any(|(is, message)| *is == reason && message.contains(what)), "{reason}, {what}: {faults:?}");
}

#[test]
fn a_log_whose_events_contradict_each_other_is_found_though_it_folds() {
    let dir = tempfile::tempdir().unwrap();
    let mut work = Work::open(dir.path(), 1_000_000);
    work.hello();
    for _ in 0..2 {
        work.submit();
        work.end(0);
    }
    assert_eq!(faults(dir.path()), []);
    // A report that counted before counts again: every checksum is right, and so is the state it comes to.
    work.append(&[Event::ReportTaken { node: NodeId(1), seq: 2 }], |_, _| Vec::new());
    drop(work.store);
    found(dir.path(), "history-contradicts", "node 1: report 2 is taken after 2");
}

#[test]
fn a_sound_store_is_sound_with_all_it_has() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let report = fsck(dir.path(), false).unwrap();
    assert_eq!(report.faults, []);
    assert_eq!((report.history.jobs, report.history.open), (31, 15), "{:?}", report.history);
    assert!(report.whole && !report.live && report.archives > 0 && report.snapshot_seq.is_some(), "{report:?}");
    assert_eq!(report.first_seq, 1);
    let rows = Connection::open(database(dir.path())).unwrap();
    let count = |table: &str| rows.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0));
    for table in ["job", "attempt", "node", "usage", "old_job", "old_task"] {
        assert!(count(table).unwrap() > 0, "{table}");
    }
}

#[test]
fn a_flipped_bit_is_found_in_every_kind_of_file() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let archive = archives(dir.path()).remove(0);
    let length = std::fs::metadata(&archive).unwrap().len() as usize;
    let packed = |file: &Path| archive::read(file).and_then(|batches| archive::pack(&batches)).ok();
    let whole = packed(&archive);
    for at in (8..length).step_by(7) {
        flip(&archive, at);
        // Compression leaves a few bits that mean nothing.
        if packed(&archive) != whole {
            found(dir.path(), "store-damaged", archive.to_str().unwrap());
        }
        flip(&archive, at);
    }
    edit(
        dir.path(),
        "UPDATE batch SET frames = zeroblob(length(frames)) WHERE first_seq = (SELECT max(first_seq) FROM batch)",
    );
    found(dir.path(), "store-damaged", "gangsaw.db is damaged at event");
}

#[test]
fn a_snapshot_with_a_flipped_bit_or_of_another_state_is_found() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let copy = tempfile::tempdir().unwrap();
    backup(dir.path(), &copy.path().join("b")).unwrap();
    let other = parts(&State::new(), 5).remove(0);
    let connection = Connection::open(database(dir.path())).unwrap();
    let set = "UPDATE snapshot SET count = ?1, frames = ?2 WHERE part = 0";
    connection.execute(set, rusqlite::params![other.0.cast_signed(), other.1]).unwrap();
    found(dir.path(), "snapshot-differs", "gangsaw.db: the snapshot is not what");
    let mut flipped = other.1;
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    connection.execute(set, rusqlite::params![other.0.cast_signed(), flipped]).unwrap();
    found(dir.path(), "store-damaged", "the snapshot of event");
    assert!(SqliteStore::open(&dir.path().join("scheduler"), None).is_err(), "a start finds it too");
}

#[test]
fn cut_and_missing_files_are_found() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let files = archives(dir.path());
    let whole = std::fs::read(&files[0]).unwrap();
    std::fs::write(&files[0], &whole[..whole.len() / 2]).unwrap();
    found(dir.path(), "store-damaged", files[0].to_str().unwrap());
    std::fs::write(&files[0], &whole).unwrap();
    edit(dir.path(), "DELETE FROM batch WHERE first_seq = (SELECT min(first_seq) FROM batch)");
    found(dir.path(), "store-incomplete", "are missing");
    let bytes = std::fs::read(database(dir.path())).unwrap();
    std::fs::write(database(dir.path()), &bytes[..bytes.len() / 2]).unwrap();
    found(dir.path(), "store-damaged", "gangsaw.db is damaged");
    std::fs::remove_file(database(dir.path())).unwrap();
    assert!(fsck(dir.path(), false).is_err());
    let Err(OpenError::Damaged { place, .. }) = SqliteStore::open(&dir.path().join("scheduler"), None) else {
        panic!("a missing database is not an empty one");
    };
    assert!(place.contains("missing"), "{place}");
}

#[test]
fn a_database_older_than_its_archives_is_found() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    edit(dir.path(), "DELETE FROM batch; DELETE FROM snapshot; DELETE FROM meta WHERE key = 'snapshot_seq'");
    found(dir.path(), "store-incomplete", "ends at event 0, and an archive has events up to");
}

#[test]
fn rows_that_were_changed_are_found_and_written_again() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let changes = [
        "UPDATE job SET state = 'RUNNING' WHERE job_id = 7",
        "DELETE FROM attempt",
        "UPDATE node SET milli_cpus_free = 1",
        "UPDATE usage SET attempts_ok = attempts_ok + 1",
        "DELETE FROM old_job",
        "DELETE FROM old_task",
        "INSERT INTO attempt SELECT 999, element, attempt, state, outcome, node, nodes, gpus, pid, exit_code, signal, detail,
         leased_wall_ms, started_wall_ms, ended_wall_ms FROM attempt LIMIT 1",
    ];
    for change in changes {
        edit(dir.path(), change);
        found(dir.path(), "rows-differ", "not what the log says");
        let rebuilt = fsck(dir.path(), true).unwrap();
        assert!(rebuilt.rebuilt > 0 && rebuilt.faults.is_empty(), "{change}: {rebuilt:?}");
        assert_eq!(faults(dir.path()), [], "{change}");
    }
}

#[test]
fn where_old_archives_are_gone_the_rest_is_still_checked_and_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    for file in archives(dir.path()) {
        std::fs::remove_file(file).unwrap();
    }
    let report = fsck(dir.path(), false).unwrap();
    assert_eq!((report.faults, report.whole), (Vec::new(), false));
    edit(dir.path(), "UPDATE job SET waiting = 77 WHERE state = 'PENDING'");
    edit(dir.path(), "UPDATE attempt SET node = 'elsewhere' WHERE state <> 'ENDED'");
    let faults = faults(dir.path());
    assert_eq!(
        faults.iter().map(|(reason, _)| *reason).collect::<Vec<_>>(),
        ["rows-differ", "rows-differ"],
        "{faults:?}"
    );
    let rebuilt = fsck(dir.path(), true).unwrap();
    assert!(rebuilt.rebuilt > 0 && rebuilt.faults.is_empty(), "{rebuilt:?}");
}

#[test]
fn a_store_in_use_is_checked_from_a_copy_and_not_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let mut work = Work::open(dir.path(), 1_000_000);
    work.submit();
    let report = fsck(dir.path(), false).unwrap();
    assert_eq!((report.faults.len(), report.live), (0, true));
    assert_eq!(report.last_seq, work.store.last_seq());
    assert!(matches!(fsck(dir.path(), true), Err(OpenError::InUse(_))));
}

#[test]
fn a_backup_made_while_the_store_works_is_restored_as_it_was_and_goes_on_above_it() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let mut work = Work::open(dir.path(), 25);
    work.submit();
    let (backed, copied) = (dir.path().join("backup"), work.state.clone());
    let made = backup(dir.path(), &backed).unwrap();
    assert_eq!(made.last_seq, work.store.last_seq());
    assert!(matches!(backup(dir.path(), &backed), Err(BackupError::Exists(_))), "a backup is never overwritten");
    // Later snapshots archive events that the backup does not have.
    for _ in 0..40 {
        work.submit();
    }
    let later = work.state.counters();
    drop(work.store);

    let target = dir.path().join("restored");
    let restored = restore(&backed, &target, "ada").unwrap();
    assert_eq!((restored.epoch, restored.last_seq), (1, made.last_seq + 1));
    assert!(restored.next_job > later.job, "above what was given meanwhile: {restored:?}");
    assert!(matches!(restore(&backed, &target, "ada"), Err(RestoreError::Occupied(_))));
    let again = Work::open(&target, 1_000_000);
    assert_eq!(again.state.jobs().count(), copied.jobs().count());
    assert!(again.state.counters().lease > later.lease);
    assert!(again.state.leases().all(|lease| lease.begun));
    assert!(again.state.nodes().all(|node| !node.connected()));
    drop(again.store);
    assert_eq!(faults(&target), [], "its tables are what its log says");
    let token = std::fs::read_to_string(target.join("scheduler/token")).unwrap();
    assert_eq!(token, "ab".repeat(32));
}

#[test]
fn a_damaged_backup_is_refused_with_the_file_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let backed = dir.path().join("backup");
    backup(dir.path(), &backed).unwrap();
    let target = dir.path().join("restored");
    let list = std::fs::read_to_string(backed.join("backup.json")).unwrap();
    for file in ["scheduler/gangsaw.db", "scheduler/token"] {
        flip(&backed.join(file), 20);
        let Err(RestoreError::Damaged { path, why }) = restore(&backed, &target, "ada") else { panic!("{file}") };
        assert_eq!((path, why.as_str()), (backed.join(file), "its checksum does not match"));
        flip(&backed.join(file), 20);
    }
    let climbing = list.replacen("scheduler/token", "scheduler/../../token", 1);
    std::fs::write(backed.join("backup.json"), climbing).unwrap();
    assert!(matches!(restore(&backed, &target, "ada"), Err(RestoreError::NotABackup { .. })));
    std::fs::remove_file(backed.join("backup.json")).unwrap();
    assert!(matches!(restore(&backed, &target, "ada"), Err(RestoreError::NotABackup { .. })));
    assert!(!target.join("scheduler").exists());
}

#[test]
fn a_damaged_store_is_not_backed_up() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    flip(&archives(dir.path())[0], 60);
    let backed = dir.path().join("backup");
    assert!(matches!(backup(dir.path(), &backed), Err(BackupError::Damaged(_))));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["scheduler"], "nothing is left of it");
}

/// Where a backup of each store format is kept.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

#[test]
fn the_stores_of_every_released_format_open_and_are_sound() {
    let mut formats = Vec::new();
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let kept = entry.unwrap().path();
        formats.push(kept.file_name().unwrap().to_str().unwrap().to_owned());
        let dir = tempfile::tempdir().unwrap();
        restore(&kept, dir.path(), "ada").unwrap();
        assert_eq!(faults(dir.path()), [], "{}", kept.display());
        let work = Work::open(dir.path(), 1_000_000);
        assert!(work.state.jobs().count() >= 20 && work.state.leases().count() >= 1);
    }
    assert_eq!(formats, [format!("store-format-{}", sqlite::FORMAT)]);
}

#[test]
#[ignore = "writes the fixture of this format; run it when the format changes"]
fn write_the_fixture_of_this_format() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    std::fs::create_dir_all(fixtures()).unwrap();
    backup(dir.path(), &fixtures().join(format!("store-format-{}", sqlite::FORMAT))).unwrap();
}
