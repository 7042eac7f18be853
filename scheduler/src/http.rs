//! What a leader serves: gRPC, `/metrics` and `/healthz`, all behind the same door.
//!
//! Our own services are called directly, for a submit passes here; what is rarely asked for has a router.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use gangsaw_proto::admin::v1::admin_service_server::{self, AdminServiceServer};
use gangsaw_proto::jobs::v1::jobs_service_server::{self, JobsServiceServer};
use gangsaw_proto::node::v1::node_service_server::{self, NodeServiceServer};
use http::{Request, Response, StatusCode, header};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Server;
use tower::{Service as _, ServiceExt as _};

use crate::engine::{Engine, View};
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::rpc::admin::Admin;
use crate::rpc::admission::Admission;
use crate::rpc::auth::Gate;
use crate::rpc::cut::cut;
use crate::rpc::jobs::Jobs;
use crate::rpc::join::Joins;
use crate::rpc::node::Nodes;
use crate::tls::ServerTls;
use crate::wire::terms;

/// Largest message from a client or a node; a Submit is bounded further, with a better sentence.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Streams one connection may have open.
const STREAMS_MAX: u32 = 1_024;
/// Calls of one connection that are worked on at once; streams that are open count.
const CALLS_MAX: usize = 1_024;
/// Header bytes of one call.
const HEADER_BYTES_MAX: u32 = 64 << 10;
/// Streams a client may open and reset before anybody looked at them.
const RESETS_MAX: usize = 64;
/// A silent connection is asked for a sign of life after, and has as long to give it.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Everything the port serves.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) engine: Engine,
    pub(crate) admission: Admission,
    pub(crate) logs: Logs,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) stop: CancellationToken,
    pub(crate) readers: TaskTracker,
    pub(crate) started_wall_ms: u64,
    pub(crate) tls: Option<Arc<ServerTls>>,
}

/// Returns the server with its limits.
pub(crate) fn server() -> Server {
    Server::builder()
        .accept_http1(true)
        .max_concurrent_streams(STREAMS_MAX)
        .concurrency_limit_per_connection(CALLS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
}

/// Every path behind the door.
pub(crate) struct Front {
    gate: Arc<Gate>,
    jobs: JobsServiceServer<Jobs>,
    admin: AdminServiceServer<Admin>,
    nodes: NodeServiceServer<Nodes>,
    /// Health, reflection, metrics.
    others: Router,
}

impl Front {
    pub(crate) fn new(served: Served) -> Front {
        let (engine, logs, stop) = (served.engine.clone(), served.logs.clone(), served.stop.clone());
        let jobs = Jobs { engine: engine.clone(), logs: logs.clone(), stop: stop.clone() };
        let joins = Joins { engine: engine.clone(), tls: served.tls.clone(), metrics: Arc::clone(&served.metrics) };
        let admin = Admin { engine: engine.clone(), started_wall_ms: served.started_wall_ms, joins: joins.clone() };
        let (readers, admission) = (served.readers.clone(), served.admission.clone());
        let nodes = Nodes { engine, logs, stop, readers, joins, admission };
        Front {
            gate: Arc::clone(&served.gate),
            jobs: JobsServiceServer::new(jobs).max_decoding_message_size(MESSAGE_BYTES_MAX),
            admin: AdminServiceServer::new(admin).max_decoding_message_size(MESSAGE_BYTES_MAX),
            nodes: NodeServiceServer::new(nodes).max_decoding_message_size(MESSAGE_BYTES_MAX),
            others: others(served),
        }
    }

    /// Answers a request that the door admits.
    pub(crate) async fn answer(&self, mut request: Request<Body>) -> Response<Body> {
        let ended = match self.gate.admit(&mut request) {
            Ok(ended) => ended,
            Err(refused) => return *refused,
        };
        let response = match self.route(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if let Some(ended) = ended { cut(response, ended) } else { response }
    }

    /// A service is always ready, so each is called at once.
    async fn route(&self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        match request.uri().path().split('/').nth(1) {
            Some(jobs_service_server::SERVICE_NAME) => self.jobs.clone().call(request).await,
            Some(admin_service_server::SERVICE_NAME) => self.admin.clone().call(request).await,
            Some(node_service_server::SERVICE_NAME) => self.nodes.clone().call(request).await,
            Some(_) | None => {
                let response = self.others.clone().oneshot(request.map(axum::body::Body::new)).await;
                response.map(|response| response.map(Body::new))
            }
        }
    }
}

fn others(served: Served) -> Router {
    let (_, health) = tonic_health::server::health_reporter();
    let mut grpc = Routes::builder();
    grpc.add_service(health);
    // Our own descriptors decode: the build made them, and a test reads them.
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(gangsaw_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1();
    if let Ok(reflection) = reflection {
        grpc.add_service(reflection);
    }
    let web =
        Router::new().route("/metrics", get(metrics)).with_state(served).route("/healthz", get(|| async { "ok\n" }));
    grpc.routes().prepare().into_axum_router().merge(web)
}

/// Answers a scrape: what is counted as it happens, and what is counted now.
async fn metrics(State(served): State<Served>) -> axum::response::Response {
    let counted = Arc::clone(&served.metrics);
    if let Err(refusal) = served.engine.read(move |view| count(view, &counted)).await {
        return (StatusCode::SERVICE_UNAVAILABLE, refusal.message).into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], served.metrics.render()).into_response()
}

fn count(view: &mut View<'_>, metrics: &Metrics) {
    metrics.jobs.clear();
    for job in view.state.jobs() {
        if let Some(state) = view.state.job_state(job.body.id) {
            metrics.jobs.get_or_create(&[("state", terms::state_word(state))]).inc();
        }
    }
    let connected = view.state.nodes().filter(|node| node.connected()).count();
    let silent = view.state.nodes().count() - connected;
    metrics.nodes.get_or_create(&[("state", "connected")]).set(i64::try_from(connected).unwrap_or(i64::MAX));
    metrics.nodes.get_or_create(&[("state", "silent")]).set(i64::try_from(silent).unwrap_or(i64::MAX));
    metrics.watchers.set(i64::try_from(view.watched()).unwrap_or(i64::MAX));
    metrics.cluster_time.set(view.now.time.0 as f64 / 1_000.0);
}
