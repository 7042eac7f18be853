//! Watch: a job's newest picture, again and again, until it ends.
//!
//! The stream is pulled by its reader. One that does not read costs one picture, and when it reads again it gets the
//! newest: every message includes all events up to its sequence, so nothing is lost by skipping.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use futures::stream::unfold;
use gangsaw_proto::jobs::v1 as wire;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::ask;
use super::caller::Person;
use super::errors::Refusal;
use super::list;
use crate::engine::{Engine, Seen};

/// The stream of one watcher.
pub(crate) type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchResponse, Status>> + Send>>;

struct Watcher {
    pictures: watch::Receiver<Arc<Seen>>,
    stop: CancellationToken,
    /// The first picture is the present one and need not be waited for.
    fresh: bool,
    shown: Option<wire::Job>,
}

/// Opens a stream after `after_seq`.
pub(crate) async fn open(
    engine: &Engine,
    person: Person,
    request: wire::WatchRequest,
    stop: CancellationToken,
) -> Result<WatchStream, Refusal> {
    let (job, after_seq) = (ask::job_id(request.job_id)?, request.after_seq);
    let watched = engine.read(move |view| {
        if after_seq > view.last_seq {
            let message = format!("the log ends at {}, before {after_seq}", view.last_seq);
            return Err(Refusal::new(Code::OutOfRange, "future-sequence", message, "watch from 0"));
        }
        if let Some(held) = view.state.job(job) {
            let sees = person.sees(held.body.tenant.as_str());
            return if sees { Ok(Ok(view.watch(job))) } else { Err(ask::unknown_job(job.0)) };
        }
        Ok(Err((view.last_seq, list::old_job(view, &person, job)?.0)))
    });
    match watched.await?? {
        Ok(pictures) => {
            let present = pictures.borrow().clone();
            let fresh = present.ended || present.seq > after_seq || after_seq == 0;
            let watcher = Watcher { pictures, stop, fresh, shown: None };
            Ok(Box::pin(unfold(Some(watcher), next)))
        }
        Err((seq, old)) => {
            let last = Ok(wire::WatchResponse { seq, job: Some(old), tasks: Vec::new() });
            Ok(Box::pin(futures::stream::iter([last])))
        }
    }
}

async fn next(watcher: Option<Watcher>) -> Option<(Result<wire::WatchResponse, Status>, Option<Watcher>)> {
    let mut watcher = watcher?;
    if !watcher.fresh {
        let changes = tokio::select! {
            changed = watcher.pictures.changed() => changed.is_ok(),
            () = watcher.stop.cancelled() => false,
        };
        if !changes {
            // An engine that ends by itself lets go of its pictures: that is not the end of the job.
            return Some((Err(Refusal::stopping().into()), None));
        }
    }
    watcher.fresh = false;
    let seen = watcher.pictures.borrow_and_update().clone();
    let job = seen.job.clone().filter(|job| watcher.shown.as_ref() != Some(job));
    if job.is_some() {
        watcher.shown.clone_from(&job);
    }
    let message = wire::WatchResponse { seq: seen.seq, job, tasks: seen.tasks.clone() };
    let rest = (!seen.ended).then_some(watcher);
    Some((Ok(message), rest))
}
