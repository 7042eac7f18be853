//! Nodes: what they own, what of it is free, whether they are heard, and whether they may take work.
//!
//! Invariant: free amounts are the capacity less what leases on the node hold, fenced leases included; a device has at
//! most one holder.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{DeviceId, LeaseId, NodeId, NodeName};
use crate::resources::{Device, Inventory};
use crate::state::index::FreeKey;
use crate::time::Time;

/// Models of GPU that are remembered of a node: a machine sees few in its life.
pub const MODELS_MAX: usize = 32;

/// Whether a node takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeMode {
    /// Takes work.
    Active,
    /// Takes no new work; what runs goes on.
    Cordoned,
    /// Takes no new work, and unstarted elements return at once.
    Draining,
}

/// The durable part of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeBody {
    /// Its number.
    pub id: NodeId,
    /// What people call it.
    pub name: NodeName,
    /// Made once in its agent's state folder.
    pub uuid: String,
    /// Kernel boot id; another one means that every process of before is gone.
    pub boot_id: String,
    /// Its agent's version.
    pub agent_version: String,
    /// What it owns.
    pub inventory: Inventory,
    /// Whether it takes work.
    pub mode: NodeMode,
    /// Why the mode is what it is.
    pub mode_reason: String,
    /// Since when it is silent; absent while it is heard.
    pub silent_since: Option<Time>,
    /// Reports up to here are durable.
    pub acked_report: u64,
    /// When what still runs is taken down, while it drains. Absent: it is waited for.
    pub evict_at: Option<Time>,
    /// Leases it holds that this state did not grant (it was forgotten, or an older state was restored). They are being
    /// stopped, and until they are gone it takes no work: their processes may hold its devices.
    pub foreign: BTreeSet<LeaseId>,
    /// Every model of GPU it ever had, up to [`MODELS_MAX`].
    pub models: BTreeSet<String>,
}

impl NodeBody {
    /// Notes the models of GPU that it has now.
    pub(crate) fn note_models(&mut self) {
        for device in &self.inventory.devices {
            if self.models.len() < MODELS_MAX && !self.models.contains(&device.model) {
                self.models.insert(device.model.clone());
            }
        }
    }
}

/// A node with what is derived from its body and its leases.
#[derive(Clone, Debug)]
pub struct Node {
    /// The durable part.
    pub body: NodeBody,
    /// Leases on it, fenced ones among them.
    pub leases: BTreeSet<LeaseId>,
    /// In 1/1000 of a core; zero if leases hold more than a shrunken inventory.
    pub free_milli_cpus: u64,
    /// In bytes; zero if leases hold more than a shrunken inventory.
    pub free_memory_bytes: u64,
    /// Who holds which device.
    pub holders: BTreeMap<DeviceId, LeaseId>,
    /// What leases hold, in 1/1000 of a core.
    pub(crate) held_milli_cpus: u64,
    /// What leases hold, in bytes.
    pub(crate) held_memory_bytes: u64,
    /// Its place in the index of free amounts.
    pub(crate) free_key: Option<FreeKey>,
}

impl Node {
    /// Says whether the node is heard.
    pub fn connected(&self) -> bool {
        self.body.silent_since.is_none()
    }

    /// Yields the devices that may be given to a task now.
    pub fn free_devices(&self) -> impl Iterator<Item = &Device> {
        let devices = self.body.inventory.devices.iter();
        devices.filter(|device| device.withheld.is_none() && !self.holders.contains_key(&device.uuid))
    }

    /// Says whether new work may be placed on it.
    pub fn takes_work(&self) -> bool {
        self.connected()
            && self.body.mode == NodeMode::Active
            && self.body.foreign.is_empty()
            && self.body.inventory.withheld.is_none()
    }
}
