//! Tells whoever a job names in `notify` that it has ended: one POST of one JSON object.
//!
//! What is owed is in the state; this module remembers nothing that a restart would miss. It looks at what is due when
//! the engine says that something new is owed, posts a few at a time, and feeds what came of each try back as an input.
//! A crash between the two repeats a try: the receiver tells repetitions by `notice_id`.
//!
//! Invariants:
//! - Bounded: so many posts at once, so many to one host, one try at a time for a job, ten seconds a try.
//! - It never goes where a notice must not: see `address`. Redirects are not followed, proxies are not asked.
//!
//! Elsewhere: when a notice is owed and how often it is tried is `gangsaw_core::job::notice`; `post` speaks HTTP.

mod address;
mod post;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gangsaw_core::access::Reach;
use gangsaw_core::id::{Actor, JobId, Tenant};
use gangsaw_core::input::{Input, Request};
use gangsaw_core::job::notice::Posted;
use gangsaw_core::time::Time;
use gangsaw_proto::jobs::v1 as wire;
use http::Uri;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, View};
use crate::metrics::Metrics;
use crate::rpc::ask;
use post::Poster;

/// Posts under way at once: a slow receiver must not keep the others waiting, and none of them the scheduler.
const POSTS_MAX: usize = 32;
/// Posts under way to one host.
const POSTS_PER_HOST_MAX: usize = 4;
/// Notices looked at for something to post, so that a look stays short however many wait for a host that is down.
const LOOKED_AT_MAX: usize = 2_000;
/// A look again at the latest, if nothing tells of anything.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pause before the engine is asked again to take what a try came to.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A notice that is due.
struct Due {
    job: JobId,
    ended_at: Time,
    url: String,
    host: String,
    id: String,
    body: Value,
}

/// What a look at the state found.
struct Found {
    due: Vec<Due>,
    /// When the next one becomes due.
    wait: Duration,
}

/// Tells of ends until `stop`. What is under way then is tried again by the next scheduler.
pub(crate) async fn keep(
    engine: Engine,
    metrics: Arc<Metrics>,
    mut made: watch::Receiver<u64>,
    stop: CancellationToken,
) {
    let poster = Arc::new(Poster::new());
    let mut posts: JoinSet<JobId> = JoinSet::new();
    let mut under_way: BTreeMap<JobId, String> = BTreeMap::new();
    loop {
        made.borrow_and_update();
        let known = under_way.clone();
        let Ok(found) = engine.read(move |view| look(view, &known)).await else { return };
        for due in found.due {
            under_way.insert(due.job, due.host.clone());
            posts.spawn(tell(engine.clone(), Arc::clone(&poster), Arc::clone(&metrics), due));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = made.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Some(done) = posts.join_next() => match done {
                Ok(job) => {
                    under_way.remove(&job);
                }
                // A post that panicked: its job is told of again after a restart.
                Err(error) => tracing::error!(%error, "a notice could not be sent"),
            },
            () = tokio::time::sleep(found.wait) => {}
        }
    }
}

/// Finds what is due and can be posted now.
fn look(view: &View<'_>, under_way: &BTreeMap<JobId, String>) -> Found {
    let mut found = Found { due: Vec::new(), wait: LOOK_EVERY };
    let mut hosts: BTreeMap<String, usize> = BTreeMap::new();
    for host in under_way.values() {
        *hosts.entry(host.clone()).or_default() += 1;
    }
    for (not_before, job) in view.state.notices().take(LOOKED_AT_MAX) {
        if not_before > view.now.time {
            found.wait = LOOK_EVERY.min(Duration::from_millis(not_before.since(view.now.time).0));
            break;
        }
        if under_way.len() + found.due.len() >= POSTS_MAX {
            break;
        }
        let Some(due) = due(view, job).filter(|_| !under_way.contains_key(&job)) else { continue };
        let busy = hosts.entry(due.host.clone()).or_default();
        if *busy < POSTS_PER_HOST_MAX {
            *busy += 1;
            found.due.push(due);
        }
    }
    found
}

fn due(view: &View<'_>, job: JobId) -> Option<Due> {
    let held = view.state.job(job)?;
    let (ended_at, url) = (held.body.ended_at?, held.body.spec.notify.clone()?);
    let host = url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_ascii_lowercase)).unwrap_or_default();
    let id = format!("{job}-{}", ended_at.0);
    let body = body(&id, &view.job(job)?);
    Some(Due { job, ended_at, url, host, id, body })
}

/// The object that is posted. Its fields are named as in `gangsaw show --output json`.
fn body(id: &str, job: &wire::Job) -> Value {
    let state = |state: wire::State| state.as_str_name().trim_start_matches("STATE_").to_owned();
    let counts: BTreeMap<String, u64> =
        job.element_counts.iter().map(|count| (state(count.state()), count.count)).collect();
    let time = |at: Option<prost_types::Timestamp>| at.map(|at| at.to_string());
    let labels: BTreeMap<&String, &String> = job.labels.iter().collect();
    json!({
        "schema_version": 1,
        "event": "job-ended",
        "notice_id": id,
        "job_id": job.job_id,
        "name": job.name,
        "state": state(job.state()),
        "exit_code": job.exit_code,
        "queue": job.queue,
        "tenant": job.tenant,
        "user": job.user,
        "element_count": job.element_count,
        "element_counts": counts,
        "retries": job.retries,
        "labels": labels,
        "submitted_at": time(job.submitted_at),
        "started_at": time(job.started_at),
        "ended_at": time(job.ended_at),
    })
}

/// Makes one try, and sees to it that what came of it is on record.
async fn tell(engine: Engine, poster: Arc<Poster>, metrics: Arc<Metrics>, due: Due) -> JobId {
    let posted = poster.post(&due.url, &due.id, &due.body).await;
    let outcome = match &posted {
        Posted::Taken => "taken",
        Posted::Failed { .. } => "failed",
    };
    metrics.notices.get_or_create(&[("outcome", outcome)]).inc();
    if let Posted::Failed { why, again } = &posted {
        tracing::warn!(job = due.job.0, host = due.host, again, why, "nobody was told that a job has ended");
    }
    loop {
        let (Ok(actor), Ok(request_id)) = (Actor::new("scheduler"), ask::request_id()) else { return due.job };
        let input = Input::Notice { job: due.job, ended_at: due.ended_at, posted: posted.clone() };
        let request = Request { actor, tenant: Tenant::default(), reach: Reach::Own, request_id, input };
        match engine.ask(request).await {
            Ok(_) => return due.job,
            Err(refusal) if refusal.reason == "busy" => tokio::time::sleep(ASK_AGAIN).await,
            Err(_) => {
                // The scheduler ends, or met a fault of its own: the notice stays owed, and is not posted in a loop.
                tokio::time::sleep(LOOK_EVERY).await;
                return due.job;
            }
        }
    }
}
