//! The cable between a leader and its PostgreSQL is cut; another scheduler is on the good side.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::cluster::{Daemon, Place, eventually};
use crate::server::Server;
use crate::wire::{FAR, NEAR, Side, Wire};

/// Longest time without a leader after the cut.
const WITHOUT_MAX: Duration = Duration::from_secs(10);

/// A database on the near side, and a scheduler on either.
struct Pair {
    far: Daemon,
    near: Daemon,
    postgres: Server,
    wire: Wire,
    // Last, so that it is dropped after its daemons.
    place: Place,
}

impl Pair {
    /// The one on the far side leads.
    fn start() -> Option<Pair> {
        let wire = Wire::lay()?;
        let postgres = Server::of_nothing(&format!("-c listen_addresses={NEAR} -c fsync=off"))?;
        let data = postgres.data();
        postgres.run("initdb", &["-D", &data, "-U", "gangsaw", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C"]);
        let doors = "local all all trust\nhost all all 127.0.0.0/8 trust\n";
        std::fs::write(Path::new(&data).join("pg_hba.conf"), doors).unwrap();
        wire.there(Side::Near, || postgres.up());
        let place = Place::new();
        let far = scheduler(&wire, &place, (Side::Far, FAR), "far");
        eventually("a leader", || answers(&wire, &place, (Side::Far, &far)).then_some(()));
        let near = scheduler(&wire, &place, (Side::Near, NEAR), "near");
        Some(Pair { far, near, postgres, wire, place })
    }

    /// Submits under a name of its own. `None`: nobody acknowledged it.
    fn submit(&self, side: Side, daemon: &Daemon, name: &str) -> Option<u64> {
        let words = ["submit", "--hold", "--name", name, "--output", "json", "--", "true"];
        let output = ask(&self.wire, &self.place, (side, daemon), &words);
        let value: Value = serde_json::from_slice(&output.stdout).ok()?;
        output.status.success().then(|| value["job_id"].as_u64().unwrap())
    }
}

fn server(daemon: &Daemon) -> String {
    daemon.ready["server"].as_str().unwrap().to_owned()
}

/// Starts a scheduler on the database of the near side.
fn scheduler(wire: &Wire, place: &Place, (side, address): (Side, &str), name: &str) -> Daemon {
    let state = place.path().join(name).display().to_string();
    let (listen, store) = (format!("{address}:0"), format!("postgres://gangsaw@{NEAR}/postgres"));
    let words = ["scheduler", "--state", &state, "--listen", &listen, "--store", &store, "--output", "jsonl"];
    Daemon::start(wire.on(side, &place.gangsaw(&words)))
}

/// Asks one scheduler from its own side.
fn ask(wire: &Wire, place: &Place, (side, daemon): (Side, &Daemon), words: &[&str]) -> Output {
    let mut command: Command = place.gangsaw(words);
    command.env("GANGSAW_SERVER", server(daemon));
    wire.on(side, &command).output().unwrap()
}

/// Says whether a scheduler answers as the one that leads.
fn answers(wire: &Wire, place: &Place, who: (Side, &Daemon)) -> bool {
    ask(wire, place, who, &["ps"]).status.success()
}

/// What somebody on the far side was told: when it was asked for, and which job.
type Told = Mutex<Vec<(Instant, String, u64)>>;

#[test]
fn a_leader_cut_off_from_its_database_acknowledges_nothing_and_another_leads_on_the_good_side() {
    let Some(mut pair) = Pair::start() else { return };
    let (stop, told) = (AtomicBool::new(false), Told::default());
    let (cut, known, without) = std::thread::scope(|scope| {
        // Somebody on the far side submits all the time, to the scheduler there.
        let pair = &pair;
        let load = scope.spawn(|| {
            for number in 0.. {
                let (asked, name) = (Instant::now(), format!("far-{number}"));
                if let Some(job) = pair.submit(Side::Far, &pair.far, &name) {
                    told.lock().unwrap().push((asked, name, job));
                }
                if stop.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        eventually("work under way", || (told.lock().unwrap().len() >= 10).then_some(()));
        pair.wire.cut();
        let cut = Instant::now();
        let known = eventually("a leader on the good side", || pair.submit(Side::Near, &pair.near, "near"));
        let without = cut.elapsed();
        eventually("the one that is cut off gives up", || {
            let said = ask(&pair.wire, &pair.place, (Side::Far, &pair.far), &["ps"]);
            let said = String::from_utf8_lossy(&said.stderr).into_owned();
            said.contains("error[standby]").then_some(())
        });
        for number in 0..20 {
            assert!(pair.submit(Side::Near, &pair.near, &format!("later-{number}")).is_some());
        }
        stop.store(true, Ordering::SeqCst);
        load.join().unwrap();
        (cut, known, without)
    });
    println!("another led {without:?} after the cut");
    assert!(without < WITHOUT_MAX, "{without:?}");
    let told = told.into_inner().unwrap();
    let late: Vec<_> = told.iter().filter(|(asked, ..)| *asked > cut).collect();
    assert!(late.is_empty(), "acknowledged by one that nobody follows any more: {late:?}");

    // What was acknowledged is there under its name, once.
    let listed = ask(&pair.wire, &pair.place, (Side::Near, &pair.near), &["ps", "--limit", "1000", "--output", "json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let mut names: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for job in listed["jobs"].as_array().unwrap() {
        names.entry(job["name"].as_str().unwrap().to_owned()).or_default().push(job["job_id"].as_u64().unwrap());
    }
    for (_, name, job) in &told {
        assert_eq!(names[name], [*job], "{name}");
    }
    assert_eq!(names["near"], [known]);

    pair.wire.heal();
    pair.near.end(Signal::TERM);
    eventually("the one that was cut off leads again", || {
        answers(&pair.wire, &pair.place, (Side::Far, &pair.far)).then_some(())
    });
    assert!(pair.submit(Side::Far, &pair.far, "at-last").is_some());
    pair.far.end(Signal::TERM);
    // By the socket in its folder the database is reached from everywhere.
    let output = pair.place.gangsaw(&["fsck", "--store", &pair.postgres.url(), "--output", "json"]).output().unwrap();
    let judged: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&judged["sound"], &judged["whole"]), (&true.into(), &true.into()), "{judged}");
    assert!(judged["history"]["jobs"].as_u64().unwrap() >= 32, "{judged}");
}
