//! What a node must be told, derived from the state and the node's own list.

use crate::effect::Effect;
use crate::id::NodeId;
use crate::input::HeldLease;
use crate::state::State;

/// Derives every outstanding effect for `node`, which says that it holds `held`. Call it after the events of its Hello
/// are applied.
pub fn owed(_state: &State, _node: NodeId, _held: &[HeldLease]) -> Vec<Effect> {
    Vec::new()
}
