//! What the scheduler is told this node has, and when it is told again.
//!
//! A change that a decision could depend on goes out at once. Utilisation and memory in use are for people: they go
//! out at most every [`PEOPLE_EVERY`], and only when they moved.

use std::collections::BTreeMap;
use std::time::Duration;

use gangsaw_proto::node::v1::{GpuDevice, Inventory};
use tokio::time::Instant;

use super::gpu::Gpu;
use super::host::Host;
use super::watch::GpuView;

/// How often numbers that decide nothing are refreshed.
const PEOPLE_EVERY: Duration = Duration::from_secs(10);

/// Everything that makes up the inventory.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) host: Host,
    pub(crate) gpu: GpuView,
    pub(crate) labels: BTreeMap<String, String>,
    /// One line each: cgroups, users, the supervisor.
    pub(crate) notes: Vec<String>,
    /// What the supervisor says of itself.
    pub(crate) supervisor_notes: Vec<String>,
    pub(crate) address: String,
    /// Why no work is to be placed here.
    pub(crate) withheld: Option<String>,
    sent: Option<(Inventory, Instant)>,
}

impl Offer {
    pub(crate) fn new(host: Host, labels: BTreeMap<String, String>, notes: Vec<String>, address: String) -> Offer {
        let gpu = GpuView::default();
        Offer { host, gpu, labels, notes, supervisor_notes: Vec::new(), address, withheld: None, sent: None }
    }

    /// The inventory as it is now, which counts as sent.
    pub(crate) fn send(&mut self) -> Inventory {
        let inventory = self.inventory();
        self.sent = Some((inventory.clone(), Instant::now()));
        inventory
    }

    /// The inventory, if the scheduler should hear of a change now.
    pub(crate) fn news(&mut self) -> Option<Inventory> {
        let now = self.inventory();
        let (before, at) = self.sent.as_ref()?;
        let decides = bare(&now) != bare(before);
        let shows = now != *before && at.elapsed() >= PEOPLE_EVERY;
        (decides || shows).then(|| self.send())
    }

    /// When [`Offer::news`] is worth asking again although nothing else happens.
    pub(crate) fn look_again(&self) -> Option<Instant> {
        let (before, at) = self.sent.as_ref()?;
        (self.inventory() != *before).then(|| *at + PEOPLE_EVERY)
    }

    fn inventory(&self) -> Inventory {
        let notes = self.host.notes.iter().chain(&self.gpu.note).chain(&self.notes).chain(&self.supervisor_notes);
        Inventory {
            milli_cpus: self.host.milli_cpus,
            memory_bytes: self.host.memory_bytes,
            devices: self.gpu.gpus.iter().map(device).collect(),
            labels: self.labels.clone().into_iter().collect(),
            notes: notes.cloned().collect(),
            address: self.address.clone(),
            withheld: self.withheld.clone().unwrap_or_default(),
        }
    }
}

fn device(gpu: &Gpu) -> GpuDevice {
    GpuDevice {
        uuid: gpu.uuid.clone(),
        model: gpu.model.clone(),
        memory_bytes: gpu.memory_bytes,
        pci_bus_id: gpu.pci_bus_id.clone(),
        withheld: gpu.withheld.clone(),
        utilisation: gpu.utilisation,
        memory_used_bytes: gpu.memory_used_bytes,
        compute_capability: gpu.compute_capability,
        driver_version: gpu.driver.clone(),
    }
}

/// The part that decisions may depend on.
fn bare(inventory: &Inventory) -> Inventory {
    let mut bare = inventory.clone();
    for device in &mut bare.devices {
        device.utilisation = None;
        device.memory_used_bytes = None;
    }
    bare
}

#[cfg(test)]
mod tests {
    //! Which changes are news.

    use super::*;

    #[test]
    fn decisions_go_out_at_once_and_numbers_for_people_rarely() {
        let host = Host { milli_cpus: 1000, memory_bytes: 1, boot_id: String::new(), notes: Vec::new() };
        let mut offer = Offer::new(host, BTreeMap::new(), Vec::new(), "127.0.0.1".to_owned());
        assert_eq!(offer.news(), None, "before the first Hello there is nobody to tell");
        offer.gpu.gpus = vec![Gpu { uuid: "GPU-a".to_owned(), utilisation: Some(1), ..Gpu::default() }];
        offer.send();
        assert_eq!(offer.news(), None);
        offer.gpu.gpus = vec![Gpu { utilisation: Some(90), ..offer.gpu.gpus[0].clone() }];
        assert_eq!(offer.news(), None);
        assert!(offer.look_again().is_some());
        offer.sent = offer.sent.take().map(|(sent, at)| (sent, at - PEOPLE_EVERY));
        assert_eq!(offer.news().map(|inventory| inventory.devices[0].utilisation), Some(Some(90)));
        offer.gpu.gpus = vec![Gpu { withheld: "lost".to_owned(), ..offer.gpu.gpus[0].clone() }];
        assert!(offer.news().is_some());
    }
}
