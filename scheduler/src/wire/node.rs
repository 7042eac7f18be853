//! What a node owns, as node.v1 has it.

use gangsaw_core::id::DeviceId;
use gangsaw_core::resources::{Device, Inventory};
use gangsaw_proto::node::v1 as wire;

use super::Malformed;
use super::spec::filled;

/// Reads an inventory. Utilisation stays outside: it decides nothing.
pub(crate) fn inventory_from(inventory: wire::Inventory) -> Result<Inventory, Malformed> {
    Ok(Inventory {
        milli_cpus: inventory.milli_cpus,
        memory_bytes: inventory.memory_bytes,
        devices: inventory.devices.into_iter().map(device_from).collect::<Result<_, _>>()?,
        labels: inventory.labels.into_iter().collect(),
        notes: inventory.notes,
        address: inventory.address,
        withheld: filled(inventory.withheld),
    })
}

fn device_from(device: wire::GpuDevice) -> Result<Device, Malformed> {
    Ok(Device {
        uuid: DeviceId::new(&device.uuid).map_err(|_| Malformed("uuid"))?,
        model: device.model,
        memory_bytes: device.memory_bytes,
        pci_bus_id: device.pci_bus_id,
        withheld: filled(device.withheld),
        compute_capability: device.compute_capability,
        driver_version: device.driver_version,
    })
}

/// Returns the message of an inventory.
pub(crate) fn inventory(inventory: &Inventory) -> wire::Inventory {
    wire::Inventory {
        milli_cpus: inventory.milli_cpus,
        memory_bytes: inventory.memory_bytes,
        devices: inventory.devices.iter().map(device).collect(),
        labels: inventory.labels.clone().into_iter().collect(),
        notes: inventory.notes.clone(),
        address: inventory.address.clone(),
        withheld: inventory.withheld.clone().unwrap_or_default(),
    }
}

fn device(device: &Device) -> wire::GpuDevice {
    wire::GpuDevice {
        uuid: device.uuid.to_string(),
        model: device.model.clone(),
        memory_bytes: device.memory_bytes,
        pci_bus_id: device.pci_bus_id.clone(),
        withheld: device.withheld.clone().unwrap_or_default(),
        utilisation: None,
        memory_used_bytes: None,
        compute_capability: device.compute_capability,
        driver_version: device.driver_version.clone(),
    }
}
