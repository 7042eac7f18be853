//! Which of several servers is asked: the one that takes writes, and of two that do the one on the newer timeline.
//!
//! After a fail-over of the database the primary of before may come back as it was, and take writes that nobody will
//! ever see. PostgreSQL numbers the lines its history takes, and a promoted standby begins the next one: whoever has
//! seen that number, or sees both servers, knows which one is over.
//!
//! Not protected here: a scheduler that knows nothing and reaches only the old primary. There a synchronous standby
//! helps, for without it the old primary commits nothing, and else whoever promotes must fence (ADR 13).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use prometheus_client::metrics::gauge::Gauge;
use tokio_postgres::Client;

use super::link::LinkError;

/// How long the other servers are waited for when one answered: two primaries are rare, and a fail-over waits for this.
const OTHERS_WAIT: Duration = Duration::from_millis(250);

/// A line of a database's history.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    system: String,
    timeline: u32,
}

/// What this process knows of its database, over every connection and every turn of leading.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    newest: Arc<Mutex<Option<Line>>>,
    /// Standbys of the database that hold every commit before it is answered, as the leader saw last.
    pub(crate) standbys: Gauge,
}

impl Known {
    /// Knows nothing yet, and counts standbys in `standbys`.
    pub(crate) fn nothing(standbys: Gauge) -> Known {
        Known { newest: Arc::default(), standbys }
    }

    /// Notes the line that a server is on. `Err`: it is an older one than was seen.
    fn note(&self, line: Option<Line>) -> Result<(), LinkError> {
        // Some services that speak PostgreSQL do not say.
        let Some(line) = line else { return Ok(()) };
        // Nothing that holds it can be left half done.
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        match &*newest {
            Some(seen) if seen.system == line.system && seen.timeline > line.timeline => {
                return Err(LinkError::Older { seen: seen.timeline, found: line.timeline });
            }
            Some(seen) if *seen == line => return Ok(()),
            Some(seen) => tracing::warn!(before = ?seen, now = ?line, "the database was taken over by another server"),
            None => {}
        }
        *newest = Some(line);
        Ok(())
    }

    /// Returns the connection to use of those that are being made. The others are dropped.
    pub(crate) async fn choose(
        &self,
        mut connecting: FuturesUnordered<impl Future<Output = Result<Client, LinkError>>>,
    ) -> Result<Client, LinkError> {
        let mut best: Option<(Client, Option<Line>)> = None;
        let mut failed = LinkError::Silent;
        let others = tokio::time::sleep(OTHERS_WAIT);
        let mut others = std::pin::pin!(others);
        loop {
            let connected = tokio::select! {
                connected = connecting.next() => connected,
                () = &mut others, if best.is_some() => None,
            };
            match connected {
                Some(Ok(client)) => {
                    let line = line(&client).await?;
                    let timeline = |line: &Option<Line>| line.as_ref().map_or(0, |line| line.timeline);
                    if best.as_ref().is_none_or(|(_, other)| timeline(other) < timeline(&line)) {
                        best = Some((client, line));
                    }
                }
                Some(Err(error)) => failed = error,
                None => break,
            }
        }
        let (client, line) = best.ok_or(failed)?;
        self.note(line)?;
        Ok(client)
    }
}

/// Asks which line a server is on.
async fn line(client: &Client) -> Result<Option<Line>, LinkError> {
    let sql = "SELECT system_identifier::text, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)
               FROM pg_control_system()";
    match client.query_one(sql, &[]).await {
        Ok(row) => {
            let timeline = u32::from_str_radix(row.get(1), 16).unwrap_or(0);
            Ok(Some(Line { system: row.get(0), timeline }))
        }
        Err(error) if error.code().is_some() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// How the server that was chosen is backed up by others: who waits for whom.
const STANDBYS: &str = "
SELECT count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')), current_setting('synchronous_standby_names') <> '',
       bool_or(sync_state IS NULL)
FROM pg_stat_replication";

/// Looks how many standbys hold every commit, and says so when it changed since `said`.
pub(crate) async fn look_for_standbys(
    client: &Client,
    known: &Known,
    said: &mut Option<i64>,
) -> Result<(), tokio_postgres::Error> {
    let row = client.query_one(STANDBYS, &[]).await?;
    let (standbys, wanted, hidden): (i64, bool, Option<bool>) = (row.get(0), row.get(1), row.get(2));
    known.standbys.set(standbys);
    if said.replace(standbys) == Some(standbys) {
        return Ok(());
    }
    match (standbys, wanted, hidden == Some(true)) {
        (0, true, true) => tracing::info!("which standbys PostgreSQL waits for is hidden from this user"),
        (0, true, false) => tracing::warn!("PostgreSQL waits for a synchronous standby, and none is there"),
        (0, false, _) => tracing::warn!(
            "PostgreSQL has no synchronous standby: if its disk is lost, so is what was acknowledged last"
        ),
        (standbys, ..) => tracing::info!(standbys, "every commit is held by a synchronous standby"),
    }
    Ok(())
}
