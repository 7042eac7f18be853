//! Mixed shapes on the whole path: jobs of 64 shapes, over real sessions and a real log, and people who submit meanwhile.
//!
//! A queue of single jobs comes at once, each of another shape than its neighbours, so that no decision serves two of
//! them. It is run down to nothing, and then the next one comes. Somebody else submits at a steady pace all the while:
//! what that person waits is the second figure. A decision here is a lease that a node has received, and each is durable.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use gangsaw_proto::jobs::v1 as jobs;

use crate::cluster::{Cluster, submit};
use crate::load::paced;
use crate::process::cpu;
use crate::submits::{BATCH_JOBS, line, single};
use crate::swarm::{Shape, Swarm};

/// Request shapes.
const SHAPES: u64 = 64;
/// Submits a second beside the queue.
const PACE: u32 = 100;
/// How long a queue may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the nodes' count is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Returns job `number` of a queue.
fn job(number: u64, shape: &Shape) -> anyhow::Result<jobs::JobSpec> {
    let mut spec = submit(&["true"], 1).jobs.into_iter().next().context("a submit has a job")?;
    let kind = number * 7 % SHAPES;
    let gpus = if kind.is_multiple_of(2) { kind / 8 % 4 + 1 } else { 0 };
    spec.demands = vec![jobs::Demand {
        milli_cpus: (1 + kind % 8).min(u64::from(shape.cpus)) * 1_000,
        memory_bytes: (1 + kind / 16) << 30,
        gpus: u32::try_from(gpus)?.min(shape.gpus),
        ..jobs::Demand::default()
    }];
    spec.priority = Some(i32::try_from(number % 5)?);
    Ok(spec)
}

/// Runs `rounds` queues of `queued` jobs and prints the rates and the waits.
pub(crate) async fn run(gangsaw: &Path, shape: &Shape, queued: u64, rounds: u64) -> anyhow::Result<()> {
    let (cluster, mut client) = Cluster::start(gangsaw, false).await?;
    let swarm = Swarm::start(&cluster, shape).await?;
    let queue = (0..queued).map(|number| job(number, shape)).collect::<anyhow::Result<Vec<_>>>()?;
    let (told, over) = tokio::sync::oneshot::channel::<()>();
    let door = cluster.door();
    // On a thread of their own: the nodes share this one's runtime.
    let beside = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(paced(&door, 1, PACE, async { drop(over.await) }, single))
    });
    let (spent, own, begin) = (cpu(cluster.pid())?, cpu(std::process::id())?, Instant::now());
    let mut rates = Vec::new();
    for _ in 0..rounds {
        let before = swarm.tally.ended.load(Ordering::Relaxed);
        let at = Instant::now();
        let mut last = 0;
        for part in queue.chunks(BATCH_JOBS) {
            let request = jobs::SubmitRequest {
                idempotency_key: uuid::Uuid::new_v4().to_string(),
                jobs: part.to_vec(),
                ..jobs::SubmitRequest::default()
            };
            last = client.submit(request).await?.into_inner().job_ids.last().copied().context("an accepted queue")?;
        }
        let mut pace = tokio::time::interval(LOOK_EVERY);
        while swarm.tally.ended.load(Ordering::Relaxed) < before + queued {
            ensure!(at.elapsed() < PATIENCE, "a queue of {queued} has not ended within {PATIENCE:?}");
            pace.tick().await;
        }
        let ended = swarm.tally.ended.load(Ordering::Relaxed) - before;
        rates.push(ended as f64 / at.elapsed().as_secs_f64());
        all_ended(&mut client, last).await?;
    }
    let took = begin.elapsed();
    let spent = cpu(cluster.pid())?.saturating_sub(spent);
    let own = cpu(std::process::id())?.saturating_sub(own);
    drop(told);
    let mut load = beside.join().map_err(|_| anyhow::anyhow!("the submits panicked"))??;
    let leases = swarm.tally.grants.load(Ordering::Relaxed);
    rates.sort_by(f64::total_cmp);
    println!(
        "{rounds} queues of {queued} jobs, {SHAPES} shapes, {} nodes × {} GPUs + {} cores, tasks of {} µs",
        shape.agents, shape.gpus, shape.cpus, shape.task_us
    );
    println!("decisions, median queue             {:>12.0} /s", rates.get(rates.len() / 2).copied().unwrap_or(0.0));
    println!(
        "  slowest and quickest queue        {:>12.0} {:.0}",
        rates.first().unwrap_or(&0.0),
        rates.last().unwrap_or(&0.0)
    );
    println!("leases received                     {leases:>12} in {:.2} s", took.as_secs_f64());
    println!("scheduler CPU a lease               {:>12.1} µs", spent.as_secs_f64() * 1e6 / leases.max(1) as f64);
    println!("CPU of the nodes and clients        {:>12.2} s", own.as_secs_f64());
    line(&format!("submits beside it, at {PACE}/s"), &mut load);
    swarm.stop().await;
    cluster.stop().await
}

/// Waits until the scheduler has the end of a queue's last job on record.
async fn all_ended(client: &mut crate::cluster::Client, last: u64) -> anyhow::Result<()> {
    let job = crate::swarm::ended(client, last).await?;
    let completed = job.element_counts.iter().find(|count| count.state() == jobs::State::Completed);
    ensure!(completed.is_some_and(|count| count.count == 1), "job {last} did not complete: {job:?}");
    Ok(())
}
