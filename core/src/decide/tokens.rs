//! Tokens: made and revoked by admins, gone when they expire. The rule table lets nobody else ask.

use super::Decider;
use crate::effect::{RefusalKind, Reply, Step};
use crate::event::{Event, TokenEvent};
use crate::id::TokenId;
use crate::time::Millis;
use crate::token::{ApiToken, TOKEN_LIFE_MAX, TOKENS_MAX, TokenDraft, USER_CHARS_MAX};

impl Decider<'_> {
    pub(super) fn create_token(&self, draft: &TokenDraft) -> Step {
        if draft.life.is_some_and(|life| life == Millis(0) || life > TOKEN_LIFE_MAX) {
            let message = format!("a token's life is not within 1 ms to {TOKEN_LIFE_MAX}");
            return self.refuse(RefusalKind::Invalid, "out-of-range", message, "");
        }
        let user_fits = !draft.user.is_empty()
            && draft.user.chars().count() <= USER_CHARS_MAX
            && !draft.user.contains(|c: char| c.is_control() || c == ':' || c == '/');
        if !user_fits {
            let message = format!("{:?} is no name of an operating system user", draft.user);
            return self.refuse(RefusalKind::Invalid, "bad-name", message, "");
        }
        if self.state.tokens.len() >= TOKENS_MAX {
            let message = format!("there are {TOKENS_MAX} tokens");
            let hint = "`gangsaw token revoke` removes those that nobody needs";
            return self.refuse(RefusalKind::Exhausted, "too-many-tokens", message, hint);
        }
        let token = ApiToken {
            id: self.state.tokens.next(),
            actor: draft.actor.clone(),
            tenant: self.request.tenant.clone(),
            role: draft.role,
            user: draft.user.clone(),
            digest: draft.digest,
            made_by: self.request.actor.clone(),
            made_at: self.now,
            expires_at: draft.life.map(|life| self.now + life),
        };
        let mut step = self.answer(Reply::TokenCreated(Box::new(token.clone())));
        step.events.push(Event::Token(TokenEvent::Created { by: self.by(), token: Box::new(token) }));
        step
    }

    pub(super) fn revoke_token(&self, id: TokenId) -> Step {
        if self.state.tokens.get(id).is_none() {
            let message = format!("there is no token {id}; it may have expired");
            return self.refuse(RefusalKind::NotFound, "unknown-token", message, "`gangsaw token list` lists them");
        }
        let mut step = self.answer(Reply::Done);
        step.events.push(Event::Token(TokenEvent::Revoked { by: self.by(), token: id }));
        step
    }
}
