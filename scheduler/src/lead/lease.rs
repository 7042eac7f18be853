//! The lease of the one that leads: a row with an epoch, renewed while the process lives.
//!
//! The row alone decides who leads, and every write checks its epoch, so nothing here has to be on time for the log to
//! be right. Time only bounds how long the cluster waits: the holder counts from when it sent a renewal, others from
//! when they saw one, each on its own BOOTTIME, so the holder always knows first.
//!
//! Beside the row the holder has an advisory lock under a number of its own. PostgreSQL lets go of it the moment the
//! connection ends, and whoever waits for it takes over at once: killed processes need no time-out.
//!
//! Elsewhere: who waits and takes over is `lead`; what is written under the lease is `store::postgres`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_postgres::{Client, Error};
use tokio_util::sync::CancellationToken;

use crate::clock::boot_ns;
use crate::store::postgres::hosts::look_for_standbys;
use crate::store::postgres::link::{LinkError, Target};
use crate::store::postgres::schema::LOCK_CLASS;
use crate::token::{hex, random};

/// Time between two renewals.
pub(crate) const RENEW_EVERY: Duration = Duration::from_millis(1_500);
/// How long a renewal holds: four of them.
pub(crate) const TTL: Duration = Duration::from_secs(6);
/// Renewals between two looks at the standbys of the database: half a minute.
const LOOK_EVERY: u32 = 20;
/// How long one renewal may take before it counts as failed.
const RENEW_WAIT: Duration = Duration::from_secs(2);
/// Time between two tries after a renewal failed.
const TRY_AGAIN: Duration = Duration::from_millis(250);
/// Least time between two notifications: they only wake, and one wakes for everything before it.
const NOTIFY_QUIET: Duration = Duration::from_millis(20);
/// The channel that standbys listen on.
pub(crate) const CHANNEL: &str = "gangsaw_log";

/// Who holds the lease: random, and never used again by another process or a later term of the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) id: String,
    /// Number of the advisory lock.
    pub(crate) lock: i32,
}

impl Holder {
    /// Returns a holder nobody was before.
    pub(crate) fn random() -> std::io::Result<Holder> {
        Ok(Holder { id: hex(&random::<12>()?), lock: i32::from_le_bytes(random()?) })
    }
}

/// A lease that was taken. Dropping it lets go of the lock.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) holder: Holder,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    epoch: AtomicI64,
    /// BOOTTIME in ns until which the last renewal holds; zero once another holds the lease.
    until_ns: AtomicU64,
    appended: Notify,
}

impl Lease {
    /// Keeps the lease taken under `epoch` by a statement sent at `sent_ns`, through the connection that has the lock.
    pub(crate) fn keep(target: Target, client: Client, holder: Holder, epoch: i64, sent_ns: u64) -> Lease {
        let shared = Arc::new(Shared {
            epoch: AtomicI64::new(epoch),
            until_ns: AtomicU64::new(until(sent_ns)),
            appended: Notify::new(),
        });
        let stop = CancellationToken::new();
        let keeper = Keeper { target: target.clone(), holder: holder.clone(), shared: Arc::clone(&shared) };
        let (stopped, standbys) = (stop.clone(), target.known.standbys.clone());
        target.driver().spawn(async move {
            tokio::select! {
                () = keeper.run(client) => {}
                () = stopped.cancelled() => {}
            }
            standbys.set(0);
        });
        Lease { holder, shared, stop }
    }

    /// Returns the epoch that writes check.
    pub(crate) fn epoch(&self) -> i64 {
        self.shared.epoch.load(Ordering::Acquire)
    }

    /// Says whether the last renewal still holds. If not, another may lead.
    pub(crate) fn holds(&self) -> bool {
        boot_ns() < self.shared.until_ns.load(Ordering::Acquire)
    }

    /// Waits until no renewal holds any more.
    pub(crate) async fn over(&self) {
        loop {
            let left = self.shared.until_ns.load(Ordering::Acquire).saturating_sub(boot_ns());
            if left == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_nanos(left)).await;
        }
    }

    /// Says whether another is known to hold the lease.
    pub(crate) fn lost(&self) -> bool {
        self.shared.until_ns.load(Ordering::Acquire) == 0
    }

    /// Raises the epoch, so that nothing sent before can be written any more. Returns false if another leads.
    pub(crate) async fn raise(&self, client: &Client) -> Result<bool, Error> {
        let sent_ns = boot_ns();
        let sql = "UPDATE leader SET epoch = epoch + 1, renewed = renewed + 1 WHERE holder = $1 RETURNING epoch";
        let raised: Option<i64> = client.query_opt_scalar(sql, &[&self.holder.id]).await?;
        let Some(epoch) = raised else {
            self.shared.until_ns.store(0, Ordering::Release);
            return Ok(false);
        };
        self.shared.epoch.store(epoch, Ordering::Release);
        self.shared.renewed(sent_ns);
        Ok(true)
    }

    /// Renews at once. Returns false if another leads.
    pub(crate) async fn renew(&self, client: &Client) -> Result<bool, Error> {
        renew(client, &self.holder, &self.shared).await
    }

    /// Wakes standbys soon: the log has grown.
    pub(crate) fn appended(&self) {
        self.shared.appended.notify_one();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn until(sent_ns: u64) -> u64 {
    sent_ns + u64::try_from(TTL.as_nanos()).unwrap_or(u64::MAX)
}

impl Shared {
    fn renewed(&self, sent_ns: u64) {
        // Zero is for ever; an older renewal never shortens a newer one.
        let longer = |old| (old != 0).then(|| until(sent_ns).max(old));
        let _ = self.until_ns.fetch_update(Ordering::AcqRel, Ordering::Acquire, longer);
    }
}

async fn renew(client: &Client, holder: &Holder, shared: &Shared) -> Result<bool, Error> {
    let sent_ns = boot_ns();
    let sql = "UPDATE leader SET renewed = renewed + 1 WHERE holder = $1";
    let mine = client.execute(sql, &[&holder.id]).await? == 1;
    if mine {
        shared.renewed(sent_ns);
    } else {
        shared.until_ns.store(0, Ordering::Release);
    }
    Ok(mine)
}

/// Renews and notifies, for as long as the lease is ours.
struct Keeper {
    target: Target,
    holder: Holder,
    shared: Arc<Shared>,
}

impl Keeper {
    async fn run(self, client: Client) {
        let mut client = Some(client);
        let mut next = tokio::time::Instant::now() + RENEW_EVERY;
        let (mut renewals, mut look_due, mut said) = (0_u32, true, None);
        loop {
            if std::mem::take(&mut look_due)
                && let Some(client) = &client
            {
                // Lost is no harm: it is looked at again.
                let _ =
                    tokio::time::timeout(RENEW_WAIT, look_for_standbys(client, &self.target.known, &mut said)).await;
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(next) => {}
                () = self.shared.appended.notified() => {
                    if let Some(client) = &client {
                        let notify = format!("NOTIFY {CHANNEL}");
                        // Lost is no harm: standbys look every second.
                        let _ = tokio::time::timeout(RENEW_WAIT, client.batch_execute(&notify)).await;
                        tokio::time::sleep(NOTIFY_QUIET).await;
                    }
                    continue;
                }
            }
            match tokio::time::timeout(RENEW_WAIT, self.turn(&mut client)).await {
                Ok(Ok(true)) => {
                    renewals = renewals.wrapping_add(1);
                    look_due = renewals.is_multiple_of(LOOK_EVERY);
                    next = tokio::time::Instant::now() + RENEW_EVERY;
                }
                Ok(Ok(false)) => {
                    tracing::warn!("another scheduler has the lease");
                    return;
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = %chain(&error), "the lease is not renewed");
                    client = None;
                    next = tokio::time::Instant::now() + TRY_AGAIN;
                }
                Err(_) => {
                    tracing::warn!("the lease is not renewed: PostgreSQL does not answer");
                    client = None;
                    next = tokio::time::Instant::now() + TRY_AGAIN;
                }
            }
        }
    }

    /// Renews once, connecting anew if need be. The lock is taken again with the connection.
    async fn turn(&self, client: &mut Option<Client>) -> Result<bool, LinkError> {
        let held = match client.take() {
            Some(held) => held,
            None => {
                let fresh = self.target.connect(&self.holder.id).await?;
                settle(&fresh, &self.holder).await?;
                fresh
            }
        };
        let mine = renew(&held, &self.holder, &self.shared).await;
        *client = Some(held);
        Ok(mine?)
    }
}

/// Makes a connection the one that keeps the lease: it has the lock, and does not wait for the disk to renew.
pub(crate) async fn settle(client: &Client, holder: &Holder) -> Result<bool, Error> {
    client.batch_execute("SET synchronous_commit = off").await?;
    let sql = format!("SELECT pg_try_advisory_lock({LOCK_CLASS}, $1)");
    client.query_one_scalar(&sql, &[&holder.lock]).await
}

/// Says an error with everything below it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        said = format!("{said}: {cause}");
        below = cause.source();
    }
    said
}
