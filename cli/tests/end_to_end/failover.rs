//! Two schedulers on one PostgreSQL: whoever works with them does not notice which one leads.

use rustix::process::Signal;

use crate::cluster::{Cluster, Daemon, Place, eventually, is_alive, out, start_ticks};
use crate::server::Server;

/// Two schedulers, an agent that knows both, and the index of the one that leads.
fn two_schedulers(postgres: &Server) -> (Cluster, usize) {
    let place = Place::new();
    let url = postgres.url();
    let start = |name: &str| {
        let state = place.path().join(name).display().to_string();
        let args = ["scheduler", "--state", &state, "--listen", "127.0.0.1:0", "--store", &url, "--output", "jsonl"];
        Daemon::start(place.gangsaw(&args))
    };
    let daemons = vec![start("one"), start("two")];
    let servers: Vec<String> =
        daemons.iter().map(|daemon| daemon.ready["server"].as_str().unwrap().to_owned()).collect();
    let leader = eventually("a leader", || {
        let made = postgres.sql("SELECT to_regclass('gangsaw.leader') IS NOT NULL") == "t";
        let address = made.then(|| postgres.sql("SELECT address FROM gangsaw.leader"))?;
        servers.iter().position(|server| *server == format!("http://{address}"))
    });
    let cluster = Cluster { daemons, server: servers.join(","), place };
    (cluster, leader)
}

#[test]
fn run_its_task_and_the_agent_do_not_notice_that_the_leader_was_killed() {
    let Some(postgres) = Server::start() else { return };
    let (mut cluster, leader) = two_schedulers(&postgres);
    cluster.start_agent("node");
    let gate = cluster.place.path().join("gate");
    let script = format!("echo before; until [ -e {} ]; do sleep 0.02; done; echo after; exit 4", gate.display());
    let run =
        cluster.command(&["run", "--", "sh", "-c", &script]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    eventually("the job", || cluster.json(&["ps"])["jobs"].get(0).map(|_| ()));
    let pid = cluster.until_running(1);
    let ticks = start_ticks(pid);
    cluster.daemons[leader].end(Signal::KILL);
    assert_eq!(cluster.until_running(1), pid, "the other one knows the task");
    assert!(is_alive(pid) && start_ticks(pid) == ticks, "and nobody touched it");
    let next = cluster.submit(&["--", "true"]);
    cluster.place.file("gate", "");
    let ran = run.wait_with_output().unwrap();
    assert_eq!((out(&ran).as_str(), ran.status.code()), ("before\nafter\n", Some(4)));
    cluster.until(next, "COMPLETED");
}
