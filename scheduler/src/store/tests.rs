//! A store comes back as it was, finds what was damaged, and stays small.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use gangsaw_core::access::Reach;
use gangsaw_core::decide::decide;
use gangsaw_core::id::{Actor, IdempotencyKey, RequestId, Tenant};
use gangsaw_core::input::{Input, Request, Submit};
use gangsaw_core::job::draft::{JobDraft, WorkDraft};
use gangsaw_core::job::spec::JobSpec;

use super::*;

/// A store, and the state its events should fold to.
struct Both {
    store: SqliteStore,
    state: State,
}

impl Both {
    fn open(folder: &Path) -> Both {
        let (store, loaded) = SqliteStore::open(folder, None).unwrap();
        Both { store, state: loaded.state }
    }

    /// Submits one job and appends what came of it.
    fn submit(&mut self, number: u64) {
        let draft = JobDraft { work: Some(WorkDraft::Shell("true".into())), ..JobDraft::default() };
        let key = IdempotencyKey::new(&format!("k{number}")).unwrap();
        let input = Input::Submit(Submit { key, user: "ada".into(), jobs: vec![JobSpec::try_from(draft).unwrap()] });
        let (actor, request_id) = (Actor::new("ada").unwrap(), RequestId::new("r").unwrap());
        let at = Time(number);
        let step = decide(
            &self.state,
            at,
            &Request { actor, tenant: Tenant::default(), reach: Reach::Own, request_id, input },
        );
        for event in &step.events {
            apply(&mut self.state, at, event);
        }
        self.store.append(at, 1_000 + number, &step.events, &[]).unwrap();
    }
}

fn open_error(folder: &Path) -> OpenError {
    SqliteStore::open(folder, None).unwrap_err()
}

#[test]
fn a_store_folds_to_the_state_that_wrote_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut both = Both::open(dir.path());
    (1..=50).for_each(|number| both.submit(number));
    let seq = both.store.last_seq();
    drop(both.store);
    let again = Both::open(dir.path());
    assert!(again.state.same_as(&both.state));
    assert_eq!((again.store.last_seq(), again.state.now()), (seq, Time(50)));
}

#[test]
fn snapshots_and_archives_change_nothing_but_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut both = Both::open(dir.path());
    both.store.snapshot_every = 20;
    let mut snapshots = 0;
    for number in 1..=90 {
        both.submit(number);
        snapshots += u32::from(both.store.snapshot_if_due(&both.state, 1_000 + number));
    }
    assert!(snapshots >= 2);
    let seq = both.store.last_seq();
    drop(both.store);
    let archives = archive::list(&dir.path().join("archive")).unwrap();
    assert!(!archives.is_empty(), "events below the snapshot were archived");
    let database = sqlite::connect_read_only(&dir.path().join("gangsaw.db")).unwrap();
    let rows: i64 = database.query_row("SELECT count(*) FROM batch", [], |row| row.get(0)).unwrap();
    assert!(rows < 90, "and left the database: {rows}");
    let again = Both::open(dir.path());
    assert!(again.state.same_as(&both.state));
    assert_eq!(again.store.last_seq(), seq);
    drop(again);

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
    assert!(folded.same_as(&both.state), "archives and database together are the whole log");
    std::fs::create_dir(dir.path()).unwrap();
}

#[test]
fn a_second_store_on_the_same_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = Both::open(dir.path());
    assert!(matches!(open_error(dir.path()), OpenError::InUse(_)));
    drop(first);
    Both::open(dir.path());
}

#[test]
fn a_flipped_bit_is_found_at_load_with_its_event_and_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut both = Both::open(dir.path());
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
    let mut both = Both::open(dir.path());
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
    let mut both = Both::open(dir.path());
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
    let mut both = Both::open(dir.path());
    both.submit(1);
    both.store.database.connection.execute_batch("PRAGMA query_only=ON").unwrap();
    let event = Event::KeysExpired { used_until: Time(1) };
    let failed = both.store.append(Time(2), 2, std::slice::from_ref(&event), &[]);
    assert!(matches!(failed, Err(AppendError::Latched(_))), "{failed:?}");
    both.store.database.connection.execute_batch("PRAGMA query_only=OFF").unwrap();
    let again = both.store.append(Time(2), 2, &[event], &[]);
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

#[test]
fn a_forgotten_job_is_found_in_its_rows_with_its_tasks() {
    use gangsaw_core::id::JobId;
    use gangsaw_core::job::draft::{ArrayDraft, StepRange};
    use gangsaw_proto::jobs::v1 as wire;
    use prost::Message;

    let dir = tempfile::tempdir().unwrap();
    let mut both = Both::open(dir.path());
    let array = ArrayDraft { ranges: vec![StepRange { first: 0, last: 4_999, step: 1 }], running_max: 0 };
    let draft = JobDraft {
        name: "sweep".into(),
        work: Some(WorkDraft::Shell("true".into())),
        array: Some(array),
        ..JobDraft::default()
    };
    let spec = JobSpec::try_from(draft).unwrap();
    let submit = Submit { key: IdempotencyKey::new("k").unwrap(), user: "ada".into(), jobs: vec![spec] };
    for (at, input) in [(5, Input::Submit(submit)), (9, Input::Cancel { job: JobId(1), elements: None })] {
        let (actor, request_id) = (Actor::new("ada").unwrap(), RequestId::new("r").unwrap());
        let step = decide(
            &both.state,
            Time(at),
            &Request { actor, tenant: Tenant::default(), reach: Reach::Own, request_id, input },
        );
        step.events.iter().for_each(|event| apply(&mut both.state, Time(at), event));
        both.store.append(Time(at), 1_000 + at, &step.events, &[]).unwrap();
    }
    let now = crate::wire::view::Now { time: Time(20), wall_ms: 1_020 };
    let rows = old::rows(&both.state, JobId(1), now);
    assert!(rows.len() <= 3, "five thousand alike tasks are one row: {}", rows.len());
    let forgotten = Event::JobForgotten { job: JobId(1) };
    apply(&mut both.state, Time(20), &forgotten);
    both.store.append(Time(20), 1_020, &[forgotten], &rows).unwrap();
    assert!(both.state.job(JobId(1)).is_none());

    let connection = both.store.connection();
    let found = history::job(connection, 1).unwrap().unwrap();
    let job = wire::Job::decode(found.job.as_slice()).unwrap();
    assert_eq!((job.name.as_str(), job.state(), job.element_count), ("sweep", wire::State::Cancelled, 5_000));
    let runs = history::tasks(connection, 1, (4_000, 0), 10).unwrap();
    assert_eq!((runs.len(), runs[0].first, runs[0].last), (1, 0, 4_999));
    let filter = |user: &str, states: Vec<i32>| history::Filter { user: user.into(), states, ..Default::default() };
    let count = |filter: history::Filter| history::jobs(connection, &filter, 10).unwrap().len();
    assert_eq!(count(filter("ada", Vec::new())), 1);
    assert_eq!(count(filter("bob", Vec::new())), 0);
    assert_eq!(count(filter("", vec![wire::State::Cancelled.into()])), 1);
    assert_eq!(count(filter("", vec![wire::State::Completed.into()])), 0);
    assert_eq!(count(history::Filter { below: Some(1), ..Default::default() }), 0);
}
