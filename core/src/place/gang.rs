//! Where the ranks of a gang go: all of them, or none; on as few nodes as possible, on the tightest of those.

use super::free::Free;
use crate::id::{NodeId, Rank};
use crate::lease::RankHold;
use crate::resources::Demand;

/// Returns the nodes of a gang and the ranks on each, by node rank. `None`: not all ranks fit.
pub(crate) fn pack(
    free: &Free<'_>,
    demand: &Demand,
    excluded: &[NodeId],
    replicas: u32,
) -> Option<Vec<(NodeId, Vec<RankHold>)>> {
    let mut nodes: Vec<(u64, NodeId)> = free
        .nodes()
        .filter(|(node, _)| !excluded.contains(&node.body.id))
        .map(|(node, left)| (left.ranks(node, demand), node.body.id))
        .filter(|(ranks, _)| *ranks > 0)
        .collect();
    // The roomiest first: fewest nodes. Among equals, and for the rest, the lowest number: the same input, the same plan.
    nodes.sort_by_key(|(ranks, node)| (std::cmp::Reverse(*ranks), *node));
    let mut left = u64::from(replicas);
    let mut chosen: Vec<(NodeId, u64)> = Vec::new();
    for (at, (ranks, node)) in nodes.iter().enumerate() {
        if *ranks >= left {
            // One node takes the rest: the tightest that can.
            let rest = nodes.iter().skip(at).take_while(|(ranks, _)| *ranks >= left);
            let last = rest.min_by_key(|(ranks, node)| (*ranks, *node)).map_or(*node, |(_, node)| *node);
            chosen.push((last, left));
            left = 0;
            break;
        }
        chosen.push((*node, *ranks));
        left -= ranks;
    }
    if left > 0 {
        return None;
    }
    let mut rank: Rank = 0;
    let mut parts = Vec::new();
    for (id, count) in chosen {
        let (node, left) = free.node(id)?;
        let mut devices = left.devices(node, demand).into_iter();
        let mut ranks = Vec::new();
        for _ in 0..count {
            let gpu_uuids = devices.by_ref().take(demand.gpus as usize).collect();
            ranks.push(RankHold { rank, gpu_uuids, live: true });
            rank += 1;
        }
        parts.push((id, ranks));
    }
    Some(parts)
}
