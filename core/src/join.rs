//! How machines are let in: join tokens, and the members they made.
//!
//! An admin makes a join token that lets so many machines in until a time. A machine that shows it becomes a *member*:
//! a name, the uuid of its agent, and the number of its join. A node's certificate carries all three, and counts as long
//! as the member does: joining again or forgetting the node voids every certificate made before.
//!
//! Invariants:
//! - Only the hash of a token's secret is here, in the log, and in snapshots.
//! - A token lets in at most as many machines as it was made for; the same machine asking again is let in once.
//! - One name has one member, and one uuid one name.
//!
//! Elsewhere: secrets and certificates are made by the scheduler (`rpc::join`, `tls`); here is only what is decided.

use std::collections::BTreeMap;

use crate::event::By;
use crate::id::{Actor, NodeName};
use crate::time::{Millis, Time};

/// Join tokens that are kept at once: enough for one a minute, with what has ended.
pub const JOIN_TOKENS_MAX: usize = 10_000;
/// Machines one token may let in.
pub const JOIN_USES_MAX: u32 = 100_000;
/// Longest life of a token: a year.
pub const JOIN_TTL_MAX: Millis = Millis::hours(24 * 366);
/// A token that has ended is listed for so long.
pub(crate) const JOIN_TOKEN_KEPT: Millis = Millis::hours(24 * 7);

/// A SHA-256.
pub type Hash = [u8; 32];

/// A token that lets machines in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Its number, from 1.
    pub id: u64,
    /// Hash of its secret.
    pub hash: Hash,
    /// Who made it.
    pub by: Actor,
    /// When.
    pub created_at: Time,
    /// It lets nobody in from then on.
    pub expires: Time,
    /// Machines it lets in.
    pub uses_max: u32,
    /// Machines it has let in.
    pub uses: u32,
    /// Taken back by an admin.
    pub revoked: bool,
}

/// A machine that was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The number of its join, from 1: its certificates carry it.
    pub join: u64,
    /// What its node is called.
    pub name: NodeName,
    /// Made once in its agent's state folder.
    pub uuid: String,
    /// Hash of the public key it joined with.
    pub key_hash: Hash,
    /// The token that let it in.
    pub token: u64,
    /// When.
    pub joined_at: Time,
}

/// What an admin or a machine asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinInput {
    /// Make a token.
    Create {
        /// Hash of its secret.
        hash: Hash,
        /// Machines it lets in.
        uses: u32,
        /// How long.
        ttl: Millis,
    },
    /// Take a token back. Machines it has let in stay.
    Revoke {
        /// Which.
        token: u64,
    },
    /// Let this machine in.
    Join {
        /// Which token it shows.
        token: u64,
        /// Hash of the secret it shows.
        hash: Hash,
        /// What it wants to be called.
        name: NodeName,
        /// Made once in its agent's state folder.
        uuid: String,
        /// Hash of its public key.
        key_hash: Hash,
    },
}

/// What became true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinEvent {
    /// A token was made.
    TokenCreated {
        /// Who asked.
        by: By,
        /// Its number.
        token: u64,
        /// Hash of its secret.
        hash: Hash,
        /// Machines it lets in.
        uses: u32,
        /// Until when.
        expires: Time,
    },
    /// A token was taken back.
    TokenRevoked {
        /// Who asked.
        by: By,
        /// Which.
        token: u64,
    },
    /// A machine was let in.
    Joined {
        /// The number of its join.
        join: u64,
        /// The token it showed.
        token: u64,
        /// What it is called.
        name: NodeName,
        /// Made once in its agent's state folder.
        uuid: String,
        /// Hash of its public key.
        key_hash: Hash,
    },
    /// A machine that never said Hello is not let in any more.
    MemberForgotten {
        /// Who asked.
        by: By,
        /// Which.
        name: NodeName,
    },
}

/// A part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinRestored {
    /// A token.
    Token(JoinToken),
    /// A member.
    Member(Member),
    /// The next numbers.
    Next {
        /// Next token.
        token: u64,
        /// Next join.
        join: u64,
    },
}

/// Tokens and members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joins {
    pub(crate) tokens: BTreeMap<u64, JoinToken>,
    pub(crate) members: BTreeMap<NodeName, Member>,
    pub(crate) next_token: u64,
    pub(crate) next_join: u64,
}

impl Default for Joins {
    fn default() -> Self {
        Self { tokens: BTreeMap::new(), members: BTreeMap::new(), next_token: 1, next_join: 1 }
    }
}

impl Joins {
    /// Yields the tokens, oldest first.
    pub fn tokens(&self) -> impl Iterator<Item = &JoinToken> {
        self.tokens.values()
    }

    /// Returns the member of a name.
    pub fn member(&self, name: &NodeName) -> Option<&Member> {
        self.members.get(name)
    }

    /// Says whether a certificate of this join still counts.
    pub fn holds(&self, name: &str, uuid: &str, join: u64) -> bool {
        let member = NodeName::new(name).ok().and_then(|name| self.members.get(&name));
        member.is_some_and(|member| member.join == join && member.uuid == uuid)
    }

    /// Folds an event.
    pub(crate) fn apply(&mut self, at: Time, event: &JoinEvent) {
        match event {
            JoinEvent::TokenCreated { by, token, hash, uses, expires } => {
                self.drop_old(at);
                let (by, uses_max) = (by.actor.clone(), *uses);
                let made = JoinToken {
                    id: *token,
                    hash: *hash,
                    by,
                    created_at: at,
                    expires: *expires,
                    uses_max,
                    uses: 0,
                    revoked: false,
                };
                self.tokens.insert(*token, made);
                self.next_token = self.next_token.max(token + 1);
            }
            JoinEvent::TokenRevoked { token, .. } => {
                if let Some(token) = self.tokens.get_mut(token) {
                    token.revoked = true;
                }
            }
            JoinEvent::Joined { join, token, name, uuid, key_hash } => {
                if let Some(token) = self.tokens.get_mut(token) {
                    token.uses += 1;
                }
                let (uuid, key_hash) = (uuid.clone(), *key_hash);
                let member = Member { join: *join, name: name.clone(), uuid, key_hash, token: *token, joined_at: at };
                self.members.insert(name.clone(), member);
                self.next_join = self.next_join.max(join + 1);
            }
            JoinEvent::MemberForgotten { name, .. } => self.forget(name),
        }
    }

    /// Voids every certificate of a name.
    pub(crate) fn forget(&mut self, name: &NodeName) {
        self.members.remove(name);
    }

    fn drop_old(&mut self, at: Time) {
        self.tokens.retain(|_, token| token.expires + JOIN_TOKEN_KEPT > at);
    }

    /// Returns the parts whose fold is this.
    pub(crate) fn parts(&self) -> Vec<JoinRestored> {
        let tokens = self.tokens.values().cloned().map(JoinRestored::Token);
        let members = self.members.values().cloned().map(JoinRestored::Member);
        let next = JoinRestored::Next { token: self.next_token, join: self.next_join };
        // Nothing was ever joined: nothing to say.
        let next = (*self != Joins::default()).then_some(next);
        tokens.chain(members).chain(next).collect()
    }

    /// Folds a part of a snapshot.
    pub(crate) fn restore(&mut self, part: &JoinRestored) {
        match part {
            JoinRestored::Token(token) => {
                self.tokens.insert(token.id, token.clone());
            }
            JoinRestored::Member(member) => {
                self.members.insert(member.name.clone(), member.clone());
            }
            JoinRestored::Next { token, join } => {
                (self.next_token, self.next_join) = (*token, *join);
            }
        }
    }
}
