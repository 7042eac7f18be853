//! Machines that join with a token, and those that are not let in.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::Signal;

use crate::cluster::{Cluster, Daemon, cannot_run, err, eventually, is_alive};
use crate::tls::{faketime, port, secret, served};

/// A join token of this cluster.
fn token(cluster: &Cluster, flags: &[&str]) -> String {
    let made = cluster.json(&[&["token", "join", "create"], flags].concat());
    made["token"].as_str().unwrap().to_owned()
}

/// An agent on a machine that has nothing of this cluster but what it is given.
fn machine(cluster: &Cluster, name: &str, join: Option<&str>) -> Command {
    let state = cluster.place.path().join(name).display().to_string();
    let server = format!("https://localhost:{}", port(cluster));
    let mut args = vec!["agent", "--state", &state, "--server", &server, "--node-name", name];
    args.extend(["--output", "jsonl", "--stop-tasks", "--no-gpus"]);
    args.extend(join.into_iter().flat_map(|join| ["--join", join]));
    let mut command = cluster.place.gangsaw(&args);
    command.env("XDG_STATE_HOME", cluster.place.path().join(format!("home-of-{name}")));
    command
}

/// An agent whose log can be read.
fn logged(cluster: &Cluster, mut command: Command, log: &str) -> (Daemon, PathBuf) {
    let path = cluster.place.path().join(log);
    command.stderr(std::fs::File::create(&path).unwrap());
    (Daemon::start(command), path)
}

fn until_said(log: &Path, what: &str) {
    eventually(what, || std::fs::read_to_string(log).unwrap().contains(what).then_some(()));
}

fn until_connected(cluster: &Cluster, name: &str, connected: bool) {
    eventually("the node", || {
        let nodes = cluster.json(&["nodes"]);
        nodes["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|node| node["name"] == name && node["connected"] == connected)
            .then_some(())
    });
}

fn identity(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.place.path().join(name).join("agent/identity.pem")
}

/// What an agent says that is not let in; it must end by itself.
fn refused(cluster: &Cluster, name: &str, join: &str) -> (Output, String) {
    let output = machine(cluster, name, Some(join)).output().unwrap();
    let text = err(&output);
    assert!(!identity(cluster, name).exists());
    (output, text)
}

/// How often something was denied, by why.
fn denied(cluster: &Cluster, reason: &str) -> u64 {
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port(cluster).parse().unwrap())).unwrap();
    let authorization = secret(cluster);
    let request = format!(
        "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {authorization}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let line = format!("gangsaw_denied_total{{reason=\"{reason}\"}} ");
    answer.lines().find_map(|text| text.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}

#[test]
fn a_machine_joins_runs_jobs_and_comes_back_without_its_token() {
    let (cluster, _) = served(&[], &[]);
    let token = token(&cluster, &[]);
    let mut agent = Daemon::start(machine(&cluster, "far", Some(&token)));
    cluster.until_node("far");
    let ran = cluster.run(&["run", "--", "sh", "-c", "exit 7"]);
    assert_eq!(ran.status.code(), Some(7), "{}", err(&ran));
    let listed = cluster.json(&["token", "join", "list"]);
    assert_eq!((&listed["join_tokens"][0]["state"], &listed["join_tokens"][0]["uses"]), (&"used up".into(), &1.into()));
    let (id, rest) = token.split_once('.').unwrap();
    assert_eq!(listed["join_tokens"][0]["id"].to_string(), id);
    assert!(!listed.to_string().contains(rest.split('.').next().unwrap()), "its secret is nowhere");
    agent.end(Signal::TERM);
    // Without the token, and with one that is used up: what it has is enough.
    for join in [None, Some(token.as_str())] {
        let mut agent = Daemon::start(machine(&cluster, "far", join));
        let ran = cluster.run(&["run", "--", "true"]);
        assert_eq!(ran.status.code(), Some(0), "{}", err(&ran));
        agent.end(Signal::TERM);
    }
}

#[test]
fn a_token_lets_in_nobody_once_it_is_used_up_expired_or_revoked() {
    let (cluster, _) = served(&[], &[]);
    let once = token(&cluster, &[]);
    let agent = Daemon::start(machine(&cluster, "first", Some(&once)));
    cluster.until_node("first");
    let (output, text) = refused(&cluster, "second", &once);
    assert!(!output.status.success() && text.contains("error[join-token-used-up]"), "{text}");
    // Somebody who has seen the token comes under the name that it let in; with one that is open, the name is taken.
    let as_first = |join: &str| {
        let (state, server) = (cluster.place.path().join("thief"), format!("https://localhost:{}", port(&cluster)));
        let args = ["agent", "--state", state.to_str().unwrap(), "--server", &server, "--node-name", "first"];
        err(&cluster.place.gangsaw(&[&args[..], &["--join", join]].concat()).output().unwrap())
    };
    let text = as_first(&once);
    assert!(text.contains("error[join-token-used-up]"), "{text}");
    let many = token(&cluster, &["--uses", "5"]);
    let text = as_first(&many);
    assert!(text.contains("error[node-name-taken]"), "{text}");
    let brief = token(&cluster, &["--ttl", "1ms"]);
    let (_, text) = refused(&cluster, "third", &brief);
    assert!(text.contains("error[join-token-expired]"), "{text}");
    let id = many.split('.').next().unwrap();
    assert!(cluster.run(&["token", "join", "revoke", id]).status.success());
    let (_, text) = refused(&cluster, "fourth", &many);
    assert!(text.contains("error[join-token-revoked]"), "{text}");
    let reasons = ["join-token-used-up", "join-token-expired", "join-token-revoked", "node-name-taken"];
    assert_eq!(reasons.map(|reason| denied(&cluster, reason)), [2, 1, 1, 1]);
    drop(agent);
}

#[test]
fn a_guessed_secret_and_a_wrong_authority_let_nobody_in() {
    let (cluster, _) = served(&[], &[]);
    let good = token(&cluster, &[]);
    let (id, rest) = good.split_once('.').unwrap();
    let (_, hash) = rest.split_once('.').unwrap();
    let guessed = format!("{id}.{}.{hash}", "0".repeat(32));
    let (_, text) = refused(&cluster, "guesser", &guessed);
    assert!(text.contains("error[join-token-unknown]"), "{text}");
    let (_, nobody) = refused(&cluster, "guesser", &format!("99.{}.{hash}", "0".repeat(32)));
    assert_eq!(text, nobody, "a number that there is and one that there is not read the same");
    let elsewhere = format!("{}{}", &good[..good.len() - 64], "ab".repeat(32));
    let (output, text) = refused(&cluster, "misled", &elsewhere);
    assert_eq!(output.status.code(), Some(69));
    assert!(text.contains("error[not-trusted]") && text.contains("is not the one that the hash names"), "{text}");
    let listed = cluster.json(&["token", "join", "list"]);
    assert_eq!(listed["join_tokens"][0]["uses"], 0, "its secret was never sent");
    assert_eq!(denied(&cluster, "join-token-unknown"), 2);
    let (output, text) = refused(&cluster, "none", "nonsense");
    assert!(output.status.code() == Some(2) && text.contains("error[bad-join-token]"), "{text}");
}

#[test]
fn a_certificate_speaks_for_its_own_node_only() {
    let (cluster, _) = served(&[], &[]);
    let two = token(&cluster, &["--uses", "2"]);
    let one = Daemon::start(machine(&cluster, "one", Some(&two)));
    let mut other = Daemon::start(machine(&cluster, "other", Some(&two)));
    cluster.until_node("one");
    cluster.until_node("other");
    other.end(Signal::TERM);
    // The other machine's certificate is replaced by one that was stolen.
    std::fs::copy(identity(&cluster, "one"), identity(&cluster, "other")).unwrap();
    let (thief, log) = logged(&cluster, machine(&cluster, "other", None), "thief.log");
    until_said(&log, "the certificate is node one's, and the message is other's");
    assert!(denied(&cluster, "another-node") > 0);
    until_connected(&cluster, "one", true);
    drop((one, thief));
}

#[test]
fn joining_again_voids_every_certificate_of_before() {
    let (cluster, _) = served(&[], &[]);
    let mut agent = Daemon::start(machine(&cluster, "far", Some(&token(&cluster, &[]))));
    cluster.until_node("far");
    agent.end(Signal::TERM);
    // All of the machine's files are stolen, and its owner joins it again.
    let stolen = cluster.place.path().join("stolen");
    let copied = Command::new("cp").arg("-r").arg(cluster.place.path().join("far")).arg(&stolen).status().unwrap();
    assert!(copied.success());
    let (agent, owners) = logged(&cluster, machine(&cluster, "far", Some(&token(&cluster, &[]))), "owner.log");
    until_said(&owners, "the scheduler took this node");
    let server = format!("https://localhost:{}", port(&cluster));
    let args = ["agent", "--state", stolen.to_str().unwrap(), "--server", &server, "--node-name", "far", "--no-gpus"];
    let thief = cluster.place.gangsaw(&[&args[..], &["--output", "jsonl", "--stop-tasks"]].concat());
    let (thief, log) = logged(&cluster, thief, "thief.log");
    until_said(&log, "does not count any more");
    assert!(!std::fs::read_to_string(&log).unwrap().contains("the scheduler took this node"));
    assert!(denied(&cluster, "void-certificate") > 0);
    let ran = cluster.run(&["run", "--", "true"]);
    assert_eq!(ran.status.code(), Some(0), "the owner's goes on: {}", err(&ran));
    drop((agent, thief));
}

#[test]
fn a_certificate_is_renewed_while_its_connection_and_task_go_on() {
    let (mut cluster, _) = served(&[], &["--node-cert-life", "9s"]);
    let (agent, log) = logged(&cluster, machine(&cluster, "far", Some(&token(&cluster, &[]))), "agent.log");
    cluster.until_node("far");
    let first = std::fs::read_to_string(identity(&cluster, "far")).unwrap();
    let job = cluster.submit(&["--", "sleep", "600"]);
    let pid = cluster.until_running(job);
    until_said(&log, "the node's certificate was renewed");
    assert_ne!(std::fs::read_to_string(identity(&cluster, "far")).unwrap(), first);
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(said.matches("the scheduler took this node").count(), 1, "the connection went on: {said}");
    // Later than the first certificate lived: a new connection is made with a newer one.
    eventually("a second renewal", || {
        let said = std::fs::read_to_string(&log).unwrap();
        (said.matches("the node's certificate was renewed").count() >= 2).then_some(())
    });
    // The connection lasted as long as the certificate that it was opened with.
    until_taken(&log, 2);
    let listen = format!("0.0.0.0:{}", port(&cluster));
    cluster.daemons.remove(0).end(Signal::KILL);
    let before = std::fs::read_to_string(&log).unwrap().matches("the scheduler took this node").count();
    let state = cluster.place.path().join("state").display().to_string();
    let args = ["scheduler", "--state", &state, "--listen", &listen, "--output", "jsonl", "--node-cert-life", "9s"];
    cluster.daemons.push(Daemon::start(cluster.place.gangsaw(&args)));
    until_taken(&log, before + 1);
    assert_eq!(cluster.until_running(job), pid, "its task never noticed");
    drop(agent);
}

/// Waits until a scheduler has taken the node so often.
fn until_taken(log: &Path, times: usize) {
    eventually("the agent is back", || {
        let said = std::fs::read_to_string(log).unwrap();
        (said.matches("the scheduler took this node").count() >= times).then_some(())
    });
}

#[test]
fn a_connection_ends_with_its_certificate_where_that_could_not_be_renewed() {
    let (cluster, _) = served(&[], &["--node-cert-life", "8s"]);
    let (agent, log) = logged(&cluster, machine(&cluster, "far", Some(&token(&cluster, &[]))), "agent.log");
    cluster.until_node("far");
    // Where the new certificate would be written first is something that is in the way.
    let in_the_way = identity(&cluster, "far").with_extension("pem.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let job = cluster.submit(&["--", "sleep", "600"]);
    let pid = cluster.until_running(job);
    until_said(&log, "the node's certificate cannot be renewed");
    until_connected(&cluster, "far", false);
    until_said(&log, "by the scheduler's clock this node's certificate has expired");
    assert!(is_alive(pid), "nothing is killed for it");
    drop(agent);
}

#[test]
fn an_expired_certificate_is_refused_and_the_agent_says_whose_clock() {
    let Some(library) = faketime() else { return cannot_run("faketime is not installed") };
    let (mut cluster, _) = served(&[], &[]);
    let mut agent = Daemon::start(machine(&cluster, "far", Some(&token(&cluster, &[]))));
    cluster.until_node("far");
    agent.end(Signal::TERM);
    let listen = format!("0.0.0.0:{}", port(&cluster));
    cluster.daemons.remove(0).end(Signal::TERM);
    // A scheduler two days later: the certificate lived one.
    let state = cluster.place.path().join("state").display().to_string();
    let args = ["scheduler", "--state", &state, "--listen", &listen, "--output", "jsonl"];
    let mut later = cluster.place.gangsaw(&args);
    later.env("LD_PRELOAD", library).env("FAKETIME", "+2d");
    cluster.daemons.push(Daemon::start(later));
    let (agent, log) = logged(&cluster, machine(&cluster, "far", None), "agent.log");
    until_said(&log, "by the scheduler's clock this node's certificate has expired");
    assert!(!std::fs::read_to_string(&log).unwrap().contains("the scheduler took this node"));
    drop(agent);
    // A new token lets it in again, under the same name.
    let again = token(&cluster, &[]);
    let mut rejoined = machine(&cluster, "far", Some(&again));
    rejoined.env("LD_PRELOAD", library).env("FAKETIME", "+2d");
    let (agent, log) = logged(&cluster, rejoined, "again.log");
    until_said(&log, "the scheduler took this node");
    drop(agent);
}

#[test]
fn nobody_joins_without_tls_or_a_scheduler_without_an_authority() {
    let cluster = Cluster::scheduler();
    let made = cluster.run(&["token", "join", "create"]);
    assert!(err(&made).starts_with("error[no-authority]") && err(&made).contains("scheduler init"), "{}", err(&made));
    let (cluster, _) = served(&[], &[]);
    let join = token(&cluster, &[]);
    let state = cluster.place.path().join("plain").display().to_string();
    let args = ["agent", "--state", &state, "--server", &cluster.server, "--node-name", "plain", "--join", &join];
    let output = cluster.place.gangsaw(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("error[join-needs-tls]"), "{}", err(&output));
}
