//! Notices: whoever a job names is told once that it has ended, across restarts, and nobody else is.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Daemon, Place, cannot_run, err, eventually, kill, out};

/// Somebody who is told: a listener that answers each request with the next of its answers.
struct Receiver {
    listener: TcpListener,
    address: SocketAddr,
}

/// One request as it came.
struct Told {
    head: String,
    body: Value,
}

impl Receiver {
    fn new() -> Receiver {
        Receiver::at("127.0.0.1:0".parse().unwrap())
    }

    fn at(address: SocketAddr) -> Receiver {
        let listener = TcpListener::bind(address).unwrap();
        Receiver { address: listener.local_addr().unwrap(), listener }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Takes one request and answers it with a status and further header lines.
    fn answer(&self, status: &str) -> Told {
        let (stream, _) = self.listener.accept().unwrap();
        let told = read(&stream);
        (&stream).write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).unwrap();
        told
    }

    /// True when nobody is knocking.
    fn is_quiet(&self) -> bool {
        self.listener.set_nonblocking(true).unwrap();
        let quiet = self.listener.accept().is_err();
        self.listener.set_nonblocking(false).unwrap();
        quiet
    }
}

/// Reads one request.
fn read(stream: &TcpStream) -> Told {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(number) = line.to_lowercase().strip_prefix("content-length:") {
            length = number.trim().parse().unwrap();
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    Told { head, body: serde_json::from_slice(&body).unwrap() }
}

/// What `show` says of a job's notice, once it is settled.
fn settled(cluster: &Cluster, job: u64) -> Value {
    eventually("a settled notice", || {
        let notice = cluster.show(job)["notice"].clone();
        ["sent", "given-up"].contains(&notice["standing"].as_str()?).then_some(notice)
    })
}

#[test]
fn whoever_a_job_names_is_told_once_that_it_has_ended() {
    let cluster = Cluster::up();
    let receiver = Receiver::new();
    let url = receiver.url("/hook/s3cret?to=me");
    let job = cluster.submit(&["--name", "told", "--label", "a=b", "--notify", &url, "--", "sh", "-c", "exit 3"]);
    let told = receiver.answer("204 No Content");
    let head = told.head.to_lowercase();
    assert!(head.starts_with("post /hook/s3cret?to=me http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: {}\r\n", receiver.address)), "{head}");
    for (field, value) in [
        ("schema_version", json!(1)),
        ("event", json!("job-ended")),
        ("job_id", json!(job)),
        ("name", json!("told")),
        ("state", json!("FAILED")),
        ("exit_code", json!(3)),
        ("element_count", json!(1)),
        ("element_counts", json!({ "FAILED": 1 })),
        ("labels", json!({ "a": "b" })),
    ] {
        assert_eq!(told.body[field], value, "{field}");
    }
    assert!(told.body["ended_at"].as_str().unwrap().ends_with('Z'), "{}", told.body);
    assert_eq!(settled(&cluster, job), json!({ "standing": "sent", "tries": 1, "detail": null }));
    let shown = cluster.show(job);
    let host = format!("http://{}/********", receiver.address);
    assert_eq!(shown["spec"]["notify"], host, "the path may be a secret");
    let people = out(&cluster.run(&["show", &job.to_string()]));
    assert!(people.contains(&format!("{host} (sent, 1 try)")) && !people.contains("s3cret"), "{people}");

    // Another end is another notice; one end is never told twice.
    assert!(cluster.run(&["retry", &job.to_string()]).status.success());
    let again = receiver.answer("200 OK");
    assert_ne!(again.body["notice_id"], told.body["notice_id"]);
    assert_eq!(settled(&cluster, job)["tries"], 1);
    assert!(receiver.is_quiet());
}

#[test]
fn a_notice_outlives_the_scheduler_and_is_tried_again() {
    let mut cluster = Cluster::scheduler();
    cluster.start_agent("node");
    // A port nobody listens on yet.
    let address = Receiver::new().address;
    let url = format!("http://{address}/");
    let job = cluster.submit(&["--notify", &url, "--", "true"]);
    let failed = eventually("a failed try", || {
        let notice = cluster.show(job)["notice"].clone();
        (notice["tries"] == 1).then_some(notice)
    });
    assert_eq!(failed["standing"], "owed");
    assert!(failed["detail"].as_str().unwrap().contains("does not answer"), "{failed}");
    kill(u64::from(cluster.daemons[0].child.id()), Signal::KILL);
    cluster.daemons[0].child.wait().unwrap();
    let receiver = Receiver::at(address);
    cluster.daemons[0] = cluster.scheduler_again();
    assert_eq!(receiver.answer("500 Internal Server Error").body["job_id"], json!(job), "the second try");
    assert_eq!(receiver.answer("200 OK").body["state"], "COMPLETED", "and the third");
    assert_eq!(settled(&cluster, job)["tries"], 3, "the first one was not forgotten");
    assert!(receiver.is_quiet());
}

#[test]
fn a_notice_follows_no_redirect_and_goes_to_no_back_door() {
    let cluster = Cluster::up();
    let (receiver, elsewhere) = (Receiver::new(), Receiver::new());
    let job = cluster.submit(&["--notify", &receiver.url("/"), "--", "true"]);
    receiver.answer(&format!("302 Found\r\nlocation: {}", elsewhere.url("/")));
    let notice = settled(&cluster, job);
    assert_eq!((&notice["standing"], &notice["tries"]), (&json!("given-up"), &json!(1)));
    assert!(notice["detail"].as_str().unwrap().contains("redirects are not followed"), "{notice}");
    assert!(elsewhere.is_quiet());

    for url in ["http://169.254.169.254/latest/meta-data/", "http://[::ffff:a9fe:a9fe]/", "http://2852039166/"] {
        let job = cluster.submit(&["--notify", url, "--", "true"]);
        let notice = settled(&cluster, job);
        assert_eq!((&notice["standing"], &notice["tries"]), (&json!("given-up"), &json!(1)), "{url}");
        assert!(notice["detail"].as_str().unwrap().contains("no notice may go to "), "{notice}");
    }
    let refused = cluster.run(&["submit", "--notify", "ftp://host/", "--", "true"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        err(&refused).contains("names no http or https host") && err(&refused).contains("^^^"),
        "{}",
        err(&refused)
    );
}

#[test]
fn a_receiver_that_says_nothing_holds_up_nobody_else() {
    let cluster = Cluster::up();
    let (silent, other) = (Receiver::new(), Receiver::new());
    for _ in 0..6 {
        cluster.submit(&["--notify", &silent.url("/"), "--", "true"]);
    }
    let job = cluster.submit(&["--notify", &other.url("/"), "--", "true"]);
    assert_eq!(other.answer("200 OK").body["job_id"], json!(job));
    settled(&cluster, job);
    let ps = cluster.json(&["ps", "--all"]);
    assert_eq!(ps["jobs"].as_array().unwrap().len(), 7, "and the scheduler serves");
}

#[test]
fn a_notice_over_https_needs_a_certificate_that_the_system_trusts() {
    let place = Place::new();
    let (key, cert) = (place.path().join("key.pem"), place.path().join("cert.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        return cannot_run("making a certificate needs openssl");
    }
    let port = Receiver::new().address.port();
    let serve = || {
        let mut server = Command::new("openssl")
            .args(["s_server", "-quiet", "-tls1_3", "-accept", &format!("127.0.0.1:{port}"), "-naccept", "1"])
            .arg("-key")
            .arg(&key)
            .arg("-cert")
            .arg(&cert)
            .current_dir(place.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the server listens", || {
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
            table.contains(&format!("0100007F:{port:04X} 00000000:0000 0A")).then_some(())
        });
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        server.stdin.as_mut().unwrap().write_all(answer).unwrap();
        server
    };
    let cluster = |trusted: bool| {
        let place = Place::new();
        let state = place.path().join("state");
        let args = ["up", "--state", state.to_str().unwrap(), "--listen", "127.0.0.1:0", "--output", "jsonl"];
        let mut command = place.gangsaw(&args);
        if trusted {
            command.env("SSL_CERT_FILE", &cert);
        }
        let up = Daemon::start(command);
        let server = up.ready["server"].as_str().unwrap().to_owned();
        let cluster = Cluster { daemons: vec![up], server, place };
        cluster.until_nodes(1);
        cluster
    };
    let url = format!("https://localhost:{port}/hook");

    let (mut server, doubting) = (serve(), cluster(false));
    let job = doubting.submit(&["--notify", &url, "--", "true"]);
    let notice = eventually("a failed try", || {
        let notice = doubting.show(job)["notice"].clone();
        (notice["tries"].as_u64()? >= 1).then_some(notice)
    });
    assert_eq!(notice["standing"], "owed", "{notice}");
    let _ = server.kill();
    let mut heard = String::new();
    server.stdout.take().unwrap().read_to_string(&mut heard).unwrap();
    server.wait().unwrap();
    assert_eq!(heard, "", "nothing is told to whoever cannot prove who it is");
    drop(doubting);

    let (mut server, trusting) = (serve(), cluster(true));
    let job = trusting.submit(&["--notify", &url, "--", "true"]);
    assert_eq!(settled(&trusting, job)["standing"], "sent");
    let _ = server.kill();
    let mut heard = String::new();
    server.stdout.take().unwrap().read_to_string(&mut heard).unwrap();
    server.wait().unwrap();
    assert!(heard.starts_with("POST /hook HTTP/1.1"), "{heard}");
}
