//! Who is let in: tokens of people, and machines that ask with secrets that are right or not.

use gangsaw_core::access::Role;
use gangsaw_core::id::{Actor, NodeName, Tenant, TokenId};
use gangsaw_core::input::Input;
use gangsaw_core::join::{Hash, JoinInput};
use gangsaw_core::time::Millis;
use gangsaw_core::token::TokenDraft;

use super::Client;
use crate::world::World;

/// Machines that may join; the names are nobody's node.
const MACHINES: u64 = 8;

/// The hash of the secret that the simulated admin gives to token `token`.
fn secret(token: u64) -> Hash {
    [u8::try_from(token % 251).unwrap_or(0); 32]
}

impl World {
    /// Makes tokens that last a while, and revokes some that may be gone.
    pub(super) fn change_tokens(&mut self) {
        let newest = u32::try_from(self.clients.tokens).unwrap_or(u32::MAX);
        let input = if newest > 0 && self.rng.permille(400) {
            Input::RevokeToken { token: TokenId(newest.saturating_sub(u32::try_from(self.rng.below(4)).unwrap_or(0))) }
        } else {
            self.clients.tokens += 1;
            let Ok(actor) = Actor::new("eve") else { return };
            let life = self.rng.permille(800).then(|| Millis(self.rng.range(1, 60_000)));
            let (role, digest) = (Role::Submitter, [u8::try_from(newest % 251).unwrap_or(0); 32]);
            Input::CreateToken(TokenDraft { actor, role, user: String::from("eve"), digest, life })
        };
        let tenant = self.tenant();
        self.call(Client::Careless, tenant, input);
    }

    /// Makes join tokens, takes some back, and shows them: some ended, some with a wrong secret, some again.
    pub(super) fn change_joins(&mut self) {
        let newest =
            self.scheduler.as_ref().and_then(|scheduler| scheduler.state.joins().tokens().last()).map(|token| token.id);
        let input = match (newest, self.rng.below(10)) {
            (None, _) | (_, 0..=2) => {
                let (hash, uses) = (secret(newest.unwrap_or(0) + 1), u32::try_from(self.rng.range(1, 4)).unwrap_or(1));
                JoinInput::Create { hash, uses, ttl: Millis(self.rng.range(1_000, 600_000)) }
            }
            (Some(token), 3) => JoinInput::Revoke { token },
            (Some(newest), _) => {
                let token = newest.saturating_sub(self.rng.below(3));
                let machine = self.rng.below(MACHINES);
                let Ok(name) = NodeName::new(&format!("joiner-{machine}")) else { return };
                let hash = if self.rng.permille(200) { secret(token + 1) } else { secret(token) };
                JoinInput::Join { token, hash, name, uuid: format!("joiner-uuid-{machine}"), key_hash: secret(machine) }
            }
        };
        self.call(Client::Careless, Tenant::default(), Input::Join(input));
    }
}
