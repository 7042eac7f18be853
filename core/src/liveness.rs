//! Who was heard when: volatile, held by whoever leads, and never logged.
//!
//! One heartbeat renews all leases of a node. After a restart every node gets a full time to live, for the new leader
//! cannot know what the old one heard. Only the change (silent, or back) becomes an event: [`Liveness::overdue`] gives
//! the inputs `NodeSilent`, and a Hello ends the silence.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{LeaseId, NodeId};
use crate::time::{Millis, Time};

/// A node's time to live without a heartbeat, in a small fleet.
pub const LEASE_TTL: Millis = Millis::seconds(30);

/// Heartbeats a node sends within its time to live: losing two in a row must not silence it.
pub const HEARTBEATS_PER_TTL: u64 = 6;

/// The time to live grows by its own length for each so many nodes, so that heartbeats stay cheap.
pub const NODES_PER_TTL: u64 = 2_000;

/// Returns the time to live in a fleet of `nodes`.
pub fn lease_ttl(nodes: usize) -> Millis {
    Millis(LEASE_TTL.0 + LEASE_TTL.0 * (nodes as u64) / NODES_PER_TTL)
}

/// Returns the order-free hash of lease ids that a heartbeat carries beside their count.
pub fn lease_hash(leases: impl IntoIterator<Item = LeaseId>) -> u64 {
    leases.into_iter().fold(0, |sum: u64, lease| sum.wrapping_add(mixed(lease.0)))
}

/// SplitMix64's finaliser: neighbours differ in half of their bits.
fn mixed(id: u64) -> u64 {
    let a = id.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let b = (a ^ (a >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let c = (b ^ (b >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    c ^ (c >> 31)
}

/// When each connected node was last heard.
#[derive(Clone, Debug, Default)]
pub struct Liveness {
    heard: BTreeMap<NodeId, Time>,
    /// The same by time, so that asking who is overdue costs those who are.
    order: BTreeSet<(Time, NodeId)>,
}

impl Liveness {
    /// Returns the liveness of a leader that starts at `now`: every node of `connected` gets a full time to live.
    pub fn starting(now: Time, connected: impl IntoIterator<Item = NodeId>) -> Self {
        let heard: BTreeMap<NodeId, Time> = connected.into_iter().map(|node| (node, now)).collect();
        Self { order: heard.keys().map(|node| (now, *node)).collect(), heard }
    }

    /// Notes a Hello or a heartbeat.
    pub fn heard(&mut self, node: NodeId, now: Time) {
        if let Some(before) = self.heard.insert(node, now) {
            self.order.remove(&(before, node));
        }
        self.order.insert((now, node));
    }

    /// Forgets a node: it was silenced or removed.
    pub fn forget(&mut self, node: NodeId) {
        if let Some(before) = self.heard.remove(&node) {
            self.order.remove(&(before, node));
        }
    }

    /// Returns when a node was last heard.
    pub fn last_heard(&self, node: NodeId) -> Option<Time> {
        self.heard.get(&node).copied()
    }

    /// Returns the nodes that were not heard for `ttl`; by number; feed each as `Input::NodeSilent` and then
    /// forget it.
    pub fn overdue(&self, now: Time, ttl: Millis) -> Vec<NodeId> {
        let overdue = self.order.iter().take_while(|(heard, _)| now.since(*heard) >= ttl);
        let mut overdue: Vec<NodeId> = overdue.map(|(_, node)| *node).collect();
        overdue.sort_unstable();
        overdue
    }

    /// Returns when the next node becomes overdue if nothing is heard.
    pub fn next_overdue(&self, ttl: Millis) -> Option<Time> {
        self.order.first().map(|(heard, _)| *heard + ttl)
    }
}

#[cfg(test)]
mod tests;
