//! The same of a store in PostgreSQL, and from the one kind of store to the other.

use super::super::super::backup::backup_postgres;
use super::super::super::postgres::copy;
use super::super::super::postgres::link::Target;
use super::super::super::postgres::read::read_log_postgres;
use super::super::super::postgres::tests::lead;
use super::super::super::read_log;
use super::super::super::restore::restore_postgres;
use super::super::super::tests::server::Server;
use super::super::fsck_postgres;
use super::*;
use crate::store::postgres::PgOpenError;

/// A database at work; it snapshots every `snapshot_every` events.
fn work(server: &Server, snapshot_every: u64) -> Work {
    let (mut store, loaded) = lead(&server.url()).unwrap();
    store.snapshot_every = snapshot_every;
    Work::on(Box::new(store), loaded)
}

/// A database with everything that [`sample`] has.
fn filled() -> Option<Server> {
    let server = Server::start()?;
    let archived = || {
        let begun = std::time::Instant::now();
        while server.sql("SELECT count(*) FROM gangsaw.archive") == "0" {
            assert!(begun.elapsed() < std::time::Duration::from_secs(20), "nothing is archived");
        }
    };
    sample_of(|snapshot_every| work(&server, snapshot_every), archived);
    until_nobody_leads(&server);
    Some(server)
}

fn until_nobody_leads(server: &Server) {
    copy::claim(&Target::open(&server.url()).unwrap()).unwrap();
}

fn check(server: &Server) -> Report {
    fsck_postgres(&server.url(), false).unwrap()
}

#[track_caller]
fn finds(server: &Server, reason: &str, what: &str) {
    let faults = check(server).faults;
    let found = faults.iter().any(|fault| fault.reason == reason && fault.message.contains(what));
    assert!(found, "{reason}, {what}: {faults:?}");
    assert!(faults.iter().all(|fault| fault.message.starts_with("postgres://")), "{faults:?}");
}

/// A log, event by event.
fn log(read: impl FnOnce(&mut dyn FnMut(Record))) -> Vec<String> {
    let mut said = Vec::new();
    read(&mut |record| said.push(format!("{record:?}")));
    said
}

fn log_of_database(server: &Server) -> Vec<String> {
    log(|each| read_log_postgres(&server.url(), each).unwrap())
}

fn log_of_file(state_dir: &Path) -> Vec<String> {
    log(|each| read_log(state_dir, each).unwrap())
}

#[test]
fn a_sound_database_is_sound_with_all_it_has_while_a_scheduler_leads_and_afterwards() {
    let Some(server) = filled() else { return };
    let report = check(&server);
    assert_eq!(report.faults, []);
    assert_eq!((report.history.jobs, report.history.open), (31, 15), "{:?}", report.history);
    assert!(report.whole && !report.live && report.archives > 0 && report.snapshot_seq.is_some(), "{report:?}");
    let mut work = work(&server, 1_000_000);
    work.submit();
    let report = check(&server);
    assert_eq!((report.faults.len(), report.live, report.last_seq), (0, true, work.store.last_seq()));
    let refused = fsck_postgres(&server.url(), true);
    assert!(matches!(refused, Err(OpenError::Postgres(PgOpenError::InUse { .. }))), "{refused:?}");
    work.submit();
    drop(work.store);
    until_nobody_leads(&server);
    assert!(!check(&server).live);
}

#[test]
fn a_flipped_bit_in_a_row_is_found_with_its_place() {
    let Some(server) = filled() else { return };
    let last = server.sql("SELECT max(first_seq) FROM gangsaw.batch");
    for (table, column, which, place) in [
        ("batch", "frames", format!("first_seq = {last}"), format!("/postgres is damaged at event {last}: ")),
        (
            "archive",
            "batches",
            "first_seq = 1".to_owned(),
            "/postgres, row 1 of gangsaw.archive, is damaged at events 1 to".to_owned(),
        ),
        ("snapshot", "frames", "part = 0".to_owned(), "/postgres is damaged at the snapshot of event ".to_owned()),
    ] {
        let flip = format!(
            "UPDATE gangsaw.{table} SET {column} = set_bit({column}, 300, 1 - get_bit({column}, 300)) WHERE {which}"
        );
        server.sql(&flip);
        finds(&server, "store-damaged", &place);
        let dir = tempfile::tempdir().unwrap();
        let refused = backup_postgres(&server.url(), dir.path(), &dir.path().join("backup"));
        assert!(matches!(refused, Err(BackupError::Damaged(_))), "{table}: {refused:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left of it");
        server.sql(&flip);
        assert_eq!(check(&server).faults, [], "{table}");
    }
    server.sql(
        "UPDATE gangsaw.batch SET wall_ms = wall_ms + 1 WHERE first_seq = (SELECT max(first_seq) FROM gangsaw.batch)",
    );
    finds(&server, "store-damaged", &format!("event {last}: the event's checksum does not match"));
}

#[test]
fn missing_rows_and_another_snapshot_are_found() {
    let Some(server) = filled() else { return };
    let saved = "CREATE TABLE kept AS SELECT * FROM gangsaw.batch";
    server.sql(saved);
    server.sql("DELETE FROM gangsaw.batch WHERE first_seq = (SELECT min(first_seq) FROM gangsaw.batch)");
    finds(&server, "store-incomplete", "are missing");
    server.sql("DELETE FROM gangsaw.batch; INSERT INTO gangsaw.batch SELECT * FROM kept");
    let (count, frames) = parts(&State::new(), 5).remove(0);
    let hex: String = frames.iter().map(|byte| format!("{byte:02x}")).collect();
    server.sql(&format!(
        "DELETE FROM gangsaw.snapshot WHERE part > 0;
        UPDATE gangsaw.snapshot SET count = {count}, frames = '\\x{hex}' WHERE part = 0"
    ));
    finds(&server, "snapshot-differs", "the snapshot is not what");
    server.sql("DROP SCHEMA gangsaw CASCADE");
    let empty = fsck_postgres(&server.url(), false);
    assert!(matches!(empty, Err(OpenError::Postgres(PgOpenError::Empty { .. }))), "{empty:?}");
    assert_eq!(server.sql("SELECT to_regnamespace('gangsaw') IS NULL"), "t", "looking makes nothing");
}

#[test]
fn rows_that_were_changed_are_found_and_written_again() {
    let Some(server) = filled() else { return };
    let changes = [
        "UPDATE gangsaw.job SET state = 'RUNNING' WHERE job_id = 7",
        "DELETE FROM gangsaw.attempt",
        "UPDATE gangsaw.node SET milli_cpus_free = 1",
        "UPDATE gangsaw.usage SET attempts_ok = attempts_ok + 1",
        "DELETE FROM gangsaw.old_job",
        "DELETE FROM gangsaw.old_task",
    ];
    for change in changes {
        server.sql(change);
        finds(&server, "rows-differ", "not what the log says");
        let rebuilt = fsck_postgres(&server.url(), true).unwrap();
        assert!(rebuilt.rebuilt > 0 && rebuilt.faults.is_empty(), "{change}: {rebuilt:?}");
        assert_eq!(check(&server).faults, [], "{change}");
    }
    server.sql("DELETE FROM gangsaw.archive");
    server.sql("UPDATE gangsaw.job SET waiting = 77 WHERE state = 'PENDING'");
    let rebuilt = fsck_postgres(&server.url(), true).unwrap();
    assert!(rebuilt.rebuilt > 0 && rebuilt.faults.is_empty() && !rebuilt.whole, "{rebuilt:?}");
    assert_eq!(check(&server).faults, [], "where old archives are gone the rest is checked and written again");
    work(&server, 25).submit();
    assert_eq!(check(&server).faults, [], "a scheduler goes on with what was written");
}

#[test]
fn rows_are_not_written_beside_a_scheduler_that_began_to_lead_meanwhile() {
    let Some(server) = filled() else { return };
    let target = Target::open(&server.url()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let epoch = copy::claim(&target).unwrap();
    assert!(!copy::copy_out(&target, folder.path()).unwrap());
    let mut work = work(&server, 25);
    work.submit();
    let refused = copy::write_rows(&target, folder.path(), epoch);
    assert!(matches!(refused, Err(OpenError::Postgres(PgOpenError::InUse { .. }))), "{refused:?}");
    work.submit();
    drop(work.store);
    assert_eq!(check(&server).faults, []);
}

#[test]
fn a_backup_of_a_file_fills_a_database_and_one_of_that_is_a_file_again() {
    let Some(server) = Server::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    sample(&path("file"));
    let made = backup(&path("file"), &path("one")).unwrap();
    let restored = restore_postgres(&path("one"), &path("members"), &server.url(), "ada").unwrap();
    assert_eq!((restored.epoch, restored.last_seq), (1, made.last_seq + 1));
    assert_eq!(std::fs::read_to_string(path("members/scheduler/token")).unwrap(), "ab".repeat(32));
    let left = std::fs::read_dir(path("members/scheduler")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["token"], "the store is in the database alone");
    assert_eq!(check(&server).faults, []);
    let (of_file, of_database) = (log_of_file(&path("file")), log_of_database(&server));
    assert_eq!(of_database.len(), of_file.len() + 1);
    assert_eq!(of_database[..of_file.len()], of_file);
    let again = restore_postgres(&path("one"), &path("members"), &server.url(), "ada");
    assert!(matches!(again, Err(RestoreError::Taken(_))), "{again:?}");
    // Of two that restore at once, each having seen an empty database, one does.
    let target = Target::open(&server.url()).unwrap();
    assert!(!copy::copy_in(&target, &path("file/scheduler")).unwrap());

    // A scheduler leads there, and somebody copies what it does.
    let mut work = work(&server, 25);
    assert!(work.state.nodes().all(|node| !node.connected()));
    for _ in 0..40 {
        work.submit();
    }
    backup_postgres(&server.url(), &path("members"), &path("two")).unwrap();
    let (state, last) = (work.state.clone(), work.store.last_seq());
    work.submit();
    drop(work.store);
    let restored = restore(&path("two"), &path("back"), "ada").unwrap();
    assert_eq!((restored.epoch, restored.last_seq), (2, last + 1));
    assert_eq!(faults(&path("back")), []);
    assert_eq!(std::fs::read_to_string(path("back/scheduler/token")).unwrap(), "ab".repeat(32));
    let back = Work::open(&path("back"), 1_000_000);
    assert_eq!(back.state.jobs().count(), state.jobs().count());
    drop(back.store);
    let last = usize::try_from(last).unwrap();
    assert_eq!(log_of_file(&path("back"))[..last], log_of_database(&server)[..last]);
}

#[test]
fn a_backup_is_one_moment_of_a_database_at_work() {
    let Some(server) = filled() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (stop, work_on) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let server = &server;
        let load = scope.spawn(move || {
            let mut work = work(server, 25);
            work.reports = 1_000;
            // A failed test hangs up, too.
            while work_on.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                work.submit();
                work.end(0);
            }
            work.store.last_seq()
        });
        let stop = stop;
        let mut before = 0;
        for number in 0..6 {
            let dest = dir.path().join(number.to_string());
            let made = backup_postgres(&server.url(), dir.path(), &dest).unwrap();
            // Its rows are those of its last event: what it was checked for, and what a start would find.
            let target = dir.path().join(format!("restored-{number}"));
            restore(&dest, &target, "ada").unwrap();
            assert_eq!(faults(&target), []);
            assert!(made.last_seq >= before);
            before = made.last_seq;
        }
        drop(stop);
        assert!(load.join().unwrap() > 60, "there was something to do meanwhile");
    });
    assert_eq!(check(&server).faults, []);
}

#[test]
fn a_restore_into_a_database_goes_on_above_every_epoch_that_was_given_there() {
    let Some(server) = filled() else { return };
    let dir = tempfile::tempdir().unwrap();
    backup_postgres(&server.url(), dir.path(), &dir.path().join("backup")).unwrap();
    let mut old = work(&server, 1_000_000);
    let epoch = || server.sql("SELECT epoch FROM gangsaw.leader").parse::<i64>().unwrap();
    let before = epoch();
    // What the one that leads does not hear of.
    server.sql("DROP SCHEMA gangsaw CASCADE");
    restore_postgres(&dir.path().join("backup"), &dir.path().join("members"), &server.url(), "ada").unwrap();
    assert!(epoch() > before + 1_000_000);
    let last = server.sql("SELECT max(last_seq) FROM gangsaw.batch");
    let event = [Event::KeysExpired(Time(old.at))];
    assert!(old.store.append(Time(old.at), wall_ms(), &event, &[]).is_err(), "its epoch is over");
    assert_eq!(server.sql("SELECT max(last_seq) FROM gangsaw.batch"), last);
    old.state = lead(&server.url()).unwrap().1.state;
    assert!(old.state.jobs().count() > 0);
}
