//! What is kept for the first job in order that finds no room, so that a stream of small jobs cannot starve it.
//!
//! It gets the nodes on which most of it fits now, as many as it needs by what they own. On those, what is free is kept
//! up to what its ranks there would use; the rest stays for others. What is kept can only grow from round to round, so
//! the job is placed as soon as what runs there ends.

use super::Decision;
use super::free::Free;
use super::solve::Round;
use crate::id::NodeId;
use crate::job::body::Job;
use crate::node::Node;
use crate::resources::Demand;
use crate::state::State;
use crate::state::index::{Place, Shape};

/// Keeps what is free for `job`, and asks for unstarted elements of later jobs where it lacks cores or memory. Returns
/// the alternative it is kept for. `None`: the nodes that take work could not run the job even if they were empty.
pub(super) fn reserve<'s>(
    state: &State,
    free: &mut Free<'_>,
    round: &mut Round,
    job: &Job,
    shape: &'s Shape,
) -> Option<&'s Demand> {
    let (demand, nodes) = shape.demands.iter().find_map(|demand| Some((demand, choose(free, demand, shape)?)))?;
    for (id, ranks) in nodes {
        let Some((node, left)) = free.node(id) else {
            continue;
        };
        let ranks = ranks.max(left.ranks(node, demand));
        let milli_cpus = demand.milli_cpus.saturating_mul(ranks);
        let memory_bytes = demand.memory_bytes.saturating_mul(ranks);
        let short = (left.milli_cpus < milli_cpus, left.memory_bytes < memory_bytes);
        trim_later(state, round, Place::of(job), id, short);
        let gpus = usize::try_from(u64::from(demand.gpus).saturating_mul(ranks)).unwrap_or(usize::MAX);
        let mut devices = left.devices(node, demand);
        devices.truncate(gpus);
        free.take(id, milli_cpus, memory_bytes, &devices);
    }
    Some(demand)
}

/// Returns the nodes a shape would use, and how many of its ranks on each. `None`: the nodes that take work could not
/// run it even if they were empty.
fn choose(free: &Free<'_>, demand: &Demand, shape: &Shape) -> Option<Vec<(NodeId, u64)>> {
    if shape.replicas == 1 && free.tightest(demand, &shape.excluded).is_none() {
        // Nothing fits anywhere, so that all nodes are alike and the first that owns enough is taken: the others need
        // not be looked at, however many there are.
        let first = free.working().find(|node| !shape.excluded.contains(&node.body.id) && owned(node, demand) > 0)?;
        return Some(vec![(first.body.id, 1)]);
    }
    let mut nodes: Vec<(u64, u64, NodeId)> = Vec::new();
    for (node, left) in free.nodes().filter(|(node, _)| !shape.excluded.contains(&node.body.id)) {
        let owned = owned(node, demand);
        if owned > 0 {
            nodes.push((left.ranks(node, demand), owned, node.body.id));
        }
    }
    nodes.sort_by_key(|(fits, _, node)| (std::cmp::Reverse(*fits), *node));
    let mut left = u64::from(shape.replicas);
    let mut chosen = Vec::new();
    for (_, owned, node) in nodes {
        if left == 0 {
            break;
        }
        let ranks = owned.min(left);
        chosen.push((node, ranks));
        left -= ranks;
    }
    (left == 0).then_some(chosen)
}

/// Returns how many ranks an empty node could run now.
fn owned(node: &Node, demand: &Demand) -> u64 {
    let inventory = &node.body.inventory;
    let by = |owned: u64, asked: u64| owned.checked_div(asked).unwrap_or(u64::MAX);
    let offered = inventory.devices.iter().filter(|device| device.withheld.is_none() && demand.accepts(device));
    by(inventory.milli_cpus, demand.milli_cpus)
        .min(by(inventory.memory_bytes, demand.memory_bytes))
        .min(by(if demand.gpus == 0 { 0 } else { offered.count() as u64 }, u64::from(demand.gpus)))
}

/// Asks leases of later jobs back that hold what is short. (What is not short they may keep: it would be leased again
/// in the same round.)
fn trim_later(state: &State, round: &mut Round, ahead: Place, node: NodeId, (cpus, memory): (bool, bool)) {
    for id in state.index.chunks.get(&node).into_iter().flatten() {
        let Some(lease) = state.leases.get(id) else {
            continue;
        };
        let Some(job) = state.jobs.get(&lease.job) else {
            continue;
        };
        if Place::of(job) > ahead && (cpus || (memory && lease.demand.memory_bytes > 0)) {
            round.decisions.push(Decision::Trim { lease: *id, job: lease.job });
        }
    }
}
