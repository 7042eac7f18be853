//! The tables that are projected from the log, and how a batch's rows travel.
//!
//! The rows of one table are one JSON array, which PostgreSQL reads by the names of the columns: one parameter and one
//! statement a table, however many rows there are.
//!
//! Elsewhere: what the rows mean is the store's, not this file's.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::sqlite::Row;

/// The projected tables. They can be dropped and made again from the log.
pub(crate) const PROJECTED: &str = "
CREATE TABLE IF NOT EXISTS gangsaw.job (
    job_id BIGINT PRIMARY KEY, submitted_wall_ms BIGINT NOT NULL, state INTEGER NOT NULL, queue TEXT NOT NULL,
    \"user\" TEXT NOT NULL, name TEXT NOT NULL, job BYTEA NOT NULL, spec BYTEA NOT NULL);
CREATE TABLE IF NOT EXISTS gangsaw.task (
    job_id BIGINT NOT NULL, first BIGINT NOT NULL, rank BIGINT NOT NULL, last BIGINT NOT NULL, task BYTEA NOT NULL,
    PRIMARY KEY (job_id, first, rank));
";

/// Tables whose rows are written, in the order of `append`'s arguments.
const TABLES: [&str; 2] = ["job", "task"];

/// The rows of a batch, an array a table; null if there are none.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) json: [Option<String>; TABLES.len()],
}

/// A table's number and a row's key in it: one batch writes a row once, and the last writing counts.
type Key = (usize, u64, u64, u64, String);

/// Gathers rows into what travels.
pub(crate) fn changes(rows: &[Row]) -> Changes {
    let mut last: BTreeMap<Key, Value> = BTreeMap::new();
    for row in rows {
        let (key, value) = value(row);
        last.insert(key, value);
    }
    let mut arrays: [Vec<Value>; TABLES.len()] = Default::default();
    for ((table, ..), value) in last {
        arrays[table].push(value);
    }
    Changes { json: arrays.map(|array| (!array.is_empty()).then(|| Value::Array(array).to_string())) }
}

fn value(row: &Row) -> (Key, Value) {
    match row {
        Row::Job(job) => (
            (0, job.job_id, 0, 0, String::new()),
            json!({
                "job_id": job.job_id, "submitted_wall_ms": job.submitted_wall_ms, "state": job.state,
                "queue": text(&job.queue), "user": text(&job.user), "name": text(&job.name),
                "job": bytes(&job.job), "spec": bytes(&job.spec),
            }),
        ),
        Row::Tasks { job_id, first, last, rank, task } => (
            (1, *job_id, u64::from(*first), u64::from(*rank), String::new()),
            json!({ "job_id": job_id, "first": first, "rank": rank, "last": last, "task": bytes(task) }),
        ),
    }
}

/// PostgreSQL's text holds every character but one.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn bytes(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut hex = String::with_capacity(2 + 2 * bytes.len());
    hex.push_str("\\x");
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// Returns the statements of the function `append` that write each table's argument.
pub(crate) fn upserts() -> (String, String) {
    let (mut arguments, mut body) = (String::new(), String::new());
    for (table, keys, set) in [
        ("job", "job_id", replaced(&["submitted_wall_ms", "state", "queue", "\"user\"", "name", "job", "spec"])),
        ("task", "job_id, first, rank", replaced(&["last", "task"])),
    ] {
        arguments.push_str(&format!(", rows_of_{table} TEXT"));
        body.push_str(&format!(
            "IF rows_of_{table} IS NOT NULL THEN
                INSERT INTO gangsaw.{table} AS held
                    SELECT * FROM json_populate_recordset(NULL::gangsaw.{table}, rows_of_{table}::json)
                    ON CONFLICT ({keys}) DO UPDATE SET {set};
            END IF;\n"
        ));
    }
    (arguments, body)
}

fn replaced(columns: &[&str]) -> String {
    columns.iter().map(|column| format!("{column} = excluded.{column}")).collect::<Vec<_>>().join(", ")
}

/// Returns the statement that calls `append`.
pub(crate) fn append() -> String {
    let values: Vec<String> = (1..=5 + TABLES.len()).map(|number| format!("${number}")).collect();
    format!("SELECT append({})", values.join(", "))
}
