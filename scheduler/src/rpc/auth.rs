//! The door: finds out who calls before anything else sees a request, and denies what no rule allows.
//!
//! A caller shows `authorization: Bearer TOKEN`, or has proved a node by its connection's certificate. Whoever is found
//! goes on in the request's extensions as a `Caller`; a refusal is counted and logged, and reaches no handler.
//!
//! Elsewhere: which path needs what is `rules`; making and comparing tokens is `token`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use gangsaw_core::access::{Reach, Role};
use http::{HeaderMap, StatusCode, header};

use super::caller::{Caller, PeerNode, Person};
use super::errors::Refusal;
use super::rules::{Rule, rule};
use crate::metrics::Metrics;
use crate::token::Token;

/// What the door compares callers with.
pub(crate) struct Gate {
    /// The state folder's token, and whose it is.
    pub(crate) folder: (Token, Person),
    pub(crate) metrics: Arc<Metrics>,
}

impl Gate {
    /// Finds who calls. Absent: nobody this scheduler knows.
    fn caller(&self, request: &Request) -> Option<Caller> {
        if let Some(presented) = bearer(request.headers()) {
            let (token, owner) = &self.folder;
            return token.admits(presented).then(|| Caller::Person(owner.clone()));
        }
        request.extensions().get::<PeerNode>().cloned().map(Caller::Agent)
    }

    /// Finds the caller that a request goes on with, or why it does not. Absent: anybody may.
    fn admitted(&self, request: &Request) -> Result<Option<Caller>, Refusal> {
        let path = request.uri().path();
        let rule = rule(path);
        if rule == Some(Rule::Open) {
            return Ok(None);
        }
        let caller = self.caller(request).ok_or_else(Refusal::unauthenticated)?;
        let rule = rule.ok_or_else(Refusal::no_such_call)?;
        allowed(rule, caller).map(Some)
    }

    fn denied(&self, path: &str, refusal: &Refusal) {
        self.metrics.denied.get_or_create(&[("reason", refusal.label())]).inc();
        tracing::warn!(path, reason = refusal.label(), "a call was denied");
    }
}

/// Narrows a caller to what the rule of its call lets it touch, or denies the call.
fn allowed(rule: Rule, caller: Caller) -> Result<Caller, Refusal> {
    match (rule, caller) {
        (Rule::Open, caller) => Ok(caller),
        (Rule::Person(least, reach), Caller::Person(person)) if person.role >= least => {
            let reach = if person.role >= Role::Operator { Reach::Cluster } else { reach };
            Ok(Caller::Person(Person { reach, ..person }))
        }
        (Rule::Person(least, _), Caller::Person(person)) => Err(Refusal::role(person.role, least)),
        (Rule::Person(..), Caller::Agent(_)) => Err(Refusal::not_a_person()),
        (Rule::Node, Caller::Agent(node)) => Ok(Caller::Agent(node)),
        (Rule::Node, Caller::Person(person)) if person.role >= Role::Admin => Ok(Caller::Person(person)),
        (Rule::Node, Caller::Person(person)) => Err(Refusal::role(person.role, Role::Admin)),
    }
}

/// Lets a request through that its path's rule admits.
pub(crate) async fn admit(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    match gate.admitted(&request) {
        Ok(caller) => {
            // Whatever a connection brought, only the door says who calls.
            request.extensions_mut().remove::<Caller>();
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            next.run(request).await
        }
        Err(refusal) => {
            gate.denied(request.uri().path(), &refusal);
            refuse(request.headers(), refusal)
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

/// Refuses in the caller's own language: a gRPC status, or plain HTTP.
fn refuse(headers: &HeaderMap, refusal: Refusal) -> Response {
    let grpc = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return tonic::Status::from(refusal).into_http();
    }
    let text = format!("{}\n", refusal.message);
    if refusal.code == tonic::Code::Unauthenticated {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], text).into_response();
    }
    let unknown = refusal.code == tonic::Code::Unimplemented;
    (if unknown { StatusCode::NOT_FOUND } else { StatusCode::FORBIDDEN }, text).into_response()
}

#[cfg(test)]
mod tests;
