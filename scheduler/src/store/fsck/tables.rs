//! The rows that the fold of a log projects to, in a database of their own, and how the store's differ from them.

use std::path::{Path, PathBuf};

use gangsaw_proto::jobs::v1 as wire;
use prost::Message;
use rusqlite::{Connection, params};

use super::super::project::render;
use super::super::rows::Row;
use super::super::sqlite::{self, tables};

/// Projected rows, written as the log is folded.
pub(super) struct Tables {
    connection: Connection,
    path: PathBuf,
    /// Wall time in ms at which the fold began; zero: with the first event.
    pub(super) begins_wall_ms: u64,
}

/// A table: its name, what names a row of it, and its columns that are no times.
struct Table {
    name: &'static str,
    key: &'static str,
    timeless: &'static str,
}

/// A fold that began with a snapshot does not know from which wall time the others were reckoned.
const TABLES: [Table; 4] = [
    Table {
        name: "job",
        key: "job_id",
        timeless: "job_id, tenant, queue, user, name, priority, state, elements, waiting, active, completed, failed,
                   cancelled, timeout, out_of_memory, node_fail, retries, exit_code, device",
    },
    Table {
        name: "attempt",
        key: "job_id || '[' || element || '] attempt ' || attempt",
        timeless: "job_id, element, attempt, state, outcome, node, nodes, gpus, pid, exit_code, signal, detail",
    },
    Table {
        name: "node",
        key: "name",
        timeless: "node_id, name, mode, reason, milli_cpus, milli_cpus_free, memory_bytes, memory_bytes_free, gpus,
                   gpus_free, leases, agent_version",
    },
    Table { name: "usage", key: "user || ' on ' || day", timeless: "*" },
];

impl Tables {
    pub(super) fn new(path: &Path) -> rusqlite::Result<Tables> {
        let connection = Connection::open(path)?;
        connection.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")?;
        connection.execute_batch(tables::PROJECTED)?;
        connection.execute_batch("BEGIN")?;
        Ok(Tables { connection, path: path.to_owned(), begins_wall_ms: 0 })
    }

    pub(super) fn write(&mut self, rows: &[Row]) -> rusqlite::Result<()> {
        rows.iter().try_for_each(|row| tables::write(&self.connection, row))
    }

    /// Compares the store's rows with these, and writes them again if asked. Returns how many were written again, and
    /// what differs.
    pub(super) fn settle(self, store: &Path, whole: bool, rebuild: bool) -> rusqlite::Result<(u64, Vec<String>)> {
        self.connection.execute_batch("COMMIT")?;
        let compare = || -> rusqlite::Result<(u64, Vec<String>)> {
            let reader = sqlite::connect_read_only(store)?;
            self.attach(&reader)?;
            self.compare(&reader, whole)
        };
        let (differ, faults) = compare()?;
        if !rebuild || faults.is_empty() {
            return Ok((0, faults));
        }
        let writer = sqlite::connect(store)?;
        self.attach(&writer)?;
        self.rewrite(&writer, whole)?;
        drop(writer);
        Ok((differ, compare()?.1))
    }

    fn attach(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.execute("ATTACH DATABASE ?1 AS folded", [self.path.to_string_lossy()]).map(|_| ())
    }

    /// Returns the day after which usage is known from the first event of it.
    fn day(&self) -> String {
        if self.begins_wall_ms == 0 { String::new() } else { render::day(self.begins_wall_ms).to_string() }
    }

    fn compare(&self, connection: &Connection, whole: bool) -> rusqlite::Result<(u64, Vec<String>)> {
        let mut faults = Vec::new();
        let mut differ = 0;
        for Table { name, key, timeless } in &TABLES {
            let columns = if whole { "*" } else { *timeless };
            let (ours, theirs) = match (*name, whole) {
                (_, true) | ("node", false) => (String::new(), String::new()),
                ("job", _) => ("WHERE job_id IN (SELECT job_id FROM folded.job)".to_owned(), String::new()),
                ("attempt", _) => ("WHERE state <> 'ENDED'".to_owned(), "WHERE state <> 'ENDED'".to_owned()),
                _ => {
                    let newer = format!("WHERE day > '{}'", self.day());
                    (newer.clone(), newer)
                }
            };
            let (ours, theirs) = (
                format!("SELECT {columns} FROM main.{name} {ours}"),
                format!("SELECT {columns} FROM folded.{name} {theirs}"),
            );
            let sql = format!(
                "SELECT {key} FROM ({ours} EXCEPT {theirs}) UNION SELECT {key} FROM ({theirs} EXCEPT {ours}) ORDER BY 1"
            );
            let mut statement = connection.prepare(&sql)?;
            let keys = statement.query_map([], |row| row.get::<_, rusqlite::types::Value>(0))?;
            let keys = keys.collect::<rusqlite::Result<Vec<_>>>()?;
            if let Some(first) = keys.first() {
                differ += keys.len() as u64;
                faults.push(format!(
                    "{} row(s) of table {name} are not what the log says, the first {}",
                    keys.len(),
                    text(first)
                ));
            }
        }
        let old = old_differ(connection, whole)?;
        if let Some(first) = old.first() {
            differ += old.len() as u64;
            faults.push(format!("{} old job(s) are not what the log says, the first {first}", old.len()));
        }
        Ok((differ, faults))
    }

    fn rewrite(&self, connection: &Connection, whole: bool) -> rusqlite::Result<()> {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        connection.execute_batch(tables::PROJECTED)?;
        for name in ["job", "attempt", "node", "usage", "old_job", "old_task"] {
            let day = self.day();
            match (whole, name) {
                (true, _) | (false, "node") => connection.execute(&format!("DELETE FROM main.{name}"), [])?,
                (false, "attempt") => connection.execute("DELETE FROM main.attempt WHERE state <> 'ENDED'", [])?,
                (false, "usage") => connection.execute("DELETE FROM main.usage WHERE day > ?1", params![day])?,
                (false, _) => 0,
            };
            let newer = if !whole && name == "usage" { "WHERE day > ?1" } else { "WHERE ?1 = ?1" };
            let sql = format!("INSERT OR REPLACE INTO main.{name} SELECT * FROM folded.{name} {newer}");
            connection.execute(&sql, params![day])?;
        }
        connection.execute_batch("COMMIT")
    }
}

fn text(value: &rusqlite::types::Value) -> String {
    use rusqlite::types::Value;
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        Value::Null | Value::Real(_) | Value::Blob(_) => "without a name".to_owned(),
    }
}

/// Returns the old jobs whose pictures differ. They are compared by what they mean: maps have no order.
fn old_differ(connection: &Connection, whole: bool) -> rusqlite::Result<Vec<u64>> {
    let mut differ = Vec::new();
    let sql = "SELECT job_id, ours.job, theirs.job, ours.spec, theirs.spec
               FROM main.old_job ours FULL JOIN folded.old_job theirs USING (job_id)";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let blob = |column: usize| row.get::<_, Option<Vec<u8>>>(column);
        let (ours, theirs) = ((blob(1)?, blob(3)?), (blob(2)?, blob(4)?));
        let alike = same::<wire::Job>(&ours.0, &theirs.0) && same::<wire::JobSpec>(&ours.1, &theirs.1);
        if !alike && (whole || theirs.0.is_some()) {
            differ.push(row.get::<_, i64>(0)?.cast_unsigned());
        }
    }
    let sql = "SELECT job_id, ours.last, theirs.last, ours.task, theirs.task
               FROM main.old_task ours FULL JOIN folded.old_task theirs USING (job_id, first, rank)";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (ours, theirs): (Option<u32>, Option<u32>) = (row.get(1)?, row.get(2)?);
        let alike = ours == theirs && same::<wire::Task>(&row.get(3)?, &row.get(4)?);
        if !alike && (whole || theirs.is_some()) {
            differ.push(row.get::<_, i64>(0)?.cast_unsigned());
        }
    }
    differ.sort_unstable();
    differ.dedup();
    Ok(differ)
}

fn same<M: Message + Default + PartialEq>(ours: &Option<Vec<u8>>, theirs: &Option<Vec<u8>>) -> bool {
    let read = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| M::decode(bytes.as_slice()).ok());
    let (ours, theirs) = (read(ours), read(theirs));
    ours == theirs && ours != Some(None)
}
