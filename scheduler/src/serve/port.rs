//! The one port, over every turn of leading and standing by.
//!
//! Connections stay when the role changes: the next call of a client that was told "standby" is answered by the leader
//! that this scheduler has become. While another leads, whoever asks is sent on, in its own language; nothing here
//! touches the state.
//!
//! Elsewhere: what a leader serves is `http`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tower::ServiceExt;

use crate::accept;
use crate::http;
use crate::metrics::Metrics;
use crate::rpc::errors::Refusal;
use crate::tls::ServerTls;

/// What the port answers.
#[derive(Clone)]
pub(super) enum Role {
    /// Another scheduler leads, at this address if it is known.
    Standby(String),
    /// This one does, and this is what it serves.
    Leading(Router),
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
        let routes = Routes::from(Router::new().fallback(answer).with_state(played));
        let closed = close.clone();
        let server =
            http::server().serve_with_incoming_shutdown(routes, incoming, async move { closed.cancelled().await });
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

async fn answer(State(role): State<watch::Receiver<Role>>, request: Request) -> Response {
    let role = role.borrow().clone();
    match role {
        // A router is always ready, and answers what it does not know.
        Role::Leading(router) => router.oneshot(request).await.into_response(),
        Role::Standby(_) if request.uri().path() == "/healthz" => "standby\n".into_response(),
        Role::Standby(leader) => {
            let refusal = Refusal::standby(&leader);
            let kind = request.headers().get(header::CONTENT_TYPE);
            if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
                return tonic::Status::from(refusal).into_http();
            }
            (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", refusal.message)).into_response()
        }
    }
}
