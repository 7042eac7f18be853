//! The door: looks at `authorization: Bearer TOKEN` before anything else sees a request.
//!
//! Elsewhere: which path needs what is `rules`; making and comparing tokens is `token`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};

use super::errors::Refusal;
use super::rules::{Rule, rule};
use crate::token::Token;

/// Lets a request through that its path's rule admits.
pub(crate) async fn admit(State(token): State<Arc<Token>>, request: Request, next: Next) -> Response {
    let admitted = match rule(request.uri().path()) {
        Rule::Open => true,
        Rule::Token => bearer(request.headers()).is_some_and(|presented| token.admits(presented)),
    };
    if admitted { next.run(request).await } else { refuse(request.headers()) }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

/// Refuses in the caller's own language: a gRPC status, or plain HTTP.
fn refuse(headers: &HeaderMap) -> Response {
    let grpc = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return tonic::Status::from(Refusal::unauthenticated()).into_http();
    }
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], "a bearer token is needed\n").into_response()
}
