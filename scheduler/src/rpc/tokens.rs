//! Tokens of people: made, listed, revoked. The secret leaves in the answer that makes it and is kept nowhere.

use gangsaw_core::effect::Reply;
use gangsaw_core::id::Actor;
use gangsaw_core::input::Input;
use gangsaw_core::time::Millis;
use gangsaw_core::token::{ApiToken, TokenDraft};
use gangsaw_proto::admin::v1 as wire;
use tonic::{Code, Status};

use super::ask::{astray, invalid};
use super::caller::Person;
use super::errors::Refusal;
use crate::engine::Engine;
use crate::keyring::{Secret, digest};
use crate::wire::view::{self, Now};
use crate::wire::{spec, terms};

/// Makes a token.
pub(crate) async fn create(
    engine: &Engine,
    mut person: Person,
    request: wire::CreateTokenRequest,
) -> Result<wire::CreateTokenResponse, Status> {
    let role = terms::role_from(request.role).ok_or_else(|| Refusal::missing("role"))?;
    let actor = Actor::new(&request.name).map_err(|error| invalid("bad-name", format!("the token's name {error}")))?;
    let user = if request.user.is_empty() { request.name } else { request.user };
    let life = request.time_to_live.as_ref().map(|life| Millis(u64::try_from(spec::ms(life)).unwrap_or(0)));
    person.mean(&request.tenant)?;
    let secret = Secret::random().map_err(|error| {
        Refusal::new(Code::Internal, "no-randomness", format!("no secret can be made: {error}"), "")
    })?;
    let draft = TokenDraft { actor, role, user, digest: digest(secret.as_bytes()), life };
    let Reply::TokenCreated(token) = engine.ask(person.request(Input::CreateToken(draft))?).await? else {
        return Err(astray());
    };
    let now = engine.read(|view| view.now).await?;
    Ok(wire::CreateTokenResponse { secret: secret.of_token(token.id), token: Some(shown(&token, now)) })
}

/// Returns the tokens in force.
pub(crate) async fn list(engine: &Engine) -> Result<wire::ListTokensResponse, Refusal> {
    let tokens = engine.read(|view| {
        let live = |token: &&ApiToken| token.expires_at.is_none_or(|at| at > view.now.time);
        view.state.tokens().iter().filter(live).map(|token| shown(token, view.now)).collect()
    });
    Ok(wire::ListTokensResponse { tokens: tokens.await? })
}

fn shown(token: &ApiToken, now: Now) -> wire::Token {
    wire::Token {
        token_id: token.id.0,
        name: token.actor.to_string(),
        tenant: token.tenant.to_string(),
        role: terms::role(token.role).into(),
        user: token.user.clone(),
        created_by: token.made_by.to_string(),
        created_at: Some(now.wall(token.made_at)),
        expires_at: token.expires_at.map(|at| view::timestamp(now.wall_ms + at.since(now.time).0)),
    }
}
