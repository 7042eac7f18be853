//! The tokens of people, as the door looks them up: by number, then by the digest of the secret.
//!
//! A token reads `gsw_NUMBER_SECRET`; the prefix lets scanners of source code find one that leaked. The secret is 256
//! random bits, so a plain SHA-256 of it can be guessed no better than the secret itself.
//!
//! Invariants:
//! - The engine replaces the ring after the event is durable and before the call that caused it is answered.
//! - When a token leaves the ring, everything that it opened is told to end.
//!
//! Elsewhere: what a token is, is `gangsaw_core::token`; asking for one is `rpc::auth`.

use std::collections::BTreeMap;
use std::io;

use gangsaw_core::access::Reach;
use gangsaw_core::id::TokenId;
use gangsaw_core::time::Time;
use gangsaw_core::token::{ApiToken, Tokens};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::rpc::caller::Person;
use crate::token::{Token, same};

/// What every token of people begins with.
const PREFIX: &str = "gsw_";

/// A secret on its way to whoever asked for it.
pub(crate) struct Secret(Token);

impl Secret {
    /// Makes one.
    pub(crate) fn random() -> io::Result<Secret> {
        Token::random().map(Secret)
    }

    /// Returns the secret alone, as its digest is made of it.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.secret().as_bytes()
    }

    /// Returns what the holder of token `id` shows.
    pub(crate) fn of_token(&self, id: TokenId) -> String {
        format!("{PREFIX}{id}_{}", self.0.secret())
    }
}

/// Returns the digest of a secret.
pub(crate) fn digest(secret: &[u8]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// Every token in force.
#[derive(Debug)]
pub(crate) struct Keyring {
    keys: BTreeMap<TokenId, Key>,
    clock: Clock,
}

#[derive(Clone, Debug)]
struct Key {
    holder: Person,
    digest: [u8; 32],
    expires_at: Option<Time>,
    ended: CancellationToken,
}

/// A token that was admitted.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    pub(crate) holder: Person,
    /// Cancelled when the token ends.
    pub(crate) ended: CancellationToken,
}

impl Keyring {
    /// Returns the ring of `tokens`.
    pub(crate) fn new(tokens: &Tokens, clock: Clock) -> Keyring {
        let keys = tokens.iter().map(|token| (token.id, Key::new(token))).collect();
        Keyring { keys, clock }
    }

    /// Returns the ring after a change, and ends what tokens that are gone had opened.
    pub(crate) fn follow(&self, tokens: &Tokens) -> Keyring {
        for (_, gone) in self.keys.iter().filter(|(id, _)| tokens.get(**id).is_none()) {
            gone.ended.cancel();
        }
        let kept = |token: &ApiToken| self.keys.get(&token.id).cloned().unwrap_or_else(|| Key::new(token));
        Keyring { keys: tokens.iter().map(|token| (token.id, kept(token))).collect(), clock: self.clock }
    }

    /// Returns whose token was presented. `None`: it is none, was revoked, or has expired.
    pub(crate) fn admit(&self, presented: &[u8]) -> Option<Admitted> {
        let (id, secret) = std::str::from_utf8(presented).ok()?.strip_prefix(PREFIX)?.split_once('_')?;
        let key = self.keys.get(&TokenId(id.parse().ok()?))?;
        let live = key.expires_at.is_none_or(|at| self.clock.now_ms() < at.0);
        (same(&key.digest, &digest(secret.as_bytes())) && live)
            .then(|| Admitted { holder: key.holder.clone(), ended: key.ended.clone() })
    }
}

impl Key {
    fn new(token: &ApiToken) -> Key {
        let (actor, tenant, role) = (token.actor.clone(), token.tenant.clone(), token.role);
        let holder = Person { actor, tenant, role, user: token.user.as_str().into(), reach: Reach::Own };
        Key { holder, digest: token.digest, expires_at: token.expires_at, ended: CancellationToken::new() }
    }
}

#[cfg(test)]
mod tests {
    //! What admits, and what does not any more.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use gangsaw_core::access::Role;
    use gangsaw_core::id::{Actor, Tenant};

    use super::*;

    fn token(id: u32, secret: &Secret, expires_at: Option<u64>) -> ApiToken {
        ApiToken {
            id: TokenId(id),
            actor: Actor::new("bob").unwrap(),
            tenant: Tenant::default(),
            role: Role::Viewer,
            user: "bob".into(),
            digest: digest(secret.as_bytes()),
            made_by: Actor::new("root").unwrap(),
            made_at: Time(0),
            expires_at: expires_at.map(Time),
        }
    }

    fn ring(tokens: Vec<ApiToken>) -> Keyring {
        Keyring::new(&Tokens::restored(TokenId(9), tokens), Clock::resume(1_000, 0))
    }

    #[test]
    fn a_secret_admits_under_its_own_number_only() {
        let (one, two) = (Secret::random().unwrap(), Secret::random().unwrap());
        let ring = ring(vec![token(1, &one, None), token(2, &two, None)]);
        let admitted = ring.admit(one.of_token(TokenId(1)).as_bytes()).unwrap();
        assert_eq!(admitted.holder.actor.as_str(), "bob");
        let hex = std::str::from_utf8(one.as_bytes()).unwrap().to_owned();
        let digest: String = digest(one.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        for wrong in [
            one.of_token(TokenId(2)),
            one.of_token(TokenId(3)),
            hex.clone(),
            format!("gsw_1_{digest}"),
            "gsw_1_".into(),
        ] {
            assert!(ring.admit(wrong.as_bytes()).is_none(), "{wrong}");
        }
        assert!(ring.admit(b"gsw_\xff_x").is_none());
        assert!(!format!("{ring:?}").contains(&hex));
    }

    #[test]
    fn an_expired_token_admits_nobody_even_before_it_is_removed() {
        let secret = Secret::random().unwrap();
        let shown = secret.of_token(TokenId(1));
        assert!(ring(vec![token(1, &secret, Some(3_600_000))]).admit(shown.as_bytes()).is_some());
        assert!(ring(vec![token(1, &secret, Some(1_000))]).admit(shown.as_bytes()).is_none());
    }

    #[test]
    fn a_token_that_leaves_the_ring_ends_what_it_opened_and_others_go_on() {
        let (one, two) = (Secret::random().unwrap(), Secret::random().unwrap());
        let before = ring(vec![token(1, &one, None), token(2, &two, None)]);
        let gone = before.admit(one.of_token(TokenId(1)).as_bytes()).unwrap();
        let stays = before.admit(two.of_token(TokenId(2)).as_bytes()).unwrap();
        let after = before.follow(&Tokens::restored(TokenId(9), [token(2, &two, None)]));
        assert!(gone.ended.is_cancelled() && !stays.ended.is_cancelled());
        assert!(after.admit(one.of_token(TokenId(1)).as_bytes()).is_none());
        let again = after.admit(two.of_token(TokenId(2)).as_bytes()).unwrap();
        drop(after.follow(&Tokens::default()));
        assert!(again.ended.is_cancelled() && stays.ended.is_cancelled(), "one mark for the token's whole life");
    }
}
