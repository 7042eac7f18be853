//! A cluster whose store is a database: copied at work, made again elsewhere, checked from outside.

use rustix::process::Signal;

use crate::cluster::{Cluster, Daemon, Place, err, eventually, is_alive, start_ticks};
use crate::secure::Secure;
use crate::server::Server;

/// Starts a scheduler of this state folder on a database.
fn scheduler(place: &Place, listen: &str, state: &str, url: &str) -> Daemon {
    let state = place.path().join(state).display().to_string();
    let args = ["scheduler", "--state", &state, "--listen", listen, "--store", url, "--output", "jsonl"];
    Daemon::start(place.gangsaw(&args))
}

/// A cluster of one scheduler on a database, once it leads there.
fn cluster(url: &str) -> Cluster {
    let place = Place::new();
    let daemon = scheduler(&place, "127.0.0.1:0", "state", url);
    let server = daemon.ready["server"].as_str().unwrap().to_owned();
    let cluster = Cluster { daemons: vec![daemon], server, place };
    until_it_leads(&cluster);
    cluster
}

fn until_it_leads(cluster: &Cluster) {
    eventually("a leader", || cluster.run(&["ps"]).status.success().then_some(()));
}

/// The URL of another database of the same server.
fn another(postgres: &Server, name: &str) -> String {
    postgres.sql(&format!("CREATE DATABASE {name}"));
    postgres.url().replace("/postgres?", &format!("/{name}?"))
}

#[test]
fn a_database_is_copied_at_work_and_one_made_of_the_copy_adopts_what_still_runs() {
    let Some(postgres) = Server::start() else { return };
    let mut cluster = cluster(&postgres.url());
    cluster.start_agent("node");
    let path = |name: &str| cluster.place.path().join(name).display().to_string();
    let (state, again, backup, url) = (path("state"), path("again"), path("backup"), postgres.url());
    let known = cluster.submit(&["--cpus", "0.1", "--", "sleep", "600"]);
    let known_pid = cluster.until_running(known);
    let ticks = start_ticks(known_pid);
    let made = std::thread::scope(|scope| {
        let load = scope.spawn(|| (0..30).map(|_| cluster.submit(&["--hold", "--", "true"])).max());
        let made = cluster.json(&["backup", &backup, "--state", &state, "--store", &url]);
        load.join().unwrap();
        made
    });
    assert!(made["last_seq"].as_u64().unwrap() >= 3, "{made}");
    let live = cluster.json(&["fsck", "--store", &url]);
    assert_eq!((&live["sound"], &live["live"], &live["whole"]), (&true.into(), &true.into(), &true.into()), "{live}");
    let busy = cluster.run(&["fsck", "--rebuild", "--store", &url]);
    assert_eq!(busy.status.code(), Some(2), "{}", err(&busy));
    assert!(err(&busy).starts_with("error[store-in-use]"), "{}", err(&busy));

    // What follows is not in the backup.
    let lost = cluster.submit(&["--cpus", "0.1", "--", "sleep", "600"]);
    let lost_pid = cluster.until_running(lost);
    cluster.daemons[0].end(Signal::KILL);
    cluster.place.unwatch();
    let occupied = cluster.run(&["restore", &backup, "--state", &again, "--store", &url]);
    assert_eq!(occupied.status.code(), Some(2), "{}", err(&occupied));
    assert!(err(&occupied).starts_with("error[state-exists]"), "{}", err(&occupied));
    let second = another(&postgres, "second");
    let restored = cluster.json(&["restore", &backup, "--state", &again, "--store", &second]);
    assert_eq!(restored["epoch"], 1);
    let listen = cluster.server.trim_start_matches("http://").to_owned();
    cluster.daemons[0] = scheduler(&cluster.place, &listen, "again", &second);

    until_it_leads(&cluster);
    cluster.until_node("node");
    eventually("the process of the lost time is gone", || (!is_alive(lost_pid)).then_some(()));
    assert_eq!(cluster.until_running(known), known_pid);
    assert_eq!(start_ticks(known_pid), ticks, "what the backup knows was not touched");
    let fresh = cluster.submit(&["--", "true"]);
    assert_eq!(fresh, restored["next_job"].as_u64().unwrap());
    cluster.until(fresh, "COMPLETED");
    cluster.run(&["cancel", &known.to_string()]);
    cluster.until(known, "CANCELLED");
    cluster.daemons[0].end(Signal::TERM);
    let sound = cluster.json(&["fsck", "--store", &second]);
    assert_eq!((&sound["sound"], &sound["live"]), (&true.into(), &false.into()), "{sound}");
}

/// Flips what a text begins with wherever a table's file has it.
fn flip_on_disk(postgres: &Server, file: &str, text: &[u8]) {
    let path = format!("{}/{file}", postgres.data());
    let mut bytes = std::fs::read(&path).unwrap();
    let places: Vec<usize> = (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text)).collect();
    assert!(!places.is_empty(), "{path}");
    places.iter().for_each(|at| bytes[*at] ^= 1);
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn a_byte_that_was_flipped_on_the_disk_of_the_database_is_found_with_its_place_and_the_way_back() {
    let Some(postgres) = Server::start() else { return };
    let mut cluster = cluster(&postgres.url());
    let path = |name: &str| cluster.place.path().join(name).display().to_string();
    let (state, backup, url) = (path("state"), path("backup"), postgres.url());
    cluster.submit(&["--hold", "--name", "needle", "--", "true"]);
    cluster.json(&["backup", &backup, "--state", &state, "--store", &url]);
    cluster.daemons[0].end(Signal::TERM);
    let file = postgres.sql("SELECT pg_relation_filepath('gangsaw.batch')");
    let stop = || postgres.run("pg_ctl", &["-D", &postgres.data(), "-w", "-m", "fast", "stop"]);

    stop();
    flip_on_disk(&postgres, &file, b"needle");
    postgres.up();
    let start = cluster.run(&["scheduler", "--state", &state, "--listen", "127.0.0.1:0", "--store", &url]);
    let said = err(&start);
    assert_eq!(start.status.code(), Some(74), "{said}");
    assert!(said.contains("error[store-damaged]") && said.contains("is damaged at event"), "{said}");
    assert!(said.contains("gangsaw fsck --store URL") && said.contains("gangsaw restore BACKUP"), "{said}");
    let checked = cluster.run(&["fsck", "--store", &url]);
    assert_eq!(checked.status.code(), Some(74));
    let said = err(&checked);
    assert!(said.contains("error[store-damaged]: postgres://") && said.contains("is damaged at event"), "{said}");

    // A database that keeps checksums of its pages finds the same by itself.
    stop();
    flip_on_disk(&postgres, &file, b"oeedle");
    postgres.run("pg_checksums", &["--enable", "-D", &postgres.data()]);
    flip_on_disk(&postgres, &file, b"needle");
    postgres.up();
    let checked = cluster.run(&["fsck", "--store", &url]);
    let said = err(&checked);
    assert_eq!(checked.status.code(), Some(74), "{said}");
    assert!(said.contains("error[store-damaged]: postgres://") && said.contains("invalid page in block"), "{said}");

    let second = another(&postgres, "second");
    let restored = cluster.run(&["restore", &backup, "--state", &path("again"), "--store", &second]);
    assert!(restored.status.success(), "{}", err(&restored));
    let daemon = scheduler(&cluster.place, "127.0.0.1:0", "again", &second);
    cluster.server = daemon.ready["server"].as_str().unwrap().to_owned();
    cluster.daemons.push(daemon);
    until_it_leads(&cluster);
    assert_eq!(cluster.show(1)["state"], "HELD");
}

#[test]
fn rows_of_a_database_changed_by_hand_are_found_and_written_again_while_nobody_leads() {
    let Some(postgres) = Server::start() else { return };
    let mut cluster = cluster(&postgres.url());
    let url = postgres.url();
    cluster.submit(&["--hold", "--", "true"]);
    cluster.daemons[0].end(Signal::TERM);
    postgres.sql("UPDATE gangsaw.job SET state = 'RUNNING'");
    let found = cluster.run(&["fsck", "--store", &url]);
    assert_eq!(found.status.code(), Some(74));
    assert!(err(&found).contains("error[rows-differ]") && err(&found).contains("--rebuild"), "{}", err(&found));
    let rebuilt = cluster.json(&["fsck", "--rebuild", "--store", &url]);
    assert_eq!((&rebuilt["sound"], &rebuilt["rebuilt"]), (&true.into(), &1.into()), "{rebuilt}");
    assert_eq!(cluster.json(&["fsck", "--store", &url])["sound"], true);
    assert_eq!(postgres.sql("SELECT state FROM gangsaw.job"), "HELD");
}

#[test]
fn a_scheduler_speaks_tls_with_its_database_and_not_with_one_that_passes_itself_off_as_it() {
    let Some(postgres) = Secure::start(true) else { return };
    let url = |authority: &str| {
        let authority = postgres.authority(authority).display().to_string();
        postgres.url("db.example", &format!("&sslmode=verify-full&sslrootcert={authority}"))
    };
    let mut cluster = cluster(&url("ca"));
    let job = cluster.submit(&["--hold", "--", "true"]);
    assert_eq!(cluster.show(job)["state"], "HELD");
    assert_eq!(postgres.sessions(), "TLSv1.3", "seen from PostgreSQL");
    cluster.daemons[0].end(Signal::TERM);
    assert_eq!(cluster.json(&["fsck", "--store", &url("ca")])["sound"], true);

    let state = cluster.place.path().join("state").display().to_string();
    let (wrong, clear) = (url("other"), postgres.url("db.example", "&sslmode=prefer"));
    let start = |url: &str| cluster.run(&["scheduler", "--state", &state, "--listen", "127.0.0.1:0", "--store", url]);
    for refused in [start(&wrong), cluster.run(&["fsck", "--store", &wrong])] {
        assert_eq!(refused.status.code(), Some(74), "{}", err(&refused));
        let said = err(&refused);
        assert!(said.contains("error[store-untrusted]") && said.contains("sslrootcert=FILE"), "{said}");
        assert!(!said.contains("sesame"), "no password is shown: {said}");
    }
    let refused = start(&clear);
    assert_eq!(refused.status.code(), Some(2), "{}", err(&refused));
    assert!(err(&refused).contains("error[bad-store]"), "{}", err(&refused));
}
