//! The child process that speaks to NVML, so that nothing the library does can hurt the agent.
//!
//! The agent starts it as `gangsaw agent-nvml` and holds both ends: one byte on standard input asks for one reading,
//! one JSON line on standard output answers it. Before each call into the library a line with the call's name goes
//! out, so that the agent's time-out is per call and its log names the call that hung. A library that is missing, too
//! old, or answers with errors is data; a library that crashes takes only this process with it.
//!
//! Invariants:
//! - It lives no longer than its agent: it dies with the thread that started it, and ends when its input closes.
//! - The library is never shut down: `nvmlShutdown` may be missing, and the end of the process does the same.
//!
//! Elsewhere: what a reading means for a decision is `inventory::gpu`; starting, time-outs and killing is
//! `inventory::watch`.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::mem::ManuallyDrop;
use std::process::ExitCode;

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use serde::{Deserialize, Serialize};

/// Most devices in a reading; a machine holds 16.
pub(crate) const DEVICES_MAX: u32 = 128;
/// Most processes of one device in a reading.
const PROCESSES_MAX: usize = 256;

/// One line from the child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// The named call begins.
    Call(String),
    /// There is no library, so there will never be a reading.
    NoLibrary,
    /// The library is there and does not work, for example because the driver is not loaded.
    Broken(String),
    /// What the library says now.
    Reading(Reading),
}

/// Everything one poll found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reading {
    pub(crate) driver: String,
    pub(crate) devices: Vec<DeviceReading>,
}

/// What the library says of one device. An absent value could not be read; `errors` says why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceReading {
    pub(crate) index: u32,
    pub(crate) uuid: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) memory_used_bytes: Option<u64>,
    pub(crate) pci_bus_id: Option<String>,
    /// Major × 10 + minor.
    pub(crate) compute_capability: Option<u32>,
    pub(crate) utilisation: Option<u32>,
    /// Processes with a compute context. Absent: the library does not list them.
    pub(crate) compute: Option<Vec<GpuProcess>>,
    /// Processes that draw. They explain memory and keep nobody away.
    pub(crate) graphics: Option<Vec<GpuProcess>>,
    /// `call: error`, one for each call that failed.
    pub(crate) errors: Vec<String>,
}

/// A process on a device, in the pid namespace the library reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GpuProcess {
    pub(crate) pid: u32,
    pub(crate) memory_bytes: Option<u64>,
}

/// Runs the child until its input closes. `args` has no use yet and is taken so that the verb can grow.
pub fn main(_args: Vec<OsString>) -> ExitCode {
    // Dies with the agent even when a call never returns. An error here only loses that.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let mut library: Option<ManuallyDrop<Nvml>> = None;
    let mut byte = [0_u8; 1];
    while std::io::stdin().read_exact(&mut byte).is_ok() {
        let answer = match &library {
            Some(nvml) => read(nvml),
            None => {
                say(&Line::Call("nvmlInit_v2".to_owned()));
                match Nvml::init() {
                    Ok(nvml) => read(library.insert(ManuallyDrop::new(nvml))),
                    Err(NvmlError::LibloadingError(_)) => Line::NoLibrary,
                    Err(error) => Line::Broken(error.to_string()),
                }
            }
        };
        if !say(&answer) || matches!(answer, Line::NoLibrary | Line::Broken(_)) {
            break;
        }
    }
    ExitCode::SUCCESS
}

/// Writes one line; false when nobody reads any more.
fn say(line: &Line) -> bool {
    let Ok(mut text) = serde_json::to_vec(line) else { return false };
    text.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&text).and_then(|()| out.flush()).is_ok()
}

fn call<T>(name: &str, run: impl FnOnce() -> Result<T, NvmlError>) -> Result<T, String> {
    say(&Line::Call(name.to_owned()));
    run().map_err(|error| format!("{name}: {error}"))
}

fn read(nvml: &Nvml) -> Line {
    let driver = call("nvmlSystemGetDriverVersion", || nvml.sys_driver_version()).unwrap_or_default();
    match call("nvmlDeviceGetCount_v2", || nvml.device_count()) {
        Ok(count) => {
            let devices = (0..count.min(DEVICES_MAX)).map(|index| read_device(nvml, index)).collect();
            Line::Reading(Reading { driver, devices })
        }
        Err(error) => Line::Broken(error),
    }
}

fn read_device(nvml: &Nvml, index: u32) -> DeviceReading {
    let mut reading = DeviceReading { index, ..DeviceReading::default() };
    let device = match call("nvmlDeviceGetHandleByIndex_v2", || nvml.device_by_index(index)) {
        Ok(device) => device,
        Err(error) => {
            reading.errors.push(error);
            return reading;
        }
    };
    let mut errors = Vec::new();
    reading.uuid = keep(&mut errors, call("nvmlDeviceGetUUID", || device.uuid()));
    reading.model = keep(&mut errors, call("nvmlDeviceGetName", || device.name()));
    if let Some(memory) = keep(&mut errors, call("nvmlDeviceGetMemoryInfo_v2", || device.memory_info())) {
        reading.memory_bytes = Some(memory.total);
        reading.memory_used_bytes = Some(memory.used);
    }
    let pci = keep(&mut errors, call("nvmlDeviceGetPciInfo_v3", || device.pci_info()));
    reading.pci_bus_id = pci.map(|pci| pci.bus_id);
    let compute = call("nvmlDeviceGetCudaComputeCapability", || device.cuda_compute_capability());
    reading.compute_capability =
        keep(&mut errors, compute).and_then(|capability| u32::try_from(capability.major * 10 + capability.minor).ok());
    let rates = keep(&mut errors, call("nvmlDeviceGetUtilizationRates", || device.utilization_rates()));
    reading.utilisation = rates.map(|rates| rates.gpu);
    reading.compute = keep(&mut errors, processes(&device, "nvmlDeviceGetComputeRunningProcesses_v3"));
    reading.graphics = keep(&mut errors, processes(&device, "nvmlDeviceGetGraphicsRunningProcesses_v3"));
    reading.errors = errors;
    reading
}

fn keep<T>(errors: &mut Vec<String>, result: Result<T, String>) -> Option<T> {
    result.map_err(|error| errors.push(error)).ok()
}

/// Lists the processes of a device: the wrapper asks for their count first and then for the list.
fn processes(device: &Device<'_>, name: &str) -> Result<Vec<GpuProcess>, String> {
    let list = call(name, || match name {
        "nvmlDeviceGetGraphicsRunningProcesses_v3" => device.running_graphics_processes(),
        _ => device.running_compute_processes(),
    })?;
    let processes = list.into_iter().take(PROCESSES_MAX).map(|process| GpuProcess {
        pid: process.pid,
        memory_bytes: match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        },
    });
    Ok(processes.collect())
}
