//! How long several schedulers on one PostgreSQL take to go on when the one that leads does not.
//!
//! Clients submit all along, each with a key that it keeps until it is answered, to whichever scheduler takes it. A
//! round breaks the leader and counts to the first acknowledgement of another. What the broken one is asked meanwhile,
//! under keys that nobody else hears of, it must never acknowledge and never write.
//!
//! At the end every acknowledged job is there exactly once, and the epochs in the log only rise.

mod clients;
mod members;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::floor::quantile;
use crate::postgres::Postgres;
use clients::{Clients, Late, late};
use members::Members;

/// How long a round may take before it is a failure.
const PATIENCE: Duration = Duration::from_secs(40);
/// Calls that the broken leader is asked and must not take.
const LATE_CALLS: usize = 8;

/// What happens to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Killed,
    Stopped,
    CutOff,
    Planned,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Killed, Kind::Stopped, Kind::CutOff, Kind::Planned];

    fn name(self) -> &'static str {
        match self {
            Kind::Killed => "kill -9",
            Kind::Stopped => "hung (SIGSTOP)",
            Kind::CutOff => "cut off from the database",
            Kind::Planned => "planned hand-over (SIGTERM)",
        }
    }
}

/// What came of the rounds of one kind.
struct Took {
    kind: Kind,
    times: Vec<Duration>,
    /// What the broken leaders were asked and did not take.
    late: usize,
}

/// Breaks leaders, `rounds` times in each way.
pub(crate) async fn run(gangsaw: &Path, rounds: usize, count: usize) -> anyhow::Result<()> {
    ensure!(count >= 2, "one scheduler cannot fail over");
    let postgres = Postgres::start()?;
    let mut members = Members::start(gangsaw, &postgres, count).await?;
    let clients = Clients::start(members.doors()?);
    let leader = clients.next_leader(None, Instant::now()).await?.0;
    println!("{count} schedulers, {} lead first; fsync = {}", members.name(leader), postgres.sql("SHOW fsync")?);
    println!("leader                          rounds      p50      max   refused meanwhile");
    let mut never = Vec::new();
    for kind in Kind::ALL {
        let mut took = Took { kind, times: Vec::new(), late: 0 };
        for _ in 0..rounds {
            round(&mut members, &clients, &mut took, &mut never).await?;
        }
        let (p50, max) = (quantile(&mut took.times, 0.5), quantile(&mut took.times, 1.0));
        let (p50, max) = (p50.as_secs_f64(), max.as_secs_f64());
        println!("{:<30}  {rounds:>6}  {p50:>6.3}s  {max:>6.3}s  {:>6}", took.kind.name(), took.late);
    }
    let acknowledged = clients.stop().await?;
    check(&members, &postgres, &acknowledged, &never).await
}

/// Breaks the leader once and waits for the next one; the broken one is whole again at the end.
async fn round(
    members: &mut Members,
    clients: &Clients,
    took: &mut Took,
    never: &mut Vec<String>,
) -> anyhow::Result<()> {
    let (leader, _) = clients.next_leader(None, Instant::now()).await?;
    let door = members.door(leader)?;
    let mut calls = Vec::new();
    // A connection of before, which a stopped process still has.
    let client = door.connect().await?;
    let begun = Instant::now();
    members.break_it(leader, took.kind)?;
    if took.kind == Kind::Stopped {
        members.until_it_stands_still(leader).await?;
    }
    if matches!(took.kind, Kind::Stopped | Kind::CutOff) {
        for _ in 0..LATE_CALLS {
            calls.push(late(client.clone()));
        }
    }
    let (next, when) = clients.next_leader(Some(leader), begun).await?;
    took.times.push(when.duration_since(begun));
    if took.kind == Kind::CutOff {
        // It knows by its own clock, and says so to those who still reach it.
        members.until_it_stands_by(leader).await?;
        answered(&mut calls, took, never).await?;
    }
    members.mend(leader, took.kind).await?;
    clients.moved(leader, members.door(leader)?);
    answered(&mut calls, took, never).await?;
    // The one that is whole again stands by: whatever it acknowledged since is under the next one's lead.
    let taken = clients.acknowledged_by(leader, when);
    ensure!(taken == 0, "{} acknowledged {taken} after {} took over", members.name(leader), members.name(next));
    members.until_it_stands_by(leader).await
}

/// Waits for what the broken leader was asked: every call is refused.
async fn answered(calls: &mut Vec<Late>, took: &mut Took, never: &mut Vec<String>) -> anyhow::Result<()> {
    for call in calls.drain(..) {
        let (key, refused) = tokio::time::timeout(PATIENCE, call).await??;
        ensure!(refused.is_some(), "the leader that was {} acknowledged {key}", took.kind.name());
        never.push(key);
        took.late += 1;
    }
    Ok(())
}

/// Looks for what was lost, doubled, or written by one that did not lead.
async fn check(
    members: &Members,
    postgres: &Postgres,
    acknowledged: &[(String, u64)],
    never: &[String],
) -> anyhow::Result<()> {
    let fallen = "SELECT count(*) FROM (SELECT epoch < lag(epoch) OVER (ORDER BY first_seq) AS fell
                  FROM gangsaw.batch) AS epochs WHERE fell";
    ensure!(postgres.sql(fallen)? == "0", "an older epoch wrote after a newer one");
    let gaps = "SELECT count(*) FROM (SELECT first_seq <> 1 + lag(last_seq) OVER (ORDER BY first_seq) AS gap
                FROM gangsaw.batch) AS batches WHERE gap";
    ensure!(postgres.sql(gaps)? == "0", "the log has a gap");
    let jobs: usize = postgres.sql("SELECT count(*) FROM gangsaw.job")?.parse()?;
    ensure!(jobs == acknowledged.len(), "{} were acknowledged, and {jobs} are there", acknowledged.len());
    let asked: Vec<(String, Option<u64>)> = acknowledged
        .iter()
        .map(|(key, job)| (key.clone(), Some(*job)))
        .chain(never.iter().map(|key| (key.clone(), None)))
        .collect();
    clients::check(members.leader().await?, asked).await?;
    println!("{jobs} jobs acknowledged, each is there once; {} refused, none of them is there", never.len());
    println!("epoch {}, no gap, no older epoch after a newer one", postgres.sql("SELECT epoch FROM gangsaw.leader")?);
    Ok(())
}
