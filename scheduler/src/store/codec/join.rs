//! Join tokens and members, to and from their messages.

use gangsaw_core::id::{Actor, NodeName};
use gangsaw_core::join::{Hash, JoinEvent, JoinRestored, JoinToken, Member};
use gangsaw_core::time::Time;
use gangsaw_proto::log::v1 as log;
use gangsaw_proto::log::v1::record::Event as W;

use super::part::{by, by_from};
use crate::wire::Malformed;

/// Returns the message of an event.
pub(super) fn event(event: &JoinEvent) -> W {
    match event {
        JoinEvent::TokenCreated { by: who, token, hash, uses, expires } => W::JoinTokenCreated(log::JoinTokenCreated {
            by: by(who),
            token_id: *token,
            hash: hash.to_vec(),
            uses: *uses,
            expires_ms: expires.0,
        }),
        JoinEvent::TokenRevoked { by: who, token } => {
            W::JoinTokenRevoked(log::JoinTokenRevoked { by: by(who), token_id: *token })
        }
        JoinEvent::Joined { join, token, name, uuid, key_hash } => W::NodeJoined(log::NodeJoined {
            join: *join,
            token_id: *token,
            name: name.to_string(),
            uuid: uuid.clone(),
            key_hash: key_hash.to_vec(),
        }),
        JoinEvent::MemberForgotten { by: who, name } => {
            W::MemberForgotten(log::MemberForgotten { by: by(who), name: name.to_string() })
        }
    }
}

/// Returns the message of a part of a snapshot.
pub(super) fn restored(part: &JoinRestored) -> W {
    match part {
        JoinRestored::Token(token) => W::RestoredJoinToken(log::RestoredJoinToken {
            token_id: token.id,
            hash: token.hash.to_vec(),
            created_by: token.by.to_string(),
            created_at_ms: token.created_at.0,
            expires_ms: token.expires.0,
            uses_max: token.uses_max,
            uses: token.uses,
            revoked: token.revoked,
        }),
        JoinRestored::Member(member) => W::RestoredMember(log::RestoredMember {
            join: member.join,
            name: member.name.to_string(),
            uuid: member.uuid.clone(),
            key_hash: member.key_hash.to_vec(),
            token_id: member.token,
            joined_at_ms: member.joined_at.0,
        }),
        &JoinRestored::Next { token, join } => {
            W::RestoredJoins(log::RestoredJoins { next_token: token, next_join: join })
        }
    }
}

pub(super) fn created(m: log::JoinTokenCreated) -> Result<JoinEvent, Malformed> {
    Ok(JoinEvent::TokenCreated {
        by: by_from(m.by)?,
        token: m.token_id,
        hash: hash_from(m.hash)?,
        uses: m.uses,
        expires: Time(m.expires_ms),
    })
}

pub(super) fn revoked(m: log::JoinTokenRevoked) -> Result<JoinEvent, Malformed> {
    Ok(JoinEvent::TokenRevoked { by: by_from(m.by)?, token: m.token_id })
}

pub(super) fn joined(m: log::NodeJoined) -> Result<JoinEvent, Malformed> {
    Ok(JoinEvent::Joined {
        join: m.join,
        token: m.token_id,
        name: name_from(&m.name)?,
        uuid: m.uuid,
        key_hash: hash_from(m.key_hash)?,
    })
}

pub(super) fn forgotten(m: log::MemberForgotten) -> Result<JoinEvent, Malformed> {
    Ok(JoinEvent::MemberForgotten { by: by_from(m.by)?, name: name_from(&m.name)? })
}

pub(super) fn token_from(m: log::RestoredJoinToken) -> Result<JoinRestored, Malformed> {
    Ok(JoinRestored::Token(JoinToken {
        id: m.token_id,
        hash: hash_from(m.hash)?,
        by: Actor::new(&m.created_by).map_err(|_| Malformed("actor"))?,
        created_at: Time(m.created_at_ms),
        expires: Time(m.expires_ms),
        uses_max: m.uses_max,
        uses: m.uses,
        revoked: m.revoked,
    }))
}

pub(super) fn member_from(m: log::RestoredMember) -> Result<JoinRestored, Malformed> {
    Ok(JoinRestored::Member(Member {
        join: m.join,
        name: name_from(&m.name)?,
        uuid: m.uuid,
        key_hash: hash_from(m.key_hash)?,
        token: m.token_id,
        joined_at: Time(m.joined_at_ms),
    }))
}

fn name_from(name: &str) -> Result<NodeName, Malformed> {
    NodeName::new(name).map_err(|_| Malformed("name"))
}

fn hash_from(bytes: Vec<u8>) -> Result<Hash, Malformed> {
    bytes.try_into().map_err(|_| Malformed("hash"))
}
