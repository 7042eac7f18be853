//! What a scheduler answers while another one leads: that it stands by, and where the leader is.
//!
//! Nothing here touches the state; whoever asks is sent on, in its own language.

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;

use crate::config::ServeError;
use crate::http as door;
use crate::lead::{Candidate, Lead};
use crate::rpc::errors::Refusal;
use crate::store::sqlite::OpenError;

/// How long connections may take to close before this scheduler leads.
const CLOSING_WAIT: Duration = Duration::from_millis(50);

/// Answers until this scheduler leads. `None`: it was told to stop.
pub(super) async fn stand_by(
    listener: TcpListener,
    candidate: Candidate,
    stop: &CancellationToken,
) -> Result<Option<Lead>, ServeError> {
    let (leader, known) = watch::channel(String::new());
    let over = stop.child_token();
    let routes = Router::new().route("/healthz", get(|| async { "standby\n" })).fallback(refuse).with_state(known);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let signal = over.clone();
    let server = door::server()
        .serve_with_incoming_shutdown(Routes::from(routes), incoming, async move { signal.cancelled().await });
    let server = tokio::spawn(server);
    let lead = tokio::select! {
        lead = candidate.lead(&leader) => Some(lead.map_err(OpenError::from)),
        () = stop.cancelled() => None,
    };
    over.cancel();
    // Whoever does not hang up in time is left to its old connection, which still answers as a standby.
    let _ = tokio::time::timeout(CLOSING_WAIT, server).await;
    Ok(lead.transpose()?)
}

async fn refuse(State(leader): State<watch::Receiver<String>>, request: Request) -> Response {
    let refusal = Refusal::standby(&leader.borrow());
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return tonic::Status::from(refusal).into_http();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", refusal.message)).into_response()
}
