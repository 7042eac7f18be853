//! What the door takes: single submits, batches, submits at a pace, and whole `gangsaw submit` commands.
//!
//! No node is attached: what is measured is receiving, checking, deciding and making durable.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use gangsaw_proto::jobs::v1 as jobs;

use crate::cluster::{Cluster, submit};
use crate::floor::fdatasync;
use crate::load::{Load, Width, closed, paced};
use crate::process::{children_cpu, cpu};

/// The width at which peers were measured.
pub(crate) const WIDE: Width = Width { connections: 8, in_flight: 32 };
/// Jobs of one batch.
pub(crate) const BATCH_JOBS: usize = 1_000;
/// Elements of each of a batch's jobs.
const BATCH_ELEMENTS: u32 = 10;
/// The pace at which waiting is measured, and for how long.
const PACE: u32 = 500;
const PACED_FOR: Duration = Duration::from_secs(10);
/// Loops of `gangsaw submit` commands: one waits for the disk each time, several share its syncs.
const COMMAND_LOOPS: [u64; 3] = [1, 2, 8];

/// A submit of one job.
pub(crate) fn single(_: u64) -> jobs::SubmitRequest {
    submit(&["true"], 1)
}

/// A submit of many arrays.
fn batch(_: u64) -> jobs::SubmitRequest {
    let mut request = submit(&["true"], BATCH_ELEMENTS);
    if let Some(spec) = request.jobs.first().cloned() {
        request.jobs = vec![spec; BATCH_JOBS];
    }
    request
}

/// Measures every kind of submit, each on a cluster of its own.
pub(crate) async fn run(gangsaw: &Path, calls: u64, commands: u64) -> anyhow::Result<()> {
    singles(gangsaw, calls).await?;
    batches(gangsaw, (calls / 1_000).max(8)).await?;
    at_pace(gangsaw).await?;
    by_command(gangsaw, commands).await
}

async fn singles(gangsaw: &Path, calls: u64) -> anyhow::Result<()> {
    let (cluster, _) = Cluster::start(gangsaw, false).await?;
    let before = fdatasync(&cluster.state())?;
    closed(&cluster.door(), WIDE, calls / 10, single).await?;
    let (counts, spent, own) = (cluster.counts()?, cpu(cluster.pid())?, cpu(std::process::id())?);
    let mut load = closed(&cluster.door(), WIDE, calls, single).await?;
    let spent = cpu(cluster.pid())?.saturating_sub(spent);
    let own = cpu(std::process::id())?.saturating_sub(own);
    let batches = cluster.counts()?.since(&counts);
    let after = fdatasync(&cluster.state())?;
    line("submit RPCs, 8 connections × 32 in flight", &mut load);
    let count = load.times.len();
    let mean = count as f64 / batches.batches.max(1.0);
    println!("  batches {:.0}, of {mean:.1} submits; append {:.3} ms each", batches.batches, batches.append_ms());
    println!("  fdatasync of 4 KiB before and after: median {:.3} and {:.3} ms", ms(before), ms(after));
    println!("  CPU a submit: scheduler {:.1} µs, these clients {:.1} µs", per(spent, count), per(own, count));
    // The quicker of the two syncs and the scheduler's processor time alone: the disk under load and the clients, who
    // share the cores, would only make the bound easier to reach.
    let bound = mean / (before.min(after).as_secs_f64() + mean * per(spent, count) / 1e6);
    println!("  mean batch ÷ (fdatasync + CPU of a batch) = {bound:.0} /s; reached {:.2} of it", load.rate() / bound);
    cluster.stop().await
}

async fn batches(gangsaw: &Path, calls: u64) -> anyhow::Result<()> {
    let (cluster, _) = Cluster::start(gangsaw, false).await?;
    let spent = cpu(cluster.pid())?;
    let width = Width { connections: 2, in_flight: 2 };
    let mut load = closed(&cluster.door(), width, calls, batch).await?;
    let spent = cpu(cluster.pid())?.saturating_sub(spent);
    line(&format!("submits of {BATCH_JOBS} jobs × {BATCH_ELEMENTS} elements"), &mut load);
    let jobs = load.rate() * BATCH_JOBS as f64;
    println!("  {jobs:.0} jobs/s, {:.0} elements/s", jobs * f64::from(BATCH_ELEMENTS));
    let count = load.times.len() * BATCH_JOBS;
    println!("  scheduler CPU {:.2} s, {:.1} µs a job", spent.as_secs_f64(), per(spent, count));
    cluster.stop().await
}

async fn at_pace(gangsaw: &Path) -> anyhow::Result<()> {
    let (cluster, _) = Cluster::start(gangsaw, false).await?;
    let spent = cpu(cluster.pid())?;
    let mut load = paced(&cluster.door(), 8, PACE, tokio::time::sleep(PACED_FOR), single).await?;
    let spent = cpu(cluster.pid())?.saturating_sub(spent);
    line(&format!("submits at {PACE}/s"), &mut load);
    println!("  scheduler CPU {:.2} s, {:.1} µs a submit", spent.as_secs_f64(), per(spent, load.times.len()));
    cluster.stop().await
}

/// Runs whole commands, as scripts do.
async fn by_command(gangsaw: &Path, commands: u64) -> anyhow::Result<()> {
    let (cluster, _) = Cluster::start(gangsaw, false).await?;
    for loops in COMMAND_LOOPS {
        let (begin, spent, own) = (Instant::now(), cpu(cluster.pid())?, children_cpu()?);
        let ended: Vec<anyhow::Result<()>> = std::thread::scope(|scope| {
            let one = || {
                for _ in 0..commands / loops {
                    let mut command = cluster.command(gangsaw);
                    let status = command.args(["submit", "--", "true"]).stdout(Stdio::null()).status()?;
                    anyhow::ensure!(status.success(), "gangsaw submit ended with {status}");
                }
                Ok(())
            };
            let threads: Vec<_> = (0..loops).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(()))).collect()
        });
        ended.into_iter().collect::<anyhow::Result<()>>()?;
        let count = (commands / loops * loops) as usize;
        let rate = count as f64 / begin.elapsed().as_secs_f64();
        let (spent, own) = (cpu(cluster.pid())?.saturating_sub(spent), children_cpu()?.saturating_sub(own));
        println!("`gangsaw submit -- true`, {loops} loop(s)        {rate:>8.0} /s");
        println!("  CPU a command: scheduler {:.1} µs, the command {:.1} µs", per(spent, count), per(own, count));
    }
    cluster.stop().await
}

/// Prints one load.
pub(crate) fn line(what: &str, load: &mut Load) {
    let (rate, p50, p99, max) = (load.rate(), load.ms(0.5), load.ms(0.99), load.ms(1.0));
    let (count, failed) = (load.times.len(), load.failed);
    println!("{what:<44} {rate:>8.0} /s  p50 {p50:.2}  p99 {p99:.2}  max {max:.2} ms  n={count}  failed={failed}");
    if failed > 0 {
        println!("  the first failure: {}", load.why);
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Returns µs for each of `count`.
fn per(spent: Duration, count: usize) -> f64 {
    spent.as_secs_f64() * 1e6 / count.max(1) as f64
}
