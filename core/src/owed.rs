//! What a node must be told, derived from the state and the node's own list.
//!
//! Effects are level-triggered: the normal path performs them when their events are durable, and whatever was lost on
//! the way is found here when the node says Hello. Property, held by the tests: for every prefix of a log this equals
//! what was issued and not confirmed.

use std::collections::BTreeMap;

use crate::effect::Effect;
use crate::grant;
use crate::id::{LeaseId, NodeId};
use crate::input::{HeldLease, Phase};
use crate::lease::{Lease, RevokeReason};
use crate::ranges::RangeSet;
use crate::state::State;

/// Derives every outstanding effect for `node`, which says that it holds `held`. Call it after the events of its Hello
/// are applied.
pub fn owed(state: &State, node: NodeId, held: &[HeldLease]) -> Vec<Effect> {
    let mut effects = Vec::new();
    let Some(found) = state.nodes.get(&node).filter(|_| !state.mutations.owed_skipped()) else {
        return effects;
    };
    if found.body.acked_report > 0 {
        effects.push(Effect::AckReport { node, seq: found.body.acked_report });
    }
    let phases: BTreeMap<LeaseId, Phase> = held.iter().map(|held| (held.lease, held.phase)).collect();
    for lease in found.leases.iter().filter_map(|lease| state.leases.get(lease)) {
        owed_for(state, lease, phases.get(&lease.id).copied(), &mut effects);
    }
    for (lease, phase) in phases.into_iter().filter(|(lease, _)| !found.leases.contains(lease)) {
        match phase {
            Phase::Prepared | Phase::Running => {
                let (reason, elements) = (RevokeReason::Fenced, RangeSet::new());
                effects.push(Effect::Revoke { node, lease, reason, elements });
            }
            // Nothing of it runs; the ack is all it waits for.
            Phase::Ended => {}
        }
    }
    effects
}

fn owed_for(state: &State, lease: &Lease, phase: Option<Phase>, effects: &mut Vec<Effect>) {
    match phase {
        None => effects.extend(grant::grant(state, lease).filter(|_| !lease.fenced && !lease.begun)),
        Some(Phase::Ended) => return,
        Some(Phase::Prepared) if lease.started && lease.gang.is_some() && !lease.fenced => {
            effects.extend(grant::start(state, lease));
        }
        Some(Phase::Prepared | Phase::Running) => {}
    }
    if phase.is_none() && lease.fenced {
        return;
    }
    effects.extend(grant::revoke(lease));
    if lease.trimmed && !lease.fenced && lease.has_unstarted() {
        effects.push(Effect::Trim { node: lease.node, lease: lease.id });
    }
}
