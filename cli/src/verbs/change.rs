//! `gangsaw cancel`, `hold`, `release`, `retry`, `update`: changes to jobs that are there.

use gangsaw_proto::jobs::v1::{CancelRequest, HoldRequest, ReleaseRequest, RetryRequest, UpdateRequest};
use serde_json::json;

use crate::client::Client;
use crate::fail::{Failure, bad_input};
use crate::output::{Format, list, object, table};
use crate::selector::Selection;
use crate::session::Session;
use crate::spec::units;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Jobs {
    /// JOB, JOB[3] or JOB[7-99:2]; several are allowed
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<Selection>,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Update {
    /// The job
    #[arg(value_name = "JOB")]
    job: Selection,
    /// From -1000 to 1000, higher first
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    priority: Option<i32>,
    /// Move to this queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Longest run of each attempt, such as 2h
    #[arg(long, value_name = "TIME")]
    time_limit: Option<String>,
}

/// What happened to one job.
struct Changed {
    job_id: u64,
    elements: Option<u64>,
}

/// Ends what has not ended yet.
pub(crate) async fn cancel(session: &Session, args: &Jobs) -> Result<u8, Failure> {
    let selects = args.jobs.iter().map(|job| job.whole_elements("cancel")).collect::<Result<Vec<_>, _>>()?;
    let mut client = session.connect().await?;
    let mut changed = Vec::new();
    for select in selects {
        let job_id = select.job_id;
        let answer = client.jobs.cancel(CancelRequest { select: Some(select) }).await;
        let elements = answer.map_err(|status| client.refused(&status))?.into_inner().elements;
        changed.push(Changed { job_id, elements: Some(elements) });
    }
    tell(session.format, "cancelled", &changed)
}

/// Puts ended elements back to PENDING.
pub(crate) async fn retry(session: &Session, args: &Jobs) -> Result<u8, Failure> {
    let selects = args.jobs.iter().map(|job| job.whole_elements("retry")).collect::<Result<Vec<_>, _>>()?;
    let mut client = session.connect().await?;
    let mut changed = Vec::new();
    for select in selects {
        let job_id = select.job_id;
        let answer = client.jobs.retry(RetryRequest { select: Some(select) }).await;
        let elements = answer.map_err(|status| client.refused(&status))?.into_inner().elements;
        changed.push(Changed { job_id, elements: Some(elements) });
    }
    tell(session.format, "retried", &changed)
}

/// Keeps pending elements from starting.
pub(crate) async fn hold(session: &Session, args: &Jobs) -> Result<u8, Failure> {
    let ids = ids(args, "hold")?;
    let mut client = session.connect().await?;
    for &job_id in &ids {
        client.jobs.hold(HoldRequest { job_id }).await.map_err(|status| client.refused(&status))?;
    }
    tell(session.format, "held", &whole(&ids))
}

/// Ends a hold.
pub(crate) async fn release(session: &Session, args: &Jobs) -> Result<u8, Failure> {
    let ids = ids(args, "release")?;
    let mut client = session.connect().await?;
    for &job_id in &ids {
        client.jobs.release(ReleaseRequest { job_id }).await.map_err(|status| client.refused(&status))?;
    }
    tell(session.format, "released", &whole(&ids))
}

/// Changes a job that has not ended.
pub(crate) async fn update(session: &Session, args: &Update) -> Result<u8, Failure> {
    let job_id = args.job.whole_job("update")?;
    if args.priority.is_none() && args.queue.is_none() && args.time_limit.is_none() {
        return Err(bad_input("no-change", "nothing to change was given", "add --priority, --queue or --time-limit"));
    }
    let time_limit = match args.time_limit.as_deref().map(units::duration).transpose() {
        Ok(limit) => limit
            .map(|limit| prost_types::Duration { seconds: limit.as_secs() as i64, nanos: limit.subsec_nanos() as i32 }),
        Err(misread) => {
            return Err(bad_input("bad-value", format!("`--time-limit`: {}", misread.message), misread.hint));
        }
    };
    let request = UpdateRequest { job_id, priority: args.priority, queue: args.queue.clone(), time_limit };
    let mut client: Client = session.connect().await?;
    client.jobs.update(request).await.map_err(|status| client.refused(&status))?;
    tell(session.format, "updated", &whole(&[job_id]))
}

/// Whole jobs only.
fn ids(args: &Jobs, verb: &str) -> Result<Vec<u64>, Failure> {
    args.jobs.iter().map(|job| job.whole_job(verb)).collect()
}

/// Jobs without a count of elements.
fn whole(ids: &[u64]) -> Vec<Changed> {
    ids.iter().map(|&job_id| Changed { job_id, elements: None }).collect()
}

/// Says what was done, and to how many elements.
fn tell(format: Format, done: &str, changed: &[Changed]) -> Result<u8, Failure> {
    let value = |changed: &Changed| json!({ "job_id": changed.job_id, "change": done, "elements": changed.elements });
    let text = || {
        let mut out = String::new();
        for one in changed {
            let elements = one.elements.map(|count| format!(": {count} element{}", if count == 1 { "" } else { "s" }));
            out.push_str(&format!("{done} job {}{}\n", one.job_id, elements.unwrap_or_default()));
        }
        out
    };
    match changed {
        [one] => object(format, value(one), text)?,
        _ if format.is_table() => crate::output::print(&text())?,
        many => list(format, "jobs", many.iter().map(value).collect(), || table(&[]))?,
    }
    Ok(0)
}
