//! Arrays at rate: tasks per second of one large array, what it leaves on disk, and what a queued one costs in memory.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use gangsaw_proto::jobs::v1 as jobs;

use crate::cluster::{Cluster, submit};
use crate::floor;

/// Runs one array of `true` and prints its rate, its disk use, and that each index ran once.
pub(crate) async fn run(gangsaw: &Path, elements: u32) -> anyhow::Result<()> {
    let (cluster, mut client) = Cluster::start(gangsaw, true).await?;
    let floor = floor::spawns_per_second(2)?;
    let scheduler = scheduler_of(&cluster)?;
    let before = memory_kib(scheduler)?;
    let begin = Instant::now();
    let reply = client.submit(submit(&["true"], elements)).await?.into_inner();
    let job_id = *reply.job_ids.first().context("a submit without a job")?;
    let job = loop {
        let mut watch = client.watch(jobs::WatchRequest { job_id, after_seq: 0 }).await?.into_inner();
        let mut last = None;
        while let Some(change) = watch.message().await? {
            last = change.job.or(last);
        }
        if let Some(job) = last.filter(|job| job.ended_at.is_some()) {
            break job;
        }
    };
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
    let bytes = size_of(&cluster.state())?.saturating_sub(ballast);
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

/// Returns a process's resident memory in KiB.
fn memory_kib(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

/// Returns the bytes that a folder's files take on disk.
fn size_of(folder: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut total = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += if metadata.is_dir() { size_of(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(total)
}
