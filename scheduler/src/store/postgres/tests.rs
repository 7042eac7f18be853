//! The store in PostgreSQL: everything that holds for any store, and what only a database can suffer.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::contract::{AppendError, Store};
use super::super::rows::{AttemptRow, JobRow, NodeRow, Row, UsageRow};
use super::super::tests::server::Server;
use super::super::tests::suite::{self, Both, Ground};
use super::super::tests::wire::{self, Wire};
use super::super::{Loaded, SNAPSHOT_EVERY};
use super::follow::Follower;
use super::hosts::Known;
use super::link::{Driver, Target};
use super::{PgOpenError, PostgresStore};
use crate::lead::Candidate;
use gangsaw_core::event::Event;
use gangsaw_core::id::{JobName, NodeName, QueueName, Tenant};
use gangsaw_core::time::Time;

/// Waits until this process leads on a database.
pub(crate) fn lead(url: &str) -> Result<(PostgresStore, Loaded), PgOpenError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let candidate = Candidate::new(url, "here".to_owned(), None, Known::default())?;
    let lead = async { tokio::time::timeout(Duration::from_secs(60), candidate.lead(|_| ())).await };
    let lead = runtime.block_on(lead).expect("it does not come to lead")?;
    Ok((lead.store, lead.loaded))
}

impl Ground for Server {
    fn open(&self, snapshot_every: u64) -> (Box<dyn Store>, Loaded) {
        let (mut store, loaded) = lead(&self.url()).unwrap();
        store.snapshot_every = snapshot_every;
        (Box::new(store), loaded)
    }

    fn batches(&self) -> u64 {
        self.sql("SELECT count(*) FROM gangsaw.batch").parse().unwrap()
    }
}

fn event(at: u64) -> Event {
    Event::KeysExpired(Time(at))
}

#[test]
fn what_holds_for_every_store_holds_for_postgresql() {
    let Some(server) = Server::start() else { return };
    suite::folds_to_the_state_that_wrote_it(&server);
    server.sql("DROP SCHEMA gangsaw CASCADE");
    suite::snapshots_and_archives_change_nothing_but_the_place(&server);
    assert_ne!(server.sql("SELECT count(*) FROM gangsaw.archive"), "0", "events below the snapshot were archived");
    server.sql("DROP SCHEMA gangsaw CASCADE");
    suite::a_forgotten_job_is_found_in_its_rows_with_its_tasks(&server);
}

#[test]
fn a_flipped_bit_and_a_missing_batch_are_found_with_their_event() {
    let Some(server) = Server::start() else { return };
    let mut both = Both::open(&server, SNAPSHOT_EVERY);
    (1..=9).for_each(|number| both.submit(number));
    drop(both.store);
    let flip = "UPDATE gangsaw.batch SET frames = set_bit(frames, 200, 1 - get_bit(frames, 200)) WHERE first_seq = 5";
    server.sql(flip);
    let said = lead(&server.url()).err().unwrap().to_string();
    assert!(said.contains("is damaged at event 5: ") && said.starts_with("postgres://"), "{said}");
    server.sql(flip);
    drop(lead(&server.url()).unwrap());
    server.sql("DELETE FROM gangsaw.batch WHERE first_seq = 4");
    let said = lead(&server.url()).err().unwrap().to_string();
    assert!(said.ends_with("event 4: it is missing"), "{said}");
    server.sql("UPDATE gangsaw.meta SET value = 99 WHERE key = 'format'");
    assert!(matches!(lead(&server.url()).err().unwrap(), PgOpenError::Format { found: 99, .. }));
}

#[test]
fn a_write_under_an_epoch_that_is_over_changes_nothing() {
    let Some(server) = Server::start() else { return };
    let mut both = Both::open(&server, SNAPSHOT_EVERY);
    both.submit(1);
    let seq = both.store.last_seq();
    server.sql("UPDATE gangsaw.leader SET epoch = epoch + 1, holder = 'another'");
    let failed = both.store.append(Time(2), 2, &[event(1)], &[]);
    assert!(matches!(failed, Err(AppendError::Fenced)), "{failed:?}");
    assert_eq!(server.sql("SELECT max(last_seq) FROM gangsaw.batch"), seq.to_string());
    assert!(matches!(both.store.confirm(), Err(AppendError::Fenced)), "and what it remembers is not shown any more");
    let again = both.store.append(Time(2), 2, &[event(1)], &[]);
    assert!(matches!(again, Err(AppendError::LatchedBefore)), "{again:?}");
}

#[test]
fn an_append_whose_connection_was_ended_is_read_back_and_never_written_twice() {
    let Some(server) = Server::start() else { return };
    let (mut store, _) = lead(&server.url()).unwrap();
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'SELECT append%'";
    store.append(Time(1), 1, &[event(1)], &[]).unwrap();
    for round in 2..=5 {
        assert_ne!(server.sql(ended), "0");
        assert_eq!(store.append(Time(round), round, &[event(round)], &[]).unwrap(), round);
    }
    assert_eq!(
        server.sql("SELECT string_agg(first_seq::text, ' ' ORDER BY first_seq) FROM gangsaw.batch"),
        "1 2 3 4 5"
    );
}

#[test]
fn a_commit_whose_answer_is_lost_is_read_back_and_one_that_never_arrived_is_sent_again() {
    let Some(server) = Server::start() else { return };
    for (round, mark) in [wire::LOSE_ANSWER, wire::LOSE_REQUEST, wire::LOSE_HALF].into_iter().enumerate() {
        server.sql("DROP SCHEMA IF EXISTS gangsaw CASCADE");
        let wire = Wire::to(&server.folder(), 1);
        let (store, loaded) = lead(&wire.url()).unwrap();
        let mut both = Both { store: Box::new(store), state: loaded.state };
        both.submit(1);
        let epoch = || server.sql("SELECT epoch FROM gangsaw.leader");
        let before = epoch();
        both.feed(2, suite::submit_of(2, mark));
        assert_eq!(wire.lost.load(std::sync::atomic::Ordering::SeqCst), 1, "{mark}");
        assert_ne!(epoch(), before, "what was on its way under the old epoch can never be written");
        both.submit(3);
        let batches = server.sql("SELECT string_agg(first_seq::text, ' ' ORDER BY first_seq) FROM gangsaw.batch");
        assert_eq!(batches, "1 2 3", "round {round}, {mark}");
        drop(both.store);
        assert!(lead(&server.url()).unwrap().1.state.same_as(&both.state), "{mark}");
    }
}

#[test]
fn a_server_that_goes_silent_is_waited_for_as_long_as_the_lease_holds_and_no_longer() {
    let Some(server) = Server::start() else { return };
    let wire = Wire::to(&server.folder(), 1);
    let (store, loaded) = lead(&wire.url()).unwrap();
    let mut both = Both { store: Box::new(store), state: loaded.state };
    both.submit(1);
    let begun = Instant::now();
    let (events, rows) = both.fold(2, suite::submit_of(2, wire::GO_SILENT));
    let failed = both.store.append(Time(2), 2, &events, &rows);
    let took = begun.elapsed();
    assert!(matches!(failed, Err(AppendError::Fenced)), "{failed:?}");
    assert!(took < Duration::from_secs(9), "{took:?}");
    assert!(matches!(both.store.confirm(), Err(AppendError::Fenced)));
    assert_eq!(server.sql("SELECT max(last_seq) FROM gangsaw.batch"), "1");
}

#[test]
fn a_server_that_crashes_and_comes_back_loses_nothing_and_the_lead_goes_on() {
    let Some(server) = Server::start() else { return };
    let mut both = Both::open(&server, SNAPSHOT_EVERY);
    both.submit(1);
    server.crash();
    let away = std::thread::scope(|scope| {
        let back = scope.spawn(|| server.up());
        let begun = Instant::now();
        both.submit(2);
        back.join().unwrap();
        begun.elapsed()
    });
    assert!(away < Duration::from_secs(6), "within the lease: {away:?}");
    both.submit(3);
    drop(both.store);
    assert!(lead(&server.url()).unwrap().1.state.same_as(&both.state));
}

#[test]
fn a_full_disk_of_the_database_is_told_and_passes() {
    let Some(server) = Server::start() else { return };
    let mut both = Both::open(&server, SNAPSHOT_EVERY);
    server.sql(
        "CREATE FUNCTION gangsaw.no_room() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
         CREATE TRIGGER no_room BEFORE INSERT ON gangsaw.batch FOR EACH ROW EXECUTE FUNCTION gangsaw.no_room()",
    );
    let (events, rows) = both.fold(1, suite::submit(1));
    let full = both.store.append(Time(1), 1_001, &events, &rows);
    assert!(matches!(full, Err(AppendError::Full)), "{full:?}");
    server.sql("DROP TRIGGER no_room ON gangsaw.batch");
    assert_eq!(both.store.append(Time(1), 1_001, &events, &rows).unwrap(), events.len() as u64);
}

/// Rows of every kind; what a text or number cannot hold in PostgreSQL is in them.
fn rows(round: u64) -> Vec<Row> {
    let job = JobRow {
        job_id: 7,
        tenant: Tenant::default(),
        queue: QueueName::new("main").unwrap(),
        user: "ada\0".to_owned(),
        name: JobName::new("net").unwrap(),
        priority: -3,
        state: "RUNNING",
        elements: 2,
        waiting: 0,
        active: 2,
        ended: [0, 0, 0, 0, 0, round],
        retries: 1,
        exit_code: None,
        device: Some("cpu"),
        submitted_wall_ms: 1,
        started_wall_ms: Some(2),
        ended_wall_ms: None,
        forgotten_wall_ms: None,
    };
    let node = NodeRow {
        node_id: 1,
        name: NodeName::new("n1").unwrap(),
        mode: "active",
        reason: String::new(),
        silent_wall_ms: None,
        milli_cpus: 2_000,
        milli_cpus_free: 0,
        memory_bytes: u64::MAX,
        memory_bytes_free: round,
        gpus: 0,
        gpus_free: 0,
        leases: 1,
        agent_version: "it's \"1\" \\".to_owned(),
    };
    let usage = UsageRow {
        queue: QueueName::new("main").unwrap(),
        user: "ada".to_owned(),
        day: "2026-11-23".into(),
        cpu_ms: round,
        attempts_ok: 1,
        ..UsageRow::default()
    };
    let gone = Row::AttemptGone { job_id: 7, element: 1, attempt: 1 };
    vec![Row::Job(Box::new(job)), Row::Node(Box::new(node)), Row::Usage(usage), gone]
}

fn attempt(element: u32, detail: &str) -> Row {
    Row::Attempt(Box::new(AttemptRow {
        job_id: 7,
        element,
        attempt: 1,
        state: "RUNNING",
        outcome: None,
        node: Some(NodeName::new("n1").unwrap()),
        nodes: 1,
        gpus: 0,
        pid: Some(42),
        exit_code: None,
        signal: None,
        detail: detail.to_owned(),
        leased_wall_ms: 5,
        started_wall_ms: None,
        ended_wall_ms: None,
    }))
}

#[test]
fn rows_replace_add_and_go_with_the_batch_that_says_so_and_read_well_in_psql() {
    let Some(server) = Server::start() else { return };
    let (mut store, _) = lead(&server.url()).unwrap();
    let first = [attempt(0, "a"), attempt(1, "b"), attempt(0, "later in the same batch")];
    store.append(Time(1), 1, &[event(1)], &first).unwrap();
    assert_eq!(
        server.sql("SELECT string_agg(element || ' ' || detail, ', ' ORDER BY element) FROM gangsaw.attempt"),
        "0 later in the same batch, 1 b"
    );
    store.append(Time(2), 2, &[event(2)], &rows(3)).unwrap();
    store.append(Time(3), 3, &[event(3)], &rows(4)).unwrap();
    let read = |sql: &str| server.sql(sql);
    assert_eq!(read("SELECT element FROM gangsaw.attempt"), "0");
    assert_eq!(
        read("SELECT \"user\", state, node_fail, started_wall_ms, ended_wall_ms IS NULL FROM gangsaw.job"),
        "ada\u{fffd}|RUNNING|4|2|t"
    );
    assert_eq!(
        read("SELECT memory_bytes, memory_bytes_free, agent_version FROM gangsaw.node"),
        format!("{}|4|it's \"1\" \\", i64::MAX)
    );
    assert_eq!(read("SELECT day, cpu_ms, attempts_ok FROM gangsaw.usage"), "2026-11-23|7|2");
    server.sql("UPDATE gangsaw.leader SET epoch = 0, holder = ''");
    let refused = store.append(Time(4), 4, &[event(4)], &[Row::NodeGone { node_id: 1 }, attempt(5, "")]);
    assert!(matches!(refused, Err(AppendError::Fenced)), "{refused:?}");
    assert_eq!(read("SELECT (SELECT count(*) FROM gangsaw.node), (SELECT count(*) FROM gangsaw.attempt)"), "1|1");
}

#[test]
fn a_commit_that_somebody_kept_from_waiting_for_its_standby_is_not_acknowledged() {
    let Some(server) = Server::start() else { return };
    let (mut store, _) = lead(&server.url()).unwrap();
    store.append(Time(1), 1, &[event(1)], &[]).unwrap();
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    server.sql("SELECT pg_reload_conf()");
    // The process that makes checkpoints is the one that tells the others: it has read the setting when it has made one.
    server.sql("CHECKPOINT");
    let appended = std::thread::scope(|scope| {
        let appending = scope.spawn(|| store.append(Time(2), 2, &[event(2)], &[]));
        let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
                      WHERE wait_event = 'SyncRep' AND query LIKE 'SELECT append%'";
        let begun = Instant::now();
        while server.sql(cancel) == "0" {
            assert!(begun.elapsed() < Duration::from_secs(10), "it does not wait for its standby");
        }
        appending.join().unwrap()
    });
    assert!(matches!(appended, Err(AppendError::Fenced)), "{appended:?}");
    assert_eq!(server.sql("SELECT max(last_seq) FROM gangsaw.batch"), "2", "PostgreSQL has it, and answered so");
}

#[test]
fn a_leader_whose_database_was_replaced_by_an_older_copy_writes_nothing_to_it() {
    let Some(server) = Server::start() else { return };
    let (mut store, _) = lead(&server.url()).unwrap();
    for round in 1..=3 {
        store.append(Time(round), round, &[event(round)], &[]).unwrap();
    }
    // What a standby that was behind would have when it is promoted.
    server.sql("DELETE FROM gangsaw.batch WHERE first_seq = 3");
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT append%'");
    let refused = store.append(Time(4), 4, &[event(4)], &[]);
    assert!(matches!(refused, Err(AppendError::Fenced)), "{refused:?}");
    assert_eq!(server.sql("SELECT max(last_seq) FROM gangsaw.batch"), "2", "no gap");
}

#[test]
fn a_follower_whose_log_was_replaced_by_an_older_copy_reads_it_again() {
    let Some(server) = Server::start() else { return };
    let mut both = Both::open(&server, SNAPSHOT_EVERY);
    (1..=3).for_each(|number| both.submit(number));
    let driver = Driver::start().unwrap();
    let target = Target::parse(&server.url(), Known::default(), Arc::clone(&driver)).unwrap();
    let mut follower = Follower::new(target.shown());
    driver.block_on(async {
        let mut client = target.connect("a follower").await.unwrap();
        follower.catch_up(&mut client).await.unwrap();
        follower.verify(&client).await.unwrap();
        assert_eq!(follower.seq, both.store.last_seq(), "nothing was replaced");
        server.sql("DELETE FROM gangsaw.batch WHERE last_seq = (SELECT max(last_seq) FROM gangsaw.batch)");
        follower.verify(&client).await.unwrap();
        assert_eq!(follower.seq, 0, "what it read of that never happened");
        follower.catch_up(&mut client).await.unwrap();
    });
    drop(both.store);
    assert!(lead(&server.url()).unwrap().1.state.same_as(&follower.state));
}
