//! kill -9 of the scheduler under load, again and again: what was acknowledged must be there afterwards.
//!
//! Four clients submit as fast as they are answered and try again under the same key when they are not; a real agent
//! runs every job; one more client reads which jobs COMPLETED. Lost is an acknowledged job that is not in the list, a
//! key that stands for another job, an end that was shown and is taken back, a job that does not end, and a task that
//! ran twice or not at all. Afterwards `gangsaw fsck` judges the whole log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use gangsaw_proto::jobs::v1 as jobs;
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Client, Cluster, Door, submit};

/// Clients that submit.
const CLIENTS: usize = 4;
/// How long the load may take to end after the last kill.
const PATIENCE: Duration = Duration::from_secs(300);

/// What clients were told, by key.
type Acknowledged = Arc<Mutex<BTreeMap<String, u64>>>;

/// Submits until told to stop; what is not answered is asked again under its key.
async fn submitter(door: Door, ran: String, told: Acknowledged, stop: Arc<AtomicBool>) -> anyhow::Result<()> {
    let line = format!("echo $GANGSAW_JOB_ID >> {ran}");
    let mut client: Option<Client> = None;
    let mut waits = tokio::time::interval(Duration::from_millis(20));
    while !stop.load(Ordering::Relaxed) {
        let request = submit(&["/bin/sh", "-c", &line], 1);
        let key = request.idempotency_key.clone();
        loop {
            waits.tick().await;
            let Some(connected) = client.as_mut() else {
                client = door.connect().await.ok();
                continue;
            };
            match connected.submit(request.clone()).await {
                Ok(reply) => {
                    let id = *reply.into_inner().job_ids.first().context("a submit without a job")?;
                    told.lock().map_err(|_| anyhow::anyhow!("a client failed"))?.insert(key, id);
                    break;
                }
                Err(_) => client = None,
            }
        }
    }
    Ok(())
}

/// Returns every job with its state.
async fn list(client: &mut Client) -> Result<BTreeMap<u64, jobs::State>, tonic::Status> {
    let (mut found, mut page) = (BTreeMap::new(), String::new());
    loop {
        let request = jobs::ListJobsRequest { all: true, page_size: 1_000, page, ..Default::default() };
        let reply = client.list_jobs(request).await?.into_inner();
        found.extend(reply.jobs.iter().map(|job| (job.job_id, job.state())));
        page = reply.next_page;
        if page.is_empty() {
            return Ok(found);
        }
    }
}

/// An agent of its own; dropping it ends it and its tasks.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // One that ended by itself has nothing left to be told.
            let _ = (kill_process(pid, Signal::TERM), self.0.wait());
        }
    }
}

/// Runs so many rounds and prints what was lost; anything lost is a failure.
pub(crate) async fn run(gangsaw: &Path, rounds: u32) -> anyhow::Result<()> {
    let begin = Instant::now();
    let (mut cluster, _) = Cluster::start(gangsaw, false).await?;
    let ran = cluster.state().join("ran").display().to_string();
    let node = cluster.state().join("node");
    let mut command = cluster.command(gangsaw);
    command.args(["agent", "--no-gpus", "--stop-tasks", "--server", &cluster.url(), "--state"]).arg(node);
    let agent = Agent(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let told = Acknowledged::default();
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(submitter(cluster.door(), ran.clone(), told.clone(), stop.clone()));
    }
    let mut completed = BTreeSet::new();
    let (mut back, mut slowest) = (Duration::ZERO, Duration::ZERO);
    for round in 0..rounds {
        // The moment of the kill walks through what a scheduler does, and is not the same in any two rounds.
        tokio::time::sleep(Duration::from_millis(100 + u64::from(round * 37 % 211))).await;
        if let Ok(mut client) = cluster.connect().await {
            let listed = list(&mut client).await?;
            completed.extend(listed.iter().filter(|(_, state)| **state == jobs::State::Completed).map(|(id, _)| *id));
        }
        let took = cluster.restart(gangsaw).await?;
        back += took;
        slowest = slowest.max(took);
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let told = told.lock().map_err(|_| anyhow::anyhow!("a client failed"))?.clone();
    let listed = until_over(&cluster).await?;
    drop(agent);
    let lost = judge(&told, &completed, &listed, &std::fs::read_to_string(&ran)?);
    println!("kill -9 of the scheduler under load    {rounds} rounds in {:.0} s", begin.elapsed().as_secs_f64());
    println!(
        "  back after {:.2} s on average, {:.2} s at most",
        back.as_secs_f64() / f64::from(rounds.max(1)),
        slowest.as_secs_f64()
    );
    println!("  acknowledged submissions {}, completions shown before a kill {}", told.len(), completed.len());
    for (what, count) in lost {
        println!("  {what:<58} {count}");
        ensure!(count == 0, "{what}: {count}");
    }
    // A copy of it, for the scheduler still serves; its folder goes with the cluster.
    judged(cluster.command(gangsaw), &cluster.state())?;
    cluster.stop().await
}

/// Waits until every job has ended.
async fn until_over(cluster: &Cluster) -> anyhow::Result<BTreeMap<u64, jobs::State>> {
    let deadline = Instant::now() + PATIENCE;
    let mut client = cluster.connect().await?;
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    loop {
        pace.tick().await;
        let open = client.list_jobs(jobs::ListJobsRequest { page_size: 1, ..Default::default() }).await?;
        if open.into_inner().jobs.is_empty() {
            return Ok(list(&mut client).await?);
        }
        if Instant::now() > deadline {
            bail!("jobs are open {PATIENCE:?} after the last kill");
        }
    }
}

/// Counts what must not be.
fn judge(
    told: &BTreeMap<String, u64>,
    completed: &BTreeSet<u64>,
    listed: &BTreeMap<u64, jobs::State>,
    ran: &str,
) -> [(&'static str, usize); 5] {
    let ids: BTreeSet<u64> = told.values().copied().collect();
    let mut runs: BTreeMap<u64, usize> = BTreeMap::new();
    ran.lines().filter_map(|line| line.parse().ok()).for_each(|id| *runs.entry(id).or_default() += 1);
    let is_done = |id: &u64| listed.get(id) == Some(&jobs::State::Completed);
    [
        ("acknowledged submissions that are not there", ids.iter().filter(|id| !listed.contains_key(id)).count()),
        ("numbers that stand for two submissions", told.len() - ids.len()),
        ("completions that were shown and are not there", completed.iter().filter(|id| !is_done(id)).count()),
        ("acknowledged jobs that did not COMPLETE", ids.iter().filter(|id| !is_done(id)).count()),
        ("jobs whose task ran more than once, or never", listed.keys().filter(|id| runs.get(id) != Some(&1)).count()),
    ]
}

/// Has the log judged by the history checker.
fn judged(mut fsck: std::process::Command, state: &Path) -> anyhow::Result<()> {
    let output = fsck.arg("fsck").arg("--state").arg(state).output()?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
