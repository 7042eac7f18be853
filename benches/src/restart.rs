//! What many jobs weigh, and how long a scheduler takes to be back with them after kill -9.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::load::closed;
use crate::process::{cpu, memory_kib};
use crate::submits::{WIDE, line, single};
use crate::swarm::{Shape, Swarm, disk};

/// How often the count of events is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Restarts, of which each is printed.
const RESTARTS: u32 = 3;
/// Jobs that run between two looks at the count of events.
const ROUND_JOBS: u64 = 10_000;

/// Queues single jobs, weighs them, and restarts the scheduler with them.
pub(crate) async fn jobs(gangsaw: &Path, count: u64, idle: Duration) -> anyhow::Result<()> {
    let (mut cluster, _) = Cluster::start(gangsaw, false).await?;
    closed(&cluster.door(), WIDE, 100, single).await?;
    let before = memory_kib(cluster.pid())?;
    let mut load = closed(&cluster.door(), WIDE, count, single).await?;
    line(&format!("{count} single jobs"), &mut load);
    let at_once = memory_kib(cluster.pid())?;
    tokio::time::sleep(idle).await;
    let after = memory_kib(cluster.pid())?;
    let each = |after: u64| after.saturating_sub(before) as f64 * 1_024.0 / count as f64;
    println!("  {:.0} bytes a job at once, {:.0} after {idle:?} idle", each(at_once), each(after));
    restarts(&mut cluster, gangsaw).await?;
    cluster.stop().await
}

/// Lets single jobs run on a swarm until so many events are logged, queues `count` more, and restarts with all that.
pub(crate) async fn events(gangsaw: &Path, shape: &Shape, events: u64, count: u64) -> anyhow::Result<()> {
    let (mut cluster, _) = Cluster::start(gangsaw, false).await?;
    let swarm = Swarm::start(&cluster, shape).await?;
    let begin = Instant::now();
    let spent = cpu(cluster.pid())?;
    let mut ran = 0;
    while cluster.counts()?.events < events as f64 {
        closed(&cluster.door(), WIDE, ROUND_JOBS, single).await?;
        ran += ROUND_JOBS;
    }
    let mut pace = tokio::time::interval(LOOK_EVERY);
    while swarm.tally.ended.load(std::sync::atomic::Ordering::Relaxed) < ran {
        pace.tick().await;
    }
    let (took, spent) = (begin.elapsed().as_secs_f64(), cpu(cluster.pid())?.saturating_sub(spent).as_secs_f64());
    println!("{ran} single jobs submitted and run: {:.0} /s", ran as f64 / took);
    println!("  scheduler CPU {spent:.2} s, {:.1} µs a job", spent * 1e6 / ran as f64);
    swarm.stop().await;
    let mut load = closed(&cluster.door(), WIDE, count, single).await?;
    line(&format!("{count} more, which wait"), &mut load);
    println!("{:.0} events logged", cluster.counts()?.events);
    disk(&cluster)?;
    restarts(&mut cluster, gangsaw).await?;
    cluster.stop().await
}

async fn restarts(cluster: &mut Cluster, gangsaw: &Path) -> anyhow::Result<()> {
    for _ in 0..RESTARTS {
        let took = cluster.restart(gangsaw).await?;
        let (spent, memory) = (cpu(cluster.pid())?.as_secs_f64(), memory_kib(cluster.pid())? as f64 * 1_024.0 / 1e6);
        let took = took.as_secs_f64();
        println!("restart after kill -9, to the first answer: {took:.3} s, CPU {spent:.2} s, {memory:.1} MB");
    }
    Ok(())
}
