//! Somebody who watches every job of a test, from its acknowledgement to its end, over every connection that breaks.
//!
//! What the streams say is judged by the history checker of the core: no picture older than one before it, no element
//! that has ended and then has not, one last picture and nothing after it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use gangsaw_core::check::Watched;
use gangsaw_proto::jobs::v1::jobs_service_client::JobsServiceClient;
use gangsaw_proto::jobs::v1::{Job, State, WatchRequest};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Jobs that wait to be watched.
const JOBS_MAX: usize = 1_024;
/// Between two tries to reach a scheduler that is away.
const AGAIN: Duration = Duration::from_millis(20);
const ENDS: [State; 6] =
    [State::Completed, State::Failed, State::Cancelled, State::Timeout, State::OutOfMemory, State::NodeFail];

/// What was seen.
#[derive(Default)]
struct Seen {
    /// Watched, and not seen to end.
    open: BTreeSet<u64>,
    faults: Vec<String>,
}

/// The watchers of one cluster, on a thread of their own.
pub(crate) struct Watchers {
    jobs: mpsc::Sender<u64>,
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Watchers {
    /// Watches at schedulers that may come and go, of which each has its token.
    pub(crate) fn start(servers: Vec<(String, String)>) -> Watchers {
        let (jobs, mut coming) = mpsc::channel::<u64>(JOBS_MAX);
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), CancellationToken::new());
        let parsed = |(server, token): (String, String)| {
            (Endpoint::from_shared(server).unwrap(), format!("Bearer {}", token.trim()).parse().unwrap())
        };
        let servers: Vec<(Endpoint, MetadataValue<Ascii>)> = servers.into_iter().map(parsed).collect();
        let (noted, told) = (Arc::clone(&seen), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let ways = servers.iter().map(|(endpoint, token)| (endpoint.connect_lazy(), token.clone())).collect();
                let watcher = Watcher { ways, seen: noted };
                loop {
                    tokio::select! {
                        job = coming.recv() => match job {
                            Some(job) => drop(tokio::spawn(watcher.clone().follow(job))),
                            None => return,
                        },
                        () = told.cancelled() => return,
                    }
                }
            });
        });
        Watchers { jobs, seen, stop, thread: Some(thread) }
    }

    /// Watches one more job, from now on.
    pub(crate) fn watch(&self, job: u64) {
        self.seen.lock().unwrap().open.insert(job);
        self.jobs.blocking_send(job).unwrap();
    }

    /// Says whether nobody waits for this job's end any more.
    pub(crate) fn saw_the_end(&self, job: u64) -> bool {
        !self.seen.lock().unwrap().open.contains(&job)
    }

    /// Everything that must never be, and was.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.seen.lock().unwrap().faults.clone()
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Watcher {
    ways: Vec<(Channel, MetadataValue<Ascii>)>,
    seen: Arc<Mutex<Seen>>,
}

/// How far one job is.
#[derive(Default)]
struct Progress {
    watched: Watched,
    ended: u64,
    all: u64,
}

impl Watcher {
    async fn follow(self, job: u64) {
        let mut progress = Progress::default();
        let mut ways = self.ways.iter().cycle();
        let fault = loop {
            let Some(way) = ways.next() else { break Some("there is no scheduler".to_owned()) };
            match once(way, job, &mut progress).await {
                Ok(fault) => break fault,
                Err(status) if is_away(&status) => tokio::time::sleep(AGAIN).await,
                Err(status) => break Some(format!("refused: {status}")),
            }
        };
        let mut seen = self.seen.lock().unwrap();
        seen.open.remove(&job);
        seen.faults.extend(fault.map(|fault| format!("who watched job {job}: {fault}")));
    }
}

/// Watches over one connection. `Ok`: the stream has ended by itself, with what was wrong about it.
async fn once(
    (channel, token): &(Channel, MetadataValue<Ascii>),
    job: u64,
    progress: &mut Progress,
) -> Result<Option<String>, Status> {
    progress.watched.resumes();
    let mut request = Request::new(WatchRequest { job_id: job, after_seq: progress.watched.seq() });
    request.metadata_mut().insert("authorization", token.clone());
    let mut pictures = JobsServiceClient::new(channel.clone()).watch(request).await?.into_inner();
    while let Some(picture) = pictures.message().await? {
        if let Some(job) = &picture.job {
            (progress.ended, progress.all) = (ended(job), job.element_count);
            if ENDS.contains(&job.state()) != (progress.ended == progress.all) {
                return Ok(Some(format!("state and counts do not fit: {job:?}")));
            }
        }
        if let Err(violation) = progress.watched.saw(picture.seq, progress.ended, progress.all) {
            return Ok(Some(violation.to_string()));
        }
    }
    Ok((!progress.watched.is_over()).then(|| "the stream ended before the job".to_owned()))
}

fn ended(job: &Job) -> u64 {
    job.element_counts.iter().filter(|count| ENDS.contains(&count.state())).map(|count| count.count).sum()
}

/// Whether a scheduler that is there later may answer.
fn is_away(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::ResourceExhausted => true,
        Code::Internal | Code::Aborted => true,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}
