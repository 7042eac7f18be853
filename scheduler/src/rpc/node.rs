//! node.v1: one Attach stream an agent, and one for its logs.
//!
//! Everything an agent says goes to the engine in order; everything the engine says goes into the session's bounded
//! queue. Either end closes the session by letting go, and the agent redials.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::Stream;
use gangsaw_core::access::Reach;
use gangsaw_core::id::{Actor, NodeId, Tenant};
use gangsaw_core::input::{Input, Request as CoreRequest};
use gangsaw_core::version::work_together;
use gangsaw_proto::node::v1 as wire;
use gangsaw_proto::node::v1::attach_request::Message as FromNode;
use gangsaw_proto::node::v1::node_service_server::NodeService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Response, Status, Streaming};

use super::admission::Admission;
use super::ask::{self, invalid};
use super::caller::Caller;
use super::errors::Refusal;
use super::facts;
use super::join::Joins;
use crate::accept::Peer;
use crate::engine::{Engine, Outbox, Said};
use crate::logs::Logs;
use crate::wire::node::inventory_from;

/// Messages that may wait for one agent. Beyond it the session ends, and Hello repairs.
const SESSION_QUEUE: usize = 8_192;
/// How long a stream may stay without its first message.
const FIRST_MESSAGE_WAIT: Duration = Duration::from_secs(10);

/// The service.
#[derive(Clone)]
pub(crate) struct Nodes {
    pub(crate) engine: Engine,
    pub(crate) logs: Logs,
    pub(crate) stop: CancellationToken,
    /// Every session's reader, joined at shutdown.
    pub(crate) readers: TaskTracker,
    pub(crate) joins: Joins,
    pub(crate) admission: Admission,
}

type AttachStream = Pin<Box<dyn Stream<Item = Result<wire::AttachResponse, Status>> + Send>>;
type LogsStream = Pin<Box<dyn Stream<Item = Result<wire::ServeLogsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl NodeService for Nodes {
    type AttachStream = AttachStream;
    type ServeLogsStream = LogsStream;

    async fn attach(&self, request: Request<Streaming<wire::AttachRequest>>) -> Result<Response<AttachStream>, Status> {
        static SESSION: AtomicU64 = AtomicU64::new(1);
        let peer = request.extensions().get::<Peer>().cloned();
        let caller = request.extensions().get::<Caller>().cloned();
        let mut incoming = request.into_inner();
        let Some(FromNode::Hello(hello)) = first(&mut incoming).await?.message else {
            return Err(Refusal::missing("hello").into());
        };
        if let Some(peer) = peer {
            tracing::info!(node = %hello.node_name, peer = %peer.address, tls = peer.tls, "a node dials");
        }
        self.joins.speaks_for(caller.as_ref(), &hello.node_name, Some(&hello.node_uuid))?;
        if !work_together(&hello.agent_version, env!("CARGO_PKG_VERSION")) {
            return Err(Refusal::version_skew(&hello.agent_version).into());
        }
        let attaching = self.admission.enter().await?;
        let session = SESSION.fetch_add(1, Ordering::Relaxed);
        let (out, messages) = mpsc::channel(SESSION_QUEUE);
        let reader = Reader { engine: self.engine.clone(), session, out: out.downgrade() };
        let node = reader.hello(hello, out, join_of(caller.as_ref())).await?;
        drop(attaching);
        let stop = self.stop.clone();
        self.readers.spawn(reader.run(node, incoming, stop));
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn serve_logs(
        &self,
        request: Request<Streaming<wire::ServeLogsRequest>>,
    ) -> Result<Response<LogsStream>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let mut incoming = request.into_inner();
        let name = first(&mut incoming).await?.node_name;
        self.joins.speaks_for(caller.as_ref(), &name, None)?;
        if let Some(Caller::Agent(peer)) = &caller {
            self.joins.check(peer).await?;
        }
        let (node, queries) = self.logs.attach(&name).await?;
        let (logs, stop) = (self.logs.clone(), self.stop.clone());
        self.readers.spawn(async move {
            tokio::select! {
                () = logs.pump(&node, incoming) => {}
                () = stop.cancelled() => {}
            }
            logs.detach(&node);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(queries))))
    }

    async fn join(&self, request: Request<wire::JoinRequest>) -> Result<Response<wire::JoinResponse>, Status> {
        if !request.extensions().get::<Peer>().is_some_and(|peer| peer.tls) {
            let message = "a machine joins over TLS";
            let hint = "dial the scheduler at its https:// address";
            return Err(Refusal::new(Code::FailedPrecondition, "join-needs-tls", message, hint).into());
        }
        Ok(Response::new(self.joins.join(request.into_inner()).await?))
    }

    async fn renew(&self, request: Request<wire::RenewRequest>) -> Result<Response<wire::RenewResponse>, Status> {
        let Some(Caller::Agent(peer)) = request.extensions().get::<Caller>().cloned() else {
            let message = "a certificate is renewed for the node that shows one";
            return Err(Refusal::new(Code::FailedPrecondition, "no-certificate", message, "").into());
        };
        Ok(Response::new(self.joins.renew(peer, request.into_inner()).await?))
    }
}

/// Returns the join that a caller's certificate rests on, if it shows one.
fn join_of(caller: Option<&Caller>) -> Option<u64> {
    match caller {
        Some(Caller::Agent(peer)) => Some(peer.join),
        Some(Caller::Person(_)) | None => None,
    }
}

/// Waits for a stream's first message.
async fn first<T>(incoming: &mut Streaming<T>) -> Result<T, Status> {
    match tokio::time::timeout(FIRST_MESSAGE_WAIT, incoming.message()).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(invalid("no-hello", "the stream ended before its first message").into()),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded("the first message did not come")),
    }
}

/// Reads one agent's stream into the engine.
struct Reader {
    engine: Engine,
    session: u64,
    /// Weak: the session must end when the engine lets go of it.
    out: mpsc::WeakSender<Result<wire::AttachResponse, Status>>,
}

impl Reader {
    async fn hello(&self, hello: wire::Hello, out: Outbox, join: Option<u64>) -> Result<NodeId, Refusal> {
        let (hello, volatile) = facts::hello(hello)?;
        let actor = Actor::new(hello.name.as_str()).map_err(|error| invalid("bad-name", error.to_string()))?;
        let input = Input::NodeHello(hello);
        let request =
            CoreRequest { actor, tenant: Tenant::default(), reach: Reach::Own, request_id: ask::request_id()?, input };
        self.engine.hello(request, (self.session, out), volatile, join).await
    }

    async fn run(self, node: NodeId, mut incoming: Streaming<wire::AttachRequest>, stop: CancellationToken) {
        loop {
            let message = tokio::select! {
                message = incoming.message() => message,
                () = stop.cancelled() => break,
            };
            let Ok(Some(wire::AttachRequest { message: Some(message) })) = message else { break };
            if let Err(refusal) = self.take(node, message).await {
                if let Some(out) = self.out.upgrade() {
                    // The agent redials whether or not it reads why.
                    let _ = out.try_send(Err(refusal.into()));
                }
                break;
            }
        }
        // A full inbox loses it; the session then ends with its stream, at the next message to it.
        let _ = self.engine.said(node, self.session, Said::Gone);
    }

    async fn take(&self, node: NodeId, message: FromNode) -> Result<(), Refusal> {
        let said = match message {
            FromNode::Hello(_) => return Err(invalid("second-hello", "a stream has one Hello; dial again")),
            FromNode::Heartbeat(beat) => {
                Said::Heartbeat { sent_ms: beat.sent_ms, leases: (beat.lease_count, beat.lease_hash) }
            }
            FromNode::Report(report) => Said::Report { seq: report.seq, facts: facts::facts(report.facts)? },
            FromNode::Inventory(inventory) => {
                let volatile = facts::volatile(&inventory);
                let inventory =
                    inventory_from(inventory).map_err(|error| invalid("bad-inventory", error.to_string()))?;
                Said::Inventory { inventory, volatile }
            }
            FromNode::Progress(batch) => {
                // Lossy: a busy engine is told the next time.
                let _ = self.engine.said(
                    node,
                    self.session,
                    Said::Progress(batch.tasks.iter().filter_map(facts::progress).collect()),
                );
                return Ok(());
            }
        };
        self.engine.said(node, self.session, said)
    }
}
