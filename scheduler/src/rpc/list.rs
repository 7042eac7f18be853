//! Looking at jobs: the state first, and what left it from its rows.

use gangsaw_core::access::Reach;
use gangsaw_core::id::JobId;
use gangsaw_core::job::body::Job;
use gangsaw_core::ranges::RangeSet;
use gangsaw_core::time::Time;
use gangsaw_proto::jobs::v1 as wire;
use prost::Message;
use tonic::Code;

use super::ask::{self, invalid};
use super::caller::Person;
use super::errors::Refusal;
use crate::engine::{Engine, View};
use crate::store::history::Filter;
use crate::wire::terms::{self, is_ended};
use crate::wire::view;

/// Tasks of one page if the caller does not say.
const TASKS_DEFAULT: usize = 1_000;
/// Jobs of one page if the caller does not say.
const JOBS_DEFAULT: usize = 100;
/// Jobs one page looks at before it ends early: filters that match little must not hold the engine up.
const SCANNED_MAX: usize = 20_000;

fn unreadable(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::Internal, "history-unreadable", format!("old jobs cannot be read: {error}"), "")
}

/// Returns one job with a page of its tasks.
pub(crate) async fn get(
    engine: &Engine,
    person: Person,
    request: wire::GetJobRequest,
) -> Result<wire::GetJobResponse, Refusal> {
    let (job, elements) = ask::selector(request.job)?;
    let from = ask::task_page(&request.page)?;
    let limit = ask::page_size(request.page_size, TASKS_DEFAULT);
    engine.read(move |view| get_from(view, &person, job, elements.as_ref(), (from, limit))).await?
}

fn get_from(
    view: &View<'_>,
    person: &Person,
    job: JobId,
    elements: Option<&RangeSet>,
    page: ((u32, u32), usize),
) -> Result<wire::GetJobResponse, Refusal> {
    let Some(held) = view.state.job(job) else { return get_old(view, person, job, elements, page) };
    if !person.sees(held.body.tenant.as_str()) {
        return Err(ask::unknown_job(job.0));
    }
    let (tasks, next) = view::tasks(view.state, job, elements, page, view.progress(job), view.now);
    let phases = view.phases(job).unwrap_or_else(|| logged_phases(view, held));
    Ok(wire::GetJobResponse {
        job: view.job(job),
        spec: Some(view::shown_spec(held)),
        tasks,
        next_page: ask::task_token(next),
        phases: Some(phases),
    })
}

/// Returns a job's phases as the log has them: in milliseconds, where nothing finer was measured by this process.
fn logged_phases(view: &View<'_>, job: &Job) -> wire::Phases {
    let Some(first) = job.body.spec.elements().first() else { return wire::Phases::default() };
    let page = view.state.tasks(job.body.id, Some(&RangeSet::range(first, first)), (first, 0), 1);
    let Some(task) = page.tasks.first() else { return wire::Phases::default() };
    let us = |from: Option<Time>, to: Option<Time>| from.zip(to).map_or(0, |(from, to)| to.since(from).0 * 1_000);
    wire::Phases {
        durable_us: 0,
        placed_us: us(Some(job.body.submitted_at), task.leased_at),
        spawned_us: task.spawn_us.unwrap_or(0),
        ran_us: task.ran_us.unwrap_or(0),
        recorded_us: 0,
    }
}

/// Returns a job that left the state, and its spec, if this person sees it.
pub(crate) fn old_job(view: &View<'_>, person: &Person, job: JobId) -> Result<(wire::Job, Vec<u8>), Refusal> {
    let old = view.history.job(job.0).map_err(unreadable)?.ok_or_else(|| ask::unknown_job(job.0))?;
    let shown = wire::Job::decode(old.job.as_slice()).map_err(unreadable)?;
    if person.sees(&shown.tenant) { Ok((shown, old.spec)) } else { Err(ask::unknown_job(job.0)) }
}

fn get_old(
    view: &View<'_>,
    person: &Person,
    job: JobId,
    elements: Option<&RangeSet>,
    (from, limit): ((u32, u32), usize),
) -> Result<wire::GetJobResponse, Refusal> {
    let (shown, spec) = old_job(view, person, job)?;
    let mut tasks = Vec::new();
    let mut next = None;
    let wanted = |index: u32| elements.is_none_or(|set| set.contains(index));
    // One run more than asked tells whether there is a next page.
    'runs: for run in view.history.tasks(job.0, from, limit + 1).map_err(unreadable)? {
        let task = wire::Task::decode(run.task.as_slice()).map_err(unreadable)?;
        for index in (run.first.max(from.0)..=run.last).filter(|index| wanted(*index)) {
            if tasks.len() == limit {
                next = Some((index, task.rank));
                break 'runs;
            }
            tasks.push(wire::Task { index, ..task.clone() });
        }
    }
    Ok(wire::GetJobResponse {
        job: Some(shown),
        spec: Some(wire::JobSpec::decode(spec.as_slice()).map_err(unreadable)?),
        tasks,
        next_page: ask::task_token(next),
        phases: None,
    })
}

/// What a page of jobs must match.
struct Wanted {
    ended: bool,
    filter: Filter,
    limit: usize,
}

/// Returns a page of jobs, newest first.
pub(crate) async fn list(
    engine: &Engine,
    person: Person,
    request: wire::ListJobsRequest,
) -> Result<wire::ListJobsResponse, Refusal> {
    let below = match request.page.as_str() {
        "" => None,
        page => Some(page.parse().map_err(|_| invalid("bad-page", "the page is none that a call before returned"))?),
    };
    let since_wall_ms = request.since.map_or(0, |since| {
        let ms = since.seconds.saturating_mul(1_000).saturating_add(i64::from(since.nanos) / 1_000_000);
        u64::try_from(ms).unwrap_or(0)
    });
    let wanted = Wanted {
        ended: request.all || !request.states.is_empty(),
        limit: ask::page_size(request.page_size, JOBS_DEFAULT),
        filter: Filter {
            below,
            states: request.states,
            queue: request.queue,
            user: request.user,
            name: request.name,
            since_wall_ms,
            tenant: (person.reach < Reach::Cluster).then(|| person.tenant.to_string()),
        },
    };
    engine.read(move |view| page(view, &wanted)).await?
}

fn page(view: &View<'_>, wanted: &Wanted) -> Result<wire::ListJobsResponse, Refusal> {
    let mut jobs: Vec<wire::Job> = Vec::new();
    let mut reached = None;
    let below = wanted.filter.below.unwrap_or(u64::MAX);
    let candidates = view.state.jobs().rev().filter(|job| job.body.id.0 < below);
    for (scanned, job) in candidates.enumerate() {
        if jobs.len() == wanted.limit || scanned == SCANNED_MAX {
            break;
        }
        reached = Some(job.body.id.0);
        if matches(view, job, wanted) {
            jobs.push(view::job(view.state, job, view.now));
        }
    }
    // Old jobs lie between: both lists are sorted, and only what is above where the scan ended is known to be whole.
    let stopped = jobs.len() == wanted.limit
        || view.state.jobs().next().is_some_and(|oldest| reached.is_some_and(|at| at > oldest.body.id.0));
    if wanted.ended {
        let floor = if stopped { reached.unwrap_or(0) } else { 0 };
        for old in view.history.jobs(&wanted.filter, wanted.limit).map_err(unreadable)? {
            if old.job_id > floor {
                jobs.push(wire::Job::decode(old.job.as_slice()).map_err(unreadable)?);
            }
        }
        jobs.sort_by_key(|job| std::cmp::Reverse(job.job_id));
    }
    let full = jobs.len() >= wanted.limit;
    jobs.truncate(wanted.limit);
    let next = if full { jobs.last().map(|job| job.job_id) } else { reached.filter(|_| stopped) };
    Ok(wire::ListJobsResponse { jobs, next_page: next.map(|id| id.to_string()).unwrap_or_default() })
}

fn matches(view: &View<'_>, job: &Job, wanted: &Wanted) -> bool {
    let (body, filter) = (&job.body, &wanted.filter);
    let named = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
    if !named(&filter.queue, body.queue.as_str())
        || !named(&filter.user, &body.user)
        || !named(&filter.name, body.spec.name.as_str())
        || filter.tenant.as_deref().is_some_and(|tenant| tenant != body.tenant.as_str())
    {
        return false;
    }
    let submitted = view.now.wall_ms.saturating_sub(view.now.time.since(body.submitted_at).0);
    if submitted < filter.since_wall_ms {
        return false;
    }
    let Some(state) = view.state.job_state(body.id) else { return false };
    let state_wanted = filter.states.is_empty() || filter.states.contains(&terms::state(state).into());
    state_wanted && (wanted.ended || !is_ended(state))
}
