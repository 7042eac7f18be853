//! Submit to process start, and submit to seen done, one job at a time on an idle cluster, everything durable.
//!
//! The task is this executable as `stamp`: its first action is to send the monotonic clock to a socket of the bench.
//! The same stamp started directly is the floor: what is left is ours.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use gangsaw_proto::jobs::v1 as jobs;
use rustix::time::{ClockId, clock_gettime};

use crate::cluster::{Client, Cluster, submit};
use crate::floor::{fdatasync, quantile};

/// How long one task may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// Long enough for cores and the kernel's locks to have gone to rest.
const IDLE: Duration = Duration::from_millis(150);

/// Sends the monotonic time of this process's first instructions to `socket`.
pub(crate) fn stamp(socket: &Path) -> anyhow::Result<()> {
    let now = monotonic();
    UnixDatagram::unbound()?.send_to(&now.as_nanos().to_le_bytes(), socket)?;
    Ok(())
}

/// Measures `count` jobs each way and prints one line a measurement.
pub(crate) async fn run(gangsaw: &Path, count: usize) -> anyhow::Result<()> {
    let (cluster, mut client) = Cluster::start(gangsaw, true).await?;
    let path = cluster.state().with_file_name("stamps");
    let stamps = UnixDatagram::bind(&path)?;
    stamps.set_read_timeout(Some(PATIENCE))?;
    let this = std::env::current_exe()?;
    let argv = [text(&this)?, "stamp", text(&path)?];

    let mut floor = Vec::new();
    let mut started = Vec::new();
    let mut phases = Phases::default();
    for round in 0..count + count / 10 {
        let begin = monotonic();
        Command::new(&this).args(&argv[1..]).stdin(Stdio::null()).status()?;
        let direct = receive(&stamps)?.saturating_sub(begin);
        let begin = monotonic();
        let reply = client.submit(submit(&argv, 1)).await?.into_inner();
        let job = *reply.job_ids.first().context("a submit without a job")?;
        let start = receive(&stamps)?.saturating_sub(begin);
        ended(&mut client, job).await?;
        if round >= count / 10 {
            floor.push(direct);
            started.push(start);
            phases.add(&mut client, job).await?;
        }
    }
    let mut woken = Vec::new();
    for _ in 0..count.div_ceil(3) {
        tokio::time::sleep(IDLE).await;
        let begin = monotonic();
        let reply = client.submit(submit(&argv, 1)).await?.into_inner();
        woken.push(receive(&stamps)?.saturating_sub(begin));
        ended(&mut client, *reply.job_ids.first().context("a submit without a job")?).await?;
    }
    println!("floor: fdatasync of 4 KiB in the state folder   median {:.3} ms", ms(fdatasync(&cluster.state())?));
    line("floor: spawn → first instruction, directly", &mut floor);
    line("submit (gRPC call) → first instruction", &mut started);
    phases.print();
    line("submit → first instruction, 150 ms after the last", &mut woken);
    line("submit (gRPC call) → seen done by a watcher", &mut done_by_watch(&mut client, count).await?);
    line("`gangsaw run -- true`, start to exit", &mut done_by_command(&cluster, gangsaw, count / 3)?);
    line("`gangsaw --version`, start to exit (of it)", &mut version(&cluster, gangsaw, count / 3)?);
    cluster.stop().await
}

/// Waits until a job has ended.
async fn ended(client: &mut Client, job_id: u64) -> anyhow::Result<()> {
    let mut watch = client.watch(jobs::WatchRequest { job_id, after_seq: 0 }).await?.into_inner();
    while let Some(change) = watch.message().await? {
        if change.job.is_some_and(|job| job.state == jobs::State::Completed as i32) {
            return Ok(());
        }
    }
    anyhow::bail!("job {job_id} did not complete")
}

/// Times submit to the end as a watcher sees it.
async fn done_by_watch(client: &mut Client, count: usize) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        let reply = client.submit(submit(&["true"], 1)).await?.into_inner();
        ended(client, *reply.job_ids.first().context("a submit without a job")?).await?;
        times.push(begin.elapsed());
    }
    Ok(times)
}

/// Times `gangsaw run -- true` as a person would.
fn done_by_command(cluster: &Cluster, gangsaw: &Path, count: usize) -> anyhow::Result<Vec<Duration>> {
    timed(count, || {
        let status = cluster.command(gangsaw).args(["run", "--", "true"]).stderr(Stdio::null()).status()?;
        anyhow::ensure!(status.success(), "gangsaw run ended with {status}");
        Ok(())
    })
}

/// Times what any use of the executable costs.
fn version(cluster: &Cluster, gangsaw: &Path, count: usize) -> anyhow::Result<Vec<Duration>> {
    timed(count, || {
        cluster.command(gangsaw).arg("--version").stdout(Stdio::null()).status()?;
        Ok(())
    })
}

/// Times `what` several times.
fn timed(count: usize, what: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..count.max(1) {
        let begin = Instant::now();
        what()?;
        times.push(begin.elapsed());
    }
    Ok(times)
}

/// Where the time of a job went, by the scheduler's own account.
#[derive(Default)]
struct Phases {
    durable: Vec<Duration>,
    placed: Vec<Duration>,
    spawned: Vec<Duration>,
    recorded: Vec<Duration>,
}

impl Phases {
    /// Adds one ended job.
    async fn add(&mut self, client: &mut Client, job_id: u64) -> anyhow::Result<()> {
        let select = Some(jobs::Selector { job_id, elements: Vec::new() });
        let request = jobs::GetJobRequest { job: select, page_size: 1, page: String::new() };
        let phases = client.get_job(request).await?.into_inner().phases.context("a job without phases")?;
        self.durable.push(Duration::from_micros(phases.durable_us));
        self.placed.push(Duration::from_micros(phases.placed_us));
        self.spawned.push(Duration::from_micros(phases.spawned_us));
        self.recorded.push(Duration::from_micros(phases.recorded_us));
        Ok(())
    }

    /// Prints one line a phase.
    fn print(&mut self) {
        line("  of it: received → durable", &mut self.durable);
        line("  of it: durable → granted", &mut self.placed);
        line("  of it: granted → executed", &mut self.spawned);
        line("  after: exited → end durable", &mut self.recorded);
    }
}

/// Prints the quantiles of one measurement.
fn line(what: &str, times: &mut [Duration]) {
    let (p50, p90, p99) = (quantile(times, 0.5), quantile(times, 0.9), quantile(times, 0.99));
    println!("{what:<48} p50 {:>7.3}  p90 {:>7.3}  p99 {:>7.3} ms  n={}", ms(p50), ms(p90), ms(p99), times.len());
}

/// Receives one stamp.
fn receive(stamps: &UnixDatagram) -> anyhow::Result<Duration> {
    let mut bytes = [0; 16];
    let length = stamps.recv(&mut bytes).context("the task did not start")?;
    anyhow::ensure!(length == bytes.len(), "a stamp of {length} bytes");
    Ok(Duration::from_nanos(u64::try_from(u128::from_le_bytes(bytes))?))
}

/// Returns the monotonic clock, the same for every process.
fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Returns a path as text, which a task's arguments are.
fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// Returns milliseconds for people.
fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
