//! The database of a running scheduler, read by another program: `sqlite3`.

use std::path::Path;
use std::process::Command;

use gangsaw_proto::jobs::v1 as jobs;

use crate::common::{Scheduler, array, ended, shell, started, submit, wait};

/// Says whether the `sqlite3` program is there, and aloud if it is not.
fn has_sqlite3() -> bool {
    let found = Command::new("sqlite3").arg("--version").output();
    if let Err(error) = &found {
        assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "sqlite3 cannot be run: {error}");
        eprintln!("NOT RUN: sqlite3 cannot be run: {error}");
    }
    found.is_ok()
}

/// Runs one query in the `sqlite3` program.
fn sqlite3(state: &Path, sql: &str) -> Vec<String> {
    let database = state.join("scheduler/gangsaw.db");
    let output = Command::new("sqlite3").arg("-readonly").arg(database).arg(sql).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

const JOBS: &str = "SELECT job_id, name, user, queue, state, elements, waiting, active, completed, failed,
                    ended_wall_ms IS NULL, forgotten_wall_ms IS NULL FROM job";
const ATTEMPTS: &str = "SELECT job_id, element, attempt, state, outcome, node, pid, exit_code FROM attempt";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_program_reads_a_running_cluster_from_its_database() {
    let dir = tempfile::tempdir().unwrap();
    if !has_sqlite3() {
        return;
    }
    let look = |sql: &str| sqlite3(dir.path(), sql);
    let scheduler = Scheduler::start(dir.path()).await;
    let mut agent = scheduler.agent("n1").await;
    scheduler.clients.jobs.clone().submit(shell("k1", "exit 3")).await.unwrap();
    let grant = agent.grant().await;
    agent.report(grant.lease_id, vec![started(0)]).await;
    assert_eq!(look(JOBS), ["1|test|ada|default|RUNNING|1|0|1|0|0|1|1"]);
    assert_eq!(look(ATTEMPTS), ["1|0|1|RUNNING||n1|4242|"]);
    let nodes =
        "SELECT name, mode, silent_wall_ms IS NULL, milli_cpus, milli_cpus_free, leases, agent_version FROM node";
    assert_eq!(look(nodes), ["n1|active|1|4000|3000|1|test"]);
    agent.report(grant.lease_id, vec![ended(0, 3)]).await;
    assert_eq!(look(JOBS), ["1|test|ada|default|FAILED|1|0|0|0|1|0|1"]);
    assert_eq!(look(ATTEMPTS), ["1|0|1|ENDED|failed|n1|4242|3"]);

    // What the rows say is no older than what was acknowledged, also in the middle of an array.
    let spec = jobs::JobSpec { array: Some(array(199)), ..shell("", "true").jobs.remove(0) };
    scheduler.clients.jobs.clone().submit(submit("k2", spec)).await.unwrap();
    let (seen, _) = crate::straight_path::finish_array(&mut agent, 200).await;
    assert_eq!(seen.len(), 200);
    assert_eq!(wait(&scheduler.clients, 2).await.state(), jobs::State::Completed);
    assert_eq!(look(&format!("{JOBS} WHERE job_id = 2")), ["2|test|ada|default|COMPLETED|200|0|0|200|0|0|1"]);
    assert_eq!(look("SELECT count(*) FROM attempt WHERE job_id = 2"), ["0"]);
    assert_eq!(
        look("SELECT tenant, queue, user, attempts_ok, attempts_lost FROM usage"),
        ["default|default|ada|200|1"]
    );
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_schedulers_rows_say_what_its_log_says() {
    let dir = tempfile::tempdir().unwrap();
    if !has_sqlite3() {
        return;
    }
    let mut process = crate::kill::Process::start(dir.path(), &[]);
    let clients = process.connect(dir.path()).await.unwrap();
    let mut agent = crate::common::Agent::attach(&clients, "n1", Vec::new()).await;
    for number in 0..20 {
        clients.jobs.clone().submit(shell(&format!("k{number}"), "true")).await.unwrap();
    }
    let grant = agent.grant().await;
    agent.say(grant.lease_id, vec![started(0), ended(0, 0)]).await;
    process.kill();
    let mut state = gangsaw_core::state::State::new();
    gangsaw_scheduler::read_log(dir.path(), |record| gangsaw_core::apply::apply(&mut state, record.at, &record.event))
        .unwrap();
    let rows = sqlite3(dir.path(), "SELECT job_id, waiting, active, completed FROM job");
    let completed = |job: &gangsaw_core::job::body::Job| job.ended_counts.values().sum::<u64>();
    let folded =
        state.jobs().map(|job| format!("{}|{}|{}|{}", job.body.id, job.waiting_count(), job.active, completed(job)));
    assert_eq!(rows, folded.collect::<Vec<_>>());
    let leases = sqlite3(dir.path(), "SELECT sum(leases) FROM node");
    assert_eq!(leases, [state.leases().count().to_string()]);
}
