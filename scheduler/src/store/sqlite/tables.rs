//! The tables of a database file, and how each row is written.
//!
//! `batch`, `snapshot` and `meta` are the log; `job`, `attempt`, `node` and `usage` are projected from it for people,
//! `old_job` and `old_task` for the questions of history. No table has a second index: a row costs one page.

use rusqlite::{Connection, params};

use super::super::rows::{AttemptRow, JobRow, NodeRow, Row, UsageRow, plain, signed};

/// Every table. The projected ones can be dropped and made again from the log.
pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batch (
    first_seq INTEGER PRIMARY KEY, last_seq INTEGER NOT NULL, wall_ms INTEGER NOT NULL, frames BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS snapshot (
    seq INTEGER NOT NULL, part INTEGER NOT NULL, count INTEGER NOT NULL, frames BLOB NOT NULL,
    PRIMARY KEY (seq, part)) WITHOUT ROWID;
";

/// The tables that are projected from the log.
pub(crate) const PROJECTED: &str = "
CREATE TABLE IF NOT EXISTS job (
    job_id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, queue TEXT NOT NULL, user TEXT NOT NULL, name TEXT NOT NULL,
    priority INTEGER NOT NULL, state TEXT NOT NULL, elements INTEGER NOT NULL, waiting INTEGER NOT NULL,
    active INTEGER NOT NULL, completed INTEGER NOT NULL, failed INTEGER NOT NULL, cancelled INTEGER NOT NULL,
    timeout INTEGER NOT NULL, out_of_memory INTEGER NOT NULL, node_fail INTEGER NOT NULL, retries INTEGER NOT NULL,
    exit_code INTEGER, device TEXT, submitted_wall_ms INTEGER NOT NULL, started_wall_ms INTEGER,
    ended_wall_ms INTEGER, forgotten_wall_ms INTEGER);
CREATE TABLE IF NOT EXISTS attempt (
    job_id INTEGER NOT NULL, element INTEGER NOT NULL, attempt INTEGER NOT NULL, state TEXT NOT NULL, outcome TEXT,
    node TEXT, nodes INTEGER NOT NULL, gpus INTEGER NOT NULL, pid INTEGER, exit_code INTEGER, signal INTEGER,
    detail TEXT NOT NULL, leased_wall_ms INTEGER NOT NULL, started_wall_ms INTEGER, ended_wall_ms INTEGER,
    PRIMARY KEY (job_id, element, attempt)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS node (
    node_id INTEGER PRIMARY KEY, name TEXT NOT NULL, mode TEXT NOT NULL, reason TEXT NOT NULL, silent_wall_ms INTEGER,
    milli_cpus INTEGER NOT NULL, milli_cpus_free INTEGER NOT NULL, memory_bytes INTEGER NOT NULL,
    memory_bytes_free INTEGER NOT NULL, gpus INTEGER NOT NULL, gpus_free INTEGER NOT NULL, leases INTEGER NOT NULL,
    agent_version TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS usage (
    tenant TEXT NOT NULL, queue TEXT NOT NULL, user TEXT NOT NULL, day TEXT NOT NULL, cpu_ms INTEGER NOT NULL,
    gpu_ms INTEGER NOT NULL, attempts_ok INTEGER NOT NULL, attempts_lost INTEGER NOT NULL,
    PRIMARY KEY (tenant, queue, user, day)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS old_job (job_id INTEGER PRIMARY KEY, job BLOB NOT NULL, spec BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS old_task (
    job_id INTEGER NOT NULL, first INTEGER NOT NULL, rank INTEGER NOT NULL, last INTEGER NOT NULL, task BLOB NOT NULL,
    PRIMARY KEY (job_id, first, rank)) WITHOUT ROWID;
";

/// Writes one row.
pub(crate) fn write(connection: &Connection, row: &Row) -> rusqlite::Result<()> {
    match row {
        Row::Job(job) => write_job(connection, job),
        Row::Attempt(attempt) => write_attempt(connection, attempt),
        Row::Node(node) => write_node(connection, node),
        Row::Usage(usage) => write_usage(connection, usage),
        Row::AttemptGone { job_id, element, attempt } => {
            let sql = "DELETE FROM attempt WHERE job_id = ?1 AND element = ?2 AND attempt = ?3";
            run(connection, sql, params![job_id.cast_signed(), element, attempt])
        }
        Row::NodeGone { node_id } => run(connection, "DELETE FROM node WHERE node_id = ?1", params![node_id]),
        Row::OldJob(old) => {
            let sql = "INSERT OR REPLACE INTO old_job VALUES (?1, ?2, ?3)";
            run(connection, sql, params![old.job_id.cast_signed(), old.job, old.spec])
        }
        Row::OldTasks { job_id, first, last, rank, task } => {
            let sql = "INSERT OR REPLACE INTO old_task VALUES (?1, ?2, ?3, ?4, ?5)";
            run(connection, sql, params![job_id.cast_signed(), first, rank, last, task])
        }
    }
}

fn run(connection: &Connection, sql: &str, values: impl rusqlite::Params) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute(values).map(|_| ())
}

fn write_job(connection: &Connection, job: &JobRow) -> rusqlite::Result<()> {
    let [completed, failed, cancelled, timeout, out_of_memory, node_fail] = job.ended.map(signed);
    let sql = "INSERT OR REPLACE INTO job VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15,
               ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23)";
    let values = params![
        signed(job.job_id),
        job.tenant.as_str(),
        job.queue.as_str(),
        plain(&job.user),
        job.name.as_str(),
        job.priority,
        job.state,
        signed(job.elements),
        signed(job.waiting),
        signed(job.active),
        completed,
        failed,
        cancelled,
        timeout,
        out_of_memory,
        node_fail,
        signed(job.retries),
        job.exit_code,
        job.device,
        signed(job.submitted_wall_ms),
        job.started_wall_ms.map(signed),
        job.ended_wall_ms.map(signed),
        job.forgotten_wall_ms.map(signed),
    ];
    run(connection, sql, values)
}

fn write_attempt(connection: &Connection, attempt: &AttemptRow) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO attempt
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
    let values = params![
        signed(attempt.job_id),
        attempt.element,
        attempt.attempt,
        attempt.state,
        attempt.outcome,
        attempt.node.as_ref().map(|node| node.as_str()),
        attempt.nodes,
        attempt.gpus,
        attempt.pid,
        attempt.exit_code,
        attempt.signal,
        plain(&attempt.detail),
        signed(attempt.leased_wall_ms),
        attempt.started_wall_ms.map(signed),
        attempt.ended_wall_ms.map(signed),
    ];
    run(connection, sql, values)
}

fn write_node(connection: &Connection, node: &NodeRow) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO node VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    let values = params![
        node.node_id,
        node.name.as_str(),
        node.mode,
        plain(&node.reason),
        node.silent_wall_ms.map(signed),
        signed(node.milli_cpus),
        signed(node.milli_cpus_free),
        signed(node.memory_bytes),
        signed(node.memory_bytes_free),
        node.gpus,
        node.gpus_free,
        node.leases,
        plain(&node.agent_version),
    ];
    run(connection, sql, values)
}

fn write_usage(connection: &Connection, usage: &UsageRow) -> rusqlite::Result<()> {
    let sql = "INSERT INTO usage VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO UPDATE SET
               cpu_ms = cpu_ms + excluded.cpu_ms, gpu_ms = gpu_ms + excluded.gpu_ms,
               attempts_ok = attempts_ok + excluded.attempts_ok,
               attempts_lost = attempts_lost + excluded.attempts_lost";
    let values = params![
        usage.tenant.as_str(),
        usage.queue.as_str(),
        plain(&usage.user),
        &*usage.day,
        signed(usage.cpu_ms),
        signed(usage.gpu_ms),
        signed(usage.attempts_ok),
        signed(usage.attempts_lost),
    ];
    run(connection, sql, values)
}
