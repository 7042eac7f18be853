//! Old jobs, looked up in PostgreSQL between two batches.

use tokio_postgres::types::ToSql;

use super::super::contract::{Cause, History};
use super::super::history::{Filter, OldJob, OldTasks};
use super::link::{LinkError, within};
use super::{ANSWER_WAIT, PostgresStore};

impl PostgresStore {
    fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<tokio_postgres::Row>, Cause> {
        let link = self.link.as_ref().ok_or("PostgreSQL is not connected")?;
        let asked = async { Ok::<_, LinkError>(link.client.query(sql, values).await?) };
        Ok(self.target.driver().block_on(within(ANSWER_WAIT, asked))?)
    }
}

impl History for PostgresStore {
    fn jobs(&self, filter: &Filter, limit: usize) -> Result<Vec<OldJob>, Cause> {
        let sql = "SELECT job_id, old_job.job, spec FROM old_job JOIN job USING (job_id)
                   WHERE job_id < $1 AND submitted_wall_ms >= $2 AND ($3 = '' OR queue = $3)
                     AND ($4 = '' OR \"user\" = $4) AND ($5 = '' OR name = $5) AND ($6::text IS NULL OR tenant = $6)
                     AND (cardinality($7::text[]) = 0 OR state = ANY($7::text[]))
                   ORDER BY job_id DESC LIMIT $8";
        let below = filter.below.map_or(i64::MAX, u64::cast_signed);
        let (since, limit) = (filter.since_wall_ms.cast_signed(), i64::try_from(limit).unwrap_or(i64::MAX));
        let (queue, user, name, tenant) = (&filter.queue, &filter.user, &filter.name, &filter.tenant);
        let states = filter.state_names();
        let rows = self.query(sql, &[&below, &since, queue, user, name, tenant, &states, &limit])?;
        let old = |row: &tokio_postgres::Row| OldJob {
            job_id: row.get::<_, i64>(0).cast_unsigned(),
            job: row.get(1),
            spec: row.get(2),
        };
        Ok(rows.iter().map(old).collect())
    }

    fn job(&self, job_id: u64) -> Result<Option<OldJob>, Cause> {
        let rows = self.query("SELECT job, spec FROM old_job WHERE job_id = $1", &[&job_id.cast_signed()])?;
        Ok(rows.first().map(|row| OldJob { job_id, job: row.get(0), spec: row.get(1) }))
    }

    fn tasks(&self, job_id: u64, (element, rank): (u32, u32), limit: usize) -> Result<Vec<OldTasks>, Cause> {
        let sql = "SELECT first, last, task FROM old_task
                   WHERE job_id = $1 AND (last > $2 OR (last = $2 AND rank >= $3)) ORDER BY first, rank LIMIT $4";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.query(sql, &[&job_id.cast_signed(), &i64::from(element), &i64::from(rank), &limit])?;
        let index = |row: &tokio_postgres::Row, at: usize| u32::try_from(row.get::<_, i64>(at)).unwrap_or(u32::MAX);
        Ok(rows.iter().map(|row| OldTasks { first: index(row, 0), last: index(row, 1), task: row.get(2) }).collect())
    }
}
