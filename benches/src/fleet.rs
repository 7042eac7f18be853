//! A large fleet: what it costs while nothing happens, and how it comes back after the scheduler was killed.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::load::paced;
use crate::process::{cpu, memory_kib, peak_kib};
use crate::submits::{line, single};
use crate::swarm::{Shape, Swarm};

/// How long the fleet may take to come back.
const BACK_PATIENCE: Duration = Duration::from_secs(180);
/// Submits a second while it comes back.
const PACE: u32 = 50;

/// Measures a fleet for `steady`, then kills the scheduler and measures its return.
pub(crate) async fn run(gangsaw: &Path, shape: &Shape, steady: Duration) -> anyhow::Result<()> {
    let (mut cluster, _) = Cluster::start(gangsaw, false).await?;
    let (begin, spent) = (Instant::now(), cpu(cluster.pid())?);
    let mut swarm = Swarm::start(&cluster, shape).await?;
    let (took, spent) = (begin.elapsed().as_secs_f64(), cpu(cluster.pid())?.saturating_sub(spent).as_secs_f64());
    println!("{} nodes attached within {took:.2} s, scheduler CPU {spent:.2} s", shape.agents);

    let (spent, own) = (cpu(cluster.pid())?, cpu(std::process::id())?);
    tokio::time::sleep(steady).await;
    let cores = |now: Duration, before: Duration| now.saturating_sub(before).as_secs_f64() / steady.as_secs_f64();
    println!("steady for {steady:?}: scheduler {:.3} cores", cores(cpu(cluster.pid())?, spent));
    println!("  the swarm itself {:.3} cores", cores(cpu(std::process::id())?, own));
    println!(
        "  scheduler memory {:.1} MB, greatest {:.1} MB",
        mb(memory_kib(cluster.pid())?),
        mb(peak_kib(cluster.pid())?)
    );
    let lost = swarm.tally.lost.load(Ordering::Relaxed);
    println!("  streams lost so far {lost}");

    let killed = Instant::now();
    let up = cluster.restart(gangsaw).await?;
    let (told, back) = tokio::sync::oneshot::channel::<()>();
    let door = cluster.door();
    // On a thread of their own: what the nodes here need to come back is not the scheduler's slowness.
    let submits = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(paced(&door, 8, PACE, async { drop(back.await) }, single))
    });
    let returned = swarm.all_attached(BACK_PATIENCE).await;
    drop(told);
    let load = submits.join().map_err(|_| anyhow::anyhow!("the submits panicked"))?;
    returned?;
    println!(
        "kill -9: serving again after {:.3} s, all back after {:.2} s",
        up.as_secs_f64(),
        killed.elapsed().as_secs_f64()
    );
    println!(
        "  scheduler CPU since {:.2} s, memory {:.1} MB, greatest {:.1} MB",
        cpu(cluster.pid())?.as_secs_f64(),
        mb(memory_kib(cluster.pid())?),
        mb(peak_kib(cluster.pid())?)
    );
    println!(
        "  streams lost and welcomes so far {} {}",
        swarm.tally.lost.load(Ordering::Relaxed),
        swarm.tally.welcomes.load(Ordering::Relaxed)
    );
    line("  submits meanwhile", &mut load?);
    swarm.stop().await;
    cluster.stop().await
}

fn mb(kib: u64) -> f64 {
    kib as f64 * 1_024.0 / 1e6
}
