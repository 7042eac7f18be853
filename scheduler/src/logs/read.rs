//! ReadLogs: copies first, then the nodes; with `follow` until the selected tasks ended.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use gangsaw_core::id::JobId;
use gangsaw_core::ranges::RangeSet;
use gangsaw_proto::jobs::v1 as wire;
use gangsaw_proto::log::v1::LogChunk;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::copies::{self, Key, key};
use super::nodes::{Nodes, Open};
use super::plan::{Plan, Run};
use super::{Logs, Piece, Reading, What};
use crate::engine::Seen;
use crate::rpc::ask;
use crate::rpc::caller::Person;
use crate::rpc::errors::Refusal;
use crate::rpc::list;

/// The stream of one reader.
pub(crate) type ReadStream = Pin<Box<dyn Stream<Item = Result<wire::ReadLogsResponse, Status>> + Send>>;

/// Messages of at most 64 KiB that may wait for a reader, beyond what its connection holds.
const OUT_QUEUE: usize = 16;
/// How long nodes may take to send what is left once the tasks ended.
const LAST_WAIT: Duration = Duration::from_secs(10);
/// How often a follower looks for nodes that came or came back, if nothing tells it earlier.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Bytes of a stream that `tail` holds while it looks for the end.
const TAIL_BYTES_MAX: usize = 8 << 20;

/// Bytes of one task that follow each other within this share a time, the first one's. `since` goes back so far: what
/// was written after it is never left out.
const GRAIN_MS: u64 = 100;

/// What a reader asked for.
pub(super) struct Wanted {
    pub(super) job: JobId,
    elements: Option<RangeSet>,
    pub(super) request: wire::ReadLogsRequest,
    pub(super) since_ms: u64,
}

impl Wanted {
    fn takes(&self, chunk: &LogChunk) -> bool {
        let stream = self.request.stream == 0 || self.request.stream == chunk.stream;
        let element = self.elements.as_ref().is_none_or(|set| set.contains(chunk.index));
        let rank = self.request.rank.is_none_or(|rank| rank == chunk.rank);
        let attempt = self.request.attempt == 0 || self.request.attempt == chunk.attempt;
        stream && element && rank && attempt && (self.since_ms == 0 || chunk.wall_ms > self.since_ms)
    }
}

impl Logs {
    /// Answers a ReadLogs.
    pub(crate) async fn read(
        &self,
        person: Person,
        request: wire::ReadLogsRequest,
        stop: CancellationToken,
    ) -> Result<ReadStream, Refusal> {
        let (job, elements) = ask::selector(request.select.clone())?;
        let known = self.engine.read(move |view| match view.state.job(job) {
            Some(held) if person.sees(held.body.tenant.as_str()) => Ok(Some(view.watch(job))),
            Some(_) => Err(ask::unknown_job(job.0)),
            None => list::old_job(view, &person, job).map(|_| None),
        });
        let pictures = known.await??;
        let since_ms = request.since.map_or(0, |since| {
            let ms = since.seconds.saturating_mul(1_000).saturating_add(i64::from(since.nanos) / 1_000_000);
            u64::try_from(ms).unwrap_or(0).saturating_sub(GRAIN_MS)
        });
        let wanted = Wanted { job, elements, request, since_ms };
        let (out, messages) = mpsc::channel(OUT_QUEUE);
        let reading = self.reading(job.0);
        let reader = Reader {
            logs: self.clone(),
            wanted,
            out,
            given: BTreeMap::new(),
            tails: BTreeMap::new(),
            failed: Vec::new(),
            pictures,
            _reading: reading,
        };
        // Ends with its reader: sending to a stream that is gone fails.
        self.tasks.spawn(async move {
            tokio::select! {
                () = reader.run() => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(Box::pin(ReceiverStream::new(messages)))
    }
}

/// Waits for the job's next change, and says whether it ended.
async fn news(pictures: &mut Option<watch::Receiver<Arc<Seen>>>) -> bool {
    let Some(changes) = pictures else { return std::future::pending().await };
    if changes.changed().await.is_err() {
        *pictures = None;
        return true;
    }
    changes.borrow_and_update().ended
}

/// The reader hung up.
struct HungUp;

struct Reader {
    logs: Logs,
    wanted: Wanted,
    out: mpsc::Sender<Result<wire::ReadLogsResponse, Status>>,
    /// Bytes given of each stream.
    given: BTreeMap<Key, u64>,
    tails: BTreeMap<Key, Vec<u8>>,
    /// What nodes said of what they could not read.
    failed: Vec<String>,
    /// The job's changes; absent when there are none to come.
    pictures: Option<watch::Receiver<Arc<Seen>>>,
    _reading: Reading,
}

impl Reader {
    async fn run(mut self) {
        let ended = match self.read().await {
            Err(HungUp) => return,
            Ok(Some(refusal)) => Err(refusal),
            Ok(None) => Ok(()),
        };
        for (stream, data) in std::mem::take(&mut self.tails) {
            if self.send(stream, data, 0).await.is_err() {
                return;
            }
        }
        if let Err(refusal) = ended {
            let _ = self.out.send(Err(Status::from(refusal))).await;
        }
    }

    /// Reads copies, then nodes; returns why something could not be read.
    async fn read(&mut self) -> Result<Option<Refusal>, HungUp> {
        let mut plan = match self.logs.plan(self.wanted.job, self.wanted.elements.as_ref()).await {
            Ok(plan) => plan,
            Err(refusal) => return Ok(Some(refusal)),
        };
        if let Err(refusal) = self.read_copies(&plan).await? {
            return Ok(Some(refusal));
        }
        let copied: BTreeSet<Key> = self.given.keys().copied().collect();
        let mut nodes = Nodes::new(&self.logs, &plan, self.wanted.request.follow && !plan.ended);
        nodes.ask(&plan, &self.wanted);
        if let Some(refusal) = self.read_nodes(&mut nodes, &mut plan, &copied).await? {
            return Ok(Some(refusal));
        }
        if !self.failed.is_empty() {
            let message = format!("not all logs could be read: {}", self.failed.join("; "));
            return Ok(Some(Refusal::new(Code::Unavailable, "logs-unreadable", message, "try again")));
        }
        let away: Vec<_> = nodes.away.iter().filter(|node| !self.has_given(&plan, node)).cloned().collect();
        Ok((!away.is_empty()).then(|| unreachable(&away)))
    }

    /// Gives what the nodes send until each has answered, and with `follow` until the job ended too.
    async fn read_nodes(
        &mut self,
        nodes: &mut Nodes,
        plan: &mut Plan,
        copied: &BTreeSet<Key>,
    ) -> Result<Option<Refusal>, HungUp> {
        let mut deadline = tokio::time::Instant::now() + LAST_WAIT;
        let mut look = tokio::time::interval(LOOK_EVERY);
        while nodes.follow || !nodes.open.is_empty() {
            tokio::select! {
                biased;
                Some(piece) = nodes.inbox.pieces.recv() => {
                    self.piece(piece, nodes, plan, copied).await?;
                    // Not before: the person may have taken long over it.
                    deadline = tokio::time::Instant::now() + LAST_WAIT;
                }
                () = nodes.inbox.lost.changed.notified() => {
                    nodes.drop_lost();
                    nodes.ask(plan, &self.wanted);
                }
                () = self.out.closed() => return Err(HungUp),
                () = tokio::time::sleep_until(deadline), if !nodes.follow => {
                    return Ok(Some(unreachable(&nodes.open.values().map(|open| open.node.clone()).collect::<Vec<_>>())));
                }
                over = news(&mut self.pictures), if nodes.follow => {
                    if over || nodes.asked.is_empty() { look.reset_immediately(); }
                }
                _ = look.tick(), if nodes.follow => {
                    match self.logs.plan(self.wanted.job, self.wanted.elements.as_ref()).await {
                        Ok(newer) => *plan = newer,
                        Err(refusal) => return Ok(Some(refusal)),
                    }
                    nodes.ask(plan, &self.wanted);
                    if plan.ended {
                        nodes.finish();
                        deadline = tokio::time::Instant::now() + LAST_WAIT;
                    }
                }
            }
        }
        Ok(None)
    }

    async fn piece(
        &mut self,
        piece: Piece,
        nodes: &mut Nodes,
        plan: &Plan,
        copied: &BTreeSet<Key>,
    ) -> Result<(), HungUp> {
        match piece.what {
            What::End(error) => {
                let node = nodes.open.remove(&piece.query).map(|open| open.node).unwrap_or_default();
                if !error.is_empty() {
                    self.failed.push(format!("{node}: {error}"));
                }
                Ok(())
            }
            What::Data(chunk) => {
                self.data(chunk, plan, copied, nodes.open.get_mut(&piece.query)).await?;
                nodes.taken(piece.query);
                Ok(())
            }
        }
    }

    /// Says whether something was given of a node's tasks: then its copies answered for it.
    fn has_given(&self, plan: &Plan, node: &str) -> bool {
        let of_node = |(index, rank, ..): &Key| {
            plan.runs.iter().any(|run| run.node == node && run.rank == *rank && (run.first..=run.last).contains(index))
        };
        self.given.keys().any(of_node)
    }

    /// Gives on what a node sent, but what was given before.
    async fn data(
        &mut self,
        mut chunk: LogChunk,
        plan: &Plan,
        copied: &BTreeSet<Key>,
        open: Option<&mut Open>,
    ) -> Result<(), HungUp> {
        let stream = key(&chunk);
        if !self.wanted.takes(&chunk) || copied.contains(&stream) || self.is_old(&chunk, plan) {
            return Ok(());
        }
        let length = chunk.data.len() as u64;
        if let Some(open) = open {
            let seen = open.seen.entry(stream).or_default();
            let given = self.given.get(&stream).copied().unwrap_or(0);
            let again = given.saturating_sub(*seen).min(length);
            *seen += length;
            if again > 0 {
                chunk.data.drain(..usize::try_from(again).unwrap_or(0));
                chunk.dropped_bytes = 0;
            }
        }
        *self.given.entry(stream).or_default() += chunk.data.len() as u64;
        if chunk.data.is_empty() && chunk.dropped_bytes == 0 {
            return Ok(());
        }
        self.send(stream, chunk.data, chunk.dropped_bytes).await
    }

    /// Says whether a chunk is of an attempt before the newest, when the newest was asked for.
    fn is_old(&self, chunk: &LogChunk, plan: &Plan) -> bool {
        let of = |run: &&Run| run.rank == chunk.rank && (run.first..=run.last).contains(&chunk.index);
        self.wanted.request.attempt == 0 && plan.runs.iter().find(of).is_some_and(|run| chunk.attempt < run.attempt)
    }

    async fn send(&self, (index, rank, attempt, stream): Key, data: Vec<u8>, dropped: u64) -> Result<(), HungUp> {
        let mut dropped_bytes = dropped;
        let mut pieces = data.chunks(64 << 10).map(<[u8]>::to_vec).collect::<Vec<_>>();
        if pieces.is_empty() {
            pieces.push(Vec::new());
        }
        for data in pieces {
            let message = wire::ReadLogsResponse { index, rank, attempt, stream, data, dropped_bytes };
            self.out.send(Ok(message)).await.map_err(|_| HungUp)?;
            dropped_bytes = 0;
        }
        Ok(())
    }

    /// Gives what copies hold, the latest copy of each attempt's stream.
    async fn read_copies(&mut self, plan: &Plan) -> Result<Result<(), Refusal>, HungUp> {
        let unreadable = |error: std::io::Error| {
            Refusal::new(Code::Internal, "logs-unreadable", format!("a copy of the logs cannot be read: {error}"), "")
        };
        let files = match copies::files(&self.logs.folder, self.wanted.job) {
            Ok(files) => files,
            Err(error) => return Ok(Err(unreadable(error))),
        };
        for file in files {
            let before: BTreeSet<Key> = self.given.keys().copied().collect();
            let (chunks, mut received) = mpsc::channel(OUT_QUEUE);
            let read =
                tokio::task::spawn_blocking(move || copies::read(&file, |chunk| chunks.blocking_send(chunk).is_ok()));
            while let Some(chunk) = received.recv().await {
                let stream = key(&chunk);
                if !self.wanted.takes(&chunk) || before.contains(&stream) || self.is_old(&chunk, plan) {
                    continue;
                }
                *self.given.entry(stream).or_default() += chunk.data.len() as u64;
                match self.wanted.request.tail_lines {
                    Some(lines) => keep_tail(self.tails.entry(stream).or_default(), &chunk.data, lines),
                    None => self.send(stream, chunk.data, chunk.dropped_bytes).await?,
                }
            }
            if let Ok(Err(error)) = read.await {
                return Ok(Err(unreadable(error)));
            }
        }
        for (stream, data) in std::mem::take(&mut self.tails) {
            self.send(stream, data, 0).await?;
        }
        Ok(Ok(()))
    }
}

fn unreachable(nodes: &[String]) -> Refusal {
    let message = format!("no logs come from {} now", nodes.join(", "));
    Refusal::new(Code::Unavailable, "node-unreachable", message, "try again when the node is connected")
}

/// Keeps the last `lines` lines of a stream, within bounds.
fn keep_tail(tail: &mut Vec<u8>, data: &[u8], lines: u64) {
    tail.extend_from_slice(data);
    let body = tail.strip_suffix(b"\n").unwrap_or(tail);
    let mut left = lines;
    let mut cut = 0;
    for (at, byte) in body.iter().enumerate().rev() {
        if *byte == b'\n' {
            left = left.saturating_sub(1);
            if left == 0 {
                cut = at + 1;
                break;
            }
        }
    }
    if lines == 0 {
        cut = tail.len();
    }
    let cut = cut.max(tail.len().saturating_sub(TAIL_BYTES_MAX));
    tail.drain(..cut);
}

#[cfg(test)]
mod tests {
    //! The end of a stream, kept while it is read.

    use super::*;

    #[test]
    fn a_tail_is_the_last_lines_with_or_without_a_last_newline() {
        let tail = |lines: u64, parts: &[&str]| {
            let mut tail = Vec::new();
            for part in parts {
                keep_tail(&mut tail, part.as_bytes(), lines);
            }
            String::from_utf8_lossy(&tail).into_owned()
        };
        assert_eq!(tail(2, &["a\nb\n", "c\n"]), "b\nc\n");
        assert_eq!(tail(2, &["a\nb\nc"]), "b\nc");
        assert_eq!(tail(5, &["a\n", "b"]), "a\nb");
        assert_eq!(tail(0, &["a\n", "b"]), "");
        assert_eq!(tail(1, &["a\nb", "b\n"]), "bb\n");
    }
}
