//! Output through the scheduler: live from a node, to its end, and from copies when the node is gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use gangsaw_proto::jobs::v1 as jobs;
use gangsaw_proto::node::v1 as node;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::common::{Clients, PATIENCE, Scheduler, ended, reason, shell, started};

/// What a played node has of output, and who follows it.
#[derive(Default)]
struct Shelf {
    /// By element: attempt and text.
    output: BTreeMap<u32, (u32, Vec<u8>)>,
    following: Vec<(u64, u32, usize)>,
    copied: Vec<(u32, u32)>,
    queries: u32,
}

/// An agent's log stream over a shelf.
struct LogNode {
    shelf: Arc<Mutex<Shelf>>,
    out: mpsc::Sender<node::ServeLogsRequest>,
    was_copied: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

fn data(query_id: u64, index: u32, attempt: u32, data: &[u8]) -> node::ServeLogsRequest {
    node::ServeLogsRequest {
        query_id,
        index,
        attempt,
        stream: 1,
        data: data.to_vec(),
        wall_ms: 5,
        ..Default::default()
    }
}

fn end(query_id: u64) -> node::ServeLogsRequest {
    node::ServeLogsRequest { query_id, end: true, ..Default::default() }
}

impl LogNode {
    async fn serve(clients: &Clients, name: &str) -> LogNode {
        let (out, messages) = mpsc::channel(4_096);
        out.send(node::ServeLogsRequest { node_name: name.to_owned(), ..Default::default() }).await.unwrap();
        let mut queries = clients.node.clone().serve_logs(ReceiverStream::new(messages)).await.unwrap().into_inner();
        let shelf: Arc<Mutex<Shelf>> = Arc::default();
        let was_copied = Arc::new(Notify::new());
        let (told, held, answers) = (Arc::clone(&was_copied), Arc::clone(&shelf), out.clone());
        let task = tokio::spawn(async move {
            while let Ok(Some(query)) = queries.message().await {
                let answer = held.lock().unwrap().answer(&query);
                if query.copied {
                    told.notify_one();
                }
                for message in answer {
                    answers.send(message).await.unwrap();
                }
            }
        });
        LogNode { shelf, out, was_copied, task }
    }

    /// A task writes: followers get it.
    async fn write(&self, index: u32, attempt: u32, text: &[u8]) {
        let messages: Vec<_> = {
            let mut shelf = self.shelf.lock().unwrap();
            let held = shelf.output.entry(index).or_insert((attempt, Vec::new()));
            held.1.extend_from_slice(text);
            shelf.following.iter().map(|(query, ..)| data(*query, index, attempt, text)).collect()
        };
        for message in messages {
            self.out.send(message).await.unwrap();
        }
    }
}

impl Shelf {
    fn answer(&mut self, query: &node::ServeLogsResponse) -> Vec<node::ServeLogsRequest> {
        if query.copied {
            self.copied.push((query.first_index, query.last_index));
            return Vec::new();
        }
        let id = query.query_id;
        if query.cancel {
            self.following.retain(|(following, ..)| *following != id);
            return vec![end(id)];
        }
        if query.job_id == 0 {
            // Leave to send more, or nobody waits any more: this node sends more than it may, and all it has.
            return Vec::new();
        }
        self.queries += 1;
        let range = query.first_index..=query.last_index;
        let mut answer = Vec::new();
        for (index, (attempt, text)) in self.output.range(range) {
            answer.extend(text.chunks(64 << 10).map(|piece| data(id, *index, *attempt, piece)));
        }
        if query.follow {
            self.following.push((id, query.first_index, 0));
        } else {
            answer.push(end(id));
        }
        answer
    }
}

fn read(job_id: u64, follow: bool) -> jobs::ReadLogsRequest {
    let select = Some(jobs::Selector { job_id, elements: Vec::new() });
    jobs::ReadLogsRequest { select, follow, ..Default::default() }
}

/// Reads a whole stream; the text by element, and how it ended.
async fn whole(clients: &Clients, request: jobs::ReadLogsRequest) -> (BTreeMap<u32, String>, Option<tonic::Status>) {
    let mut stream = clients.jobs.clone().read_logs(request).await.unwrap().into_inner();
    let mut text: BTreeMap<u32, String> = BTreeMap::new();
    loop {
        match tokio::time::timeout(PATIENCE, stream.message()).await.unwrap() {
            Ok(Some(piece)) => text.entry(piece.index).or_default().push_str(&String::from_utf8(piece.data).unwrap()),
            Ok(None) => return (text, None),
            Err(status) => return (text, Some(status)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_sees_output_live_and_all_of_it_before_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut agent = scheduler.agent("n1").await;
    let logs = LogNode::serve(&scheduler.clients, "n1").await;
    scheduler.clients.jobs.clone().submit(shell("k1", "train")).await.unwrap();
    // Followed from before its start: the node is found when the task gets one.
    let mut stream = scheduler.clients.jobs.clone().read_logs(read(1, true)).await.unwrap().into_inner();
    let grant = agent.grant().await;
    agent.report(grant.lease_id, vec![started(0)]).await;
    logs.write(0, 1, b"epoch 1\n").await;
    let live = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!((live.data.as_slice(), live.attempt, live.stream()), (b"epoch 1\n".as_slice(), 1, jobs::Stream::Stdout));
    logs.write(0, 1, b"epoch 2\n").await;
    agent.report(grant.lease_id, vec![ended(0, 0)]).await;
    let mut rest = Vec::new();
    while let Some(piece) = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap() {
        rest.extend(piece.data);
    }
    assert_eq!(rest, b"epoch 2\n");
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finished_output_is_copied_and_read_when_its_node_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut agent = scheduler.agent("n1").await;
    let logs = LogNode::serve(&scheduler.clients, "n1").await;
    scheduler.clients.jobs.clone().submit(shell("k1", "train")).await.unwrap();
    let grant = agent.grant().await;
    agent.report(grant.lease_id, vec![started(0)]).await;
    logs.write(0, 1, b"one\ntwo\nthree\n").await;
    agent.report(grant.lease_id, vec![ended(0, 0)]).await;
    tokio::time::timeout(PATIENCE, logs.was_copied.notified()).await.unwrap();
    assert_eq!(logs.shelf.lock().unwrap().copied, [(0, 0)]);
    logs.task.abort();
    drop((logs, agent));
    let (text, status) = whole(&scheduler.clients, read(1, false)).await;
    assert_eq!((text[&0].as_str(), status.is_none()), ("one\ntwo\nthree\n", true));
    scheduler.stop().await;

    let scheduler = Scheduler::start(dir.path()).await;
    let (text, _) = whole(&scheduler.clients, jobs::ReadLogsRequest { tail_lines: Some(2), ..read(1, false) }).await;
    assert_eq!(text[&0], "two\nthree\n", "the copy is there after a restart");
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_array_that_prints_nothing_costs_one_question_and_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut agent = scheduler.agent("n1").await;
    let logs = LogNode::serve(&scheduler.clients, "n1").await;
    let spec = jobs::JobSpec { array: Some(crate::common::array(2_000)), ..shell("", "true").jobs.remove(0) };
    scheduler.clients.jobs.clone().submit(crate::common::submit("k1", spec)).await.unwrap();
    crate::straight_path::finish_array(&mut agent, 2_001).await;
    tokio::time::timeout(PATIENCE, logs.was_copied.notified()).await.unwrap();
    let queries = logs.shelf.lock().unwrap().queries;
    assert!(queries <= 3, "{queries} questions");
    assert_eq!(std::fs::read_dir(dir.path().join("scheduler/logs")).unwrap().count(), 0);
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_everything_and_delays_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut agent = scheduler.agent("n1").await;
    let logs = LogNode::serve(&scheduler.clients, "n1").await;
    scheduler.clients.jobs.clone().submit(shell("k1", "flood")).await.unwrap();
    let grant = agent.grant().await;
    agent.report(grant.lease_id, vec![started(0)]).await;
    // More than every queue and window on the way holds.
    let line = |number: usize| format!("{number:015}\n");
    let flood: String = (0..2 << 20).map(line).collect();
    logs.write(0, 1, flood.as_bytes()).await;
    let slow = scheduler.clients.jobs.clone().read_logs(read(1, false)).await.unwrap();
    // Its stream is open and not read; another one's goes through meanwhile.
    let (text, status) = whole(&scheduler.clients, read(1, false)).await;
    assert!(status.is_none() && text[&0] == flood);
    let mut stream = slow.into_inner();
    let mut late = Vec::with_capacity(flood.len());
    while let Some(piece) = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap() {
        late.extend(piece.data);
    }
    assert!(late == flood.as_bytes(), "{} of {} bytes", late.len(), flood.len());
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_of_an_unreachable_node_are_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut agent = scheduler.agent("n1").await;
    scheduler.clients.jobs.clone().submit(shell("k1", "train")).await.unwrap();
    let grant = agent.grant().await;
    agent.report(grant.lease_id, vec![started(0)]).await;
    let (text, status) = whole(&scheduler.clients, read(1, false)).await;
    let status = status.unwrap();
    assert!(text.is_empty());
    assert_eq!((status.code(), reason(&status).0.as_str()), (Code::Unavailable, "node-unreachable"));
    assert!(status.message().contains("n1"), "{status}");
    let unknown = scheduler.clients.jobs.clone().read_logs(read(9, false)).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    scheduler.stop().await;
}
