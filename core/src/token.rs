//! API tokens: what people's programs show, each with a name, a tenant, a role and an end.
//!
//! The state holds a digest of each secret and never the secret: whoever reads the log or a backup can show nothing with
//! it. A token that was revoked or has expired is gone from the state; the log keeps who made and who revoked it.
//!
//! Invariants:
//! - A token's number is never used again.
//! - A token admits nobody from the moment it expires, whether or not the event that removes it was written yet.
//!
//! Elsewhere: making secrets and comparing digests is the scheduler's; what a role may do is `access`.

use std::collections::{BTreeMap, BTreeSet};

use crate::access::Role;
use crate::id::{Actor, Tenant, TokenId};
use crate::time::{Millis, Time};

/// Tokens of a cluster that are in force: the door looks through all of them in memory.
pub const TOKENS_MAX: usize = 4_096;
/// Longest life of a token that has an end.
pub const TOKEN_LIFE_MAX: Millis = Millis::hours(24 * 3_650);
/// Longest name of an operating system user.
pub const USER_CHARS_MAX: usize = 64;

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiToken {
    /// Its number.
    pub id: TokenId,
    /// Who its holder is: changes are recorded under this name, and jobs belong to it.
    pub actor: Actor,
    /// Whose jobs and queues its holder means.
    pub tenant: Tenant,
    /// How much its holder may do.
    pub role: Role,
    /// The operating system user its holder's tasks run as.
    pub user: String,
    /// SHA-256 of its secret.
    pub digest: [u8; 32],
    /// Who made it.
    pub made_by: Actor,
    /// When.
    pub made_at: Time,
    /// It admits nobody from then on. `None`: it does not expire.
    pub expires_at: Option<Time>,
}

/// A token to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenDraft {
    /// Who its holder is.
    pub actor: Actor,
    /// How much its holder may do.
    pub role: Role,
    /// The operating system user its holder's tasks run as.
    pub user: String,
    /// SHA-256 of its secret.
    pub digest: [u8; 32],
    /// `None`: it does not expire.
    pub life: Option<Millis>,
}

/// Every token in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    next: TokenId,
    all: BTreeMap<TokenId, ApiToken>,
    /// Derived: those that expire, by when.
    ends: BTreeSet<(Time, TokenId)>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { next: TokenId(1), all: BTreeMap::new(), ends: BTreeSet::new() }
    }
}

impl Tokens {
    /// Returns the tokens of a snapshot.
    pub fn restored(next: TokenId, all: impl IntoIterator<Item = ApiToken>) -> Self {
        let mut tokens = Self { next, ..Self::default() };
        all.into_iter().for_each(|token| tokens.insert(token));
        tokens
    }

    /// Returns the number that the next token gets.
    pub fn next(&self) -> TokenId {
        self.next
    }

    /// Returns a token.
    pub fn get(&self, id: TokenId) -> Option<&ApiToken> {
        self.all.get(&id)
    }

    /// Yields the tokens in the order they were made.
    pub fn iter(&self) -> impl Iterator<Item = &ApiToken> {
        self.all.values()
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Says whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns when the next token expires.
    pub(crate) fn next_end(&self) -> Option<Time> {
        self.ends.first().map(|(at, _)| *at)
    }

    pub(crate) fn insert(&mut self, token: ApiToken) {
        self.remove(token.id);
        self.next = self.next.max(TokenId(token.id.0.saturating_add(1)));
        if let Some(at) = token.expires_at {
            self.ends.insert((at, token.id));
        }
        self.all.insert(token.id, token);
    }

    pub(crate) fn remove(&mut self, id: TokenId) {
        if let Some(token) = self.all.remove(&id)
            && let Some(at) = token.expires_at
        {
            self.ends.remove(&(at, id));
        }
    }

    /// Removes what expires at or before `until`.
    pub(crate) fn expire(&mut self, until: Time) {
        while let Some((at, id)) = self.ends.first().copied().filter(|(at, _)| *at <= until) {
            self.ends.remove(&(at, id));
            self.all.remove(&id);
        }
    }
}
