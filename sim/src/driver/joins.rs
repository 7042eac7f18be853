//! Machines that ask to be let in, with secrets that are right or not.

use gangsaw_core::id::{NodeName, Tenant};
use gangsaw_core::input::Input;
use gangsaw_core::join::{Hash, JoinInput};
use gangsaw_core::time::Millis;

use super::Client;
use crate::world::World;

/// Machines that may join; the names are nobody's node.
const MACHINES: u64 = 8;

/// The hash of the secret that the simulated admin gives to token `token`.
fn secret(token: u64) -> Hash {
    [u8::try_from(token % 251).unwrap_or(0); 32]
}

impl World {
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
