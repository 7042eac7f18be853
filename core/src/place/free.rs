//! What is free during a round: the index of the state, less what the round has taken so far.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::id::{DeviceId, NodeId};
use crate::node::Node;
use crate::resources::Demand;
use crate::state::State;

/// What is left of a node.
#[derive(Clone, Debug)]
pub(crate) struct NodeFree {
    pub(crate) milli_cpus: u64,
    pub(crate) memory_bytes: u64,
    /// Devices taken in this round.
    taken: BTreeSet<DeviceId>,
    gpus: u32,
}

impl NodeFree {
    pub(crate) fn of(node: &Node) -> Self {
        let gpus = u32::try_from(node.free_devices().count()).unwrap_or(u32::MAX);
        let (milli_cpus, memory_bytes) = (node.free_milli_cpus, node.free_memory_bytes);
        Self { milli_cpus, memory_bytes, taken: BTreeSet::new(), gpus }
    }

    /// Returns the free devices that a demand may use: the least memory first, so that large ones stay free.
    pub(crate) fn devices(&self, node: &Node, demand: &Demand) -> Vec<DeviceId> {
        let free = node.free_devices().filter(|device| !self.taken.contains(&device.uuid) && demand.accepts(device));
        let mut free: Vec<_> = free.collect();
        free.sort_by_key(|device| device.memory_bytes);
        free.into_iter().map(|device| device.uuid.clone()).collect()
    }

    /// Returns how many ranks of a demand fit.
    pub(crate) fn ranks(&self, node: &Node, demand: &Demand) -> u64 {
        let by = |free: u64, asked: u64| free.checked_div(asked).unwrap_or(u64::MAX);
        let plain = by(self.milli_cpus, demand.milli_cpus).min(by(self.memory_bytes, demand.memory_bytes));
        if plain == 0 || demand.gpus == 0 {
            return plain;
        }
        if self.gpus < demand.gpus {
            return 0;
        }
        plain.min(by(self.devices(node, demand).len() as u64, u64::from(demand.gpus)))
    }
}

/// What is left of all nodes that take work.
pub(crate) struct Free<'a> {
    state: &'a State,
    touched: BTreeMap<NodeId, NodeFree>,
    touched_index: BTreeMap<u32, BTreeSet<(u64, u64, NodeId)>>,
    has_gpus: OnceCell<bool>,
}

impl<'a> Free<'a> {
    pub(crate) fn new(state: &'a State) -> Self {
        Self { state, touched: BTreeMap::new(), touched_index: BTreeMap::new(), has_gpus: OnceCell::new() }
    }

    /// Returns what is left of a node.
    pub(crate) fn node(&self, id: NodeId) -> Option<(&'a Node, NodeFree)> {
        let node = self.state.nodes.get(&id).filter(|node| node.takes_work())?;
        let free = self.touched.get(&id).cloned().unwrap_or_else(|| NodeFree::of(node));
        Some((node, free))
    }

    /// Returns the tightest node that has room for a rank: fewest free GPUs, then cores, then memory.
    pub(crate) fn tightest(&self, demand: &Demand, excluded: &[NodeId]) -> Option<NodeId> {
        let fits = |id: NodeId| {
            !excluded.contains(&id) && self.node(id).is_some_and(|(node, free)| free.ranks(node, demand) > 0)
        };
        let from = (demand.milli_cpus, 0, NodeId(0));
        let untouched = self.state.index.free.range(demand.gpus..).find_map(|(gpus, keys)| {
            let mut keys = keys.range(from..).filter(|key| !self.touched.contains_key(&key.2));
            keys.find(|key| fits(key.2)).map(|key| (*gpus, *key))
        });
        let touched = self
            .touched_index
            .range(demand.gpus..)
            .find_map(|(gpus, keys)| keys.range(from..).find(|key| fits(key.2)).map(|key| (*gpus, *key)));
        let best = untouched.into_iter().chain(touched).min();
        best.map(|(_, (_, _, node))| node)
    }

    /// Takes amounts and devices off a node; never more than is there.
    pub(crate) fn take(&mut self, id: NodeId, milli_cpus: u64, memory_bytes: u64, devices: &[DeviceId]) {
        let Some((_, mut free)) = self.node(id) else {
            return;
        };
        if let Some(old) = self.touched.get(&id) {
            let key = (old.milli_cpus, old.memory_bytes, id);
            if let Some(keys) = self.touched_index.get_mut(&old.gpus) {
                keys.remove(&key);
            }
        }
        free.milli_cpus = free.milli_cpus.saturating_sub(milli_cpus);
        free.memory_bytes = free.memory_bytes.saturating_sub(memory_bytes);
        free.gpus = free.gpus.saturating_sub(u32::try_from(devices.len()).unwrap_or(u32::MAX));
        free.taken.extend(devices.iter().cloned());
        self.touched_index.entry(free.gpus).or_default().insert((free.milli_cpus, free.memory_bytes, id));
        self.touched.insert(id, free);
    }

    /// Returns whether any node that takes work has a GPU, free or not.
    pub(crate) fn has_gpus(&self) -> bool {
        *self.has_gpus.get_or_init(|| self.working().any(|node| !node.body.inventory.devices.is_empty()))
    }

    /// Yields the nodes that take work, by number, without what is left of them.
    pub(crate) fn working(&self) -> impl Iterator<Item = &'a Node> {
        self.state.nodes.values().filter(|node| node.takes_work())
    }

    /// Yields the nodes that take work, by number.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&'a Node, NodeFree)> + '_ {
        self.working().map(|node| {
            let left = self.touched.get(&node.body.id).cloned();
            (node, left.unwrap_or_else(|| NodeFree::of(node)))
        })
    }
}
