//! A relay between agents and scheduler that delays, resets in the middle of a frame, opens a second connection that
//! says the same, and closes one half; and people who watch through it.
//!
//! Which connection meets what, and after how many bytes, follows from a seed and the order in which connections come.
//! After a number of faults the relay is a good one, so that what must hold when faults stop can be looked at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Daemon, is_alive, start_ticks};

/// Connections that meet a fault before the relay is a good one.
const FAULTS: usize = 48;
/// Bytes that pass before a fault: within the greeting, the Hello, or well after.
const PASSES: (u64, u64) = (40, 6_000);
/// Longest delay of a piece.
const DELAY_MS: u64 = 20;
/// Largest piece that is passed on at once.
const PIECE: usize = 1_024;

/// What a connection meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Both ends are reset, wherever a frame is.
    Reset,
    /// What comes from the agent goes to the scheduler on a second connection, too.
    Twice,
    /// The scheduler hears the end of the agent's half, and the agent nothing.
    HalfUp,
    /// The agent hears the end of the scheduler's half, and the scheduler nothing.
    HalfDown,
}

const KINDS: [Fault; 4] = [Fault::Reset, Fault::Twice, Fault::HalfUp, Fault::HalfDown];

/// Pseudo-random numbers (xorshift): the same seed, the same faults.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, from: u64, to: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        from + self.0 % (to - from)
    }
}

/// A running relay.
struct Relay {
    address: SocketAddr,
    /// Connections of each kind that met their fault.
    met: Arc<[AtomicUsize; 4]>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts one in front of a scheduler.
    fn start(scheduler: SocketAddr, seed: u64) -> Relay {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (met, stop) = (Arc::new([const { AtomicUsize::new(0) }; 4]), CancellationToken::new());
        let (counts, told) = (Arc::clone(&met), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = told.cancelled() => {}
                    () = serve(TcpListener::from_std(listener).unwrap(), scheduler, seed, counts) => {}
                }
            });
        });
        Relay { address, met, stop, thread: Some(thread) }
    }

    fn met(&self) -> [usize; 4] {
        [0, 1, 2, 3].map(|at| self.met[at].load(Ordering::Relaxed))
    }

    fn is_good(&self) -> bool {
        self.met().iter().sum::<usize>() >= FAULTS
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, scheduler: SocketAddr, seed: u64, met: Arc<[AtomicUsize; 4]>) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    while let Ok((near, _)) = listener.accept().await {
        let met = Arc::clone(&met);
        let done: usize = met.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        let plan = (done < FAULTS).then(|| (dice.roll(0, 4) as usize, dice.roll(PASSES.0, PASSES.1)));
        let dice = Dice(dice.roll(1, u64::MAX));
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(scheduler).await else { return };
            let line = Line { near, far, twin: None, plan, dice, met, halves: (true, true) };
            // Whatever broke, the line is gone: that is all it is for.
            let _ = line.carry(scheduler).await;
        });
    }
}

/// One connection through the relay.
struct Line {
    near: TcpStream,
    far: TcpStream,
    /// The second connection to the scheduler; what comes from it is heard by nobody.
    twin: Option<TcpStream>,
    /// Which fault, and after how many bytes.
    plan: Option<(usize, u64)>,
    dice: Dice,
    met: Arc<[AtomicUsize; 4]>,
    /// Whether something still goes up, and down.
    halves: (bool, bool),
}

impl Line {
    async fn carry(mut self, scheduler: SocketAddr) -> std::io::Result<()> {
        if self.kind() == Some(Fault::Twice) {
            self.twin = Some(TcpStream::connect(scheduler).await?);
        }
        let (mut up, mut down, mut unheard) = ([0; PIECE], [0; PIECE], [0; PIECE]);
        while self.halves != (false, false) {
            tokio::select! {
                count = self.near.read(&mut up), if self.halves.0 => self.goes_up(&up[..count?]).await?,
                count = self.far.read(&mut down), if self.halves.1 => self.goes_down(&down[..count?]).await?,
                count = hear(self.twin.as_mut(), &mut unheard) => if count == 0 { self.twin = None },
            }
        }
        Ok(())
    }

    fn kind(&self) -> Option<Fault> {
        self.plan.map(|(kind, _)| KINDS[kind])
    }

    async fn goes_up(&mut self, piece: &[u8]) -> std::io::Result<()> {
        if piece.is_empty() {
            self.halves.0 = false;
            return self.far.shutdown().await;
        }
        let passes = self.passes(piece).await;
        if let Some(twin) = &mut self.twin {
            // It may have been closed: then there is one connection again.
            let _ = twin.write_all(&piece[..passes]).await;
        }
        self.far.write_all(&piece[..passes]).await?;
        self.meets(passes < piece.len()).await
    }

    async fn goes_down(&mut self, piece: &[u8]) -> std::io::Result<()> {
        if piece.is_empty() {
            self.halves.1 = false;
            return self.near.shutdown().await;
        }
        let passes = self.passes(piece).await;
        self.near.write_all(&piece[..passes]).await?;
        self.meets(passes < piece.len()).await
    }

    /// Delays a piece now and then, and returns how much of it goes on before the fault.
    async fn passes(&mut self, piece: &[u8]) -> usize {
        if self.plan.is_some() && self.dice.roll(0, 4) == 0 {
            tokio::time::sleep(Duration::from_millis(self.dice.roll(1, DELAY_MS))).await;
        }
        let Some((_, left)) = &mut self.plan else { return piece.len() };
        let passes = usize::try_from(*left).unwrap().min(piece.len());
        *left -= passes as u64;
        passes
    }

    /// The fault, once its bytes have passed.
    async fn meets(&mut self, now: bool) -> std::io::Result<()> {
        let Some((kind, _)) = self.plan.filter(|_| now) else { return Ok(()) };
        self.plan = None;
        self.met[kind].fetch_add(1, Ordering::Relaxed);
        match KINDS[kind] {
            // The second connection ends here: what it said is cut off in the middle, too.
            Fault::Reset | Fault::Twice => {
                for stream in [Some(&self.near), Some(&self.far), self.twin.as_ref()].into_iter().flatten() {
                    // Closing then sends a reset and not an end.
                    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
                }
                Err(std::io::ErrorKind::ConnectionReset.into())
            }
            Fault::HalfUp => {
                self.halves.0 = false;
                self.far.shutdown().await
            }
            Fault::HalfDown => {
                self.halves.1 = false;
                self.near.shutdown().await
            }
        }
    }
}

/// Reads what nobody hears; for ever where there is nothing. Zero: it has ended.
async fn hear(twin: Option<&mut TcpStream>, bytes: &mut [u8]) -> usize {
    match twin {
        Some(twin) => twin.read(bytes).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

/// An agent that reaches its scheduler by the relay.
fn agent(cluster: &Cluster, relay: &Relay, name: &str) -> Daemon {
    let (state, server) = (cluster.place.path().join(name).display().to_string(), format!("http://{}", relay.address));
    let words = ["agent", "--state", &state, "--server", &server, "--node-name", name, "--no-gpus", "--stop-tasks"];
    let mut command = cluster.place.gangsaw(&[&words[..], &["--output", "jsonl"]].concat());
    command.env("GANGSAW_TOKEN", std::fs::read_to_string(cluster.place.path().join("state/scheduler/token")).unwrap());
    let daemon = Daemon::start(command);
    cluster.until_node(name);
    daemon
}

fn behind_a_relay(seed: u64) {
    const ELEMENTS: u32 = 60;
    let cluster = Cluster::scheduler();
    let relay = Relay::start(cluster.server.trim_start_matches("http://").parse().unwrap(), seed);
    // People watch through it, too.
    let credentials = cluster.place.path().join("xdg/gangsaw/credentials");
    let address = cluster.server.trim_start_matches("http://");
    std::fs::copy(credentials.join(address), credentials.join(relay.address.to_string())).unwrap();
    let through = format!("http://{}", relay.address);
    cluster.place.unwatch();
    let mut agents: Vec<Daemon> = ["one", "other"].iter().map(|name| agent(&cluster, &relay, name)).collect();
    let gate = cluster.place.path().join("gate");
    let wait = format!("until [ -e {} ]; do sleep 0.05; done; exit 5", gate.display());
    let submit = |args: &[&str]| {
        let args: Vec<&str> = [&["submit", "--output", "json"], args].concat();
        let answer: serde_json::Value = serde_json::from_slice(&cluster.run(&args).stdout).unwrap();
        let job = answer["job_id"].as_u64().unwrap();
        cluster.place.watch(&through, job);
        job
    };
    let lasting = submit(&["--cpus", "0.1", "--", "sh", "-c", &wait]);
    let pid = cluster.until_running(lasting);
    let ticks = start_ticks(pid);

    let ran = cluster.place.path().join("ran");
    let line = format!(
        "echo $GANGSAW_JOB_ID $GANGSAW_ARRAY_INDEX >> {}; exit $((GANGSAW_ARRAY_INDEX % 20 == 7))",
        ran.display()
    );
    let range = format!("0-{}", ELEMENTS - 1);
    let mut arrays = Vec::new();
    while !relay.is_good() {
        assert!(arrays.len() < 100, "seed {seed}: nothing meets a fault: {:?}", relay.met());
        let job = submit(&["--array", &range, "--cpus", "0.5", "--", "sh", "-c", &line]);
        cluster.until(job, "FAILED");
        arrays.push(job);
    }
    assert!(relay.met().iter().all(|met| *met > 2), "seed {seed}: {:?}", relay.met());

    // Faults have stopped: everything ends, once.
    let last = submit(&["--cpus", "0.1", "--", "true"]);
    cluster.until(last, "COMPLETED");
    assert!(is_alive(pid) && start_ticks(pid) == ticks, "no connection is worth a task");
    std::fs::write(gate, "").unwrap();
    let shown = cluster.until(lasting, "FAILED")["tasks"][0].clone();
    assert_eq!((&shown["exit_code"], &shown["attempt"]), (&5.into(), &1.into()));
    let mut found: Vec<(u64, u32)> = std::fs::read_to_string(&ran)
        .unwrap()
        .lines()
        .map(|line| {
            let (job, index) = line.split_once(' ').unwrap();
            (job.parse().unwrap(), index.parse().unwrap())
        })
        .collect();
    found.sort_unstable();
    let expected: Vec<(u64, u32)> = arrays.iter().flat_map(|job| (0..ELEMENTS).map(|index| (*job, index))).collect();
    assert_eq!(found, expected, "seed {seed}: each index ran exactly once");
    for agent in &mut agents {
        agent.end(Signal::TERM);
    }
}

#[test]
fn behind_a_relay_that_resets_doubles_and_half_closes_each_index_ends_exactly_once() {
    for seed in 1..=2 {
        behind_a_relay(seed);
    }
}
