//! The log, its snapshot and its rows in PostgreSQL, for several schedulers of which one leads.
//!
//! A batch is one statement, and so one transaction: the frames, the rows, and last a look at the leader's row that holds
//! its epoch until the commit. Several schedulers may look; only the one whose epoch the row carries can write.
//!
//! Invariants, beside those of every store:
//! - A write under an epoch that is over changes nothing, whatever the clocks say.
//! - A commit whose answer was lost is resolved before anything else: the epoch is raised, so that what is still on
//!   its way can never be written, and then the batch is read back.
//!
//! Elsewhere: who leads is `lead`; reading the log is `follow`; snapshots and archives are `tidy`; the columns are
//! `tables`.

pub(crate) mod copy;
mod error;
pub(crate) mod follow;
mod history;
pub(crate) mod hosts;
pub(crate) mod link;
pub(crate) mod read;
pub(crate) mod schema;
mod tables;
mod tidy;
pub(crate) mod tls;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use gangsaw_core::event::Event;
use gangsaw_core::state::State;
use gangsaw_core::time::Time;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement};

use super::archive::Archived;
use super::contract::{AppendError, History, Store};
use super::fail::{FailAt, FailMoment};
use super::rows::Row;
use super::{SNAPSHOT_EVERY, codec, frame, parts};
use crate::lead::lease::{Lease, chain};
pub use error::PgOpenError;
use link::{LinkError, Target, within};
use tidy::{Snapshot, Tidy};

/// Time between two tries to connect anew.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// Tries of one append that PostgreSQL answers and refuses, for something that should pass: ten seconds of them.
const TRIES_MAX: u32 = 100;
/// How long one look at the lease may take, when the last renewal does not hold any more.
const CONFIRM_WAIT: Duration = Duration::from_secs(1);
/// How long a statement that waits for nobody else's may take.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// A connection, and the statement that appends once it is prepared.
struct Link {
    client: Client,
    append: Option<Statement>,
}

impl Link {
    async fn append(&mut self, batch: &Batch, epoch: i64, torn: bool) -> Result<(), Error> {
        let append = match &self.append {
            Some(append) => append.clone(),
            None => self.client.prepare(&tables::append()).await?,
        };
        self.append = Some(append.clone());
        let mut values: Vec<&(dyn ToSql + Sync)> =
            vec![&batch.first_seq, &batch.last_seq, &batch.wall_ms, &epoch, &batch.frames];
        values.extend(batch.changes.json.iter().map(|json| json as &(dyn ToSql + Sync)));
        let mut sent = pin!(self.client.execute(&append, &values));
        if torn {
            // Out of our hands, and nobody waits for the answer.
            poll_fn(|cx| {
                let _ = sent.as_mut().poll(cx);
                Poll::Ready(())
            })
            .await;
            std::process::abort();
        }
        sent.await.map(|_| ())
    }
}

/// One batch on its way.
struct Batch {
    first_seq: i64,
    last_seq: i64,
    wall_ms: i64,
    frames: Vec<u8>,
    changes: tables::Changes,
}

/// What a transaction came to.
enum Outcome {
    Committed,
    /// Nothing was written, and nothing will be.
    Full,
    /// Whether it was written is unknown, or the epoch is.
    Unclear(LinkError),
    /// It cannot be written.
    Refused(Error),
}

/// The store of the scheduler that leads.
pub(crate) struct PostgresStore {
    target: Target,
    lease: Lease,
    link: Option<Link>,
    tidy: Tidy,
    next_seq: u64,
    since_snapshot: u64,
    pub(super) snapshot_every: u64,
    appends: u64,
    fail: Option<FailAt>,
    latched: bool,
}

impl PostgresStore {
    /// Returns the store under a lease, after the log was read up to `last_seq`.
    pub(crate) fn new(
        target: Target,
        lease: Lease,
        client: Client,
        (last_seq, snapshot_seq): (u64, u64),
        fail: Option<FailAt>,
    ) -> PostgresStore {
        let tidy = Tidy::start(&target, &lease.holder.id);
        PostgresStore {
            target,
            lease,
            link: Some(Link { client, append: None }),
            tidy,
            next_seq: last_seq + 1,
            since_snapshot: last_seq - snapshot_seq,
            snapshot_every: SNAPSHOT_EVERY,
            appends: 0,
            fail,
            latched: false,
        }
    }

    fn strike(&self, moment: FailMoment) {
        if self.fail == Some(FailAt { append: self.appends, moment }) {
            std::process::abort();
        }
    }

    /// Writes the batch, as often as it takes to know that it is written.
    async fn write(&mut self, batch: &Batch) -> Result<(), AppendError> {
        let mut unclear = false;
        let mut tries = 0;
        loop {
            if unclear || self.link.is_none() {
                if self.resolve(unclear.then_some(batch)).await? {
                    return Ok(());
                }
                unclear = false;
            }
            tries += 1;
            let torn = self.fail == Some(FailAt { append: self.appends, moment: FailMoment::Torn });
            let epoch = self.lease.epoch();
            let Some(link) = &mut self.link else { continue };
            // A commit may wait for a standby as long as it likes, while the lease holds: nobody else leads meanwhile.
            let outcome = tokio::select! {
                biased;
                appended = link.append(batch, epoch, torn) => appended.map_or_else(outcome, |()| Outcome::Committed),
                () = self.lease.over() => Outcome::Unclear(LinkError::Silent),
            };
            match outcome {
                Outcome::Committed => return Ok(()),
                Outcome::Full => return Err(AppendError::Full),
                Outcome::Refused(error) => return Err(AppendError::Latched(error.into())),
                Outcome::Unclear(error) if tries == TRIES_MAX => return Err(AppendError::Latched(error.into())),
                Outcome::Unclear(error) => {
                    tracing::warn!(error = %chain(&error), "an append is in doubt");
                    unclear = true;
                    if tries > 1 {
                        tokio::time::sleep(TRY_AGAIN).await;
                    }
                }
            }
        }
    }

    /// Connects anew and makes sure that we still lead. Returns whether the batch is there, if it was in doubt.
    async fn resolve(&mut self, doubt: Option<&Batch>) -> Result<bool, AppendError> {
        self.link = None;
        loop {
            match self.look(doubt).await {
                Ok(Some(written)) => return Ok(written),
                Ok(None) => return Err(AppendError::Fenced),
                // The lease says how long we may try: afterwards another may lead.
                Err(error) if self.lease.holds() => {
                    tracing::warn!(error = %chain(&error), "PostgreSQL is not reached");
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "PostgreSQL is not reached in time");
                    return Err(AppendError::Fenced);
                }
            }
        }
    }

    /// `None`: another leads.
    async fn look(&mut self, doubt: Option<&Batch>) -> Result<Option<bool>, LinkError> {
        let client = self.target.connect(&self.lease.holder.id).await?;
        // Waits for the old connection's transaction if it is still at work; what comes after this cannot commit.
        // It waits for the synchronous standby, too: so what is read back below is there as well.
        let raised = tokio::select! {
            biased;
            raised = self.lease.raise(&client) => raised?,
            () = self.lease.over() => return Err(LinkError::Silent),
        };
        if !raised {
            return Ok(None);
        }
        let read_back = async {
            let written = match doubt {
                Some(batch) => is_written(&client, batch).await?,
                None => false,
            };
            Ok::<_, LinkError>((written, last_seq(&client).await?))
        };
        let (written, last) = within(ANSWER_WAIT, read_back).await?;
        if let Some(batch) = doubt {
            tracing::info!(written, seq = batch.first_seq, "the append in doubt was read back");
        }
        let expected = doubt.filter(|_| written).map_or(self.next_seq.cast_signed() - 1, |batch| batch.last_seq);
        if last != expected {
            tracing::error!(last, expected, "this PostgreSQL lacks events that were acknowledged: it is an older copy");
            return Ok(None);
        }
        self.link = Some(Link { client, append: None });
        Ok(Some(written))
    }
}

/// Reads back whether this very batch is in the log.
async fn is_written(client: &Client, batch: &Batch) -> Result<bool, Error> {
    let sql = "SELECT last_seq = $2 AND wall_ms = $3 AND frames = $4 FROM batch WHERE first_seq = $1";
    let same: Option<bool> =
        client.query_opt_scalar(sql, &[&batch.first_seq, &batch.last_seq, &batch.wall_ms, &batch.frames]).await?;
    Ok(same == Some(true))
}

/// Returns the sequence of the last event that the log holds.
async fn last_seq(client: &Client) -> Result<i64, Error> {
    let sql = "SELECT greatest((SELECT max(last_seq) FROM batch), (SELECT max(last_seq) FROM archive), 0)";
    client.query_one_scalar(sql, &[]).await
}

/// Reads a row of first sequence, last sequence, wall time and frames.
fn archived(row: &tokio_postgres::Row) -> Archived {
    Archived {
        first_seq: row.get::<_, i64>(0).cast_unsigned(),
        last_seq: row.get::<_, i64>(1).cast_unsigned(),
        wall_ms: row.get::<_, i64>(2).cast_unsigned(),
        frames: row.get(3),
    }
}

/// Says what a failed append means.
fn outcome(error: Error) -> Outcome {
    let Some(code) = error.code() else { return Outcome::Unclear(error.into()) };
    if *code == SqlState::DISK_FULL {
        return Outcome::Full;
    }
    // Our epoch is over, or this sequence is taken: who leads must be asked.
    let contested = code.code() == schema::FENCED || *code == SqlState::UNIQUE_VIOLATION;
    // What passes: lost connections, conflicts, lack of memory, locks, a server that goes down.
    let passing = ["08", "40", "53", "55", "57"].iter().any(|class| code.code().starts_with(class));
    if contested || passing { Outcome::Unclear(error.into()) } else { Outcome::Refused(error) }
}

impl Store for PostgresStore {
    fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    fn confirm(&mut self) -> Result<(), AppendError> {
        if self.lease.lost() {
            return Err(AppendError::Fenced);
        }
        let driver = Arc::clone(self.target.driver());
        if self.link.as_ref().is_none_or(|link| link.client.is_closed()) {
            return driver.block_on(self.resolve(None)).map(|_| ());
        }
        if self.lease.holds() {
            return Ok(());
        }
        let (lease, link) = (&self.lease, &self.link);
        let renewed = driver.block_on(async {
            match link {
                Some(link) => tokio::time::timeout(CONFIRM_WAIT, lease.renew(&link.client)).await,
                None => Ok(Ok(false)),
            }
        });
        if matches!(renewed, Ok(Ok(true))) { Ok(()) } else { Err(AppendError::Fenced) }
    }

    fn append(&mut self, at: Time, wall_ms: u64, events: &[Event], rows: &[Row]) -> Result<u64, AppendError> {
        if events.is_empty() && rows.is_empty() {
            return Ok(self.last_seq());
        }
        if self.latched {
            return Err(AppendError::LatchedBefore);
        }
        let count = events.len() as u64;
        let mut batch = Batch {
            first_seq: self.next_seq.cast_signed(),
            last_seq: (self.next_seq + count - 1).cast_signed(),
            wall_ms: wall_ms.cast_signed(),
            frames: Vec::new(),
            changes: tables::changes(rows),
        };
        for (seq, event) in (self.next_seq..).zip(events) {
            frame::push(&mut batch.frames, seq, wall_ms, |out| codec::encode(at, event, out));
        }
        self.appends += 1;
        self.strike(FailMoment::Before);
        let driver = Arc::clone(self.target.driver());
        let written = driver.block_on(self.write(&batch));
        // A full disk is said before anything is written; whatever else failed leaves memory ahead of the log.
        self.latched =
            matches!(written, Err(AppendError::Latched(_) | AppendError::LatchedBefore | AppendError::Fenced));
        written?;
        self.strike(FailMoment::After);
        self.next_seq += count;
        self.since_snapshot += count;
        self.lease.appended();
        Ok(self.last_seq())
    }

    fn snapshot_if_due(&mut self, state: &State, wall_ms: u64) -> bool {
        if self.since_snapshot < self.snapshot_every {
            return false;
        }
        let snapshot = Snapshot { seq: self.last_seq(), parts: parts(state, wall_ms), epoch: self.lease.epoch() };
        let taken = self.tidy.snapshot(snapshot);
        if taken {
            self.since_snapshot = 0;
        }
        taken
    }

    fn keeper_failure(&self) -> Option<String> {
        // Tidying that fails is tried again with the next snapshot: PostgreSQL itself guards what it stores.
        None
    }

    fn history(&self) -> &dyn History {
        self
    }
}

#[cfg(test)]
pub(crate) mod tests;
