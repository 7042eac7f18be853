//! Enemies at the port of the real executable: each costs its own connection, and others are served meanwhile.
//!
//! They speak HTTP/1 and HTTP/2 byte by byte over plain sockets, since no client library would say such things.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Daemon, GANGSAW, Place, eventually};

/// Longest wait for an answer or an end.
const PATIENCE: Duration = Duration::from_secs(40);
/// What a client of HTTP/2 says first, with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn address(cluster: &Cluster) -> SocketAddr {
    cluster.server.trim_start_matches("http://").parse().unwrap()
}

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Dials from another address of this machine.
fn dial_from(from: &str, to: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(from.parse().unwrap()).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn others_are_served(cluster: &Cluster) {
    let began = Instant::now();
    assert!(cluster.json(&["ps"])["jobs"].is_array());
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
}

/// One frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header as HPACK has it, spelt out.
fn header(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        assert!(text.len() < 127);
        block.push(u8::try_from(text.len()).unwrap());
        block.extend(text.as_bytes());
    }
    block
}

fn post(path: &str) -> Vec<u8> {
    let headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"), ("te", "trailers")];
    let mut block: Vec<u8> = headers.iter().flat_map(|(name, value)| header(name, value)).collect();
    block.extend(header("content-type", "application/grpc"));
    block
}

/// The next frame: kind, stream, payload. Nothing: the connection ended.
fn read_frame(stream: &mut TcpStream) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0_u8; 9];
    stream.read_exact(&mut head).ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).ok()?;
    Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}

/// Reads until the scheduler says that it has had enough, and returns the code it gives; nothing if it just closed.
fn goodbye(stream: &mut TcpStream) -> Option<u32> {
    let mut code = None;
    while let Some((kind, _, payload)) = read_frame(stream) {
        if kind == GOAWAY {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
    code
}

/// True once the other end closed, however. Panics if it does not in time.
fn closes(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 4_096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                let late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(!late, "the connection is still open after {PATIENCE:?}");
                return true;
            }
        }
    }
}

/// Resident memory of the scheduler in MiB.
fn resident_mib(cluster: &Cluster) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.daemons[0].child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024
}

#[test]
fn connections_that_say_nothing_or_dribble_go_and_others_are_served() {
    let cluster = Cluster::scheduler();
    let mut silent: Vec<TcpStream> = (0..300).map(|_| dial(address(&cluster))).collect();
    for stream in &mut silent {
        stream.write_all(b"P").unwrap();
    }
    let crowded = Instant::now();
    // Everybody has two seconds. Then the oldest go for the next that comes: 256 strangers of one address are enough.
    silent[0].set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    eventually("the oldest go", || {
        drop(dial(address(&cluster)));
        match silent[0].read(&mut [0; 64]) {
            Ok(count) => (count == 0).then_some(()),
            Err(error) => (!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)).then_some(()),
        }
    });
    assert!(crowded.elapsed() < Duration::from_secs(8), "it went for others, not for its own slowness");
    for stream in &mut silent[1..40] {
        assert!(closes(stream));
    }
    others_are_served(&cluster);
    let began = Instant::now();
    let mut dribbling = dial(address(&cluster));
    dribbling.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-").unwrap();
    dribbling.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    // A byte now and then keeps no connection alive.
    let ended = loop {
        assert!(began.elapsed() < PATIENCE, "still open");
        if dribbling.write_all(b"a").is_err() {
            break began.elapsed();
        }
        match dribbling.read(&mut [0; 512]) {
            Ok(0) => break began.elapsed(),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break began.elapsed(),
        }
    };
    assert!(ended > Duration::from_secs(5), "a slow client has its ten seconds: {ended:?}");
    for stream in &mut silent[40..] {
        assert!(closes(stream));
    }
    others_are_served(&cluster);
}

#[test]
fn a_person_who_dials_among_hundreds_of_others_keeps_the_connection() {
    let cluster = Cluster::scheduler();
    let token = std::fs::read_to_string(cluster.place.path().join("state/scheduler/token")).unwrap();
    let ask = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    // On a machine that takes longer than that the crowd is a slow one, and it is tried again.
    let (mut person, crowd) = eventually("a crowd that comes within a second", || {
        let begun = Instant::now();
        let person = dial(address(&cluster));
        let crowd: Vec<TcpStream> = (0..600).map(|_| dial(address(&cluster))).collect();
        (begun.elapsed() < Duration::from_secs(1)).then_some((person, crowd))
    });
    let mut answer = [0; 12];
    person.write_all(ask.as_bytes()).unwrap();
    person.read_exact(&mut answer).expect("its connection was taken away");
    assert_eq!(&answer, b"HTTP/1.1 200");
    drop(crowd);
}

#[test]
fn one_address_cannot_take_every_connection() {
    let place = Place::new();
    let state = place.path().join("state").display().to_string();
    // 144 places, 108 of them for one address.
    let line = format!("ulimit -n 400; exec {GANGSAW} scheduler --state {state} --listen 127.0.0.1:0 --output jsonl");
    let mut command = Command::new("sh");
    command.args(["-c", &line]).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    for name in ["HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"] {
        command.env(name, place.path());
    }
    let scheduler = Daemon::start(command);
    let server = scheduler.ready["server"].as_str().unwrap().to_owned();
    let cluster = Cluster { daemons: vec![scheduler], server, place };
    let token = std::fs::read_to_string(cluster.place.path().join("state/scheduler/token")).unwrap();
    let ask = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    let answered = |stream: &mut TcpStream| {
        let mut line = [0; 12];
        let _ = stream.write_all(ask.as_bytes());
        stream.read_exact(&mut line).is_ok_and(|()| &line == b"HTTP/1.1 200")
    };
    let mut held: Vec<TcpStream> = Vec::new();
    while held.len() < 108 {
        let mut stream = dial(address(&cluster));
        assert!(answered(&mut stream), "connection {} shows a token", held.len());
        held.push(stream);
    }
    assert!(!answered(&mut dial(address(&cluster))), "one more of the same address is closed");
    let mut other = dial_from("127.0.0.2:0", address(&cluster));
    assert!(answered(&mut other), "another address is served");
    held.pop();
    eventually("a place", || answered(&mut dial(address(&cluster))).then_some(()));
    let mut metrics = vec![0; 64 << 10];
    other.write_all(ask.as_bytes()).unwrap();
    let mut read = String::new();
    while !read.contains("gangsaw_connections_refused_total{reason=\"too-many-of-one-address\"}") {
        let count = other.read(&mut metrics).unwrap();
        assert!(count > 0, "{read}");
        read.push_str(&String::from_utf8_lossy(&metrics[..count]));
    }
}

#[test]
fn endless_headers_end_their_own_connection() {
    let cluster = Cluster::scheduler();
    let before = resident_mib(&cluster);
    let mut stream = dial(address(&cluster));
    stream.write_all(PREFACE).unwrap();
    stream.write_all(&frame(HEADERS, 0, 1, &post("/gangsaw.jobs.v1.JobsService/ListJobs"))).unwrap();
    let more: Vec<u8> = (0..100).flat_map(|_| header("x-filler", &"a".repeat(100))).collect();
    let mut sent = 0;
    while stream.write_all(&frame(CONTINUATION, 0, 1, &more)).is_ok() {
        sent += more.len();
        assert!(sent < 64 << 20, "it takes headers without end");
    }
    assert!(closes(&mut stream));
    others_are_served(&cluster);

    let mut stream = dial(address(&cluster));
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    let line = format!("x-filler: {}\r\n", "a".repeat(1_000));
    let mut sent = 0;
    while stream.write_all(line.as_bytes()).is_ok() {
        sent += line.len();
        assert!(sent < 64 << 20, "it takes headers without end");
    }
    others_are_served(&cluster);
    let grown = resident_mib(&cluster).saturating_sub(before);
    assert!(grown < 32, "{grown} MiB for two connections");
}

#[test]
fn a_huge_frame_is_not_waited_for() {
    let cluster = Cluster::scheduler();
    let mut stream = dial(address(&cluster));
    stream.write_all(PREFACE).unwrap();
    // 16 MiB in one frame, where 16 KiB were agreed; only its head comes.
    stream.write_all(&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1]).unwrap();
    assert_eq!(goodbye(&mut stream), Some(6), "FRAME_SIZE_ERROR");
    others_are_served(&cluster);
}

#[test]
fn a_client_that_opens_and_resets_without_end_is_sent_away() {
    let cluster = Cluster::scheduler();
    let mut stream = dial(address(&cluster));
    stream.write_all(PREFACE).unwrap();
    let block = post("/gangsaw.jobs.v1.JobsService/ListJobs");
    let mut burst = Vec::new();
    for number in 0..2_000_u32 {
        burst.extend(frame(HEADERS, END_HEADERS, 2 * number + 1, &block));
        burst.extend(frame(RST_STREAM, 0, 2 * number + 1, &8_u32.to_be_bytes()));
    }
    // It may have closed in the middle of this.
    let _ = stream.write_all(&burst);
    let code = goodbye(&mut stream);
    assert!(matches!(code, Some(11) | None), "ENHANCE_YOUR_CALM, if it could still be read: {code:?}");
    others_are_served(&cluster);
}

#[test]
fn a_connection_has_only_so_many_streams() {
    let cluster = Cluster::scheduler();
    let mut stream = dial(address(&cluster));
    stream.write_all(PREFACE).unwrap();
    let block = post("/grpc.health.v1.Health/Check");
    // Each waits for its message, which does not come.
    let opened: Vec<u8> =
        (0..1_100_u32).flat_map(|number| frame(HEADERS, END_HEADERS, 2 * number + 1, &block)).collect();
    stream.write_all(&opened).unwrap();
    let mut refused = 0;
    while refused < 76 {
        let (kind, number, payload) = read_frame(&mut stream).expect("it refuses streams, and goes on");
        if kind == RST_STREAM {
            assert_eq!(payload, 7_u32.to_be_bytes(), "REFUSED_STREAM");
            assert!(number > 2 * 1_024, "stream {number} is among the first");
            refused += 1;
        }
    }
    others_are_served(&cluster);
}

#[test]
fn headers_that_are_too_large_are_refused_and_the_connection_goes_on() {
    let cluster = Cluster::scheduler();
    let mut stream = dial(address(&cluster));
    stream.write_all(PREFACE).unwrap();
    let mut block = post("/grpc.health.v1.Health/Check");
    for _ in 0..600 {
        block.extend(header("x-filler", &"a".repeat(120)));
    }
    let mut pieces = block.chunks(16_000).peekable();
    let mut bytes = frame(HEADERS, END_STREAM, 1, pieces.next().unwrap());
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        bytes.extend(frame(CONTINUATION, last, 1, piece));
    }
    stream.write_all(&bytes).unwrap();
    let came_to = loop {
        let (kind, number, payload) = read_frame(&mut stream).expect("an answer");
        if number == 1 || kind == GOAWAY {
            break (kind, payload);
        }
    };
    assert!([HEADERS, RST_STREAM].contains(&came_to.0), "{came_to:?}");
    let small = frame(HEADERS, END_HEADERS | END_STREAM, 3, &post("/gangsaw.jobs.v1.JobsService/ListJobs"));
    stream.write_all(&small).unwrap();
    while read_frame(&mut stream).expect("the connection goes on").1 != 3 {}
    others_are_served(&cluster);
}
