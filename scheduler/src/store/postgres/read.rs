//! Reading the whole log, archives included, for replay and the like.

use gangsaw_core::event::Record;
use tokio_postgres::Transaction;

use super::super::archive::{self, Archived};
use super::super::take;
use super::PgOpenError;
use super::link::Target;

/// Batches of one page.
const PAGE_BATCHES: i64 = 500;

/// Reads every event that a database holds, oldest first, as of one moment. It takes no lock.
///
/// It waits on the calling thread, which must not be one of a runtime's.
///
/// # Errors
/// The first event that cannot be read, or why the database cannot be.
pub fn read_log_postgres(url: &str, mut each: impl FnMut(Record)) -> Result<(), PgOpenError> {
    let target = Target::open(url)?;
    target.driver().block_on(async {
        let mut client = target.connect("reader").await?;
        let transaction = client
            .build_transaction()
            .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let mut give = |batch: &Archived| {
            let mut bytes = batch.frames.as_slice();
            for seq in batch.first_seq..=batch.last_seq {
                let damaged =
                    |why| PgOpenError::Damaged { shown: target.shown(), place: format!("event {seq}: {why}") };
                each(take(&mut bytes, seq, batch.wall_ms).map_err(damaged)?);
            }
            Ok(())
        };
        archives(&transaction, &mut give).await?;
        batches(&transaction, &mut give).await
    })
}

type Give<'a> = dyn FnMut(&Archived) -> Result<(), PgOpenError> + 'a;

async fn archives(transaction: &Transaction<'_>, give: &mut Give<'_>) -> Result<(), PgOpenError> {
    let sql = "SELECT first_seq, batches FROM archive WHERE first_seq > $1 ORDER BY first_seq LIMIT 1";
    let mut after = 0_i64;
    while let Some(row) = transaction.query_opt(sql, &[&after]).await? {
        after = row.get(0);
        for batch in archive::unpack(row.get::<_, &[u8]>(1))? {
            give(&batch)?;
        }
    }
    Ok(())
}

async fn batches(transaction: &Transaction<'_>, give: &mut Give<'_>) -> Result<(), PgOpenError> {
    let sql = "SELECT first_seq, last_seq, wall_ms, frames FROM batch
               WHERE first_seq > $1 ORDER BY first_seq LIMIT $2";
    let mut after = 0_i64;
    loop {
        let page = transaction.query(sql, &[&after, &PAGE_BATCHES]).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.get(0);
        for row in &page {
            give(&super::archived(row))?;
        }
    }
}
