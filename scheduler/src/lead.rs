//! Several schedulers on one database: one leads, the others follow its log and wait.
//!
//! A standby reads every batch as it is written, so what it needs to take over is in its memory. It takes over when the
//! leader's advisory lock falls to it (the leader's connection ended: it was killed, or it handed over), or when the
//! leader's row has not changed for the lease's time to live (it hangs, or is cut off). Taking over is one statement
//! that raises the epoch if it is still the one that was seen, so of several standbys one wins; whoever had the epoch
//! before can write nothing any more.
//!
//! Invariants:
//! - The last batch of the leader before is read after the epoch was raised, so nothing of it is missed.
//! - Notifications only wake: a standby looks once a second whatever it is told.
//!
//! Elsewhere: keeping the lease is `lease`; writing under it is `store::postgres`; what a standby answers is `serve`.

pub(crate) mod lease;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_postgres::Client;

use crate::clock::boot_ns;
use crate::store::Loaded;
use crate::store::fail::FailAt;
use crate::store::postgres::follow::Follower;
use crate::store::postgres::hosts::Known;
use crate::store::postgres::link::{Driver, LinkError, Target, application, within};
use crate::store::postgres::schema::{self, LOCK_CLASS};
use crate::store::postgres::{PgOpenError, PostgresStore};
use lease::{CHANNEL, Holder, Lease, TTL, chain};

/// Longest time between two looks at the leader's row.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time between two tries to reach PostgreSQL.
const TRY_AGAIN: Duration = Duration::from_millis(250);
/// How long PostgreSQL may take to answer a look; what waits for a lock or a standby of the database is given longer.
const LOOK_WAIT: Duration = Duration::from_secs(3);
const TAKE_ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long the statement that takes over waits for the last write of the leader before.
const TAKE_WAIT: &str = "SET lock_timeout = '3s'";

/// The leader's row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    epoch: i64,
    holder: String,
    lock: i32,
    renewed: i64,
    address: String,
}

/// The wait for the lock of one holder, through a connection of its own.
struct LockWait {
    holder: String,
    task: tokio::task::JoinHandle<Result<Client, LinkError>>,
}

/// Ends the wait when it is dropped.
impl Drop for LockWait {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A scheduler that would lead.
pub(crate) struct Candidate {
    target: Target,
    address: String,
    follower: Follower,
    fail: Option<FailAt>,
    woken: Arc<Notify>,
    seen: Seen,
    /// BOOTTIME in ns when the row was first seen as it is.
    seen_ns: u64,
    waiting: Option<LockWait>,
}

/// A lead that was taken.
pub(crate) struct Lead {
    pub(crate) store: PostgresStore,
    pub(crate) loaded: Loaded,
}

impl Candidate {
    /// Returns a candidate that has not looked yet; `address` is where it serves.
    pub(crate) fn new(
        url: &str,
        address: String,
        fail: Option<FailAt>,
        known: Known,
    ) -> Result<Candidate, PgOpenError> {
        let target = Target::parse(url, known, Driver::start()?)?;
        Ok(Candidate {
            follower: Follower::new(target.shown()),
            target,
            address,
            fail,
            woken: Arc::default(),
            seen: Seen::default(),
            seen_ns: boot_ns(),
            waiting: None,
        })
    }

    /// Follows the log until this scheduler leads. `told` hears where the one is that leads meanwhile.
    pub(crate) async fn lead(mut self, told: impl Fn(&str)) -> Result<Lead, PgOpenError> {
        loop {
            match self.stand_by(&told).await {
                Ok((client, lease)) => return Ok(self.begin(client, lease)),
                Err(error) if error.is_passing() => {
                    tracing::warn!(error = %chain(&error), "PostgreSQL is not reached");
                }
                Err(error) => return Err(error),
            }
            self.waiting = None;
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    /// Follows the log until the lease is ours; everything that is durable has been read then.
    async fn stand_by(&mut self, told: &impl Fn(&str)) -> Result<(Client, Lease), PgOpenError> {
        let me = Holder::random()?;
        let mut client = self.target.listen(&me.id, Arc::clone(&self.woken)).await?;
        within(TAKE_ANSWER_WAIT, schema::prepare(&client, &self.target.shown())).await?;
        within(LOOK_WAIT, say(&client, &format!("LISTEN {CHANNEL}; {TAKE_WAIT}"))).await?;
        self.follower.verify(&client).await?;
        loop {
            within(LOOK_WAIT, self.look(&client)).await?;
            // A row of our own is one that we lost: nobody is known to lead.
            told(Some(self.seen.address.as_str()).filter(|address| *address != self.address).unwrap_or_default());
            self.follower.catch_up(&mut client).await?;
            let hung = boot_ns().saturating_sub(self.seen_ns) >= nanos(TTL);
            let freed = self.seen.holder.is_empty() || self.lock_fell(&me).await;
            if (freed || hung)
                && let Some((epoch, sent_ns)) = within(TAKE_ANSWER_WAIT, self.take(&client, &me, !freed)).await?
            {
                self.follower.catch_up(&mut client).await?;
                within(LOOK_WAIT, say(&client, &format!("UNLISTEN {CHANNEL}"))).await?;
                within(LOOK_WAIT, async { Ok::<_, LinkError>(lease::settle(&client, &me).await?) }).await?;
                let lease = Lease::keep(self.target.clone(), client, me.clone(), epoch, sent_ns);
                let client = self.target.connect(&me.id).await?;
                if !within(LOOK_WAIT, self.follower.is_in(&client)).await? {
                    // Another server took over between the two connections.
                    return Err(LinkError::Behind.into());
                }
                return Ok((client, lease));
            }
            self.wait().await;
        }
    }

    /// Reads the leader's row, and notes when it changed.
    async fn look(&mut self, client: &Client) -> Result<(), PgOpenError> {
        let row = client.query_one("SELECT epoch, holder, lock, renewed, address FROM leader", &[]).await?;
        let seen =
            Seen { epoch: row.get(0), holder: row.get(1), lock: row.get(2), renewed: row.get(3), address: row.get(4) };
        if seen != self.seen {
            (self.seen, self.seen_ns) = (seen, boot_ns());
        }
        Ok(())
    }

    /// Says whether the present leader's lock fell to us, and sees to it that we wait for it.
    async fn lock_fell(&mut self, me: &Holder) -> bool {
        if self.waiting.as_ref().is_some_and(|waiting| waiting.holder != self.seen.holder) {
            self.waiting = None;
        }
        if self.waiting.as_ref().is_some_and(|waiting| waiting.task.is_finished())
            && let Some(mut waiting) = self.waiting.take()
        {
            match (&mut waiting.task).await {
                // Dropping the connection lets go of the lock; nobody else needs it once the epoch is raised.
                Ok(Ok(_)) => return true,
                Ok(Err(error)) => tracing::warn!(error = %chain(&error), "the leader's lock cannot be waited for"),
                Err(_) => {}
            }
        }
        if self.waiting.is_none() {
            let (target, woken) = (self.target.clone(), Arc::clone(&self.woken));
            let (me, lock) = (me.id.clone(), self.seen.lock);
            let task = self.target.driver().spawn(async move {
                let waited = async {
                    let client = target.connect(&me).await?;
                    client.execute(&format!("SELECT pg_advisory_lock({LOCK_CLASS}, $1)"), &[&lock]).await?;
                    Ok(client)
                };
                let waited: Result<Client, LinkError> = waited.await;
                woken.notify_one();
                waited
            });
            self.waiting = Some(LockWait { holder: self.seen.holder.clone(), task });
        }
        false
    }

    /// Raises the epoch that was seen. `None`: somebody else did.
    async fn take(&self, client: &Client, me: &Holder, hung: bool) -> Result<Option<(i64, u64)>, PgOpenError> {
        let sql = format!("SELECT pg_try_advisory_lock({LOCK_CLASS}, $1)");
        client.query_one_scalar::<bool, _>(&sql, &[&me.lock]).await?;
        if hung {
            // What the one that hangs has half done must not hold the row, and its lock must not outlive its lead.
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                       WHERE application_name = $1 AND pid <> pg_backend_pid()";
            client.query(sql, &[&application(&self.seen.holder)]).await?;
        }
        let sent_ns = boot_ns();
        let sql = "UPDATE leader SET epoch = epoch + 1, holder = $2, lock = $3, renewed = renewed + 1, address = $4
                   WHERE epoch = $1 AND renewed = $5 RETURNING epoch";
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&self.seen.epoch, &me.id, &me.lock, &self.address, &self.seen.renewed];
        let raised: Option<i64> = client.query_opt_scalar(sql, &values).await?;
        let Some(epoch) = raised else { return Ok(None) };
        tracing::info!(epoch, hung, before = %self.seen.address, seq = self.follower.seq, "taking the lead");
        Ok(Some((epoch, sent_ns)))
    }

    /// Waits for anything that may change who leads.
    async fn wait(&self) {
        let left = nanos(TTL).saturating_sub(boot_ns().saturating_sub(self.seen_ns));
        let longest = LOOK_EVERY.min(Duration::from_nanos(left)).max(Duration::from_millis(10));
        // Either way everything is looked at again.
        let _ = tokio::time::timeout(longest, self.woken.notified()).await;
    }

    /// Makes the store of the lead that was taken.
    fn begin(self, client: Client, lease: Lease) -> Lead {
        let read = (self.follower.seq, self.follower.snapshot_seq);
        let store = PostgresStore::new(self.target.clone(), lease, client, read, self.fail);
        Lead { store, loaded: self.follower.loaded() }
    }
}

async fn say(client: &Client, statements: &str) -> Result<(), LinkError> {
    Ok(client.batch_execute(statements).await?)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
