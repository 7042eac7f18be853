//! The door: finds out who calls before anything else sees a request, and denies what no rule allows.
//!
//! A caller shows `authorization: Bearer TOKEN`, or has proved a node by its connection's certificate. Whoever is found
//! goes on in the request's extensions as a `Caller`; a refusal is counted and logged, and reaches no handler.
//!
//! Elsewhere: which path needs what is `rules`; making and comparing tokens is `token`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use axum::response::IntoResponse;
use gangsaw_core::access::{Reach, Role};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::body::Body;

use super::admission::RETRY_AFTER;
use super::caller::{Caller, PeerNode, Person};
use super::errors::Refusal;
use super::rules::{Rule, rule};
use crate::accept::Peer;
use crate::clock::boot_ns;
use crate::engine::Engine;
use crate::metrics::Metrics;
use crate::token::Token;

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// Denials that are written down in one second; all are counted.
const DENIALS_LOGGED: u32 = 10;
/// When a node comes again that found no place.
const NO_PLACE_AGAIN_MS: &str = "5000";
/// Characters of a path in a line.
const PATH_CHARS_LOGGED: usize = 128;

/// What the door compares callers with.
pub(crate) struct Gate {
    /// The state folder's token, and whose it is.
    pub(crate) folder: (Token, Person),
    /// Where the tokens in force are.
    pub(crate) engine: Engine,
    pub(crate) metrics: Arc<Metrics>,
    /// How much is written down.
    pub(crate) said: LogRate,
}

/// Keeps a flood of denials from becoming a flood of lines.
#[derive(Debug, Default)]
pub(crate) struct LogRate {
    second: AtomicU64,
    lines: AtomicU32,
}

impl LogRate {
    /// Says whether a line may be written at `second`. Two threads at once may write one more.
    fn allows(&self, second: u64) -> bool {
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.lines.store(0, Ordering::Relaxed);
        }
        self.lines.fetch_add(1, Ordering::Relaxed) < DENIALS_LOGGED
    }
}

/// A caller, and when what it opens must end early.
type Found = (Caller, Option<CancellationToken>);

/// A call that goes no further.
#[derive(Debug)]
struct Denial {
    refusal: Refusal,
    /// Whose call it was; empty if nobody knows.
    who: String,
}

impl Denial {
    fn new(refusal: Refusal, who: &str) -> Box<Denial> {
        Box::new(Denial { refusal, who: who.to_owned() })
    }
}

impl Gate {
    /// Finds who calls; `node` is whom the connection's certificate names. Absent: nobody this scheduler knows.
    fn caller(&self, request: &Request, node: Option<PeerNode>) -> Option<Found> {
        let Some(presented) = bearer(request.headers()) else { return node.map(|node| (Caller::Agent(node), None)) };
        let (token, owner) = &self.folder;
        if token.admits(presented) {
            return Some((Caller::Person(owner.clone()), None));
        }
        let admitted = self.engine.keys().admit(presented)?;
        Some((Caller::Person(admitted.holder), Some(admitted.ended)))
    }

    /// Finds the caller that a request goes on with, or why it does not and whose it was. Absent: anybody may.
    fn admitted(&self, request: &Request, node: Option<PeerNode>) -> Result<Option<Found>, Box<Denial>> {
        let path = request.uri().path();
        let rule = rule(path);
        if matches!(rule, Some(Rule::Open | Rule::JoinToken)) {
            return Ok(None);
        }
        let found = self.caller(request, node);
        let (mut caller, ended) = found.ok_or_else(|| Denial::new(Refusal::unauthenticated(), ""))?;
        let allowed = rule.ok_or_else(Refusal::no_such_call).and_then(|rule| allow(rule, &mut caller));
        allowed.map_err(|refusal| Denial::new(refusal, caller.name()))?;
        Ok(Some((caller, ended)))
    }

    /// Lets a request through that its path's rule admits; it names its caller from here on. Returns when what it opens
    /// must end early, or the answer to a request that goes no further.
    pub(crate) fn admit(&self, request: &mut Request) -> Result<Option<CancellationToken>, Box<Response>> {
        let node = request.extensions().get::<Peer>().and_then(|peer| PeerNode::of(peer.node.as_deref()?));
        let found = self.admitted(request, node).map_err(|denial| {
            self.denied(request, &denial);
            Box::new(refuse(request.headers(), denial.refusal))
        })?;
        // Whatever a connection brought, only the door says who calls.
        request.extensions_mut().remove::<Caller>();
        let Some((caller, ended)) = found else { return Ok(None) };
        let of_node = matches!(rule(request.uri().path()), Some(Rule::Node));
        if request.extensions().get::<Peer>().is_some_and(|peer| !peer.ticket.proved(of_node)) {
            return Err(Box::new(self.no_place(request)));
        }
        request.extensions_mut().insert(caller);
        Ok(ended)
    }

    /// Sends a node away that may come again later.
    fn no_place(&self, request: &Request) -> Response {
        let (why, hint) = ("too-many-nodes", "an agent comes again by itself; give the scheduler more descriptors");
        self.metrics.connections_refused.get_or_create(&[("reason", why)]).inc();
        let message = "as many connections of nodes are open as this scheduler has descriptors for";
        let mut response = refuse(request.headers(), Refusal::new(Code::ResourceExhausted, why, message, hint));
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(NO_PLACE_AGAIN_MS));
        response
    }

    fn denied(&self, request: &Request, denial: &Denial) {
        let (who, reason) = (denial.who.as_str(), denial.refusal.label());
        self.metrics.denied.get_or_create(&[("reason", reason)]).inc();
        if self.said.allows(boot_ns() / 1_000_000_000) {
            // A path is the caller's own text: at most so much of it.
            let path: String = request.uri().path().chars().take(PATH_CHARS_LOGGED).collect();
            let peer = request.extensions().get::<Peer>().map(|peer| tracing::field::display(peer.address));
            tracing::warn!(peer, path, who, reason, "a call was denied");
        }
    }
}

/// Narrows a caller to what the rule of its call lets it touch, or denies the call.
fn allow(rule: Rule, caller: &mut Caller) -> Result<(), Refusal> {
    match (rule, caller) {
        (Rule::Open | Rule::JoinToken, _) | (Rule::Node, Caller::Agent(_)) => Ok(()),
        (Rule::Person(least, reach), Caller::Person(person)) if person.role >= least => {
            person.reach = if person.role >= Role::Operator { Reach::Cluster } else { reach };
            Ok(())
        }
        (Rule::Person(least, _), Caller::Person(person)) => Err(Refusal::role(person.role, least)),
        (Rule::Person(..), Caller::Agent(_)) => Err(Refusal::not_a_person()),
        (Rule::Node, Caller::Person(person)) if person.role >= Role::Admin => Ok(()),
        (Rule::Node, Caller::Person(person)) => Err(Refusal::role(person.role, Role::Admin)),
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
    if refusal.code == Code::Unauthenticated {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, challenge, text).into_response().map(Body::new);
    }
    let unknown = refusal.code == Code::Unimplemented;
    let status = if unknown { StatusCode::NOT_FOUND } else { StatusCode::FORBIDDEN };
    (status, text).into_response().map(Body::new)
}

#[cfg(test)]
mod tests;
