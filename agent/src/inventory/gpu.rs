//! What a reading of the GPUs means: which devices are offered, and why the others are not.
//!
//! A device is offered when the library answers for it and nobody else computes on it. A process that is not of one
//! of our leases withholds it. In a container the library often shows no process at all: memory that no visible
//! process explains then counts as somebody else's, unless one of our own leases holds the device. Processes that
//! only draw keep nobody away; their memory is counted as explained.
//!
//! Invariants:
//! - A device that was ever seen stays in the list, withheld, when it is not seen any more: a lease may name it.
//! - The judgement is a pure function of the reading, the held devices and who is ours.
//!
//! Elsewhere: the reading is made by `nvml_child`, asked for by `watch`.

use std::collections::{BTreeMap, BTreeSet};

use crate::nvml_child::{DeviceReading, GpuProcess, Reading};

/// Memory in use that no process explains, above which somebody else is assumed. A CUDA context alone takes more, and
/// what the driver keeps for itself on an idle card takes less.
const UNEXPLAINED_MAX_BYTES: u64 = 256 << 20;
/// Polls during which a device that a lease just gave back may still show memory: drivers free it late.
const SETTLE_POLLS: u32 = 5;

/// One GPU as the scheduler is told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gpu {
    pub(crate) uuid: String,
    pub(crate) model: String,
    pub(crate) memory_bytes: u64,
    pub(crate) pci_bus_id: String,
    pub(crate) compute_capability: u32,
    pub(crate) driver: String,
    /// Empty: offered. Else why not.
    pub(crate) withheld: String,
    pub(crate) utilisation: Option<u32>,
    pub(crate) memory_used_bytes: Option<u64>,
}

/// Every GPU ever seen on this node, as it was last judged.
#[derive(Debug, Default)]
pub(crate) struct Gpus {
    known: BTreeMap<String, Gpu>,
    /// Polls since a lease last held the device.
    since_held: BTreeMap<String, u32>,
}

/// Why nothing is known of the devices just now.
pub(crate) const UNANSWERED: &str = "unknown: nvml does not answer";

impl Gpus {
    /// Takes a new reading. `held` are the devices of our leases; `ours` says whether a pid belongs to one of them.
    pub(crate) fn update(&mut self, reading: &Reading, held: &BTreeSet<String>, ours: impl Fn(u32) -> bool) {
        let mut seen = BTreeSet::new();
        for device in &reading.devices {
            let Some(uuid) = device.uuid.as_ref().filter(|uuid| !uuid.is_empty()) else { continue };
            let polls = if held.contains(uuid) {
                0
            } else {
                self.since_held.get(uuid).map_or(SETTLE_POLLS, |polls| polls.saturating_add(1))
            };
            self.since_held.insert(uuid.clone(), polls);
            let gpu = judge(device, uuid, &reading.driver, polls < SETTLE_POLLS, &ours);
            self.known.insert(uuid.clone(), gpu);
            seen.insert(uuid.clone());
        }
        let failed = reading.devices.iter().filter(|device| device.uuid.is_none());
        let why = failed.flat_map(|device| device.errors.first()).next();
        let why = why.map_or_else(|| "lost: not listed by nvml any more".to_owned(), |why| format!("lost: {why}"));
        for (_, gpu) in self.known.iter_mut().filter(|(uuid, _)| !seen.contains(*uuid)) {
            why.clone_into(&mut gpu.withheld);
            gpu.utilisation = None;
            gpu.memory_used_bytes = None;
        }
    }

    /// Withholds every device, because nothing can be said of them.
    pub(crate) fn withhold(&mut self, why: &str) {
        for gpu in self.known.values_mut() {
            why.clone_into(&mut gpu.withheld);
            gpu.utilisation = None;
            gpu.memory_used_bytes = None;
        }
    }

    /// The devices in PCI order, which is the order CUDA counts them in.
    pub(crate) fn list(&self) -> Vec<Gpu> {
        let mut list: Vec<Gpu> = self.known.values().cloned().collect();
        list.sort_by(|a, b| (&a.pci_bus_id, &a.uuid).cmp(&(&b.pci_bus_id, &b.uuid)));
        list
    }
}

fn judge(device: &DeviceReading, uuid: &str, driver: &str, held: bool, ours: &impl Fn(u32) -> bool) -> Gpu {
    Gpu {
        uuid: uuid.to_owned(),
        model: device.model.clone().unwrap_or_default(),
        memory_bytes: device.memory_bytes.unwrap_or(0),
        pci_bus_id: device.pci_bus_id.clone().unwrap_or_default(),
        compute_capability: device.compute_capability.unwrap_or(0),
        driver: driver.to_owned(),
        withheld: withheld(device, held, ours).unwrap_or_default(),
        utilisation: device.utilisation,
        memory_used_bytes: device.memory_used_bytes,
    }
}

/// Says why a device is not offered, or nothing. `held`: one of our leases has it, or had it until just now.
fn withheld(device: &DeviceReading, held: bool, ours: &impl Fn(u32) -> bool) -> Option<String> {
    if device.model.is_none() || device.memory_bytes.is_none() {
        let why = device.errors.first().map_or("no model or memory size", String::as_str);
        return Some(format!("unknown: {why}"));
    }
    let compute = device.compute.as_deref().unwrap_or_default();
    // On a device of ours a pid that nobody can look at is taken for ours, from outside of this container.
    let foreign = compute.iter().find(|process| !ours(process.pid) && (!held || visible(process.pid)));
    if let Some(process) = foreign {
        return Some(format!("foreign-process pid {}", process.pid));
    }
    let graphics = device.graphics.as_deref().unwrap_or_default();
    let unknown_use = compute.iter().chain(graphics).any(|process| process.memory_bytes.is_none());
    let explained = sum(compute).saturating_add(sum(graphics));
    let unexplained = device.memory_used_bytes.unwrap_or(0).saturating_sub(explained);
    if !held && !unknown_use && unexplained > UNEXPLAINED_MAX_BYTES {
        return Some(format!("foreign-process unseen, {} MiB in use", unexplained >> 20));
    }
    None
}

fn sum(processes: &[GpuProcess]) -> u64 {
    processes.iter().filter_map(|process| process.memory_bytes).fold(0, u64::saturating_add)
}

/// Whether a pid means anything in our own pid namespace.
fn visible(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[cfg(test)]
mod tests;
