//! Clients that submit all along: each keeps its key until some scheduler acknowledges it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::PATIENCE;
use crate::cluster::{Client, Door, submit};

/// How long a client waits for one answer before it asks another scheduler.
pub(super) const CALL_WAIT: Duration = Duration::from_millis(500);
/// How long it pauses when one refused.
pub(super) const PAUSE: Duration = Duration::from_millis(5);
/// How long it pauses between two jobs: the point is to be there all along, not to fill the disk.
const THINK: Duration = Duration::from_millis(2);

/// An answer.
#[derive(Clone, Debug)]
struct Ack {
    when: Instant,
    by: usize,
    key: String,
    job_id: u64,
}

/// What the clients share.
struct Shared {
    doors: Mutex<Vec<Door>>,
    acks: Mutex<Vec<Ack>>,
    count: watch::Sender<usize>,
    stop: CancellationToken,
}

/// The clients, one a scheduler at first; each moves on when it is not answered.
pub(super) struct Clients {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing that holds it can be left half done.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Clients {
    /// Starts them.
    pub(super) fn start(doors: Vec<Door>) -> Clients {
        let many = doors.len();
        let shared = Arc::new(Shared {
            doors: Mutex::new(doors),
            acks: Mutex::default(),
            count: watch::Sender::new(0),
            stop: CancellationToken::new(),
        });
        let mut tasks = JoinSet::new();
        for first in 0..many {
            tasks.spawn(submit_on(Arc::clone(&shared), first, many));
        }
        Clients { shared, tasks }
    }

    /// Waits for the first acknowledgement since `since` of another than `but`, and returns whose it is and when.
    pub(super) async fn next_leader(&self, but: Option<usize>, since: Instant) -> anyhow::Result<(usize, Instant)> {
        let mut count = self.shared.count.subscribe();
        let found = async {
            loop {
                let first = lock(&self.shared.acks)
                    .iter()
                    .rev()
                    .take_while(|ack| ack.when >= since)
                    .filter(|ack| Some(ack.by) != but)
                    .last()
                    .map(|ack| (ack.by, ack.when));
                if let Some(first) = first {
                    return Ok(first);
                }
                count.changed().await?;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.context("nobody took over")?
    }

    /// Counts the acknowledgements of one scheduler since `since`.
    pub(super) fn acknowledged_by(&self, by: usize, since: Instant) -> usize {
        lock(&self.shared.acks).iter().rev().take_while(|ack| ack.when >= since).filter(|ack| ack.by == by).count()
    }

    /// Tells the clients that a scheduler is another process now.
    pub(super) fn moved(&self, number: usize, door: Door) {
        if let Some(there) = lock(&self.shared.doors).get_mut(number) {
            *there = door;
        }
    }

    /// Lets every client have its last answer, and returns what was acknowledged.
    pub(super) async fn stop(mut self) -> anyhow::Result<Vec<(String, u64)>> {
        self.shared.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        Ok(lock(&self.shared.acks).iter().map(|ack| (ack.key.clone(), ack.job_id)).collect())
    }
}

async fn submit_on(shared: Arc<Shared>, first: usize, many: usize) {
    let mut at = first;
    let mut client: Option<Client> = None;
    let mut request = submit(&["true"], 1);
    loop {
        let asked = async {
            let mut dialed = match client.take() {
                Some(client) => client,
                None => {
                    let door = lock(&shared.doors).get(at).cloned().context("no such scheduler")?;
                    door.connect().await?
                }
            };
            let reply = dialed.submit(request.clone()).await?.into_inner();
            anyhow::Ok((dialed, reply))
        };
        match tokio::time::timeout(CALL_WAIT, asked).await {
            Ok(Ok((dialed, reply))) => {
                client = Some(dialed);
                let job_id = reply.job_ids.first().copied().unwrap_or(0);
                let ack = Ack { when: Instant::now(), by: at, key: request.idempotency_key, job_id };
                lock(&shared.acks).push(ack);
                shared.count.send_modify(|count| *count += 1);
                if shared.stop.is_cancelled() {
                    return;
                }
                request = submit(&["true"], 1);
                tokio::time::sleep(THINK).await;
            }
            // The key stays: whoever takes it next answers for what this one may have written.
            Ok(Err(_)) | Err(_) => {
                at = (at + 1) % many;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The key of a call and its refusal, if it was refused.
pub(super) type Late = JoinHandle<(String, Option<tonic::Status>)>;

/// Asks one scheduler, and nobody else, under a key of its own; returns the key, and the refusal if it is one.
pub(super) fn late(mut client: Client) -> Late {
    let request = submit(&["true"], 1);
    let key = request.idempotency_key.clone();
    tokio::spawn(async move { (key, client.submit(request).await.err()) })
}

/// Submits every key again: one that was acknowledged means its job, one that was refused means none so far.
pub(super) async fn check(door: Door, asked: Vec<(String, Option<u64>)>) -> anyhow::Result<()> {
    let mut client = door.connect().await?;
    for (key, job) in asked {
        let mut request = submit(&["true"], 1);
        request.idempotency_key.clone_from(&key);
        let reply = client.submit(request).await?.into_inner();
        match job {
            Some(job) => {
                ensure!(reply.repeated && reply.job_ids == [job], "{key} is job {job}, and now {:?}", reply.job_ids)
            }
            None => ensure!(!reply.repeated, "{key} was refused, and is job {:?}", reply.job_ids),
        }
    }
    Ok(())
}
