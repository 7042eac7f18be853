//! Many nodes at once: real agent sessions without processes, in this process, against a scheduler in its own.
//!
//! The scheduler is measured from outside: its processor time, its memory, its files. This process's own cost is
//! printed beside it, for on a small machine the two share the cores.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use gangsaw_agent::{Hollow, Tally, Tasks};
use gangsaw_proto::jobs::v1 as jobs;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Client, Cluster, submit};
use crate::process::{cpu, disk_bytes, memory_kib, peak_kib};

/// How long the nodes may take to attach.
const ATTACH_PATIENCE: Duration = Duration::from_secs(120);
/// How often the tally is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Memory of each node: nothing here runs short of it.
const NODE_MEMORY: u64 = 64 << 30;

/// What a swarm is made of.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Shape {
    /// Nodes.
    #[arg(long, default_value_t = 50)]
    pub(crate) agents: u32,
    /// Cores of each.
    #[arg(long, default_value_t = 2)]
    pub(crate) cpus: u32,
    /// GPUs of each, imagined as the tasks are.
    #[arg(long, default_value_t = 0)]
    pub(crate) gpus: u32,
    /// How long an imagined task runs, in µs.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) task_us: u64,
    /// Share of tasks that end with exit code 1.
    #[arg(long, default_value_t = 0.0)]
    fail: f64,
    /// Chooses which tasks fail.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The nodes. Dropping it ends them.
pub(crate) struct Swarm {
    pub(crate) tally: Arc<Tally>,
    agents: u32,
    stop: CancellationToken,
    nodes: JoinSet<()>,
}

impl Swarm {
    /// Starts the nodes, and waits until the scheduler has welcomed each.
    pub(crate) async fn start(cluster: &Cluster, shape: &Shape) -> anyhow::Result<Swarm> {
        let mut swarm = Swarm {
            tally: Arc::default(),
            agents: shape.agents,
            stop: CancellationToken::new(),
            nodes: JoinSet::new(),
        };
        for number in 1..=shape.agents {
            let node = Hollow {
                name: format!("node-{number:05}"),
                server: cluster.url(),
                token: Some(cluster.token().to_owned()),
                milli_cpus: u64::from(shape.cpus) * 1_000,
                memory_bytes: NODE_MEMORY,
                gpus: shape.gpus,
                tasks: Tasks {
                    run: Duration::from_micros(shape.task_us),
                    failed_per_million: (shape.fail.clamp(0.0, 1.0) * 1e6).round() as u32,
                    seed: shape.seed,
                },
                tally: Arc::clone(&swarm.tally),
            };
            let stop = swarm.stop.clone();
            swarm.nodes.spawn(async move {
                if let Err(error) = node.run(stop).await {
                    eprintln!("a node cannot run: {error}");
                }
            });
        }
        swarm.all_attached(ATTACH_PATIENCE).await?;
        Ok(swarm)
    }

    /// Waits until every node is attached.
    pub(crate) async fn all_attached(&mut self, patience: Duration) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let mut pace = tokio::time::interval(LOOK_EVERY);
        loop {
            let attached = self.tally.attached.load(Ordering::Relaxed);
            if attached >= u64::from(self.agents) {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > patience {
                bail!("{attached} of {} nodes attached within {patience:?}", self.agents);
            }
            pace.tick().await;
        }
    }

    /// Ends the nodes.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while self.nodes.join_next().await.is_some() {}
    }
}

/// Runs one array on a swarm and prints what it cost the scheduler.
pub(crate) async fn array(gangsaw: &Path, shape: &Shape, elements: u32) -> anyhow::Result<()> {
    let (cluster, mut client) = Cluster::start(gangsaw, false).await?;
    let swarm = Swarm::start(&cluster, shape).await?;
    // What the first job of a scheduler brings in once is not the array's.
    let first = submitted(&mut client, 1).await?;
    ended(&mut client, first).await?;
    let (memory, scheduler_cpu, own_cpu) = (memory_kib(cluster.pid())?, cpu(cluster.pid())?, cpu(std::process::id())?);
    let begin = Instant::now();
    let job = submitted(&mut client, elements).await?;
    let job = ended(&mut client, job).await?;
    let took = begin.elapsed();
    let spent = cpu(cluster.pid())?.saturating_sub(scheduler_cpu);
    let own = cpu(std::process::id())?.saturating_sub(own_cpu);

    println!("array of {elements} on {} nodes of {} cores, tasks of {} µs", shape.agents, shape.cpus, shape.task_us);
    println!("tasks durable                       {:>12.0} /s", f64::from(elements) / took.as_secs_f64());
    println!("took                                {:>12.3} s", took.as_secs_f64());
    println!("scheduler CPU                       {:>12.2} s", spent.as_secs_f64());
    println!("scheduler CPU a task                {:>12.2} µs", spent.as_secs_f64() * 1e6 / f64::from(elements));
    println!("CPU of the swarm itself             {:>12.2} s", own.as_secs_f64());
    println!("leases granted                      {:>12}", swarm.tally.grants.load(Ordering::Relaxed));
    for count in &job.element_counts {
        println!("elements {:<26} {:>12}", count.state().as_str_name(), count.count);
    }
    println!("tasks failed, by the nodes' own count {:>10}", swarm.tally.failed.load(Ordering::Relaxed));
    println!("tasks ended, by the nodes' own count {:>11}", swarm.tally.ended.load(Ordering::Relaxed));
    let growth = memory_kib(cluster.pid())?.saturating_sub(memory);
    println!("scheduler memory growth             {:>12.1} MB", growth as f64 * 1_024.0 / 1e6);
    println!("scheduler memory, greatest          {:>12.1} MB", peak_kib(cluster.pid())? as f64 * 1_024.0 / 1e6);
    disk(&cluster)?;
    let failed = swarm.tally.failed.load(Ordering::Relaxed);
    swarm.stop().await;
    cluster.stop().await?;
    let counted = |state: jobs::State| {
        let found = job.element_counts.iter().find(|count| count.state() == state);
        found.map_or(0, |count| count.count)
    };
    let (completed, recorded) = (counted(jobs::State::Completed), counted(jobs::State::Failed));
    anyhow::ensure!(recorded == failed, "{recorded} failures are on record, and the nodes had {failed}");
    anyhow::ensure!(completed + recorded == u64::from(elements), "{completed} + {recorded} is not {elements}");
    Ok(())
}

/// Prints what the log takes on disk.
pub(crate) fn disk(cluster: &Cluster) -> anyhow::Result<()> {
    let folder = cluster.state().join("scheduler");
    let mb = |path: &str| Ok::<f64, anyhow::Error>(disk_bytes(&folder.join(path))? as f64 / 1e6);
    let (database, wal, archive) = (mb("gangsaw.db")?, mb("gangsaw.db-wal")?, mb("archive")?);
    println!("log on disk: database {database:.2} MB, its write-ahead log {wal:.2} MB, archive {archive:.2} MB");
    Ok(())
}

/// Submits an array and returns its number.
pub(crate) async fn submitted(client: &mut Client, elements: u32) -> anyhow::Result<u64> {
    let reply = client.submit(submit(&["true"], elements)).await?.into_inner();
    reply.job_ids.first().copied().context("a submit without a job")
}

/// Waits until a job has ended, and returns what it came to.
pub(crate) async fn ended(client: &mut Client, job_id: u64) -> anyhow::Result<jobs::Job> {
    loop {
        let mut watch = client.watch(jobs::WatchRequest { job_id, after_seq: 0 }).await?.into_inner();
        let mut last = None;
        while let Some(change) = watch.message().await? {
            last = change.job.or(last);
        }
        if let Some(job) = last.filter(|job| job.ended_at.is_some()) {
            return Ok(job);
        }
    }
}
