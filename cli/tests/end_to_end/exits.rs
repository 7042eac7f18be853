//! `run` and `wait` end as the job did.

use std::process::Stdio;

use rustix::process::Signal;

use crate::cluster::{Cluster, Place, err, eventually, kill, out};

#[test]
fn run_keeps_the_streams_apart_and_returns_the_commands_code() {
    let cluster = Cluster::up();
    let ran = cluster.run(&["run", "--", "sh", "-c", "echo to out; echo to err >&2; exit 7"]);
    assert_eq!((out(&ran).as_str(), err(&ran).as_str(), ran.status.code()), ("to out\n", "to err\n", Some(7)));
}

#[test]
fn each_way_to_end_has_its_exit_code() {
    let cluster = Cluster::up();
    let code = |args: &[&str]| {
        let args: Vec<&str> = ["run"].iter().chain(args).copied().collect();
        let ran = cluster.run(&args);
        (ran.status.code().unwrap(), err(&ran))
    };
    assert_eq!(code(&["--", "true"]).0, 0);
    assert_eq!(code(&["--", "sh", "-c", "kill -9 $$"]).0, 137);
    assert_eq!(code(&["--time-limit", "200ms", "--", "sleep", "600"]).0, 124);
    let (none, why) = code(&["--", "no-such-command-anywhere"]);
    assert_eq!(none, 125);
    assert!(why.contains("is FAILED: cannot execute `no-such-command-anywhere`"), "{why}");
    assert_eq!(code(&["--gpus", "9999", "--", "true"]).0, 2);
    assert_eq!(code(&["--array", "0-3", "--", "sh", "-c", "exit $((GANGSAW_ARRAY_INDEX + 2))"]).0, 5);
    let failed = cluster.submit(&["--hold", "--", "false"]);
    let after = cluster.submit(&["--after", &format!("ok:{failed}"), "--", "true"]);
    cluster.run(&["cancel", &failed.to_string()]);
    let waited = cluster.run(&["wait", &after.to_string()]);
    assert_eq!(waited.status.code(), Some(125), "it never started");
    assert_eq!(
        err(&waited),
        format!("error[dependency-failed]: job {after} never started: job {failed} ended otherwise than it was to\n")
    );
    assert_eq!(cluster.run(&["wait", &format!("{failed}[5]")]).status.code(), Some(2));
    assert_eq!(cluster.run(&["wait", "123456789"]).status.code(), Some(2));
}

#[test]
fn nobody_listening_is_69() {
    let place = Place::new();
    // A port that was free a moment ago: bound, told, closed.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = format!("http://127.0.0.1:{port}");
    let output = place.gangsaw(&["run", "--server", &server, "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(
        err(&output).starts_with("error[scheduler-unreachable]: no scheduler answers at http://127.0.0.1:"),
        "{}",
        err(&output)
    );
}

#[test]
fn ctrl_c_cancels_the_job_and_run_ends_with_130() {
    let cluster = Cluster::up();
    let mut command = cluster.command(&["run", "--", "sh", "-c", "echo started; exec sleep 600"]);
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(run.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, "started\n");
    kill(u64::from(run.id()), Signal::INT);
    assert_eq!(run.wait().unwrap().code(), Some(130));
    cluster.until(1, "CANCELLED");
}

#[test]
fn a_second_ctrl_c_stops_watching_a_task_that_takes_its_time() {
    let cluster = Cluster::up();
    let mut command = cluster.command(&[
        "run",
        "--grace",
        "60s",
        "--",
        "sh",
        "-c",
        "trap '' TERM; echo started; while :; do sleep 0.1; done",
    ]);
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(run.stdout.take().unwrap()), &mut line).unwrap();
    let mut notes = std::io::BufReader::new(run.stderr.take().unwrap());
    kill(u64::from(run.id()), Signal::INT);
    let mut note = String::new();
    std::io::BufRead::read_line(&mut notes, &mut note).unwrap();
    assert!(note.starts_with("cancelling"), "{note}");
    eventually("the cancel is in force", || (cluster.show(1)["state"] == "RUNNING").then_some(()));
    kill(u64::from(run.id()), Signal::INT);
    assert_eq!(run.wait().unwrap().code(), Some(130));
}
