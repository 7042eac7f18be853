//! Submits at the door: several connections, several calls in flight on each, or a fixed pace.
//!
//! A closed loop measures how much the scheduler takes; a pace measures how long one waits when it is not full. Each
//! call of a pace has its moment, and its time counts from that moment, so a stall is seen by all who would have come.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use gangsaw_proto::jobs::v1 as jobs;
use tokio::task::JoinSet;

use crate::cluster::{Client, Door};
use crate::floor::quantile;

/// Calls of a pace that may be under way: far more is a scheduler that stands still.
const PACED_MAX: usize = 10_000;

/// What came of a load.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) times: Vec<Duration>,
    pub(crate) took: Duration,
    /// Calls that were refused or broke.
    pub(crate) failed: u64,
    /// Why the first of them was.
    pub(crate) why: String,
}

impl Load {
    pub(crate) fn rate(&self) -> f64 {
        self.times.len() as f64 / self.took.as_secs_f64()
    }

    pub(crate) fn ms(&mut self, share: f64) -> f64 {
        quantile(&mut self.times, share).as_secs_f64() * 1e3
    }

    fn add(&mut self, other: Load) {
        self.times.extend(other.times);
        self.failed += other.failed;
        if self.why.is_empty() {
            self.why = other.why;
        }
    }
}

/// How much at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Width {
    pub(crate) connections: usize,
    pub(crate) in_flight: usize,
}

/// Submits `calls` in all as fast as they are answered.
pub(crate) async fn closed(
    door: &Door,
    width: Width,
    calls: u64,
    make: fn(u64) -> jobs::SubmitRequest,
) -> anyhow::Result<Load> {
    let mut clients = Vec::new();
    for _ in 0..width.connections {
        clients.push(door.connect().await?);
    }
    let loops = (width.connections * width.in_flight) as u64;
    let mut tasks = JoinSet::new();
    let begin = Instant::now();
    for number in 0..loops {
        let client = clients.get(number as usize % width.connections).context("a connection")?.clone();
        let share = calls / loops + u64::from(number < calls % loops);
        tasks.spawn(several(client, share, number, make));
    }
    let mut all = Load::default();
    while let Some(load) = tasks.join_next().await {
        all.add(load?);
    }
    all.took = begin.elapsed();
    Ok(all)
}

async fn several(mut client: Client, calls: u64, number: u64, make: fn(u64) -> jobs::SubmitRequest) -> Load {
    let mut load = Load::default();
    for _ in 0..calls {
        let request = make(number);
        let begin = Instant::now();
        one(&mut client, request, begin, &mut load).await;
    }
    load
}

async fn one(client: &mut Client, request: jobs::SubmitRequest, begin: Instant, load: &mut Load) {
    match client.submit(request).await {
        Ok(_) => load.times.push(begin.elapsed()),
        Err(status) => {
            load.failed += 1;
            if load.why.is_empty() {
                load.why = format!("{:?}: {}", status.code(), status.message());
            }
        }
    }
}

/// Submits at `rate` a second over `connections` until `until` is over.
pub(crate) async fn paced(
    door: &Door,
    connections: usize,
    rate: u32,
    until: impl Future<Output = ()>,
    make: fn(u64) -> jobs::SubmitRequest,
) -> anyhow::Result<Load> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(door.connect().await?);
    }
    let mut tasks: JoinSet<Load> = JoinSet::new();
    let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let begin = Instant::now();
    let mut all = Load::default();
    let mut until = std::pin::pin!(until);
    for number in 0_u64.. {
        let due = tokio::select! {
            due = pace.tick() => due.into_std(),
            () = &mut until => break,
        };
        anyhow::ensure!(tasks.len() < PACED_MAX, "{PACED_MAX} submits are under way: the scheduler stands still");
        let mut client = clients.get(number as usize % connections).context("a connection")?.clone();
        tasks.spawn(async move {
            let mut load = Load::default();
            one(&mut client, make(number), due, &mut load).await;
            load
        });
        while let Some(load) = tasks.try_join_next() {
            all.add(load?);
        }
    }
    while let Some(load) = tasks.join_next().await {
        all.add(load?);
    }
    all.took = begin.elapsed();
    Ok(all)
}
