//! `gangsaw ps`: the jobs, newest first.

use gangsaw_proto::jobs::v1::{Job, ListJobsRequest, State};
use serde_json::{Value, json};

use crate::fail::{Failure, bad_input};
use crate::hint_of;
use crate::output::{list, note, table};
use crate::session::Session;
use crate::spec::units;
use crate::words;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Also jobs that have ended
    #[arg(long, short = 'a')]
    all: bool,
    /// Only jobs in these states, such as RUNNING,PENDING
    #[arg(long, value_name = "STATES", value_delimiter = ',')]
    state: Vec<String>,
    /// Only jobs of this queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Only jobs of this user
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Only jobs of this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only jobs submitted in the last, such as 2h, or after a time such as 2026-11-23T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// Jobs asked for at once.
const PAGE: usize = 1000;

/// Runs the verb.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<u8, Failure> {
    let states = args.state.iter().map(|name| state(name)).collect::<Result<Vec<_>, _>>()?;
    let since = args.since.as_deref().map(since).transpose()?;
    let limit = args.limit.unwrap_or(usize::MAX);
    let mut client = session.connect().await?;
    let mut jobs: Vec<Job> = Vec::new();
    let mut page = String::new();
    loop {
        let request = ListJobsRequest {
            all: args.all || states.iter().any(|state| words::is_terminal(*state)),
            states: states.iter().map(|state| (*state).into()).collect(),
            queue: args.queue.clone().unwrap_or_default(),
            user: args.user.clone().unwrap_or_default(),
            name: args.name.clone().unwrap_or_default(),
            since,
            page_size: (limit - jobs.len()).min(PAGE) as u32,
            page,
        };
        if request.page_size == 0 {
            break;
        }
        let answer = client.jobs.list_jobs(request).await.map_err(|status| client.refused(&status))?.into_inner();
        jobs.extend(answer.jobs);
        page = answer.next_page;
        if page.is_empty() {
            break;
        }
    }
    jobs.truncate(limit);
    let values = jobs.iter().map(job).collect();
    list(session.format, "jobs", values, || rows(&jobs))?;
    if jobs.is_empty() && session.format.is_table() {
        note(if args.all { "no jobs" } else { "no jobs that have not ended; `--all` shows every job" });
    }
    Ok(0)
}

/// A state by its name.
fn state(name: &str) -> Result<State, Failure> {
    let found = words::STATES.into_iter().find(|state| words::state(*state).eq_ignore_ascii_case(name.trim()));
    found.ok_or_else(|| {
        let hint = hint_of(name, words::STATES.map(words::state));
        bad_input("bad-state", format!("no state is named `{name}`"), hint)
    })
}

/// A time, or how long ago.
pub(crate) fn since(text: &str) -> Result<prost_types::Timestamp, Failure> {
    let at = match text.parse::<jiff::Timestamp>() {
        Ok(at) => at,
        Err(_) => {
            let ago = units::duration(text).map_err(|_| {
                let hint = "write `2h` for the last two hours, or a time such as 2026-11-23T12:00:00Z";
                bad_input("bad-time", format!("`{text}` is not a time"), hint)
            })?;
            let ago = jiff::SignedDuration::try_from(ago).unwrap_or(jiff::SignedDuration::MAX);
            jiff::Timestamp::now().checked_sub(ago).unwrap_or(jiff::Timestamp::MIN)
        }
    };
    Ok(prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() })
}

/// A job as programs read it.
pub(crate) fn job(job: &Job) -> Value {
    let reasons: Vec<_> =
        job.reasons.iter().map(|reason| json!({ "reason": reason.reason, "message": reason.message })).collect();
    json!({
        "job_id": job.job_id,
        "name": job.name,
        "state": words::state(job.state()),
        "queue": job.queue,
        "tenant": job.tenant,
        "user": job.user,
        "priority": job.priority,
        "command": job.command,
        "device": words::text_or_null(&job.device),
        "device_reason": words::device_reason(job.device_reason.as_ref()),
        "element_count": job.element_count,
        "element_counts": words::counts(&job.element_counts),
        "replicas": job.replicas,
        "retries": job.retries,
        "exit_code": job.exit_code,
        "reasons": reasons,
        "labels": words::sorted(&job.labels),
        "submitted_at": words::time(job.submitted_at),
        "started_at": words::time(job.started_at),
        "ended_at": words::time(job.ended_at),
    })
}

/// A table of jobs.
fn rows(jobs: &[Job]) -> comfy_table::Table {
    let mut columns = vec!["JOB", "NAME", "STATE", "QUEUE", "USER", "DEVICE", "ELEMENTS", "TIME", "WHY"];
    // What tells the jobs of a sweep apart; nothing to see otherwise.
    let labelled = jobs.iter().any(|job| !job.labels.is_empty());
    if labelled {
        columns.insert(2, "LABELS");
    }
    let mut table = table(&columns);
    for job in jobs {
        let until = job.ended_at.unwrap_or_else(words::now);
        let ran = words::between(job.started_at, Some(until)).map(units::short_duration).unwrap_or_default();
        let why = job.reasons.first().map(|reason| reason.message.clone()).unwrap_or_default();
        let mut row = vec![
            job.job_id.to_string(),
            job.name.clone(),
            words::state(job.state()).to_owned(),
            job.queue.clone(),
            job.user.clone(),
            job.device.clone(),
            elements(job),
            ran,
            why,
        ];
        if labelled {
            row.insert(2, words::labels(&job.labels));
        }
        table.add_row(row);
    }
    table
}

/// `done/all` for arrays, nothing for a job of one element.
fn elements(job: &Job) -> String {
    if job.element_count <= 1 {
        return String::new();
    }
    let done: u64 =
        job.element_counts.iter().filter(|count| words::is_terminal(count.state())).map(|count| count.count).sum();
    format!("{done}/{}", job.element_count)
}
