//! What tasks print: asked from the nodes that have it, and from the copies the scheduler keeps.
//!
//! Each agent holds one log stream open. A query goes out on it, and what comes back is routed by the query's number to
//! whoever asked, through a bounded queue. A node sends as many pieces of a query as its reader has room for, so a slow
//! reader holds up its own query alone. A queue that is full all the same (its nodes became many, or one sends more than
//! it may) loses its query, never delays the stream that other readers share; its reader asks again and skips what it
//! has.
//!
//! Invariants:
//! - Nothing here passes through the event log.
//! - An agent is told that output is copied only after the copy is synced.
//!
//! Elsewhere: `read` answers ReadLogs, `copies` keeps finished output, the agent's side is in its own crate.

pub(crate) mod copies;
mod nodes;
mod plan;
mod read;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gangsaw_core::id::NodeName;
use gangsaw_proto::log::v1::LogChunk;
use gangsaw_proto::node::v1::{ServeLogsRequest, ServeLogsResponse};
use tokio::sync::{Notify, mpsc};
use tokio_util::task::TaskTracker;
use tonic::{Code, Status, Streaming};

use crate::engine::Engine;
use crate::metrics::Metrics;
use crate::rpc::ask::invalid;
use crate::rpc::errors::Refusal;

pub(crate) use read::ReadStream;

/// Queries and their ends that may wait for one agent.
const QUERIES_QUEUE: usize = 1_024;
/// Pieces of at most 64 KiB that may wait for one reader; more only where more nodes than that are asked at once.
const PIECES_QUEUE: usize = 128;
/// Fewer nodes share them as if they were so many: a job that is followed may spread.
const NODES_LEAST: usize = 8;

/// Something a query yields.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) query: u64,
    pub(crate) what: What,
}

/// What a piece is.
#[derive(Debug)]
pub(crate) enum What {
    Data(LogChunk),
    /// The query is answered; the text says why it could not be, if so.
    End(String),
}

/// The receiving side of one reader's queries.
pub(crate) struct Inbox {
    out: mpsc::Sender<Piece>,
    pub(crate) pieces: mpsc::Receiver<Piece>,
    pub(crate) lost: Arc<Lost>,
    window: u32,
}

impl Inbox {
    /// For queries to so many nodes.
    pub(crate) fn new(nodes: usize) -> Inbox {
        let nodes = nodes.max(NODES_LEAST);
        let window = (PIECES_QUEUE / nodes).max(1);
        // Each query has its window and its end.
        let (out, pieces) = mpsc::channel((window + 1) * nodes);
        Inbox { out, pieces, lost: Arc::default(), window: u32::try_from(window).unwrap_or(1) }
    }
}

/// How much of its window a query has used.
#[derive(Debug)]
pub(crate) struct Window {
    size: u32,
    used: u32,
}

impl Window {
    pub(crate) fn of(inbox: &Inbox) -> Window {
        Window { size: inbox.window, used: 0 }
    }
}

/// Queries that ended without an answer: their reader was too slow, or their node went.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    queries: Mutex<Vec<u64>>,
    pub(crate) changed: Notify,
}

impl Lost {
    fn add(&self, query: u64) {
        locked(&self.queries).push(query);
        self.changed.notify_one();
    }

    /// Returns the lost queries since the last call.
    pub(crate) fn take(&self) -> Vec<u64> {
        std::mem::take(&mut locked(&self.queries))
    }
}

struct Asked {
    node: String,
    out: mpsc::Sender<Piece>,
    lost: Arc<Lost>,
}

struct Attached {
    stream: u64,
    queries: mpsc::Sender<Result<ServeLogsResponse, Status>>,
}

#[derive(Default)]
struct Switchboard {
    nodes: BTreeMap<String, Attached>,
    asked: BTreeMap<u64, Asked>,
    /// Readers of each job.
    readers: BTreeMap<u64, usize>,
    /// Copies whose nodes were not told yet: node, job, elements.
    copied: Vec<(String, u64, (u32, u32))>,
}

/// A reader of a job. While there is one, nodes keep what was copied: it may be in the middle of it.
pub(crate) struct Reading {
    board: Arc<Mutex<Switchboard>>,
    job: u64,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut board = locked(&self.board);
        if let Some(readers) = board.readers.get_mut(&self.job) {
            *readers -= 1;
            if *readers == 0 {
                board.readers.remove(&self.job);
            }
        }
    }
}

/// A cheap, cloneable handle.
#[derive(Clone)]
pub(crate) struct Logs {
    engine: Engine,
    folder: PathBuf,
    metrics: Arc<Metrics>,
    /// A leaf: never held over an await.
    board: Arc<Mutex<Switchboard>>,
    next: Arc<AtomicU64>,
    /// Every reader's task, joined at shutdown.
    tasks: TaskTracker,
}

/// Who a stream belongs to.
#[derive(Clone, Debug)]
pub(crate) struct StreamOf {
    name: String,
    stream: u64,
}

/// A leaf lock's data is whole after every statement, so a panic elsewhere does not spoil it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Queries = mpsc::Receiver<Result<ServeLogsResponse, Status>>;

impl Logs {
    /// Opens the folder of copies.
    pub(crate) fn open(
        engine: Engine,
        folder: PathBuf,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
    ) -> std::io::Result<Logs> {
        crate::token::make_private_folder(&folder)?;
        let (board, next) = (Arc::default(), Arc::new(AtomicU64::new(1)));
        Ok(Logs { engine, folder, metrics, board, next, tasks })
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Opens a node's stream; an older one of the same node ends.
    pub(crate) async fn attach(&self, name: &str) -> Result<(StreamOf, Queries), Refusal> {
        let checked = NodeName::new(name).map_err(|error| invalid("bad-name", format!("the node's name {error}")))?;
        let known = self.engine.read(move |view| view.state.node_id(&checked).is_some()).await?;
        if !known {
            let message = format!("there is no node {name}");
            return Err(Refusal::new(Code::NotFound, "unknown-node", message, "attach before serving logs"));
        }
        let (queries, receiver) = mpsc::channel(QUERIES_QUEUE);
        let stream = self.number();
        locked(&self.board).nodes.insert(name.to_owned(), Attached { stream, queries });
        Ok((StreamOf { name: name.to_owned(), stream }, receiver))
    }

    /// Routes what a node's stream brings until it ends.
    pub(crate) async fn pump(&self, _of: &StreamOf, mut incoming: Streaming<ServeLogsRequest>) {
        while let Ok(Some(message)) = incoming.message().await {
            self.route(message);
        }
    }

    fn route(&self, message: ServeLogsRequest) {
        let query = message.query_id;
        let mut board = locked(&self.board);
        let Some(asked) = board.asked.get(&query) else { return };
        let end = message.end;
        let what = if end { What::End(message.error) } else { What::Data(chunk(message)) };
        let taken = asked.out.try_send(Piece { query, what }).is_ok();
        if taken && !end {
            return;
        }
        if let Some(asked) = board.asked.remove(&query).filter(|_| !taken) {
            asked.lost.add(query);
            send(&board, &asked.node, ServeLogsResponse { query_id: query, abandon: true, ..Default::default() });
        }
    }

    /// Notes that a reader has taken a piece, and lets the node send more when half the window is free. A query whose
    /// node cannot be told is lost.
    pub(crate) fn taken(&self, query: u64, window: &mut Window) {
        window.used += 1;
        if window.used < window.size.div_ceil(2) {
            return;
        }
        let pieces = std::mem::take(&mut window.used);
        let mut board = locked(&self.board);
        let Some(asked) = board.asked.get(&query) else { return };
        let more = ServeLogsResponse { query_id: query, pieces: Some(pieces), ..Default::default() };
        if !send(&board, &asked.node, more)
            && let Some(asked) = board.asked.remove(&query)
        {
            asked.lost.add(query);
        }
    }

    /// Ends a node's stream if it is still the present one; its queries are lost.
    pub(crate) fn detach(&self, of: &StreamOf) {
        let mut board = locked(&self.board);
        if board.nodes.get(&of.name).is_none_or(|attached| attached.stream != of.stream) {
            return;
        }
        board.nodes.remove(&of.name);
        board.asked.retain(|query, asked| {
            let stays = asked.node != of.name;
            if !stays {
                asked.lost.add(*query);
            }
            stays
        });
    }

    /// Sends a query to a node. `None`: the node has no stream, or too many queries wait for it.
    pub(crate) fn query(&self, node: &str, inbox: &Inbox, query: ServeLogsResponse) -> Option<u64> {
        let number = self.number();
        let mut board = locked(&self.board);
        if !send(&board, node, ServeLogsResponse { query_id: number, pieces: Some(inbox.window), ..query }) {
            return None;
        }
        let asked = Asked { node: node.to_owned(), out: inbox.out.clone(), lost: Arc::clone(&inbox.lost) };
        board.asked.insert(number, asked);
        Some(number)
    }

    /// Asks a node to send what it has for a query and to end it.
    pub(crate) fn finish(&self, node: &str, query: u64) {
        let cancel = ServeLogsResponse { query_id: query, cancel: true, ..Default::default() };
        send(&locked(&self.board), node, cancel);
    }

    /// Lets go of a query: what still comes for it is dropped.
    pub(crate) fn forget(&self, query: u64) {
        let mut board = locked(&self.board);
        if let Some(asked) = board.asked.remove(&query) {
            send(&board, &asked.node, ServeLogsResponse { query_id: query, abandon: true, ..Default::default() });
        }
    }

    /// Notes a reader of a job, before it looks for anything.
    pub(crate) fn reading(&self, job: u64) -> Reading {
        *locked(&self.board).readers.entry(job).or_default() += 1;
        Reading { board: Arc::clone(&self.board), job }
    }

    /// Notes that the output of elements is copied; `tell_copied` tells the node.
    fn copied(&self, node: &str, job: u64, elements: (u32, u32)) {
        locked(&self.board).copied.push((node.to_owned(), job, elements));
    }

    /// Tells nodes what is copied and read by nobody now.
    fn tell_copied(&self) {
        let mut board = locked(&self.board);
        let waiting = std::mem::take(&mut board.copied);
        let (later, now): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(_, job, _)| board.readers.contains_key(job));
        board.copied = later;
        for (node, job_id, (first_index, last_index)) in now {
            // A node that is gone is asked, and told, again after its return.
            send(
                &board,
                &node,
                ServeLogsResponse { job_id, first_index, last_index, copied: true, ..Default::default() },
            );
        }
    }

    /// Returns the nodes whose streams are open.
    fn attached(&self) -> std::collections::BTreeSet<String> {
        locked(&self.board).nodes.keys().cloned().collect()
    }
}

fn send(board: &Switchboard, node: &str, message: ServeLogsResponse) -> bool {
    board.nodes.get(node).is_some_and(|attached| attached.queries.try_send(Ok(message)).is_ok())
}

fn chunk(message: ServeLogsRequest) -> LogChunk {
    LogChunk {
        index: message.index,
        rank: message.rank,
        attempt: message.attempt,
        stream: i32::try_from(message.stream).unwrap_or(0),
        data: message.data,
        dropped_bytes: message.dropped_bytes,
        wall_ms: message.wall_ms,
    }
}
