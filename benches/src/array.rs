//! Arrays at rate: tasks per second of one large array, what it leaves on disk, and what a queued one costs in memory.

use std::path::Path;
use std::time::Instant;

use crate::cluster::{Cluster, submit};
use crate::floor;
use crate::process::{disk_bytes, memory_kib};
use crate::swarm::{ended, submitted};

/// Runs one array of `true` and prints its rate, its disk use, and that each index ran once.
pub(crate) async fn run(gangsaw: &Path, elements: u32) -> anyhow::Result<()> {
    let (cluster, mut client) = Cluster::start(gangsaw, true).await?;
    let floor = floor::spawns_per_second(2)?;
    let scheduler = scheduler_of(&cluster)?;
    let before = memory_kib(scheduler)?;
    let begin = Instant::now();
    let job = submitted(&mut client, elements).await?;
    let job = ended(&mut client, job).await?;
    let took = begin.elapsed();
    let rate = f64::from(elements) / took.as_secs_f64();
    println!("floor: spawn + wait `true`, 2 loops    {floor:>10.0} /s");
    println!("array of {elements} `true`              {rate:>10.0} /s  ({:.2} of the floor)", rate / floor);
    println!("took                                   {:>10.1} s", took.as_secs_f64());
    for count in &job.element_counts {
        println!("elements {:<29} {:>10}", count.state().as_str_name(), count.count);
    }
    println!("retries                                {:>10}", job.retries);
    println!("scheduler memory growth                {:>10} KiB", memory_kib(scheduler)?.saturating_sub(before));
    let ballast = std::fs::metadata(cluster.state().join("ballast")).map_or(0, |ballast| ballast.len());
    let bytes = disk_bytes(&cluster.state())?.saturating_sub(ballast);
    println!("state folder without the ballast       {:>10.1} MB", bytes as f64 / 1e6);
    cluster.stop().await
}

/// Queues one large array that no node runs and prints how much the scheduler grew.
pub(crate) async fn queued(gangsaw: &Path, elements: u32) -> anyhow::Result<()> {
    let (cluster, mut client) = Cluster::start(gangsaw, false).await?;
    client.submit(submit(&["true"], 1)).await?;
    let before = memory_kib(cluster.pid())?;
    let begin = Instant::now();
    client.submit(submit(&["true"], elements)).await?;
    println!("submit of a queued array of {elements}      {:>8.3} ms", begin.elapsed().as_secs_f64() * 1e3);
    println!("scheduler memory growth               {:>8} KiB", memory_kib(cluster.pid())?.saturating_sub(before));
    cluster.stop().await
}

/// Returns the scheduler's pid: the child of `up` that was started with the verb `scheduler`.
fn scheduler_of(cluster: &Cluster) -> anyhow::Result<u32> {
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", cluster.pid()))?;
    for pid in children.split_whitespace().map(str::parse::<u32>) {
        let pid = pid?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline"))?;
        if command.split(|byte| *byte == 0).nth(1) == Some(b"scheduler") {
            return Ok(pid);
        }
    }
    anyhow::bail!("`up` has no child `scheduler`")
}
