//! The one port, over every turn of leading and standing by.
//!
//! Connections stay when the role changes: the next call of a client that was told "standby" is answered by the leader
//! that this scheduler has become. While another leads, whoever asks is sent on, in its own language; nothing here
//! touches the state.
//!
//! Elsewhere: what a leader serves is `http`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::IntoResponse;
use http::{Request, Response, StatusCode, header};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;

use crate::accept;
use crate::http::{Front, server};
use crate::metrics::Metrics;
use crate::rpc::errors::Refusal;
use crate::tls::ServerTls;

/// What the port answers.
#[derive(Clone)]
pub(super) enum Role {
    /// Another scheduler leads, at this address if it is known.
    Standby(String),
    /// This one does, and this is what it serves.
    Leading(Arc<Front>),
}

/// The port while it is open. Dropping it ends it at once.
pub(super) struct Port {
    role: watch::Sender<Role>,
    close: CancellationToken,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Port {
    /// Answers whoever comes to `listener`, as a standby until it is told otherwise.
    pub(super) fn open(listener: TcpListener, tls: Option<Arc<ServerTls>>, metrics: Arc<Metrics>) -> Port {
        let (role, played) = watch::channel(Role::Standby(String::new()));
        let (close, tasks) = (CancellationToken::new(), TaskTracker::new());
        if let Some(tls) = &tls {
            tasks.spawn(Arc::clone(tls).keep(close.clone()));
        }
        let incoming = accept::incoming(listener, tls, metrics, &tasks, close.clone());
        // Shared, for each request has a copy.
        let played = Arc::new(played);
        let service = tower::service_fn(move |request| {
            let role = played.borrow().clone();
            async move { Ok::<_, Infallible>(answer(role, request).await) }
        });
        let closed = close.clone();
        let server = server().serve_with_incoming_shutdown(service, incoming, async move { closed.cancelled().await });
        Port { role, close, server: tokio::spawn(server) }
    }

    /// Changes what is answered from now on.
    pub(super) fn play(&self, role: Role) {
        self.role.send_replace(role);
    }

    /// Waits for the end of a server that nobody told to end.
    pub(super) async fn failed(&mut self) -> Option<tonic::transport::Error> {
        match (&mut self.server).await {
            Ok(ended) => ended.err(),
            Err(_) => None,
        }
    }

    /// Takes no more connections and waits until those there are have closed, `patience` at most.
    pub(super) async fn shut(&mut self, patience: Duration) {
        self.close.cancel();
        if !self.server.is_finished() {
            let _ = tokio::time::timeout(patience, &mut self.server).await;
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.close.cancel();
        self.server.abort();
    }
}

async fn answer(role: Role, request: Request<Body>) -> Response<Body> {
    match role {
        Role::Leading(front) => front.answer(request).await,
        Role::Standby(_) if request.uri().path() == "/healthz" => "standby\n".into_response().map(Body::new),
        Role::Standby(leader) => {
            let refusal = Refusal::standby(&leader);
            let kind = request.headers().get(header::CONTENT_TYPE);
            if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
                return tonic::Status::from(refusal).into_http();
            }
            let text = format!("{}\n", refusal.message);
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response().map(Body::new)
        }
    }
}
