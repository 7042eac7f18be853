//! A whole database as files, and files as a whole database: what checking, backing up and restoring one rests on.
//!
//! The files are what a scheduler's folder would hold if its store were a file: `gangsaw.db` and `archive/`. So whatever
//! is done with the one kind of store is done with the other, and a backup fits both.
//!
//! Invariants:
//! - What is copied out is one moment of the database, however busy it is, and nobody waits for it.
//! - What is copied in is there whole or not at all.
//! - Rows are written again only under an epoch of their own, so never beside a scheduler that leads.
//!
//! Elsewhere: what is done with the files is `fsck`, `backup` and `restore`; one table's rows travel by `cells`.

mod cells;

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use rusqlite::Connection;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, IsolationLevel, Transaction};

use super::super::archive::{self, Archived};
use super::super::sqlite::tables::{PROJECTED, SCHEMA};
use super::super::sqlite::{self, OpenError};
use super::link::{LinkError, Target, within};
use super::tidy::STEP_BYTES;
use super::{ANSWER_WAIT, PgOpenError, schema};
use crate::clock::wall_ms;
use cells::{cells, values};

/// The projected tables: the same columns in both kinds of store.
const TABLES: [&str; 6] = ["job", "attempt", "node", "usage", "old_job", "old_task"];
/// How long the next row may take to come, or what was written to be taken.
const ROW_WAIT: Duration = Duration::from_secs(60);
/// How long this side may pause in a transaction that writes. What a session begins with is meant for one that leads.
const PAUSE: &str = "SET LOCAL idle_in_transaction_session_timeout = '60s'";
/// How long a scheduler that ends may hold its lock, and the pause between two looks: PostgreSQL hears of it by and by.
const END_WAIT: Duration = Duration::from_secs(2);
const END_RETRY: Duration = Duration::from_millis(20);
/// Who these connections belong to.
const HOLDER: &str = "copy";

/// True while a process holds the lock of the one that leads.
const LED: &str = "(SELECT EXISTS (
    SELECT 1 FROM pg_locks, gangsaw.leader AS led
    WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = 'gangsaw.leader'::regclass::oid
      AND objid = (led.lock::bigint & 4294967295)::oid AND led.holder <> ''
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())))";

/// Why something was not copied.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Database(#[from] PgOpenError),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::Database(error.into())
    }
}

impl From<LinkError> for Failed {
    fn from(error: LinkError) -> Failed {
        Failed::Database(error.into())
    }
}

impl Failed {
    /// Says it of the database `shown` and the files in `folder`.
    fn at(self, target: &Target, folder: &Path) -> OpenError {
        let path = folder.join("gangsaw.db");
        match self {
            Failed::Database(PgOpenError::Postgres(error)) => database(target, error).into(),
            Failed::Database(error) => error.into(),
            Failed::Sqlite(source) => OpenError::Sqlite { path, source },
            Failed::Io(source) => OpenError::Io { path: folder.to_owned(), source },
        }
    }
}

/// Says what a refusal means: PostgreSQL may have found the damage itself, or that somebody else leads.
fn database(target: &Target, error: Error) -> PgOpenError {
    let Some(refused) = error.as_db_error() else { return PgOpenError::Postgres(error) };
    let (code, shown) = (refused.code().clone(), target.shown());
    if [SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(&code) {
        return PgOpenError::Damaged { shown, place: format!("a page of it: {}", refused.message()) };
    }
    if code.code() == schema::FENCED { PgOpenError::InUse { shown } } else { PgOpenError::Postgres(error) }
}

/// Copies a database into the folder `to`, which is there and empty, as of one moment. Says whether somebody leads.
pub(crate) fn copy_out(target: &Target, to: &Path) -> Result<bool, OpenError> {
    let copied = target.driver().block_on(async {
        let mut client = target.connect(HOLDER).await?;
        let transaction =
            client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
        if !asked(schema::is_made(&transaction)).await? {
            return Err(Failed::from(PgOpenError::Empty { shown: target.shown() }));
        }
        schema::check(&transaction, &target.shown()).await?;
        let led: bool = asked(transaction.query_one(&format!("SELECT {LED}"), &[])).await?.get(0);
        copy_tables(&transaction, to).await?;
        copy_archives(&transaction, to).await?;
        Ok(led)
    });
    copied.map_err(|failed: Failed| failed.at(target, to))
}

async fn copy_tables(transaction: &Transaction<'_>, to: &Path) -> Result<(), Failed> {
    let connection = Connection::open(to.join("gangsaw.db"))?;
    // Nobody reads it before it is whole, and whoever keeps it syncs it.
    connection.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")?;
    connection.execute_batch(&format!("BEGIN; {SCHEMA} {PROJECTED}"))?;
    connection.execute("INSERT INTO meta VALUES ('format', ?1)", [sqlite::FORMAT])?;
    let snapshot = schema::meta(transaction, "snapshot_seq").await?;
    if let Some(seq) = snapshot {
        connection.execute("INSERT INTO meta VALUES ('snapshot_seq', ?1)", [seq])?;
    }
    let log = "SELECT first_seq, last_seq, wall_ms, frames FROM gangsaw.batch ORDER BY first_seq";
    copy_table(transaction, log, &connection, "batch").await?;
    // Parts of another one were never finished.
    let parts = format!("SELECT * FROM gangsaw.snapshot WHERE seq = {} ORDER BY part", snapshot.unwrap_or(-1));
    copy_table(transaction, &parts, &connection, "snapshot").await?;
    for table in TABLES {
        copy_table(transaction, &format!("SELECT * FROM gangsaw.{table}"), &connection, table).await?;
    }
    Ok(connection.execute_batch("COMMIT")?)
}

async fn copy_table(
    transaction: &Transaction<'_>,
    sql: &str,
    connection: &Connection,
    table: &str,
) -> Result<(), Failed> {
    let statement = asked(transaction.prepare(sql)).await?;
    let names: Vec<String> = statement.columns().iter().map(|column| format!("\"{}\"", column.name())).collect();
    let places = vec!["?"; names.len()].join(", ");
    let mut insert = connection.prepare(&format!("INSERT INTO {table} ({}) VALUES ({places})", names.join(", ")))?;
    let mut rows = pin!(transaction.query_raw(&statement, std::iter::empty::<&(dyn ToSql + Sync)>()).await?);
    while let Some(row) = asked(rows.try_next()).await? {
        insert.execute(rusqlite::params_from_iter(cells(&row)?))?;
    }
    Ok(())
}

async fn copy_archives(transaction: &Transaction<'_>, to: &Path) -> Result<(), Failed> {
    let folder = to.join("archive");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let sql = "SELECT first_seq, last_seq, batches FROM gangsaw.archive ORDER BY first_seq";
    let mut rows = pin!(transaction.query_raw(sql, std::iter::empty::<&(dyn ToSql + Sync)>()).await?);
    while let Some(row) = asked(rows.try_next()).await? {
        let (first, last): (i64, i64) = (row.get(0), row.get(1));
        let path = folder.join(format!("{}-{}.zst", first.cast_unsigned(), last.cast_unsigned()));
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(row.get(2))?;
    }
    Ok(())
}

/// Waits for one answer.
async fn asked<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, LinkError> {
    within(ROW_WAIT, async { Ok(answer.await?) }).await
}

/// Says whether a database has tables of a scheduler.
pub(crate) fn is_taken(target: &Target) -> Result<bool, PgOpenError> {
    target.driver().block_on(async {
        let client = target.connect(HOLDER).await?;
        Ok(asked(schema::is_made(&client)).await?)
    })
}

/// Makes a database of the files in `from`. Returns false, and changes nothing, if it has tables already.
pub(crate) fn copy_in(target: &Target, from: &Path) -> Result<bool, OpenError> {
    let copied = target.driver().block_on(async {
        let connection = sqlite::connect_read_only(&from.join("gangsaw.db"))?;
        let mut client = target.connect(HOLDER).await?;
        let transaction = client.transaction().await?;
        transaction.batch_execute(&format!("{PAUSE}; {}", schema::LOCK)).await?;
        if schema::is_made(&transaction).await? {
            return Ok(false);
        }
        transaction.batch_execute(&schema::create()).await?;
        // Above every epoch that was ever given out here: whoever led before what was here is gone can write nothing.
        let epoch = wall_ms().cast_signed();
        transaction.execute("UPDATE gangsaw.leader SET epoch = $1", &[&epoch]).await?;
        let archived = fill_archives(&transaction, &from.join("archive")).await?;
        let log = format!(
            "SELECT first_seq, last_seq, wall_ms, {epoch} AS epoch, frames FROM batch WHERE first_seq > {archived}"
        );
        fill(&transaction, &connection, &log, "batch").await?;
        if let Some(seq) = sqlite::meta(&connection, "snapshot_seq")? {
            transaction.execute("INSERT INTO gangsaw.meta VALUES ('snapshot_seq', $1)", &[&seq]).await?;
            fill(&transaction, &connection, &format!("SELECT * FROM snapshot WHERE seq = {seq}"), "snapshot").await?;
        }
        for table in TABLES {
            fill(&transaction, &connection, &format!("SELECT * FROM {table}"), table).await?;
        }
        transaction.commit().await?;
        Ok(true)
    });
    copied.map_err(|failed: Failed| failed.at(target, from))
}

/// Fills a table from what a file's statement returns.
async fn fill(transaction: &Transaction<'_>, connection: &Connection, sql: &str, table: &str) -> Result<(), Failed> {
    let mut read = connection.prepare(sql)?;
    let names: Vec<String> = read.column_names().map(|name| format!("\"{name}\"")).collect();
    let names = names.join(", ");
    let columns = asked(transaction.prepare(&format!("SELECT {names} FROM gangsaw.{table}"))).await?;
    let types: Vec<Type> = columns.columns().iter().map(|column| column.type_().clone()).collect();
    let sink = asked(transaction.copy_in(&format!("COPY gangsaw.{table} ({names}) FROM STDIN BINARY"))).await?;
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
    let mut rows = read.query([])?;
    while let Some(row) = rows.next()? {
        let values = values(row, &types)?;
        let written = writer.as_mut().write_raw(values.iter().map(|value| value.as_ref() as &(dyn ToSql + Sync)));
        asked(written).await?;
    }
    asked(writer.finish()).await?;
    Ok(())
}

/// Fills the archive from files, and returns the last event in it. A file may be longer than a row should be.
async fn fill_archives(transaction: &Transaction<'_>, folder: &Path) -> Result<u64, Failed> {
    let mut archived = 0;
    for (_, _, file) in archive::list(folder)? {
        let (after, mut last_seq) = (archived, archived);
        let mut batches = archive::read(&file)?.into_iter().filter(move |batch| batch.first_seq > after).peekable();
        while batches.peek().is_some() {
            let mut step: Vec<Archived> = Vec::new();
            let mut bytes = 0;
            while let Some(batch) = batches.next_if(|_| bytes < STEP_BYTES) {
                bytes += batch.frames.len();
                step.push(batch);
            }
            let (Some(first), Some(last)) = (step.first(), step.last()) else { break };
            last_seq = last.last_seq;
            let (first, last) = (first.first_seq.cast_signed(), last.last_seq.cast_signed());
            let packed = archive::pack(&step)?;
            let sql = "INSERT INTO gangsaw.archive (first_seq, last_seq, batches) VALUES ($1, $2, $3)";
            asked(transaction.execute(sql, &[&first, &last, &packed])).await?;
        }
        archived = last_seq;
    }
    Ok(archived)
}

/// Raises the epoch where nobody leads, and returns it: what is written under it is written beside nobody.
pub(crate) fn claim(target: &Target) -> Result<i64, OpenError> {
    let claimed = target.driver().block_on(async {
        let client = target.connect(HOLDER).await?;
        let until = Instant::now() + END_WAIT;
        loop {
            match within(ANSWER_WAIT, raise(&client, target)).await {
                Err(PgOpenError::InUse { .. }) if Instant::now() < until => tokio::time::sleep(END_RETRY).await,
                raised => break raised,
            }
        }
    });
    Ok(claimed?)
}

async fn raise(client: &Client, target: &Target) -> Result<i64, PgOpenError> {
    if !schema::is_made(client).await? {
        return Err(PgOpenError::Empty { shown: target.shown() });
    }
    let sql = format!(
        "UPDATE gangsaw.leader SET epoch = epoch + 1, holder = '', renewed = renewed + 1, address = ''
         WHERE NOT {LED} RETURNING epoch"
    );
    let raised = client.query_opt(&sql, &[]).await?;
    raised.map(|row| row.get(0)).ok_or_else(|| PgOpenError::InUse { shown: target.shown() })
}

/// Writes the projected rows again as the files in `from` have them, under an epoch that was claimed.
pub(crate) fn write_rows(target: &Target, from: &Path, epoch: i64) -> Result<(), OpenError> {
    let written = target.driver().block_on(async {
        let connection = sqlite::connect_read_only(&from.join("gangsaw.db"))?;
        let mut client = target.connect(HOLDER).await?;
        let transaction = client.transaction().await?;
        // Held until the commit: nobody takes the lead meanwhile.
        asked(transaction.batch_execute(&format!("{PAUSE}; SELECT gangsaw.hold({epoch})"))).await?;
        for table in TABLES {
            asked(transaction.execute(&format!("DELETE FROM gangsaw.{table}"), &[])).await?;
            fill(&transaction, &connection, &format!("SELECT * FROM {table}"), table).await?;
        }
        transaction.commit().await?;
        Ok(())
    });
    written.map_err(|failed: Failed| failed.at(target, from))
}
