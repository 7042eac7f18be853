//! The tables that are projected from the log, and how a batch's rows travel.
//!
//! The rows of one table are one JSON array, which PostgreSQL reads by the names of the columns: one argument and one
//! statement a table, however many rows there are.
//!
//! Elsewhere: what the rows mean is `rows`; the same tables in a file are `sqlite::tables`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::rows::{AttemptRow, JobRow, NodeRow, Row, UsageRow, plain, signed};

/// The projected tables. They can be dropped and made again from the log.
pub(crate) const PROJECTED: &str = "
CREATE TABLE IF NOT EXISTS gangsaw.job (
    job_id BIGINT PRIMARY KEY, tenant TEXT NOT NULL, queue TEXT NOT NULL, \"user\" TEXT NOT NULL, name TEXT NOT NULL,
    priority INTEGER NOT NULL, state TEXT NOT NULL, elements BIGINT NOT NULL, waiting BIGINT NOT NULL,
    active BIGINT NOT NULL, completed BIGINT NOT NULL, failed BIGINT NOT NULL, cancelled BIGINT NOT NULL,
    timeout BIGINT NOT NULL, out_of_memory BIGINT NOT NULL, node_fail BIGINT NOT NULL, retries BIGINT NOT NULL,
    exit_code INTEGER, device TEXT, submitted_wall_ms BIGINT NOT NULL, started_wall_ms BIGINT, ended_wall_ms BIGINT,
    forgotten_wall_ms BIGINT);
CREATE TABLE IF NOT EXISTS gangsaw.attempt (
    job_id BIGINT NOT NULL, element BIGINT NOT NULL, attempt BIGINT NOT NULL, state TEXT NOT NULL, outcome TEXT,
    node TEXT, nodes BIGINT NOT NULL, gpus BIGINT NOT NULL, pid BIGINT, exit_code INTEGER, signal INTEGER,
    detail TEXT NOT NULL, leased_wall_ms BIGINT NOT NULL, started_wall_ms BIGINT, ended_wall_ms BIGINT,
    PRIMARY KEY (job_id, element, attempt));
CREATE TABLE IF NOT EXISTS gangsaw.node (
    node_id BIGINT PRIMARY KEY, name TEXT NOT NULL, mode TEXT NOT NULL, reason TEXT NOT NULL, silent_wall_ms BIGINT,
    milli_cpus BIGINT NOT NULL, milli_cpus_free BIGINT NOT NULL, memory_bytes BIGINT NOT NULL,
    memory_bytes_free BIGINT NOT NULL, gpus BIGINT NOT NULL, gpus_free BIGINT NOT NULL, leases BIGINT NOT NULL,
    agent_version TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS gangsaw.usage (
    tenant TEXT NOT NULL, queue TEXT NOT NULL, \"user\" TEXT NOT NULL, day TEXT NOT NULL, cpu_ms BIGINT NOT NULL,
    gpu_ms BIGINT NOT NULL, attempts_ok BIGINT NOT NULL, attempts_lost BIGINT NOT NULL,
    PRIMARY KEY (tenant, queue, \"user\", day));
CREATE TABLE IF NOT EXISTS gangsaw.old_job (job_id BIGINT PRIMARY KEY, job BYTEA NOT NULL, spec BYTEA NOT NULL);
CREATE TABLE IF NOT EXISTS gangsaw.old_task (
    job_id BIGINT NOT NULL, first BIGINT NOT NULL, rank BIGINT NOT NULL, last BIGINT NOT NULL, task BYTEA NOT NULL,
    PRIMARY KEY (job_id, first, rank));
";

/// What an argument of `append` does with its rows.
struct Argument {
    table: &'static str,
    keys: &'static [&'static str],
    /// Columns that are replaced.
    replaced: &'static [&'static str],
    /// Columns that are added to.
    added: &'static [&'static str],
    /// The rows go instead.
    gone: bool,
}

impl Argument {
    const fn replace(
        table: &'static str,
        keys: &'static [&'static str],
        replaced: &'static [&'static str],
    ) -> Argument {
        Argument { table, keys, replaced, added: &[], gone: false }
    }

    const fn gone(table: &'static str, keys: &'static [&'static str]) -> Argument {
        Argument { table, keys, replaced: &[], added: &[], gone: true }
    }
}

const JOB: usize = 0;
const ATTEMPT: usize = 1;
const ATTEMPT_GONE: usize = 2;
const NODE: usize = 3;
const NODE_GONE: usize = 4;
const USAGE: usize = 5;
const OLD_JOB: usize = 6;
const OLD_TASK: usize = 7;

/// The arguments of `append`, after those of the log. They are taken in this order.
const ARGUMENTS: [Argument; 8] = [
    Argument::replace(
        "job",
        &["job_id"],
        &[
            "tenant",
            "queue",
            "\"user\"",
            "name",
            "priority",
            "state",
            "elements",
            "waiting",
            "active",
            "completed",
            "failed",
            "cancelled",
            "timeout",
            "out_of_memory",
            "node_fail",
            "retries",
            "exit_code",
            "device",
            "submitted_wall_ms",
            "started_wall_ms",
            "ended_wall_ms",
            "forgotten_wall_ms",
        ],
    ),
    Argument::replace(
        "attempt",
        &["job_id", "element", "attempt"],
        &[
            "state",
            "outcome",
            "node",
            "nodes",
            "gpus",
            "pid",
            "exit_code",
            "signal",
            "detail",
            "leased_wall_ms",
            "started_wall_ms",
            "ended_wall_ms",
        ],
    ),
    Argument::gone("attempt", &["job_id", "element", "attempt"]),
    Argument::replace(
        "node",
        &["node_id"],
        &[
            "name",
            "mode",
            "reason",
            "silent_wall_ms",
            "milli_cpus",
            "milli_cpus_free",
            "memory_bytes",
            "memory_bytes_free",
            "gpus",
            "gpus_free",
            "leases",
            "agent_version",
        ],
    ),
    Argument::gone("node", &["node_id"]),
    Argument {
        table: "usage",
        keys: &["tenant", "queue", "\"user\"", "day"],
        replaced: &[],
        added: &["cpu_ms", "gpu_ms", "attempts_ok", "attempts_lost"],
        gone: false,
    },
    Argument::replace("old_job", &["job_id"], &["job", "spec"]),
    Argument::replace("old_task", &["job_id", "first", "rank"], &["last", "task"]),
];

/// The rows of a batch, an array an argument; null if there are none.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) json: [Option<String>; ARGUMENTS.len()],
}

/// An argument's number and a row's key in it: a statement takes each key once, and the last row counts.
type Key = (usize, u64, u64, u64, String);

/// Gathers rows into what travels.
pub(crate) fn changes(rows: &[Row]) -> Changes {
    let mut last: BTreeMap<Key, Value> = BTreeMap::new();
    for row in rows {
        let (key, value) = value(row);
        last.insert(key, value);
    }
    let mut arrays: [Vec<Value>; ARGUMENTS.len()] = Default::default();
    for ((argument, ..), value) in last {
        arrays[argument].push(value);
    }
    Changes { json: arrays.map(|array| (!array.is_empty()).then(|| Value::Array(array).to_string())) }
}

fn value(row: &Row) -> (Key, Value) {
    let key = |argument, a, b, c| (argument, a, b, c, String::new());
    match row {
        Row::Job(job) => (key(JOB, job.job_id, 0, 0), job_value(job)),
        Row::Attempt(row) => {
            (key(ATTEMPT, row.job_id, u64::from(row.element), u64::from(row.attempt)), attempt_value(row))
        }
        Row::AttemptGone { job_id, element, attempt } => (
            key(ATTEMPT_GONE, *job_id, u64::from(*element), u64::from(*attempt)),
            json!({ "job_id": signed(*job_id), "element": element, "attempt": attempt }),
        ),
        Row::Node(node) => (key(NODE, u64::from(node.node_id), 0, 0), node_value(node)),
        Row::NodeGone { node_id } => (key(NODE_GONE, u64::from(*node_id), 0, 0), json!({ "node_id": node_id })),
        Row::Usage(usage) => {
            let UsageRow { tenant, queue, user, day, .. } = usage;
            let text = format!("{}\n{}\n{user}\n{day}", tenant.as_str(), queue.as_str());
            ((USAGE, 0, 0, 0, text), usage_value(usage))
        }
        Row::OldJob(old) => (
            key(OLD_JOB, old.job_id, 0, 0),
            json!({ "job_id": signed(old.job_id), "job": bytes(&old.job), "spec": bytes(&old.spec) }),
        ),
        Row::OldTasks { job_id, first, last, rank, task } => (
            key(OLD_TASK, *job_id, u64::from(*first), u64::from(*rank)),
            json!({ "job_id": signed(*job_id), "first": first, "rank": rank, "last": last, "task": bytes(task) }),
        ),
    }
}

fn job_value(job: &JobRow) -> Value {
    let [completed, failed, cancelled, timeout, out_of_memory, node_fail] = job.ended.map(signed);
    json!({
        "job_id": signed(job.job_id), "tenant": plain(job.tenant.as_str()), "queue": plain(job.queue.as_str()),
        "user": plain(&job.user), "name": plain(job.name.as_str()), "priority": job.priority, "state": job.state,
        "elements": signed(job.elements), "waiting": signed(job.waiting), "active": signed(job.active),
        "completed": completed, "failed": failed, "cancelled": cancelled, "timeout": timeout,
        "out_of_memory": out_of_memory, "node_fail": node_fail, "retries": signed(job.retries),
        "exit_code": job.exit_code, "device": job.device, "submitted_wall_ms": signed(job.submitted_wall_ms),
        "started_wall_ms": job.started_wall_ms.map(signed), "ended_wall_ms": job.ended_wall_ms.map(signed),
        "forgotten_wall_ms": job.forgotten_wall_ms.map(signed),
    })
}

fn attempt_value(row: &AttemptRow) -> Value {
    json!({
        "job_id": signed(row.job_id), "element": row.element, "attempt": row.attempt, "state": row.state,
        "outcome": row.outcome, "node": row.node.as_ref().map(|node| plain(node.as_str())), "nodes": row.nodes,
        "gpus": row.gpus, "pid": row.pid, "exit_code": row.exit_code, "signal": row.signal,
        "detail": plain(&row.detail), "leased_wall_ms": signed(row.leased_wall_ms),
        "started_wall_ms": row.started_wall_ms.map(signed), "ended_wall_ms": row.ended_wall_ms.map(signed),
    })
}

fn node_value(node: &NodeRow) -> Value {
    json!({
        "node_id": node.node_id, "name": plain(node.name.as_str()), "mode": node.mode, "reason": plain(&node.reason),
        "silent_wall_ms": node.silent_wall_ms.map(signed), "milli_cpus": signed(node.milli_cpus),
        "milli_cpus_free": signed(node.milli_cpus_free), "memory_bytes": signed(node.memory_bytes),
        "memory_bytes_free": signed(node.memory_bytes_free), "gpus": node.gpus, "gpus_free": node.gpus_free,
        "leases": node.leases, "agent_version": plain(&node.agent_version),
    })
}

fn usage_value(usage: &UsageRow) -> Value {
    json!({
        "tenant": plain(usage.tenant.as_str()), "queue": plain(usage.queue.as_str()), "user": plain(&usage.user),
        "day": &*usage.day, "cpu_ms": signed(usage.cpu_ms), "gpu_ms": signed(usage.gpu_ms),
        "attempts_ok": signed(usage.attempts_ok), "attempts_lost": signed(usage.attempts_lost),
    })
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

/// Returns the arguments of the function `append`, and the statements that take them.
pub(crate) fn taken() -> (String, String) {
    let (mut arguments, mut body) = (String::new(), String::new());
    for (number, Argument { table, keys, replaced, added, gone }) in ARGUMENTS.iter().enumerate() {
        let name = format!("rows_{number}");
        let rows = format!("json_populate_recordset(NULL::gangsaw.{table}, {name}::json)");
        arguments.push_str(&format!(", {name} TEXT"));
        let taken = if *gone {
            let same: Vec<String> = keys.iter().map(|key| format!("held.{key} = gone.{key}")).collect();
            format!("DELETE FROM gangsaw.{table} AS held USING {rows} AS gone WHERE {}", same.join(" AND "))
        } else {
            let replaced = replaced.iter().map(|column| format!("{column} = excluded.{column}"));
            let added = added.iter().map(|column| format!("{column} = held.{column} + excluded.{column}"));
            let set: Vec<String> = replaced.chain(added).collect();
            let (keys, set) = (keys.join(", "), set.join(", "));
            format!("INSERT INTO gangsaw.{table} AS held SELECT * FROM {rows} ON CONFLICT ({keys}) DO UPDATE SET {set}")
        };
        body.push_str(&format!("IF {name} IS NOT NULL THEN {taken}; END IF;\n"));
    }
    (arguments, body)
}

/// Returns the statement that calls `append`.
pub(crate) fn append() -> String {
    let values: Vec<String> = (1..=5 + ARGUMENTS.len()).map(|number| format!("${number}")).collect();
    format!("SELECT append({})", values.join(", "))
}
