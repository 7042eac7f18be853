//! Reading the log: from the snapshot once, then batch after batch, as long as somebody else writes it.
//!
//! A standby follows with this, and the leader's own start is its last step: there is no second way to load.
//!
//! Invariant: `state` is the fold of events 1 to `seq`, whatever the leader archives meanwhile. A batch that is gone
//! when it is asked for was archived below a newer snapshot, and the follower begins again from that one.

use std::time::Duration;

use gangsaw_core::state::State;
use tokio_postgres::{Client, Row};

use super::super::{Loaded, fold};
use super::link::{LinkError, within};
use super::{PgOpenError, schema};

/// Batches of one page.
const PAGE_BATCHES: i64 = 500;
/// How long one page, or the snapshot, may take to arrive.
const PAGE_WAIT: Duration = Duration::from_secs(60);

/// The state as far as it was read.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) state: State,
    pub(crate) seq: u64,
    pub(crate) snapshot_seq: u64,
    last_wall_ms: u64,
    /// First sequence and checksum of the last batch that was folded, if one was since the snapshot.
    last_batch: Option<(i64, u32)>,
    shown: String,
}

impl Follower {
    /// Returns a follower that has read nothing.
    pub(crate) fn new(shown: String) -> Follower {
        Follower { state: State::new(), seq: 0, snapshot_seq: 0, last_wall_ms: 0, last_batch: None, shown }
    }

    /// Says whether the last batch that was read is in this log, as it was.
    pub(crate) async fn is_in(&self, client: &Client) -> Result<bool, LinkError> {
        let Some((first, checksum)) = self.last_batch else {
            let snapshot = schema::meta(client, "snapshot_seq").await?.unwrap_or(0);
            return Ok(snapshot.cast_unsigned() == self.seq);
        };
        let row = client.query_opt("SELECT frames FROM batch WHERE first_seq = $1", &[&first]).await?;
        Ok(row.is_some_and(|row| crc32fast::hash(row.get(0)) == checksum))
    }

    /// Forgets everything if this log is another one than was read: a database that was taken over by a copy of it may
    /// lack the end, and what was read of that never happened.
    pub(crate) async fn verify(&mut self, client: &Client) -> Result<(), PgOpenError> {
        if !within(PAGE_WAIT, self.is_in(client)).await? {
            tracing::info!(seq = self.seq, "the log does not go on where it was left, and is read again");
            *self = Follower::new(std::mem::take(&mut self.shown));
        }
        Ok(())
    }

    /// Hands over what was read.
    pub(crate) fn loaded(self) -> Loaded {
        Loaded { state: self.state, last_wall_ms: self.last_wall_ms }
    }

    /// Reads everything that is durable now.
    pub(crate) async fn catch_up(&mut self, client: &mut Client) -> Result<(), PgOpenError> {
        if self.seq == 0 {
            within(PAGE_WAIT, self.begin(client)).await?;
        }
        loop {
            let page = within(PAGE_WAIT, self.page(client)).await?;
            let Some(first) = page.first() else { return Ok(()) };
            if first.get::<_, i64>(0).cast_unsigned() == self.seq + 1 {
                for row in &page {
                    self.fold_batch(row)?;
                }
                continue;
            }
            let snapshot = schema::meta(client, "snapshot_seq").await?.unwrap_or(0).cast_unsigned();
            if snapshot <= self.seq {
                return Err(self.damaged(format!("event {}: it is missing", self.seq + 1)));
            }
            tracing::info!(seq = self.seq, snapshot, "beginning again from a newer snapshot");
            *self = Follower::new(std::mem::take(&mut self.shown));
            within(PAGE_WAIT, self.begin(client)).await?;
        }
    }

    async fn page(&self, client: &Client) -> Result<Vec<Row>, LinkError> {
        let sql = "SELECT first_seq, last_seq, wall_ms, frames FROM batch
                   WHERE first_seq > $1 ORDER BY first_seq LIMIT $2";
        Ok(client.query(sql, &[&self.seq.cast_signed(), &PAGE_BATCHES]).await?)
    }

    /// Reads the snapshot, as of one moment.
    async fn begin(&mut self, client: &mut Client) -> Result<(), PgOpenError> {
        let transaction = client
            .build_transaction()
            .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let sql = "SELECT value FROM meta WHERE key = 'snapshot_seq'";
        let Some(row) = transaction.query_opt(sql, &[]).await? else { return Ok(()) };
        let seq: i64 = row.get(0);
        let sql = "SELECT part, count, frames FROM snapshot WHERE seq = $1 ORDER BY part";
        let parts = transaction.query(sql, &[&seq]).await?;
        let place = |part: usize, what: &str| format!("the snapshot of event {seq}, part {part}: {what}");
        for (number, row) in parts.iter().enumerate() {
            let frames: &[u8] = row.get(2);
            if row.get::<_, i64>(0) != i64::try_from(number).unwrap_or(i64::MAX) {
                return Err(self.damaged(place(number, "it is missing")));
            }
            let Some((wall, mut bytes)) = frames.split_first_chunk::<8>() else {
                return Err(self.damaged(place(number, "it is cut off")));
            };
            self.last_wall_ms = u64::from_le_bytes(*wall);
            for event in 0..row.get::<_, i64>(1).cast_unsigned() {
                fold(&mut self.state, &mut bytes, event, self.last_wall_ms)
                    .map_err(|why| self.damaged(place(number, &why)))?;
            }
        }
        if parts.is_empty() {
            return Err(self.damaged(format!("the snapshot of event {seq}")));
        }
        (self.seq, self.snapshot_seq) = (seq.cast_unsigned(), seq.cast_unsigned());
        Ok(())
    }

    fn fold_batch(&mut self, row: &Row) -> Result<(), PgOpenError> {
        let (first, last): (i64, i64) = (row.get(0), row.get(1));
        let (wall_ms, mut bytes): (i64, &[u8]) = (row.get(2), row.get(3));
        if first.cast_unsigned() != self.seq + 1 {
            return Err(self.damaged(format!("event {}: it is missing", self.seq + 1)));
        }
        while !bytes.is_empty() {
            self.seq += 1;
            let folded = fold(&mut self.state, &mut bytes, self.seq, wall_ms.cast_unsigned());
            folded.map_err(|why| self.damaged(format!("event {}: {why}", self.seq)))?;
        }
        if last.cast_unsigned() != self.seq {
            return Err(self.damaged(format!("event {}: its batch is cut off", self.seq + 1)));
        }
        self.last_wall_ms = wall_ms.cast_unsigned();
        self.last_batch = Some((first, crc32fast::hash(row.get(3))));
        Ok(())
    }

    fn damaged(&self, place: String) -> PgOpenError {
        PgOpenError::Damaged { shown: self.shown.clone(), place }
    }
}
