//! A real scheduler on loopback, a client with its token, and an agent that speaks node.v1 and runs nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use gangsaw_proto::admin::v1::admin_service_client::AdminServiceClient;
use gangsaw_proto::jobs::v1 as jobs;
use gangsaw_proto::jobs::v1::jobs_service_client::JobsServiceClient;
use gangsaw_proto::node::v1 as node;
use gangsaw_proto::node::v1::attach_request::Message as ToScheduler;
pub(crate) use gangsaw_proto::node::v1::attach_response::Message as ToNode;
use gangsaw_proto::node::v1::fact::Fact as Kind;
use gangsaw_proto::node::v1::node_service_client::NodeServiceClient;
use gangsaw_scheduler::{Config, ServeError};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

/// Longest wait for anything in a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Sends the token with every call.
#[derive(Clone)]
pub(crate) struct Bearer(pub(crate) String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = MetadataValue::try_from(format!("Bearer {}", self.0)).unwrap();
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

pub(crate) type Link = InterceptedService<Channel, Bearer>;

/// Clients of one scheduler.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) jobs: JobsServiceClient<Link>,
    pub(crate) admin: AdminServiceClient<Link>,
    pub(crate) node: NodeServiceClient<Link>,
}

pub(crate) async fn connect(address: SocketAddr, token: &str) -> Clients {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let bearer = Bearer(token.to_owned());
    Clients {
        jobs: JobsServiceClient::with_interceptor(channel.clone(), bearer.clone()).max_encoding_message_size(64 << 20),
        admin: AdminServiceClient::with_interceptor(channel.clone(), bearer.clone()),
        node: NodeServiceClient::with_interceptor(channel, bearer),
    }
}

pub(crate) fn token(state: &Path) -> String {
    std::fs::read_to_string(state.join("scheduler/token")).unwrap()
}

/// A scheduler in this process.
pub(crate) struct Scheduler {
    pub(crate) address: SocketAddr,
    pub(crate) clients: Clients,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl Scheduler {
    pub(crate) async fn start(state: &Path) -> Scheduler {
        Scheduler::start_with(state, |_| {}).await
    }

    /// Starts one whose configuration `change` has changed.
    pub(crate) async fn start_with(state: &Path, change: impl FnOnce(&mut Config)) -> Scheduler {
        let (ready, bound) = oneshot::channel();
        let mut config = Config::new(state.to_owned(), "127.0.0.1:0".parse().unwrap());
        config.credentials = Some(state.join("credentials"));
        config.ready = Some(Box::new(move |address| ready.send(address).unwrap()));
        change(&mut config);
        let stop = CancellationToken::new();
        let served = tokio::spawn(gangsaw_scheduler::serve(config, stop.clone()));
        let address = tokio::time::timeout(PATIENCE, bound).await.unwrap().unwrap();
        let clients = connect(address, &token(state)).await;
        Scheduler { address, clients, stop, served }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.served).await.unwrap().unwrap().unwrap();
    }

    pub(crate) async fn agent(&self, name: &str) -> Agent {
        Agent::attach(&self.clients, name, Vec::new()).await
    }
}

/// A Submit of one shell job.
pub(crate) fn shell(key: &str, line: &str) -> jobs::SubmitRequest {
    let spec = jobs::JobSpec {
        name: "test".to_owned(),
        work: Some(jobs::job_spec::Work::Shell(line.to_owned())),
        ..Default::default()
    };
    submit(key, spec)
}

pub(crate) fn submit(key: &str, spec: jobs::JobSpec) -> jobs::SubmitRequest {
    jobs::SubmitRequest { idempotency_key: key.to_owned(), jobs: vec![spec], user: "ada".to_owned() }
}

pub(crate) fn array(last: u32) -> jobs::Array {
    jobs::Array { ranges: vec![jobs::IndexRange { first: 0, last, step: 1 }], running_max: 0 }
}

/// An agent without a supervisor: the test says what happens on its node.
pub(crate) struct Agent {
    out: mpsc::Sender<node::AttachRequest>,
    incoming: Streaming<node::AttachResponse>,
    reports: u64,
    pub(crate) node_id: u32,
}

impl Agent {
    pub(crate) async fn attach(clients: &Clients, name: &str, leases: Vec<node::HeldLease>) -> Agent {
        Agent::try_attach(clients, name, &format!("uuid-{name}"), leases).await.unwrap()
    }

    /// Attaches with a Hello that was said at `said_ms` and may be late.
    pub(crate) async fn attach_late(clients: &Clients, name: &str, said_ms: u64) -> Result<Agent, Status> {
        Agent::attach_with(clients, (name, &format!("uuid-{name}")), Vec::new(), (said_ms, "test")).await
    }

    pub(crate) async fn try_attach(
        clients: &Clients,
        name: &str,
        uuid: &str,
        leases: Vec<node::HeldLease>,
    ) -> Result<Agent, Status> {
        Agent::attach_with(clients, (name, uuid), leases, (0, "test")).await
    }

    /// Attaches as an agent of this version.
    pub(crate) async fn attach_as(clients: &Clients, name: &str, version: &str) -> Result<Agent, Status> {
        Agent::attach_with(clients, (name, &format!("uuid-{name}")), Vec::new(), (0, version)).await
    }

    async fn attach_with(
        clients: &Clients,
        (name, uuid): (&str, &str),
        leases: Vec<node::HeldLease>,
        (said_ms, version): (u64, &str),
    ) -> Result<Agent, Status> {
        let (out, messages) = mpsc::channel(64);
        let hello = node::Hello {
            node_name: name.to_owned(),
            agent_version: version.to_owned(),
            node_uuid: uuid.to_owned(),
            boot_id: "boot".to_owned(),
            inventory: Some(node::Inventory {
                milli_cpus: 4_000,
                memory_bytes: 8 << 30,
                address: "127.0.0.1".to_owned(),
                ..Default::default()
            }),
            leases,
            said_ms,
        };
        out.send(node::AttachRequest { message: Some(ToScheduler::Hello(hello)) }).await.unwrap();
        let incoming = clients.node.clone().attach(ReceiverStream::new(messages)).await?.into_inner();
        let mut agent = Agent { out, incoming, reports: 0, node_id: 0 };
        match agent.next().await {
            ToNode::Welcome(welcome) => {
                agent.node_id = welcome.node_id;
                agent.reports = welcome.acked_report;
            }
            other => panic!("not a welcome: {other:?}"),
        }
        Ok(agent)
    }

    /// Returns the next message.
    pub(crate) async fn next(&mut self) -> ToNode {
        self.try_next().await.expect("the session ended")
    }

    pub(crate) async fn try_next(&mut self) -> Option<ToNode> {
        let message = tokio::time::timeout(PATIENCE, self.incoming.message()).await.expect("no message came");
        message.ok().flatten().map(|message| message.message.unwrap())
    }

    pub(crate) async fn grant(&mut self) -> node::Grant {
        match self.next().await {
            ToNode::Grant(grant) => grant,
            other => panic!("not a grant: {other:?}"),
        }
    }

    pub(crate) async fn send(&self, message: ToScheduler) {
        self.out.send(node::AttachRequest { message: Some(message) }).await.unwrap();
    }

    /// Reports facts of a lease without waiting.
    pub(crate) async fn say(&mut self, lease_id: u64, facts: Vec<Kind>) -> u64 {
        self.reports += 1;
        let facts = facts.into_iter().map(|fact| node::Fact { lease_id, fact: Some(fact) }).collect();
        self.send(ToScheduler::Report(node::Report { seq: self.reports, facts })).await;
        self.reports
    }

    /// Reports facts of a lease and waits until they are acknowledged; returns what came before that.
    pub(crate) async fn report(&mut self, lease_id: u64, facts: Vec<Kind>) -> Vec<ToNode> {
        let seq = self.say(lease_id, facts).await;
        let mut before = Vec::new();
        loop {
            match self.next().await {
                ToNode::ReportAck(ack) if ack.seq >= seq => return before,
                other => before.push(other),
            }
        }
    }

    /// Runs a single-element lease to its end.
    pub(crate) async fn run(&mut self, grant: &node::Grant, exit_code: i32) -> Vec<ToNode> {
        let facts = vec![started(grant.first_index), ended(grant.first_index, exit_code)];
        self.report(grant.lease_id, facts).await
    }
}

pub(crate) fn started(index: u32) -> Kind {
    Kind::Started(node::Started {
        index,
        rank: 0,
        pid: 4_242,
        start_ticks: 77,
        output_dir: format!("/attempts/{index}"),
        spawn_us: 800,
    })
}

pub(crate) fn ended(index: u32, exit_code: i32) -> Kind {
    Kind::Ended(node::Ended {
        index,
        rank: 0,
        exit_code: Some(exit_code),
        cause: node::ended::Cause::Exit.into(),
        ran_us: 1_500,
        ..Default::default()
    })
}

/// Waits until a job has ended and returns its last picture.
pub(crate) async fn wait(clients: &Clients, job_id: u64) -> jobs::Job {
    let request = jobs::WatchRequest { job_id, after_seq: 0 };
    let mut stream = clients.jobs.clone().watch(request).await.unwrap().into_inner();
    let mut last = None;
    while let Some(message) = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap() {
        last = message.job.or(last);
    }
    last.expect("no picture")
}

pub(crate) async fn get(clients: &Clients, job_id: u64) -> jobs::GetJobResponse {
    let job = Some(jobs::Selector { job_id, elements: Vec::new() });
    let request = jobs::GetJobRequest { job, page_size: 0, page: String::new() };
    clients.jobs.clone().get_job(request).await.unwrap().into_inner()
}

/// Returns reason and hint of a status, as clients read them.
pub(crate) fn reason(status: &Status) -> (String, String) {
    use prost::Message;
    let rpc = RpcStatus::decode(status.details()).unwrap();
    let info = ErrorInfo::decode(rpc.details[0].value.as_slice()).unwrap();
    (info.reason, info.metadata.get("hint").cloned().unwrap_or_default())
}

/// Returns the faults of a refused Submit.
pub(crate) fn faults(status: &Status) -> Vec<jobs::SubmitFault> {
    use prost::Message;
    let rpc = RpcStatus::decode(status.details()).unwrap();
    jobs::SubmitFaults::decode(rpc.details[1].value.as_slice()).unwrap().faults
}

#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(map = "string, string", tag = "3")]
    metadata: std::collections::HashMap<String, String>,
}
