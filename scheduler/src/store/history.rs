//! Jobs that left the state, as their rows have them.
//!
//! A job's rows are written in the transaction that forgets it, from the state that still has it. Whoever looks for
//! an old job reads them; the log and its archives keep the whole story.

use gangsaw_proto::jobs::v1::State;
use rusqlite::{Connection, params};

use super::contract::{Cause, History};

/// An old job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OldJob {
    pub(crate) job_id: u64,
    /// A `gangsaw.jobs.v1.Job`.
    pub(crate) job: Vec<u8>,
    /// A `gangsaw.jobs.v1.JobSpec`.
    pub(crate) spec: Vec<u8>,
}

/// Which old jobs are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Only below this id.
    pub(crate) below: Option<u64>,
    /// Numbers of states; empty: every state.
    pub(crate) states: Vec<i32>,
    /// Empty: every queue. The same for the next two.
    pub(crate) queue: String,
    pub(crate) user: String,
    pub(crate) name: String,
    /// Submitted at or after this wall time.
    pub(crate) since_wall_ms: u64,
    /// Only of this tenant.
    pub(crate) tenant: Option<String>,
}

impl Filter {
    /// Returns the names of the wanted states; none: every state is wanted.
    pub(crate) fn state_names(&self) -> Vec<&'static str> {
        let name = |number: &i32| State::try_from(*number).ok()?.as_str_name().strip_prefix("STATE_");
        // A number that is no state matches none, and must not turn the filter into none.
        self.states.iter().map(|number| name(number).unwrap_or("")).collect()
    }

    /// Says whether jobs in the state of this name are wanted.
    pub(crate) fn wants(&self, state: &str) -> bool {
        self.states.is_empty() || self.state_names().contains(&state)
    }
}

impl History for Connection {
    fn jobs(&self, filter: &Filter, limit: usize) -> Result<Vec<OldJob>, Cause> {
        Ok(jobs(self, filter, limit)?)
    }

    fn job(&self, job_id: u64) -> Result<Option<OldJob>, Cause> {
        Ok(job(self, job_id)?)
    }

    fn tasks(&self, job_id: u64, from: (u32, u32), limit: usize) -> Result<Vec<OldTasks>, Cause> {
        Ok(tasks(self, job_id, from, limit)?)
    }
}

fn jobs(connection: &Connection, filter: &Filter, limit: usize) -> rusqlite::Result<Vec<OldJob>> {
    let sql = "SELECT job_id, old_job.job, spec, state FROM old_job JOIN job USING (job_id)
               WHERE job_id < ?1 AND submitted_wall_ms >= ?2
                 AND (?3 = '' OR queue = ?3) AND (?4 = '' OR user = ?4) AND (?5 = '' OR name = ?5)
                 AND (?6 IS NULL OR tenant = ?6)
               ORDER BY job_id DESC";
    let below = filter.below.map_or(i64::MAX, u64::cast_signed);
    let since = filter.since_wall_ms.cast_signed();
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![below, since, filter.queue, filter.user, filter.name, filter.tenant])?;
    let mut found = Vec::new();
    while found.len() < limit {
        let Some(row) = rows.next()? else { break };
        if filter.wants(row.get_ref(3)?.as_str()?) {
            found.push(OldJob { job_id: row.get::<_, i64>(0)?.cast_unsigned(), job: row.get(1)?, spec: row.get(2)? });
        }
    }
    Ok(found)
}

fn job(connection: &Connection, job_id: u64) -> rusqlite::Result<Option<OldJob>> {
    let mut statement = connection.prepare_cached("SELECT job, spec FROM old_job WHERE job_id = ?1")?;
    let mut rows = statement.query([job_id.cast_signed()])?;
    rows.next()?.map(|row| Ok(OldJob { job_id, job: row.get(0)?, spec: row.get(1)? })).transpose()
}

/// A run of an old job's tasks that look alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OldTasks {
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// A `gangsaw.jobs.v1.Task`; its index is the first.
    pub(crate) task: Vec<u8>,
}

fn tasks(
    connection: &Connection,
    job_id: u64,
    (element, rank): (u32, u32),
    limit: usize,
) -> rusqlite::Result<Vec<OldTasks>> {
    let sql = "SELECT first, last, task FROM old_task
               WHERE job_id = ?1 AND (last > ?2 OR (last = ?2 AND rank >= ?3)) ORDER BY first, rank LIMIT ?4";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![job_id.cast_signed(), element, rank, limit], |row| {
        Ok(OldTasks { first: row.get(0)?, last: row.get(1)?, task: row.get(2)? })
    })?;
    rows.collect()
}
