//! Which nodes have been silent for too long. Volatile: a heartbeat is never an event.
//!
//! The scheduler (and the simulator) holds one [`Liveness`], tells it each time a node is heard, and asks who is
//! overdue. A node that becomes overdue is handed out once; what follows from it is an input to the core and becomes an
//! event. After a restart every node starts with a full time to live, which is safe, for the node itself counts from
//! when it sent its last acknowledged heartbeat, which is earlier.
//!
//! Neighbours: [`crate::agent`] sends heartbeats; the engine turns an overdue node into an input.

use std::collections::BTreeMap;

use crate::{LeaseId, NodeId, Time};

/// Silence after which a node's leases are no longer renewed, in a fleet of up to [`TTL_FLEET`] nodes.
pub const TTL_MS: u64 = 30_000;
/// Fleet size up to which [`TTL_MS`] holds.
pub const TTL_FLEET: u64 = 1_000;
/// What each further node adds, so that ten thousand nodes may come back at once within one time to live.
pub const TTL_PER_NODE_MS: u64 = 3;
/// Heartbeats in one time to live: four may be lost in a row.
pub const HEARTBEATS_PER_TTL: u64 = 6;

/// When each watched node was last heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Liveness {
    heard: BTreeMap<NodeId, Time>,
}

impl Liveness {
    /// Returns a watch over `nodes` after a start at `now`: each has a full time to live.
    pub fn starting(nodes: impl IntoIterator<Item = NodeId>, now: Time) -> Self {
        Self { heard: nodes.into_iter().map(|node| (node, now)).collect() }
    }

    /// Notes that `node` was heard, and watches it from now on.
    pub fn heard(&mut self, node: NodeId, now: Time) {
        let last = self.heard.entry(node).or_insert(now);
        *last = now.max(*last);
    }

    /// Stops watching a node that was removed.
    pub fn forget(&mut self, node: NodeId) {
        self.heard.remove(&node);
    }

    /// Returns when a watched node was last heard.
    pub fn last_heard(&self, node: NodeId) -> Option<Time> {
        self.heard.get(&node).copied()
    }

    /// Returns the time to live for the present fleet.
    pub fn ttl_ms(&self) -> u64 {
        let fleet = u64::try_from(self.heard.len()).unwrap_or(u64::MAX);
        TTL_MS.saturating_add(fleet.saturating_sub(TTL_FLEET).saturating_mul(TTL_PER_NODE_MS))
    }

    /// Returns how often each node is to send a heartbeat.
    pub fn heartbeat_ms(&self) -> u64 {
        self.ttl_ms() / HEARTBEATS_PER_TTL
    }

    /// Hands out the nodes that have been silent for a time to live, each once until it is heard again.
    pub fn take_overdue(&mut self, now: Time) -> Vec<NodeId> {
        let ttl_ms = self.ttl_ms();
        let overdue: Vec<NodeId> =
            self.heard.iter().filter(|(_, heard)| heard.plus_ms(ttl_ms) <= now).map(|(&node, _)| node).collect();
        for node in &overdue {
            self.heard.remove(node);
        }
        overdue
    }

    /// Returns when the next node becomes overdue if nothing is heard.
    pub fn next_overdue(&self) -> Option<Time> {
        let ttl_ms = self.ttl_ms();
        self.heard.values().min().map(|heard| heard.plus_ms(ttl_ms))
    }
}

/// Returns a hash of a set of leases that does not depend on their order. The node sends it with each heartbeat and
/// the scheduler compares it with its own.
pub fn lease_hash(leases: impl IntoIterator<Item = LeaseId>) -> u64 {
    leases.into_iter().fold(0, |sum, lease| sum.wrapping_add(mix(lease.0)))
}

/// Spreads one id over 64 bits (the finaliser of SplitMix64), so that sums of ids do not collide by arithmetic.
fn mix(id: u64) -> u64 {
    let mut bits = id.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_node_is_handed_out_once_until_it_is_heard_again() {
        let mut live = Liveness::starting([NodeId(1), NodeId(2)], Time(1_000));
        live.heard(NodeId(2), Time(5_000));
        assert_eq!(live.next_overdue(), Some(Time(31_000)));
        assert_eq!(live.take_overdue(Time(30_999)), []);
        assert_eq!(live.take_overdue(Time(31_000)), [NodeId(1)]);
        assert_eq!(live.take_overdue(Time(31_000)), []);
        live.heard(NodeId(1), Time(32_000));
        assert_eq!(live.take_overdue(Time(99_000)), [NodeId(1), NodeId(2)]);
        assert_eq!(live.next_overdue(), None);
    }

    #[test]
    fn an_older_time_never_shortens_the_watch() {
        let mut live = Liveness::default();
        live.heard(NodeId(1), Time(9_000));
        live.heard(NodeId(1), Time(4_000));
        assert_eq!(live.last_heard(NodeId(1)), Some(Time(9_000)));
        live.forget(NodeId(1));
        assert_eq!(live.last_heard(NodeId(1)), None);
    }

    #[test]
    fn the_time_to_live_grows_with_the_fleet() {
        let fleet = |nodes: u32| Liveness::starting((0..nodes).map(NodeId), Time(0)).ttl_ms();
        assert_eq!([fleet(1), fleet(1_000), fleet(10_000)], [30_000, 30_000, 57_000]);
        assert_eq!(Liveness::default().heartbeat_ms(), 5_000);
    }

    #[test]
    fn the_lease_hash_knows_the_set_and_not_the_order() {
        let hash = |ids: &[u64]| lease_hash(ids.iter().map(|&id| LeaseId(id)));
        assert_eq!(hash(&[1, 2, 3]), hash(&[3, 1, 2]));
        assert_ne!(hash(&[1, 4]), hash(&[2, 3]));
        assert_eq!(hash(&[]), 0);
        assert_eq!(hash(&[1]), 0x910A_2DEC_8902_5CC1);
    }
}
