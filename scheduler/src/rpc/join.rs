//! Letting machines in: join tokens for admins, and certificates for the machines that show them.
//!
//! The core decides who is let in; here secrets are made and hashed, requests are read, and certificates are signed.
//! A certificate leaves only after the join that it rests on is durable.
//!
//! Elsewhere: the authority is `tls`; what a join means is `gangsaw_core::join`.

use std::sync::Arc;

use gangsaw_core::effect::Reply;
use gangsaw_core::id::{Actor, NodeName, Tenant};
use gangsaw_core::input::{Input, Request as CoreRequest};
use gangsaw_core::join::{JoinInput, JoinToken};
use gangsaw_core::time::{Millis, Time};
use gangsaw_proto::admin::v1 as admin;
use gangsaw_proto::node::v1 as node;
use tonic::Code;

use super::ask::{self, astray, invalid};
use super::caller::{Caller, PeerNode, Person, speaks_for};
use super::errors::Refusal;
use crate::clock::wall_ms;
use crate::engine::Engine;
use crate::keyring::digest;
use crate::metrics::Metrics;
use crate::tls::{self, NodeCertificate, ServerTls};
use crate::token::{hex, random};
use crate::wire::view;

/// Random bytes of a secret: 128 bits, far beyond guessing over a network.
const SECRET_BYTES: usize = 16;
/// Longest secret that is hashed.
const SECRET_CHARS_MAX: usize = 256;
/// Characters of a uuid.
const UUID_CHARS: usize = 36;

/// What joining needs.
#[derive(Clone)]
pub(crate) struct Joins {
    pub(crate) engine: Engine,
    /// Absent: this scheduler has no authority, and lets nobody in.
    pub(crate) tls: Option<Arc<ServerTls>>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Joins {
    fn tls(&self) -> Result<&ServerTls, Refusal> {
        self.tls.as_deref().ok_or_else(|| {
            let message = "this scheduler has no authority, so nobody can join it";
            let hint = "run `gangsaw scheduler init` there and start it again";
            Refusal::new(Code::FailedPrecondition, "no-authority", message, hint)
        })
    }

    /// Makes a join token; the answer is the only place where its secret ever is.
    pub(crate) async fn create(
        &self,
        person: &Person,
        asked: admin::CreateJoinTokenRequest,
    ) -> Result<admin::CreateJoinTokenResponse, tonic::Status> {
        let ca_hash = self.tls()?.authority.hash();
        let secret = secret()?;
        let create = JoinInput::Create { hash: digest(secret.as_bytes()), uses: asked.uses, ttl: Millis(asked.ttl_ms) };
        let answer = self.engine.ask(person.request(Input::Join(create))?).await?;
        let Reply::JoinToken { token, expires } = answer else { return Err(astray()) };
        Ok(admin::CreateJoinTokenResponse {
            id: token,
            token: format!("{token}.{secret}.{ca_hash}"),
            expires_at: Some(self.wall(expires).await?),
        })
    }

    /// Lists join tokens, without their secrets.
    pub(crate) async fn list(&self) -> Result<admin::ListJoinTokensResponse, Refusal> {
        let tokens = self.engine.read(|view| {
            let now = view.now;
            view.state.joins().tokens().map(|token| shown(token, now)).collect()
        });
        Ok(admin::ListJoinTokensResponse { tokens: tokens.await? })
    }

    /// Takes a join token back.
    pub(crate) async fn revoke(&self, person: &Person, id: u64) -> Result<(), tonic::Status> {
        let Reply::Done = self.engine.ask(person.request(Input::Join(JoinInput::Revoke { token: id }))?).await? else {
            return Err(astray());
        };
        Ok(())
    }

    /// Lets a machine in and signs its certificate.
    pub(crate) async fn join(&self, asked: node::JoinRequest) -> Result<node::JoinResponse, tonic::Status> {
        let tls = self.tls()?;
        let name =
            NodeName::new(&asked.node_name).map_err(|error| invalid("bad-name", format!("the node's name {error}")))?;
        let odd = |c: char| !(c.is_ascii_hexdigit() || c == '-');
        if asked.node_uuid.len() != UUID_CHARS || asked.node_uuid.contains(odd) {
            return Err(invalid("bad-uuid", "the node's uuid is none").into());
        }
        if asked.secret.len() > SECRET_CHARS_MAX {
            return Err(invalid("bad-token", "that is no join token").into());
        }
        let wanted = tls::Wanted::read(&asked.certificate_request).map_err(bad_request)?;
        let (uuid, key_hash) = (asked.node_uuid, digest(wanted.public_key()));
        let secret = digest(asked.secret.as_bytes());
        let join =
            JoinInput::Join { token: asked.token_id, hash: secret, name: name.clone(), uuid: uuid.clone(), key_hash };
        // Whoever asks is known by nothing but the name it wants.
        let actor = Actor::new(name.as_str()).map_err(|error| invalid("bad-name", error.to_string()))?;
        let tenant = Tenant::default();
        let reach = gangsaw_core::access::Reach::Own;
        let request = CoreRequest { actor, tenant, reach, request_id: ask::request_id()?, input: Input::Join(join) };
        let answer = self.engine.ask(request).await.inspect_err(|refusal| {
            // What the core denies, the engine has counted.
            if refusal.code != Code::PermissionDenied {
                self.denied(name.as_str(), refusal);
            }
        });
        let Reply::Joined { join } = answer? else { return Err(astray()) };
        let certificate = NodeCertificate { name: name.to_string(), uuid, join };
        tracing::info!(node = %name, token = asked.token_id, join, "a machine joined");
        Ok(node::JoinResponse { certificate: self.sign(tls, &wanted, &certificate)? })
    }

    /// Signs another certificate for a node that shows one.
    pub(crate) async fn renew(
        &self,
        peer: PeerNode,
        asked: node::RenewRequest,
    ) -> Result<node::RenewResponse, tonic::Status> {
        let tls = self.tls()?;
        self.check(&peer).await?;
        let wanted = tls::Wanted::read(&asked.certificate_request).map_err(bad_request)?;
        let certificate = NodeCertificate { name: peer.name.to_string(), uuid: peer.uuid, join: peer.join };
        Ok(node::RenewResponse { certificate: self.sign(tls, &wanted, &certificate)? })
    }

    /// Refuses a node whose certificate rests on a join that does not count any more.
    pub(crate) async fn check(&self, peer: &PeerNode) -> Result<(), Refusal> {
        let asked = peer.clone();
        let holds =
            self.engine.read(move |view| view.state.joins().holds(asked.name.as_str(), &asked.uuid, asked.join));
        if holds.await? {
            return Ok(());
        }
        let refusal = Refusal::void_certificate(peer.name.as_str());
        self.denied(peer.name.as_str(), &refusal);
        Err(refusal)
    }

    fn sign(&self, tls: &ServerTls, wanted: &tls::Wanted, certificate: &NodeCertificate) -> Result<Vec<u8>, Refusal> {
        tls.node_certificate(wanted, certificate, wall_ms()).map_err(|error| {
            tracing::error!(%error, "a certificate cannot be signed");
            Refusal::invariant()
        })
    }

    /// Refuses, and counts, an agent that speaks for another node than its own.
    pub(crate) fn speaks_for(&self, caller: Option<&Caller>, name: &str, uuid: Option<&str>) -> Result<(), Refusal> {
        speaks_for(caller, name, uuid).inspect_err(|refusal| self.denied(name, refusal))
    }

    fn denied(&self, name: &str, refusal: &Refusal) {
        self.metrics.denied.get_or_create(&[("reason", refusal.label())]).inc();
        tracing::warn!(node = %name, reason = refusal.label(), "a machine was not let in");
    }

    async fn wall(&self, at: Time) -> Result<prost_types::Timestamp, Refusal> {
        self.engine.read(move |view| view.now.wall(at)).await
    }
}

fn shown(token: &JoinToken, now: view::Now) -> admin::JoinToken {
    admin::JoinToken {
        id: token.id,
        created_by: token.by.to_string(),
        created_at: Some(now.wall(token.created_at)),
        expires_at: Some(now.wall(token.expires)),
        expired: token.expires <= now.time,
        uses_max: token.uses_max,
        uses: token.uses,
        revoked: token.revoked,
    }
}

fn bad_request(what: &'static str) -> Refusal {
    invalid("bad-certificate-request", format!("the request for a certificate {what}"))
}

fn secret() -> Result<String, Refusal> {
    random::<SECRET_BYTES>().map(|bytes| hex(&bytes)).map_err(|_| Refusal::invariant())
}
