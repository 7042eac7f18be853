//! Answers the scheduler's questions about logs, on a connection beside the control stream's.
//!
//! Each question gets a thread that reads the supervisor's log files, because files block; a question that follows
//! waits there for new bytes. The scheduler may ask [`QUERIES_MAX`] at once.
//!
//! Invariants:
//! - Every question is answered by data in the order it was written and then one `end`.
//! - `cancel` sends what is there already before the `end`: what a task printed before its end is not lost.
//! - A slow scheduler slows the reading threads, never the tasks; a slow reader slows the thread that answers it alone,
//!   for a question is answered in as many pieces as the scheduler has allowed.
//!
//! Elsewhere: the files are the supervisor's (`supervisor::logs`).

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use gangsaw_proto::node::v1::node_service_client::NodeServiceClient;
use gangsaw_proto::node::v1::{ServeLogsRequest, ServeLogsResponse};
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Status};
use tracing::{debug, warn};

use super::uplink::{Way, connect};
use crate::supervisor::logs::{LogChunk, LogQuery, LogReader, Stream, forget_attempts};

/// Questions that are answered at the same time.
const QUERIES_MAX: usize = 64;
/// Pieces of at most 64 KiB that wait for the network, all questions together.
const PIECES_MAX: usize = 16;
/// How long a follower waits for bytes, if nothing wakes it, before it looks whether its stream is gone.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const REDIAL: Duration = Duration::from_millis(500);
const STREAM_STDOUT: u32 = 1;
const STREAM_STDERR: u32 = 2;

/// The scheduler that took this node, and the header that its calls carry.
///
/// Logs have a connection of their own: the streams of one connection share its window, so that a reader who stops
/// would stop the heartbeats, too.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) way: Way,
    pub(crate) authorization: Option<MetadataValue<Ascii>>,
}

/// Serves logs on every connection that `line` brings, until `stop`.
pub(crate) async fn serve(
    state: PathBuf,
    node_name: String,
    mut line: watch::Receiver<Option<Line>>,
    stop: CancellationToken,
) {
    loop {
        let current = line.borrow_and_update().clone();
        let served = async {
            match current {
                None => std::future::pending().await,
                Some(line) => match serve_once(&state, &node_name, line).await {
                    Ok(()) => sleep(REDIAL).await,
                    Err(status) => {
                        debug!(%status, "the log stream ended");
                        sleep(REDIAL).await;
                    }
                },
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = line.changed() => if changed.is_err() { return },
            () = served => {}
        }
    }
}

async fn serve_once(state: &Path, node_name: &str, line: Line) -> Result<(), Status> {
    let channel = connect(line.way).await.map_err(Status::unavailable)?;
    let (pieces, waiting) = mpsc::channel(PIECES_MAX);
    let hello = ServeLogsRequest { node_name: node_name.to_owned(), ..ServeLogsRequest::default() };
    // The channel is empty, so the first message fits.
    let _ = pieces.try_send(hello);
    let mut request = Request::new(ReceiverStream::new(waiting));
    if let Some(value) = line.authorization {
        request.metadata_mut().insert("authorization", value);
    }
    let mut questions = NodeServiceClient::new(channel).serve_logs(request).await?.into_inner();
    let mut answering =
        Answering { state: state.to_owned(), pieces, running: BTreeMap::new(), threads: JoinSet::new() };
    while let Some(question) = questions.message().await? {
        answering.take(question);
    }
    Ok(())
}

/// What the scheduler has said of a question since it asked.
struct Standing {
    cancelled: AtomicBool,
    /// Readable once it was cancelled or abandoned.
    wake: OwnedFd,
    allowed: Mutex<Allowed>,
    more: Condvar,
}

/// What may still be sent.
struct Allowed {
    /// Absent: as many as there are.
    pieces: Option<u64>,
    abandoned: bool,
}

impl Standing {
    fn new(pieces: Option<u32>) -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let allowed = Mutex::new(Allowed { pieces: pieces.map(u64::from), abandoned: false });
        Ok(Self { cancelled: AtomicBool::new(false), wake, allowed, more: Condvar::new() })
    }

    /// Ends it once what is there already was sent.
    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        // It can only fail when it is readable already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Ends it at once.
    fn abandon(&self) {
        self.change(|allowed| allowed.abandoned = true);
        self.cancel();
    }

    fn allow(&self, pieces: u32) {
        self.change(|allowed| allowed.pieces = allowed.pieces.map(|before| before + u64::from(pieces)));
    }

    fn change(&self, change: impl FnOnce(&mut Allowed)) {
        change(&mut self.allowed.lock().unwrap_or_else(PoisonError::into_inner));
        self.more.notify_all();
    }

    /// Waits until one more piece may be sent. False: none is wanted any more.
    fn may_send(&self) -> bool {
        let allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |allowed: &mut Allowed| !allowed.abandoned && allowed.pieces == Some(0);
        let mut allowed = self.more.wait_while(allowed, waits).unwrap_or_else(PoisonError::into_inner);
        allowed.pieces = allowed.pieces.map(|pieces| pieces.saturating_sub(1));
        !allowed.abandoned
    }
}

/// The questions of one stream that are being answered. Dropping it abandons them.
struct Answering {
    state: PathBuf,
    pieces: mpsc::Sender<ServeLogsRequest>,
    running: BTreeMap<u64, Arc<Standing>>,
    threads: JoinSet<()>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        for standing in self.running.values() {
            standing.abandon();
        }
    }
}

impl Answering {
    fn take(&mut self, question: ServeLogsResponse) {
        if question.copied {
            let state = self.state.clone();
            self.threads.spawn_blocking(move || drop_copied(&state, &question));
            return;
        }
        while self.threads.try_join_next().is_some() {}
        // A thread that has answered holds its standing no more.
        self.running.retain(|_, standing| Arc::strong_count(standing) > 1);
        if let Some(standing) = self.running.get(&question.query_id) {
            standing.allow(question.pieces.unwrap_or(0));
            if question.cancel {
                standing.cancel();
            }
            if question.abandon {
                standing.abandon();
            }
            return;
        }
        if question.job_id == 0 || question.cancel || question.abandon {
            // It was about a question that is answered already.
            return;
        }
        let pieces = self.pieces.clone();
        let id = question.query_id;
        if self.running.len() >= QUERIES_MAX {
            let refusal = end(id, "this node answers too many log queries already");
            self.threads.spawn(async move { drop(pieces.send(refusal).await) });
            return;
        }
        let standing = match Standing::new(question.pieces) {
            Ok(standing) => Arc::new(standing),
            Err(error) => {
                let refusal = end(id, &error.to_string());
                self.threads.spawn(async move { drop(pieces.send(refusal).await) });
                return;
            }
        };
        self.running.insert(id, Arc::clone(&standing));
        let state = self.state.clone();
        self.threads.spawn_blocking(move || {
            // Closing what a reader watches takes the kernel milliseconds: the end is said first.
            let mut reader = None;
            let error = answer(&state, &question, &pieces, &standing, &mut reader).err();
            // Nobody to tell means that the stream is gone.
            let _ = pieces.blocking_send(end(id, &error.map(|error| error.to_string()).unwrap_or_default()));
        });
    }
}

fn end(query_id: u64, error: &str) -> ServeLogsRequest {
    ServeLogsRequest { query_id, end: true, error: error.to_owned(), ..ServeLogsRequest::default() }
}

/// Reads until there is no more, or until a follower is cancelled, or nobody waits for it.
fn answer(
    state: &Path,
    question: &ServeLogsResponse,
    pieces: &mpsc::Sender<ServeLogsRequest>,
    standing: &Standing,
    kept: &mut Option<LogReader>,
) -> std::io::Result<()> {
    let reader = kept.insert(LogReader::open(
        state,
        LogQuery {
            job_id: question.job_id,
            first_index: question.first_index,
            last_index: question.last_index,
            rank: question.rank,
            attempt: question.attempt,
            stream: match question.stream {
                STREAM_STDOUT => Some(Stream::Stdout),
                STREAM_STDERR => Some(Stream::Stderr),
                _ => None,
            },
            tail_lines: question.tail_lines,
            since_wall_ms: question.since_wall_ms,
        },
    )?);
    loop {
        // Looked at before reading: what was written before the cancel is read after it.
        let last_round = !question.follow || standing.cancelled.load(Ordering::Relaxed);
        while let Some(chunk) = reader.next()? {
            if !standing.may_send() || pieces.blocking_send(piece(question.query_id, chunk)).is_err() {
                return Ok(());
            }
        }
        if last_round || pieces.is_closed() {
            return Ok(());
        }
        reader.wait_or(LOOK_EVERY, Some(standing.wake.as_fd()))?;
    }
}

fn piece(query_id: u64, chunk: LogChunk) -> ServeLogsRequest {
    ServeLogsRequest {
        query_id,
        index: chunk.index,
        rank: chunk.rank,
        attempt: chunk.attempt,
        stream: match chunk.stream {
            Stream::Stdout => STREAM_STDOUT,
            Stream::Stderr => STREAM_STDERR,
        },
        data: chunk.data,
        dropped_bytes: chunk.dropped_bytes,
        wall_ms: chunk.wall_ms,
        ..ServeLogsRequest::default()
    }
}

/// The scheduler has these attempts' logs: their bytes go back to the file system.
fn drop_copied(state: &Path, question: &ServeLogsResponse) {
    let (first, last) = (question.first_index, question.last_index);
    if let Err(error) = forget_attempts(state, question.job_id, first, last, question.attempt) {
        warn!(job = question.job_id, %error, "copied logs could not be dropped");
    }
}
