//! Snapshots and archives in PostgreSQL, beside the engine's own connection.
//!
//! Old batches leave the log for compressed rows of `archive`, whole, in the transaction that deletes them: wherever it
//! dies, every event is in exactly one of the two.
//!
//! Invariants:
//! - A snapshot counts from the moment its sequence is in `meta`; all its parts are there before.
//! - Every transaction holds the epoch that the snapshot was taken under: who does not lead any more tidies nothing.
//! - What fails is left as it is and done with the next snapshot.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::{Client, Transaction};

use super::super::archive;
use super::link::Target;
use super::schema;
use crate::lead::lease::chain;

/// Bytes of batches that one archived row holds, before compression.
pub(crate) const STEP_BYTES: usize = 8 << 20;
/// How long the end waits for what is being written: another scheduler may wait to lead.
const END_WAIT: Duration = Duration::from_millis(200);
/// Batches that one page reads.
const STEP_BATCHES: i64 = 1_000;
/// Rows of the archive beyond these are deleted, oldest first: 90 days, and 20 GiB.
const RETAIN: &str = "
DELETE FROM archive WHERE archived < now() - interval '90 days' OR first_seq IN (
    SELECT first_seq FROM (
        SELECT first_seq, sum(length(batches)::bigint) OVER (ORDER BY first_seq DESC) AS bytes FROM archive) AS sized
    WHERE bytes > 20::bigint << 30)";

/// A snapshot ready to be written: parts of at most a few hundred KiB, with the number of events in each.
pub(crate) struct Snapshot {
    pub(crate) seq: u64,
    pub(crate) parts: Vec<(u64, Vec<u8>)>,
    pub(crate) epoch: i64,
}

/// The way to the task that tidies. Dropping it ends the task, after its present chore if that does not take long.
pub(crate) struct Tidy {
    inbox: Option<mpsc::Sender<Snapshot>>,
    ended: std::sync::mpsc::Receiver<()>,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Tidy {
    /// Starts the task.
    pub(crate) fn start(target: &Target, holder: &str) -> Tidy {
        let (inbox, mut chores) = mpsc::channel::<Snapshot>(1);
        let (end, ended) = std::sync::mpsc::sync_channel(1);
        let (there, holder) = (target.clone(), holder.to_owned());
        target.driver().spawn(async move {
            while let Some(snapshot) = chores.recv().await {
                if let Err(error) = tidy(&there, &holder, &snapshot).await {
                    let error = chain(error.as_ref());
                    tracing::warn!(seq = snapshot.seq, %error, "old events stay in the log for now");
                }
            }
            let _ = end.try_send(());
        });
        Tidy { inbox: Some(inbox), ended }
    }

    /// Takes a snapshot over, or returns false if the one before is still being written.
    pub(crate) fn snapshot(&self, snapshot: Snapshot) -> bool {
        self.inbox.as_ref().is_some_and(|inbox| inbox.try_send(snapshot).is_ok())
    }
}

impl Drop for Tidy {
    fn drop(&mut self) {
        self.inbox = None;
        // What is cut off is done again with the next snapshot.
        let _ = self.ended.recv_timeout(END_WAIT);
    }
}

async fn tidy(target: &Target, holder: &str, snapshot: &Snapshot) -> Result<(), Failed> {
    let mut client = target.connect(holder).await?;
    write(&mut client, snapshot).await?;
    while archive(&mut client, snapshot).await? {}
    let transaction = client.transaction().await?;
    transaction.execute(RETAIN, &[]).await?;
    commit(transaction, snapshot).await?;
    Ok(())
}

async fn write(client: &mut Client, snapshot: &Snapshot) -> Result<(), Failed> {
    let seq = snapshot.seq.cast_signed();
    let counts = schema::meta(client, "snapshot_seq").await?.unwrap_or(0);
    let transaction = client.transaction().await?;
    // Parts of one that was never finished.
    transaction.execute("DELETE FROM snapshot WHERE seq <> $1", &[&counts]).await?;
    commit(transaction, snapshot).await?;
    for (part, (count, frames)) in snapshot.parts.iter().enumerate() {
        let transaction = client.transaction().await?;
        let (part, count) = (i64::try_from(part)?, count.cast_signed());
        transaction.execute("INSERT INTO snapshot VALUES ($1, $2, $3, $4)", &[&seq, &part, &count, frames]).await?;
        commit(transaction, snapshot).await?;
    }
    let transaction = client.transaction().await?;
    let sql = "INSERT INTO meta VALUES ('snapshot_seq', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    transaction.execute(sql, &[&seq]).await?;
    transaction.execute("DELETE FROM snapshot WHERE seq < $1", &[&seq]).await?;
    commit(transaction, snapshot).await?;
    Ok(())
}

/// Moves one step's worth of batches below the snapshot; returns whether there were any.
async fn archive(client: &mut Client, snapshot: &Snapshot) -> Result<bool, Failed> {
    let transaction = client.transaction().await?;
    let sql = "SELECT first_seq, last_seq, wall_ms, frames FROM batch
               WHERE first_seq <= $1 ORDER BY first_seq LIMIT $2";
    let mut bytes = 0;
    let mut batches = Vec::new();
    for row in transaction.query(sql, &[&snapshot.seq.cast_signed(), &STEP_BATCHES]).await? {
        let batch = super::archived(&row);
        bytes += batch.frames.len();
        batches.push(batch);
        if bytes > STEP_BYTES {
            break;
        }
    }
    let (Some(first), Some(last)) = (batches.first(), batches.last()) else { return Ok(false) };
    let (first, last) = (first.first_seq.cast_signed(), last.last_seq.cast_signed());
    let packed = archive::pack(&batches)?;
    let sql = "INSERT INTO archive (first_seq, last_seq, batches) VALUES ($1, $2, $3)";
    transaction.execute(sql, &[&first, &last, &packed]).await?;
    transaction.execute("DELETE FROM batch WHERE first_seq <= $1", &[&last]).await?;
    commit(transaction, snapshot).await?;
    Ok(true)
}

async fn commit(transaction: Transaction<'_>, snapshot: &Snapshot) -> Result<(), tokio_postgres::Error> {
    transaction.execute("SELECT hold($1)", &[&snapshot.epoch]).await?;
    transaction.commit().await
}
