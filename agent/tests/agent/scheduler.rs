//! A scheduler as an agent sees it: it welcomes, acknowledges, and says what a test tells it to.
//!
//! It runs on a thread of its own with a real tonic server; the test reads what came in from a channel and sends what
//! it likes. Acknowledging can be switched off, to leave reports open.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use gangsaw_proto::node::v1::node_service_server::{NodeService, NodeServiceServer};
use gangsaw_proto::node::v1::{
    AttachRequest, AttachResponse, Fact, HeartbeatAck, JoinRequest, JoinResponse, RenewRequest, RenewResponse,
    ReportAck, ServeLogsRequest, ServeLogsResponse, Welcome, attach_request, attach_response,
};
use tokio::sync::{mpsc as channel, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

pub(crate) const TOKEN: &str = "secret-of-the-test";
/// Longer than anything a test waits for.
const WAIT: Duration = Duration::from_secs(30);
const HEARTBEAT_MS: u64 = 200;

/// What came in.
#[derive(Clone, Debug)]
pub(crate) enum Got {
    Message(attach_request::Message),
    Logs(ServeLogsRequest),
    /// The agent's control stream ended.
    Gone,
}

type Say = Result<AttachResponse, Status>;
type Ask = Result<ServeLogsResponse, Status>;

/// What the service and the test share.
struct Shared {
    got: mpsc::Sender<Got>,
    say: Mutex<Option<channel::Sender<Say>>>,
    ask: Mutex<Option<channel::Sender<Ask>>>,
    /// Acknowledge reports and heartbeats.
    acks: AtomicBool,
    /// Take pieces of logs from their stream.
    reads: watch::Sender<bool>,
    /// Highest report that was acknowledged.
    acked: Mutex<u64>,
    version: Mutex<String>,
}

struct Service(Arc<Shared>);

#[tonic::async_trait]
impl NodeService for Service {
    type AttachStream = ReceiverStream<Say>;
    type ServeLogsStream = ReceiverStream<Ask>;

    async fn join(&self, _request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        Err(Status::unimplemented("nobody joins here"))
    }

    async fn renew(&self, _request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        Err(Status::unimplemented("nobody joins here"))
    }

    async fn attach(&self, request: Request<Streaming<AttachRequest>>) -> Result<Response<Self::AttachStream>, Status> {
        check(&request)?;
        let (say, out) = channel::channel(1024);
        let shared = Arc::clone(&self.0);
        let mut messages = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                let Some(message) = message.message else { continue };
                let answer = shared.answer(&message);
                if matches!(message, attach_request::Message::Hello(_)) {
                    *shared.say.lock().unwrap() = Some(say.clone());
                }
                if let Some(answer) = answer {
                    let _ = say.send(Ok(AttachResponse { message: Some(answer) })).await;
                }
                let _ = shared.got.send(Got::Message(message));
            }
            let _ = shared.got.send(Got::Gone);
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }

    async fn serve_logs(
        &self,
        request: Request<Streaming<ServeLogsRequest>>,
    ) -> Result<Response<Self::ServeLogsStream>, Status> {
        check(&request)?;
        let (ask, out) = channel::channel(64);
        *self.0.ask.lock().unwrap() = Some(ask);
        let shared = Arc::clone(&self.0);
        let mut pieces = request.into_inner();
        tokio::spawn(async move {
            let mut reads = shared.reads.subscribe();
            while reads.wait_for(|reads| *reads).await.is_ok() {
                let Ok(Some(piece)) = pieces.message().await else { break };
                let _ = shared.got.send(Got::Logs(piece));
            }
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }
}

fn check<T>(request: &Request<T>) -> Result<(), Status> {
    let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    if header == Some(&format!("Bearer {TOKEN}")) { Ok(()) } else { Err(Status::unauthenticated("no such token")) }
}

impl Shared {
    fn answer(&self, message: &attach_request::Message) -> Option<attach_response::Message> {
        match message {
            attach_request::Message::Hello(_) => Some(attach_response::Message::Welcome(Welcome {
                node_id: 1,
                lease_ttl_ms: 30_000,
                heartbeat_ms: HEARTBEAT_MS,
                acked_report: *self.acked.lock().unwrap(),
                scheduler_version: self.version.lock().unwrap().clone(),
            })),
            attach_request::Message::Heartbeat(heartbeat) if self.acks.load(Ordering::SeqCst) => {
                Some(attach_response::Message::HeartbeatAck(HeartbeatAck { sent_ms: heartbeat.sent_ms }))
            }
            attach_request::Message::Report(report) if self.acks.load(Ordering::SeqCst) => {
                let mut acked = self.acked.lock().unwrap();
                *acked = (*acked).max(report.seq);
                Some(attach_response::Message::ReportAck(ReportAck { seq: *acked }))
            }
            attach_request::Message::Heartbeat(_)
            | attach_request::Message::Report(_)
            | attach_request::Message::Inventory(_)
            | attach_request::Message::Progress(_) => None,
        }
    }
}

/// The running scheduler.
pub(crate) struct Scheduler {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    got: mpsc::Receiver<Got>,
    facts: RefCell<Vec<Fact>>,
    pieces: RefCell<Vec<ServeLogsRequest>>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Scheduler {
    /// Starts on a free port.
    pub(crate) fn start() -> Scheduler {
        Scheduler::start_at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Starts on the address of one that was stopped.
    pub(crate) fn start_at(address: SocketAddr) -> Scheduler {
        let (sender, got) = mpsc::channel();
        let shared = Arc::new(Shared {
            got: sender,
            say: Mutex::new(None),
            ask: Mutex::new(None),
            acks: AtomicBool::new(true),
            reads: watch::Sender::new(true),
            acked: Mutex::new(0),
            version: Mutex::new("test".to_owned()),
        });
        let stop = CancellationToken::new();
        let (bound, where_bound) = mpsc::channel();
        let (service, stopped) = (Service(Arc::clone(&shared)), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind(address).await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                let server = tonic::transport::Server::builder()
                    .add_service(NodeServiceServer::new(service))
                    .serve_with_incoming(TcpListenerStream::new(listener));
                tokio::select! {
                    result = server => result.unwrap(),
                    () = stopped.cancelled() => {}
                }
            });
        });
        let address = where_bound.recv_timeout(WAIT).unwrap();
        let (facts, pieces) = (RefCell::default(), RefCell::default());
        Scheduler { address, shared, got, facts, pieces, stop, thread: Some(thread) }
    }

    /// Whether reports and heartbeats are acknowledged.
    pub(crate) fn acks(&self, acks: bool) {
        self.shared.acks.store(acks, Ordering::SeqCst);
    }

    /// What the next Welcome says its version is.
    pub(crate) fn version(&self, version: &str) {
        version.clone_into(&mut self.shared.version.lock().unwrap());
    }

    /// Whether pieces of logs are taken from their stream.
    pub(crate) fn reads_logs(&self, reads: bool) {
        self.shared.reads.send_replace(reads);
    }

    /// Says something on the newest control stream.
    pub(crate) fn say(&self, message: attach_response::Message) {
        let say = self.shared.say.lock().unwrap().clone().expect("an agent said hello");
        say.try_send(Ok(AttachResponse { message: Some(message) })).unwrap();
    }

    /// Ends the newest control stream.
    pub(crate) fn hang_up(&self) {
        let say = self.shared.say.lock().unwrap().take().expect("an agent said hello");
        say.try_send(Err(Status::unavailable("hung up"))).unwrap();
    }

    /// Asks on the log stream, once it is there.
    pub(crate) fn ask(&self, question: ServeLogsResponse) {
        let since = Instant::now();
        loop {
            // That of an agent which was killed is closed.
            let ask = self.shared.ask.lock().unwrap().clone().filter(|ask| !ask.is_closed());
            if let Some(ask) = ask {
                return ask.try_send(Ok(question)).unwrap();
            }
            assert!(since.elapsed() < WAIT, "no log stream");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Waits for something that `wanted` likes, and drops what comes before it. Facts and logs are kept for
    /// [`Scheduler::fact`] and [`Scheduler::piece`].
    pub(crate) fn until<T>(&self, what: &str, mut wanted: impl FnMut(Got) -> Option<T>) -> T {
        let deadline = Instant::now() + WAIT;
        let mut before = Vec::new();
        loop {
            let got = self.next(what, deadline, &before);
            if !matches!(got, Got::Message(attach_request::Message::Heartbeat(_))) {
                before.push(got.clone());
            }
            if let Some(found) = wanted(got) {
                return found;
            }
        }
    }

    fn next(&self, what: &str, deadline: Instant, before: &[Got]) -> Got {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(got) = self.got.recv_timeout(left) else { panic!("no {what}; came: {before:#?}") };
        match &got {
            Got::Message(attach_request::Message::Report(report)) => {
                self.facts.borrow_mut().extend(report.facts.iter().cloned());
            }
            Got::Logs(piece) => self.pieces.borrow_mut().push(piece.clone()),
            Got::Message(_) | Got::Gone => {}
        }
        got
    }

    /// Takes the first fact, of those that came and those to come, that `wanted` likes. The others stay.
    pub(crate) fn fact<T>(&self, what: &str, mut wanted: impl FnMut(&Fact) -> Option<T>) -> T {
        let deadline = Instant::now() + WAIT;
        loop {
            let mut facts = self.facts.borrow_mut();
            let found = facts.iter().enumerate().find_map(|(at, fact)| Some((at, wanted(fact)?)));
            if let Some((at, found)) = found {
                facts.remove(at);
                return found;
            }
            let before = format!("{what}; facts: {facts:#?}");
            drop(facts);
            self.next(&before, deadline, &[]);
        }
    }

    /// Takes the next piece of a log query.
    pub(crate) fn piece(&self, query: u64) -> ServeLogsRequest {
        let deadline = Instant::now() + WAIT;
        loop {
            let mut pieces = self.pieces.borrow_mut();
            if let Some(at) = pieces.iter().position(|piece| piece.query_id == query) {
                return pieces.remove(at);
            }
            drop(pieces);
            self.next("piece of log", deadline, &[]);
        }
    }

    /// Says whether a piece of a log query has come that nobody took.
    pub(crate) fn has_piece(&self, query: u64) -> bool {
        self.pieces.borrow().iter().any(|piece| piece.query_id == query)
    }

    /// Forgets what came until now.
    pub(crate) fn forget(&self) {
        self.facts.borrow_mut().clear();
        self.pieces.borrow_mut().clear();
    }

    /// Everything that came in until now.
    pub(crate) fn drain(&self) -> Vec<Got> {
        self.got.try_iter().collect()
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
