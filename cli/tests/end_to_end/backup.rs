//! Backups of a cluster at work, what is found when files are damaged, and what nodes do after a restore.

use rustix::process::Signal;

use crate::cluster::{Cluster, Daemon, err, eventually, is_alive, start_ticks};

fn path(cluster: &Cluster, name: &str) -> String {
    cluster.place.path().join(name).display().to_string()
}

#[test]
fn a_restored_cluster_adopts_what_still_runs_and_stops_what_it_does_not_know() {
    let mut cluster = Cluster::scheduler();
    cluster.start_agent("node");
    let (state, backup) = (path(&cluster, "state"), path(&cluster, "backup"));
    let known = cluster.submit(&["--cpus", "0.1", "--", "sleep", "600"]);
    let known_pid = cluster.until_running(known);
    let ticks = start_ticks(known_pid);
    let made = std::thread::scope(|scope| {
        let load = scope.spawn(|| (0..30).map(|_| cluster.submit(&["--hold", "--", "true"])).max());
        let made = cluster.json(&["backup", &backup, "--state", &state]);
        load.join().unwrap();
        made
    });
    assert!(made["last_seq"].as_u64().unwrap() >= 3, "{made}");
    let live = cluster.json(&["fsck", "--state", &state]);
    assert_eq!((&live["sound"], &live["live"], &live["whole"]), (&true.into(), &true.into(), &true.into()), "{live}");
    let again = cluster.run(&["backup", &backup, "--state", &state]);
    assert_eq!(again.status.code(), Some(2), "{}", err(&again));

    // What follows is not in the backup: a submitted and a running job.
    let lost = cluster.submit(&["--cpus", "0.1", "--", "sleep", "600"]);
    let lost_pid = cluster.until_running(lost);
    cluster.daemons[0].end(Signal::KILL);
    cluster.place.unwatch();
    std::fs::remove_dir_all(cluster.place.path().join("state/scheduler")).unwrap();
    let restored = cluster.json(&["restore", &backup, "--state", &state]);
    assert_eq!(restored["epoch"], 1);
    let next_job = restored["next_job"].as_u64().unwrap();
    assert!(next_job > lost);
    let occupied = cluster.run(&["restore", &backup, "--state", &state]);
    assert_eq!(occupied.status.code(), Some(2), "{}", err(&occupied));
    cluster.daemons[0] = cluster.scheduler_again();

    cluster.until_node("node");
    eventually("the process of the lost time is gone", || (!is_alive(lost_pid)).then_some(()));
    assert_eq!(cluster.until_running(known), known_pid);
    assert_eq!(start_ticks(known_pid), ticks, "what the backup knows was not touched");
    let unknown = cluster.run(&["show", &lost.to_string()]);
    assert!(err(&unknown).starts_with("error[unknown-job]"), "{}", err(&unknown));
    let fresh = cluster.submit(&["--", "true"]);
    assert_eq!(fresh, next_job);
    let done = cluster.until(fresh, "COMPLETED");
    assert!(done["tasks"][0]["attempt"].as_u64().unwrap() > 5_000, "{done}");
    cluster.run(&["cancel", &known.to_string()]);
    cluster.until(known, "CANCELLED");
    cluster.daemons[0].end(Signal::TERM);
    let sound = cluster.json(&["fsck", "--state", &state]);
    assert_eq!((&sound["sound"], &sound["live"]), (&true.into(), &false.into()), "{sound}");
}

#[test]
fn damage_is_found_at_start_with_its_place_and_the_way_back() {
    let mut cluster = Cluster::scheduler();
    let (state, backup) = (path(&cluster, "state"), path(&cluster, "backup"));
    cluster.submit(&["--hold", "--name", "needle", "--", "true"]);
    cluster.json(&["backup", &backup, "--state", &state]);
    cluster.daemons[0].end(Signal::TERM);
    let database = cluster.place.path().join("state/scheduler/gangsaw.db");
    let mut bytes = std::fs::read(&database).unwrap();
    let places: Vec<usize> = (0..bytes.len() - 6).filter(|at| bytes[*at..].starts_with(b"needle")).collect();
    assert!(places.len() >= 2, "in the log and in the tables");
    places.iter().for_each(|at| bytes[*at] ^= 1);
    cluster.place.forgive();
    std::fs::write(&database, bytes).unwrap();

    let start = cluster.run(&["scheduler", "--state", &state, "--listen", "127.0.0.1:0"]);
    let said = err(&start);
    assert_eq!(start.status.code(), Some(74), "{said}");
    assert!(said.contains("error[store-damaged]") && said.contains("gangsaw.db is damaged at event"), "{said}");
    assert!(said.contains("gangsaw restore BACKUP --state"), "{said}");
    let checked = cluster.run(&["fsck", "--state", &state]);
    assert_eq!(checked.status.code(), Some(74));
    assert!(err(&checked).contains("gangsaw.db is damaged at event"), "{}", err(&checked));

    let second = path(&cluster, "second");
    let restored = cluster.run(&["restore", &backup, "--state", &second]);
    assert!(restored.status.success(), "{}", err(&restored));
    let args = ["scheduler", "--state", &second, "--listen", "127.0.0.1:0", "--output", "jsonl"];
    let scheduler = Daemon::start(cluster.place.gangsaw(&args));
    cluster.server = scheduler.ready["server"].as_str().unwrap().to_owned();
    assert_eq!(cluster.show(1)["state"], "HELD");
    cluster.daemons.push(scheduler);
}

#[test]
fn rows_changed_by_hand_are_found_and_written_again_while_no_scheduler_runs() {
    let mut cluster = Cluster::scheduler();
    let state = path(&cluster, "state");
    cluster.submit(&["--hold", "--", "true"]);
    let busy = cluster.run(&["fsck", "--rebuild", "--state", &state]);
    assert_eq!(busy.status.code(), Some(2), "{}", err(&busy));
    assert!(err(&busy).starts_with("error[store-in-use]"), "{}", err(&busy));
    cluster.daemons[0].end(Signal::TERM);
    let database = path(&cluster, "state/scheduler/gangsaw.db");
    let edited = std::process::Command::new("sqlite3").args([&database, "UPDATE job SET state = 'RUNNING'"]).status();
    match edited {
        Ok(edited) => assert!(edited.success()),
        Err(error) => return crate::cluster::cannot_run(&format!("sqlite3: {error}")),
    }
    let found = cluster.run(&["fsck", "--state", &state]);
    assert_eq!(found.status.code(), Some(74));
    assert!(err(&found).contains("error[rows-differ]") && err(&found).contains("--rebuild"), "{}", err(&found));
    let rebuilt = cluster.json(&["fsck", "--rebuild", "--state", &state]);
    assert_eq!((&rebuilt["sound"], &rebuilt["rebuilt"]), (&true.into(), &1.into()), "{rebuilt}");
    assert_eq!(cluster.json(&["fsck", "--state", &state])["sound"], true);
}
