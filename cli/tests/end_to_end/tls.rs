//! TLS on the real executable: who is let in from where, and who is believed.

use std::process::{Command, Stdio};

use crate::cluster::{Cluster, Daemon, Place, cannot_run, err, eventually, out};

/// A scheduler with certificates, made by `scheduler init`, that listens at every address.
fn served(sans: &[&str]) -> (Cluster, String) {
    let place = Place::new();
    let state = place.path().join("state").display().to_string();
    let mut args = vec!["scheduler", "init", "--state", &state, "--output", "json"];
    sans.iter().for_each(|san| args.extend(["--san", san]));
    let made = place.gangsaw(&args).output().unwrap();
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap_or_else(|_| panic!("{made:?}"));
    let hash = made["ca_hash"].as_str().unwrap().to_owned();
    let args = ["scheduler", "--state", &state, "--listen", "0.0.0.0:0", "--output", "jsonl"];
    let scheduler = Daemon::start(place.gangsaw(&args));
    let server = scheduler.ready["server"].as_str().unwrap().to_owned();
    (Cluster { daemons: vec![scheduler], server, place }, hash)
}

fn port(cluster: &Cluster) -> &str {
    cluster.server.rsplit(':').next().unwrap()
}

/// The executable as another person, who has nothing of this cluster.
fn stranger(cluster: &Cluster, args: &[&str]) -> Command {
    let mut command = cluster.place.gangsaw(args);
    command.env("XDG_STATE_HOME", cluster.place.path().join("stranger"));
    command
}

/// An address of this machine that is not loopback.
fn outer_address() -> Option<String> {
    let addresses = Command::new("hostname").arg("-I").output().ok()?;
    let addresses = String::from_utf8(addresses.stdout).ok()?;
    addresses.split_whitespace().find(|address| !address.contains(':')).map(str::to_owned)
}

fn secret(cluster: &Cluster) -> String {
    std::fs::read_to_string(cluster.place.path().join("state/scheduler/token")).unwrap()
}

#[test]
fn a_scheduler_that_others_can_reach_needs_certificates() {
    let place = Place::new();
    let state = place.path().join("state").display().to_string();
    let refused = place.gangsaw(&["scheduler", "--state", &state, "--listen", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(err(&refused).starts_with("error[insecure-bind]"), "{}", err(&refused));
    assert!(err(&refused).contains("gangsaw scheduler init"), "{}", err(&refused));
}

#[test]
fn a_scheduler_with_certificates_is_reached_by_tls_and_from_here_also_without() {
    let (cluster, _) = served(&[]);
    assert!(cluster.json(&["ps"])["jobs"].is_array(), "plaintext from this machine");
    let secure = format!("https://localhost:{}", port(&cluster));
    let listed = cluster.run(&["ps", "--server", &secure]);
    assert!(listed.status.success(), "{}", err(&listed));
    let named = format!("https://other.example:{}", port(&cluster));
    assert!(!cluster.run(&["ps", "--server", &named]).status.success());
}

#[test]
fn a_stranger_believes_nobody_until_the_hash_is_pinned() {
    let (cluster, hash) = served(&[]);
    let secure = format!("https://localhost:{}", port(&cluster));
    let ps = |cluster: &Cluster| {
        stranger(cluster, &["ps", "--server", &secure]).env("GANGSAW_TOKEN", secret(cluster)).output().unwrap()
    };
    let refused = ps(&cluster);
    assert_eq!(refused.status.code(), Some(69));
    assert!(err(&refused).starts_with("error[unknown-authority]"), "{}", err(&refused));
    let wrong = "0".repeat(64);
    let refused = stranger(&cluster, &["config", "trust", &secure, &wrong]).output().unwrap();
    assert!(err(&refused).contains("is not the one that the hash names"), "{}", err(&refused));
    let pinned = stranger(&cluster, &["config", "trust", &secure, &hash]).output().unwrap();
    assert!(pinned.status.success(), "{}", err(&pinned));
    let listed = ps(&cluster);
    assert!(listed.status.success(), "{}", err(&listed));
}

#[test]
fn another_authority_under_the_same_address_is_not_believed() {
    let (cluster, hash) = served(&[]);
    let (other, _) = served(&[]);
    let at = |cluster: &Cluster| format!("localhost:{}", port(cluster));
    let pinned =
        stranger(&cluster, &["config", "trust", &format!("https://{}", at(&cluster)), &hash]).output().unwrap();
    assert!(pinned.status.success(), "{}", err(&pinned));
    // The pin of the one under the address of the other: what somebody in between would look like.
    let credentials = cluster.place.path().join("stranger/gangsaw/credentials");
    let file = |cluster: &Cluster| credentials.join(format!("{}.pem", at(cluster)));
    std::fs::rename(file(&cluster), file(&other)).unwrap();
    let mut asked = stranger(&cluster, &["ps", "--server", &format!("https://{}", at(&other))]);
    let refused = asked.env("GANGSAW_TOKEN", secret(&other)).output().unwrap();
    assert_eq!(refused.status.code(), Some(69));
    assert!(err(&refused).contains("is not of the authority that is pinned"), "{}", err(&refused));
}

#[test]
fn from_another_address_plaintext_is_refused_before_a_token_is_looked_at() {
    let Some(outer) = outer_address() else { return cannot_run("this machine has no address but loopback") };
    let (cluster, _) = served(&[&outer]);
    let plain = format!("http://{outer}:{}", port(&cluster));
    let asked = cluster.command(&["ps", "--server", &plain]).env("GANGSAW_TOKEN", secret(&cluster)).output().unwrap();
    assert!(!asked.status.success(), "{}", out(&asked));
    let secure = format!("https://{outer}:{}", port(&cluster));
    let asked = cluster.run(&["ps", "--server", &secure]);
    assert!(asked.status.success(), "{}", err(&asked));
    use std::io::{Read as _, Write as _};
    let mut socket = std::net::TcpStream::connect((outer.as_str(), port(&cluster).parse().unwrap())).unwrap();
    socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("https://"), "{answer}");
}

/// What `openssl s_client` says to the scheduler under one version of TLS.
fn handshake(cluster: &Cluster, version: &str) -> String {
    let ca = cluster.place.path().join("state/scheduler/tls/ca.pem");
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{}", port(cluster)), version, "-CAfile"]).arg(ca);
    let output = command.stdin(Stdio::null()).output().unwrap();
    out(&output) + &err(&output)
}

#[test]
fn tls_1_2_is_refused_and_1_3_is_not() {
    if Command::new("openssl").arg("version").output().is_err() {
        return cannot_run("openssl is not installed");
    }
    let (cluster, _) = served(&[]);
    let old = handshake(&cluster, "-tls1_2");
    assert!(old.contains("alert protocol version"), "{old}");
    let new = handshake(&cluster, "-tls1_3");
    assert!(new.contains("Verify return code: 0 (ok)") && new.contains("TLSv1.3"), "{new}");
}

#[test]
fn a_wrong_clock_is_said_with_both_times() {
    let library =
        ["/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"];
    let Some(library) = library.into_iter().find(|path| std::path::Path::new(path).exists()) else {
        return cannot_run("faketime is not installed");
    };
    let (cluster, _) = served(&[]);
    let secure = format!("https://localhost:{}", port(&cluster));
    let ps = |clock: &str| {
        let mut asked = cluster.command(&["ps", "--server", &secure]);
        let asked = asked.env("LD_PRELOAD", library).env("FAKETIME", clock).output().unwrap();
        (asked.status.code(), err(&asked))
    };
    let (code, text) = ps("@2016-01-02 03:04:05");
    assert_eq!(code, Some(69), "{text}");
    assert!(text.contains("certificate begins 20") && text.contains("clock says 2016-01-02T03:04:0"), "{text}");
    let (_, text) = ps("@2099-01-02 03:04:05");
    assert!(text.contains("certificate ended 20") && text.contains("clock says 2099-01-02T03:04:0"), "{text}");
}

#[test]
fn up_serves_tls_and_runs_jobs_for_somebody_elsewhere() {
    let place = Place::new();
    let state = place.path().join("state").display().to_string();
    assert!(place.gangsaw(&["scheduler", "init", "--state", &state]).output().unwrap().status.success());
    let up = Daemon::start(place.gangsaw(&["up", "--state", &state, "--listen", "0.0.0.0:0", "--output", "jsonl"]));
    let plain = up.ready["server"].as_str().unwrap().to_owned();
    let server = format!("https://localhost:{}", plain.rsplit(':').next().unwrap());
    let cluster = Cluster { daemons: vec![up], server, place };
    cluster.until_nodes(1);
    let ran = cluster.run(&["run", "--", "echo", "hello over tls"]);
    assert_eq!(out(&ran), "hello over tls\n", "{}", err(&ran));
}

#[test]
fn a_connection_that_says_nothing_holds_up_nobody() {
    let (cluster, _) = served(&[]);
    let silent: Vec<_> = (0..50)
        .map(|_| std::net::TcpStream::connect(("127.0.0.1", port(&cluster).parse::<u16>().unwrap())).unwrap())
        .collect();
    let secure = format!("https://localhost:{}", port(&cluster));
    eventually("an answer", || cluster.run(&["ps", "--server", &secure]).status.success().then_some(()));
    drop(silent);
}
