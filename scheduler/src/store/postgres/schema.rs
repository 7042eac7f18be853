//! The tables, in a schema of their own so that `psql -c 'SELECT * FROM gangsaw.job'` just works.
//!
//! `leader` is one row: who leads, under which epoch, and how often it said so. `hold` is the sentence that every write
//! ends with: it locks that row until the commit, so a new leader's first statement waits for the old one's last write,
//! and a write under an old epoch fails.

use tokio_postgres::{Client, Error, GenericClient};

use super::PgOpenError;

/// Version of the tables below. A database with another one is refused.
pub(crate) const FORMAT: i64 = 1;

/// Class of the locks that leaders hold is the number of this table; the lock itself is the leader's own number.
pub(crate) const LOCK_CLASS: &str = "'gangsaw.leader'::regclass::oid::int4";

const LOG: &str = "
CREATE SCHEMA IF NOT EXISTS gangsaw;
CREATE TABLE IF NOT EXISTS gangsaw.meta (key TEXT PRIMARY KEY, value BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS gangsaw.leader (
    one INTEGER PRIMARY KEY CHECK (one = 1), epoch BIGINT NOT NULL, holder TEXT NOT NULL, lock INTEGER NOT NULL,
    renewed BIGINT NOT NULL, address TEXT NOT NULL);
INSERT INTO gangsaw.leader VALUES (1, 0, '', 0, 0, '') ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS gangsaw.batch (
    first_seq BIGINT PRIMARY KEY, last_seq BIGINT NOT NULL, wall_ms BIGINT NOT NULL, epoch BIGINT NOT NULL,
    frames BYTEA NOT NULL);
CREATE TABLE IF NOT EXISTS gangsaw.snapshot (
    seq BIGINT NOT NULL, part BIGINT NOT NULL, count BIGINT NOT NULL, frames BYTEA NOT NULL, PRIMARY KEY (seq, part));
CREATE TABLE IF NOT EXISTS gangsaw.archive (
    first_seq BIGINT PRIMARY KEY, last_seq BIGINT NOT NULL, archived TIMESTAMPTZ NOT NULL DEFAULT now(),
    batches BYTEA NOT NULL);
ALTER TABLE gangsaw.batch ALTER COLUMN frames SET STORAGE EXTERNAL;
ALTER TABLE gangsaw.archive ALTER COLUMN batches SET STORAGE EXTERNAL;
CREATE OR REPLACE FUNCTION gangsaw.hold(expected BIGINT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM gangsaw.leader WHERE epoch = expected FOR SHARE;
    IF NOT FOUND THEN RAISE EXCEPTION 'another scheduler leads' USING ERRCODE = 'GS001'; END IF;
END $$;
";

/// SQLSTATE of a write under an epoch that is over.
pub(crate) const FENCED: &str = "GS001";

/// Makes the tables if there are none, and refuses those of another version.
pub(crate) async fn prepare(client: &Client, shown: &str) -> Result<(), PgOpenError> {
    if !is_made(client).await? {
        client.batch_execute(&format!("BEGIN; {LOCK}; {}; COMMIT", create())).await?;
    }
    check(client, shown).await
}

/// Says whether there are tables of any version.
pub(crate) async fn is_made(client: &impl GenericClient) -> Result<bool, Error> {
    Ok(client.query_one("SELECT to_regclass('gangsaw.meta') IS NOT NULL", &[]).await?.get(0))
}

/// Refuses tables of another version.
pub(crate) async fn check(client: &impl GenericClient, shown: &str) -> Result<(), PgOpenError> {
    let found = meta(client, "format").await?.unwrap_or(0);
    if found != FORMAT {
        return Err(PgOpenError::Format { shown: shown.to_owned(), found });
    }
    Ok(())
}

/// Taken before the tables are made: of two that find an empty database one makes them, and the other waits for it.
pub(crate) const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('gangsaw schema'))";

/// Returns the statements that make the tables.
pub(crate) fn create() -> String {
    let format = format!("INSERT INTO gangsaw.meta VALUES ('format', {FORMAT}) ON CONFLICT DO NOTHING");
    let (projected, append) = (super::tables::PROJECTED, append());
    format!("{LOG} {projected} {append} {format}")
}

/// Returns the function that writes a batch: one statement, so all of it or nothing, in one round trip.
fn append() -> String {
    let (arguments, taken) = super::tables::taken();
    format!(
        "CREATE OR REPLACE FUNCTION gangsaw.append(
            first BIGINT, last BIGINT, wall BIGINT, expected BIGINT, events BYTEA{arguments})
        RETURNS void LANGUAGE plpgsql AS $$
        #variable_conflict use_column
        BEGIN
            IF first <= last THEN
                INSERT INTO gangsaw.batch VALUES (append.first, append.last, wall, expected, events);
            END IF;
            {taken}
            PERFORM gangsaw.hold(expected);
        END $$;"
    )
}

/// Returns a number from the `meta` table.
pub(crate) async fn meta(client: &impl GenericClient, key: &str) -> Result<Option<i64>, Error> {
    Ok(client.query_opt("SELECT value FROM gangsaw.meta WHERE key = $1", &[&key]).await?.map(|row| row.get(0)))
}
