//! Who is let in: the life of a join token, and what a machine must show.

use super::Decider;
use crate::effect::{RefusalKind, Reply, Step};
use crate::event::Event;
use crate::id::NodeName;
use crate::join::{Hash, JOIN_TOKENS_MAX, JOIN_TTL_MAX, JOIN_USES_MAX, JoinEvent, JoinInput, JoinToken, Member};
use crate::time::Millis;

/// What to do when a token does not do.
const ANOTHER_TOKEN: &str = "ask for another with `gangsaw token join create`";

impl Decider<'_> {
    pub(super) fn join_input(&self, input: &JoinInput) -> Step {
        match input {
            JoinInput::Create { hash, uses, ttl } => self.create_join_token(*hash, *uses, *ttl),
            JoinInput::Revoke { token } => self.revoke_join_token(*token),
            JoinInput::Join { token, hash, name, uuid, key_hash } => {
                let known = self.state.joins.tokens.get(token).filter(|token| token.hash == *hash);
                match known {
                    Some(token) => self.join(token, name, uuid, *key_hash),
                    // An unknown number and a wrong secret are one answer: nothing is learnt by trying.
                    None => {
                        let message = "this scheduler does not know the join token".to_owned();
                        self.refuse(RefusalKind::Denied, "join-token-unknown", message, ANOTHER_TOKEN)
                    }
                }
            }
        }
    }

    fn create_join_token(&self, hash: Hash, uses: u32, ttl: Millis) -> Step {
        if !(1..=JOIN_USES_MAX).contains(&uses) {
            let message = format!("a join token lets in 1 to {JOIN_USES_MAX} machines, and {uses} were asked for");
            return self.refuse(RefusalKind::Invalid, "out-of-range", message, "");
        }
        if !(Millis(1)..=JOIN_TTL_MAX).contains(&ttl) {
            let message = format!("a join token lives at most {JOIN_TTL_MAX}");
            return self.refuse(RefusalKind::Invalid, "out-of-range", message, "");
        }
        let joins = &self.state.joins;
        let kept = joins.tokens().filter(|token| token.expires + crate::join::JOIN_TOKEN_KEPT > self.now).count();
        if kept >= JOIN_TOKENS_MAX {
            let message = format!("there are {JOIN_TOKENS_MAX} join tokens");
            let hint = "one that lets in many machines (`--uses`) does for all; ended ones go after a week";
            return self.refuse(RefusalKind::Exhausted, "too-many-tokens", message, hint);
        }
        let (token, expires) = (joins.next_token, self.now + ttl);
        let mut step = self.answer(Reply::JoinToken { token, expires });
        step.events.push(Event::Join(JoinEvent::TokenCreated { by: self.by(), token, hash, uses, expires }));
        step
    }

    fn revoke_join_token(&self, id: u64) -> Step {
        let Some(token) = self.state.joins.tokens.get(&id) else {
            let message = format!("there is no join token {id}");
            return self.refuse(RefusalKind::NotFound, "unknown-token", message, "see `gangsaw token join list`");
        };
        let mut step = self.answer(Reply::Done);
        if !token.revoked {
            step.events.push(Event::Join(JoinEvent::TokenRevoked { by: self.by(), token: id }));
        }
        step
    }

    fn join(&self, token: &JoinToken, name: &NodeName, uuid: &str, key_hash: Hash) -> Step {
        let denied = |reason, message: String| self.refuse(RefusalKind::Denied, reason, message, ANOTHER_TOKEN);
        if token.revoked {
            return denied("join-token-revoked", format!("join token {} was revoked", token.id));
        }
        if self.now >= token.expires {
            return denied("join-token-expired", format!("join token {} has expired", token.id));
        }
        let joins = &self.state.joins;
        let same = |member: &&Member| member.uuid == uuid && member.key_hash == key_hash && member.token == token.id;
        if let Some(member) = joins.members.get(name).filter(same) {
            // The answer was lost, and the machine asks again with the same key.
            return self.answer(Reply::Joined { join: member.join });
        }
        if token.uses >= token.uses_max {
            let message = format!("join token {} has let in {} of {}", token.id, token.uses, token.uses_max);
            return denied("join-token-used-up", message);
        }
        if let Some(refused) = self.refuse_taken(name, uuid) {
            return refused;
        }
        let (join, token) = (joins.next_join, token.id);
        let mut step = self.answer(Reply::Joined { join });
        let (name, uuid) = (name.clone(), uuid.to_owned());
        step.events.push(Event::Join(JoinEvent::Joined { join, token, name, uuid, key_hash }));
        step
    }

    /// Refuses a name that is another machine's, and a machine that has another name.
    fn refuse_taken(&self, name: &NodeName, uuid: &str) -> Option<Step> {
        let nodes = self.state.nodes.values().map(|node| (&node.body.name, node.body.uuid.as_str()));
        let members = self.state.joins.members.values().map(|member| (&member.name, member.uuid.as_str()));
        let (taken, held) = nodes.chain(members).find(|(taken, held)| (*taken == name) != (*held == uuid))?;
        if taken == name {
            let message = format!("another agent is registered as node `{name}`");
            let hint = "start the agent with another `--node-name`, or `gangsaw nodes forget` the old one";
            return Some(self.refuse(RefusalKind::AlreadyExists, "node-name-taken", message, hint));
        }
        debug_assert_eq!(held, uuid);
        let message = format!("this agent is registered as node `{taken}`");
        let hint = "start it under that name, or `gangsaw nodes forget` it first";
        Some(self.refuse(RefusalKind::AlreadyExists, "node-renamed", message, hint))
    }

    /// Forgets a machine that was let in and never came. `None`: there is none of that name.
    pub(super) fn forget_member(&self, name: &NodeName) -> Option<Step> {
        self.state.joins.members.get(name)?;
        let mut step = self.answer(Reply::Done);
        step.events.push(Event::Join(JoinEvent::MemberForgotten { by: self.by(), name: name.clone() }));
        Some(step)
    }
}
