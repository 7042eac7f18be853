//! Events about nodes.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::Event;
use crate::id::{JobId, LeaseId, NodeId};
use crate::job::body::Excluded;
use crate::node::{Node, NodeBody, NodeMode};
use crate::resources::Inventory;
use crate::state::State;
use crate::time::Time;

impl State {
    pub(super) fn node_registered(&mut self, event: &Event) {
        let Event::NodeRegistered { node, name, uuid, boot_id, agent_version, inventory } = event else {
            return;
        };
        self.insert_node(NodeBody {
            id: *node,
            name: name.clone(),
            uuid: uuid.clone(),
            boot_id: boot_id.clone(),
            agent_version: agent_version.clone(),
            inventory: inventory.clone(),
            mode: NodeMode::Active,
            mode_reason: String::new(),
            silent_since: None,
            acked_report: 0,
            evict_at: None,
            foreign: BTreeSet::new(),
            models: BTreeSet::new(),
        });
        self.counters.node = self.counters.node.max(node.0 + 1);
    }

    /// Puts a node, new or restored, into the state and its indices.
    pub(super) fn insert_node(&mut self, mut body: NodeBody) {
        let id = body.id;
        body.note_models();
        self.node_names.insert(body.name.clone(), id);
        if body.silent_since.is_some() {
            self.index.silent.insert(id);
        }
        self.index.evictions.extend(body.evict_at.map(|at| (at, id)));
        let node = Node {
            body,
            leases: BTreeSet::new(),
            free_milli_cpus: 0,
            free_memory_bytes: 0,
            holders: BTreeMap::new(),
            held_milli_cpus: 0,
            held_memory_bytes: 0,
            free_key: None,
        };
        self.nodes.insert(id, node);
        self.refree(id);
    }

    pub(super) fn node_returned(&mut self, id: NodeId, boot_id: &str, agent_version: &str) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.body.silent_since = None;
        node.body.boot_id = boot_id.to_owned();
        node.body.agent_version = agent_version.to_owned();
        self.index.silent.remove(&id);
        self.refree(id);
    }

    pub(super) fn node_inventory(&mut self, id: NodeId, inventory: &Inventory) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.body.inventory = inventory.clone();
        node.body.note_models();
        self.index.changes.relaxed = true;
        self.refree(id);
    }

    pub(super) fn node_silenced(&mut self, at: Time, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.body.silent_since.get_or_insert(at);
        self.index.silent.insert(id);
        self.refree(id);
    }

    /// Sets when what runs on a draining node is taken down.
    pub(super) fn set_eviction(&mut self, id: NodeId, evict_at: Option<Time>) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut node.body.evict_at, evict_at) {
            self.index.evictions.remove(&(old, id));
        }
        self.index.evictions.extend(evict_at.map(|at| (at, id)));
    }

    pub(super) fn node_clearing(&mut self, id: NodeId, leases: &BTreeSet<LeaseId>) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.body.foreign.clone_from(leases);
            self.refree(id);
        }
    }

    pub(super) fn node_mode(&mut self, id: NodeId, mode: NodeMode, reason: &str, evict_at: Option<Time>) {
        self.set_eviction(id, evict_at);
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.body.mode = mode;
        node.body.mode_reason = reason.to_owned();
        self.refree(id);
    }

    pub(super) fn node_forgotten(&mut self, id: NodeId) {
        let Some(node) = self.nodes.remove(&id) else {
            return;
        };
        assert!(node.leases.is_empty(), "a node is forgotten after its leases");
        self.node_names.remove(&node.body.name);
        self.index.silent.remove(&id);
        self.index.evictions.retain(|(_, node)| *node != id);
        if let Some((gpus, key)) = node.free_key {
            self.unfree(gpus, &key);
        }
        self.index.changes.relaxed = true;
    }

    pub(super) fn node_excluded(&mut self, job: JobId, node: NodeId, until: Time, reason: &str) {
        let Some(found) = self.jobs.get_mut(&job) else {
            return;
        };
        found.body.excluded.insert(node, Excluded { until, reason: reason.to_owned() });
        found.body.infra_starts.remove(&node);
        self.reindex(job, false);
    }

    pub(super) fn report_taken(&mut self, id: NodeId, seq: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.body.acked_report = seq;
        }
    }
}
