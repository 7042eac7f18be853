//! What nodes own and tasks ask for, in integers: 1/1000 of a core, bytes, whole GPUs.
//!
//! Nothing here knows who holds what: `node` keeps the free amounts, `place` compares them with demands.

use std::fmt;

use crate::id::DeviceId;

/// One alternative of what a rank needs on its node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Demand {
    /// In 1/1000 of a core; at least 1.
    pub milli_cpus: u64,
    /// In bytes. Zero: none promised and none enforced.
    pub memory_bytes: u64,
    /// Whole GPUs. Zero: a CPU task.
    pub gpus: u32,
    /// A part of the model's name, without case, that each GPU must have.
    pub gpu_model: Option<String>,
    /// Least memory of each GPU.
    pub gpu_memory_bytes: u64,
}

impl Default for Demand {
    /// Returns the demand of a task that asked for nothing: one core.
    fn default() -> Self {
        Self { milli_cpus: 1_000, memory_bytes: 0, gpus: 0, gpu_model: None, gpu_memory_bytes: 0 }
    }
}

impl Demand {
    /// Says whether `device` is a GPU this demand may use, free or not.
    pub fn accepts(&self, device: &Device) -> bool {
        self.gpu_memory_bytes <= device.memory_bytes && self.model_matches(device)
    }

    /// Says whether `device` is of the model asked for.
    pub fn model_matches(&self, device: &Device) -> bool {
        self.is_model(&device.model)
    }

    /// Says whether `model` is the one asked for, or none was asked for.
    pub fn is_model(&self, model: &str) -> bool {
        self.gpu_model.as_ref().is_none_or(|asked| contains_in_any_case(model, asked))
    }

    /// Returns what kind of GPU is asked for, for people.
    pub(crate) fn gpu_kind(&self) -> String {
        let model = self.gpu_model.as_deref().unwrap_or("GPU");
        match self.gpu_memory_bytes {
            0 => model.to_owned(),
            bytes => format!("{model} with {}", Bytes(bytes)),
        }
    }
}

/// Says whether `part` is in `text`, without case. It is asked for each device that is looked at, so plain names cost
/// no memory.
fn contains_in_any_case(text: &str, part: &str) -> bool {
    if !text.is_ascii() || !part.is_ascii() {
        return text.to_lowercase().contains(&part.to_lowercase());
    }
    part.is_empty() || text.as_bytes().windows(part.len()).any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.gpus > 0 {
            let model = self.gpu_model.as_deref().unwrap_or("GPU");
            write!(f, "{} × {model}, ", self.gpus)?;
        }
        write!(f, "{} CPUs", Cores(self.milli_cpus))?;
        if self.memory_bytes > 0 {
            write!(f, ", {}", Bytes(self.memory_bytes))?;
        }
        Ok(())
    }
}

/// An amount of 1/1000 cores that prints as cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores(pub u64);

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 1_000 {
            0 => write!(f, "{}", self.0 / 1_000),
            rest => write!(f, "{}.{}", self.0 / 1_000, format!("{rest:03}").trim_end_matches('0')),
        }
    }
}

/// An amount of bytes that prints as the largest unit with one decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (unit, shift) in units {
            let tenths = u128::from(self.0) * 10 / (1 << shift);
            if tenths >= 10 {
                return match tenths % 10 {
                    0 => write!(f, "{} {unit}", tenths / 10),
                    rest => write!(f, "{}.{rest} {unit}", tenths / 10),
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// One GPU of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// As its driver names it; unique.
    pub uuid: DeviceId,
    /// For example `NVIDIA H200`.
    pub model: String,
    /// Its memory.
    pub memory_bytes: u64,
    /// Its place on the bus.
    pub pci_bus_id: String,
    /// Why it is not offered, for example `foreign-process pid 1234`. `None`: offered.
    pub withheld: Option<String>,
    /// Compute capability as major × 10 + minor; zero when not known.
    pub compute_capability: u32,
    /// Version of its driver.
    pub driver_version: String,
}

/// What a node owns and says of itself. Utilisation is absent: it decides nothing and is volatile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// In 1/1000 of a core.
    pub milli_cpus: u64,
    /// In bytes.
    pub memory_bytes: u64,
    /// GPUs, offered or not.
    pub devices: Vec<Device>,
    /// Labels for people.
    pub labels: std::collections::BTreeMap<String, String>,
    /// One line each: what is missing and why.
    pub notes: Vec<String>,
    /// Where other nodes reach this one, for gang rendezvous.
    pub address: String,
    /// Why no work is placed here, for example a state folder that cannot be written. `None`: it takes work.
    pub withheld: Option<String>,
}
