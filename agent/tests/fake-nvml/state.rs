//! What the fake says: one JSON file.
//!
//! ```json
//! { "driver": "580.95.05",
//!   "devices": [{ "uuid": "GPU-1", "name": "NVIDIA H200", "memory_mib": 143771, "used_mib": 4,
//!                 "pci": "00000000:18:00.0", "capability": [9, 0], "utilisation": 0,
//!                 "compute": [[4711, 500]], "graphics": [] }],
//!   "faults": { "nvmlDeviceGetUUID": { "device": 0, "error": 15, "delay_ms": 10, "hang": true, "crash": true } } }
//! ```
//!
//! A fault without `device` holds for every device.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nvml_wrapper_sys::bindings::{nvmlReturn_enum_NVML_ERROR_UNKNOWN, nvmlReturn_enum_NVML_SUCCESS, nvmlReturn_t};
use serde::Deserialize;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) driver: String,
    pub(crate) devices: Vec<Device>,
    #[serde(default)]
    pub(crate) faults: BTreeMap<String, Fault>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Device {
    pub(crate) uuid: String,
    pub(crate) name: String,
    pub(crate) memory_mib: u64,
    pub(crate) used_mib: u64,
    pub(crate) pci: String,
    pub(crate) capability: [i32; 2],
    pub(crate) utilisation: u32,
    /// Pid and MiB.
    pub(crate) compute: Vec<(u32, u64)>,
    pub(crate) graphics: Vec<(u32, u64)>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Fault {
    device: Option<usize>,
    error: Option<u32>,
    delay_ms: u64,
    hang: bool,
    crash: bool,
}

type Cached = Option<(SystemTime, u64, State)>;

static STATE: Mutex<Cached> = Mutex::new(None);

/// Returns what the file says now; what it said before, while it is being written.
pub(crate) fn state() -> State {
    let path = std::env::var_os("FAKE_NVML_STATE").unwrap_or_default();
    let mut cached = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Ok(meta) = std::fs::metadata(&path) {
        let stamp = (meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len());
        if cached.as_ref().is_none_or(|(at, len, _)| (*at, *len) != stamp)
            && let Some(state) = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok())
        {
            *cached = Some((stamp.0, stamp.1, state));
        }
    }
    cached.as_ref().map(|(_, _, state)| state.clone()).unwrap_or_default()
}

/// Logs a call and suffers its faults. What it returns is the call's result unless it is success.
pub(crate) fn enter(name: &str, device: Option<usize>) -> nvmlReturn_t {
    if let Some(path) = std::env::var_os("FAKE_NVML_LOG")
        && let Ok(mut log) = std::fs::OpenOptions::new().create(true).append(true).open(path)
    {
        let line = format!("{} {name} {}\n", std::process::id(), device.map_or(-1, |d| i64::try_from(d).unwrap_or(-1)));
        let _ = log.write_all(line.as_bytes());
    }
    let Some(fault) = state().faults.get(name).cloned() else { return nvmlReturn_enum_NVML_SUCCESS };
    if fault.device.is_some() && fault.device != device {
        return nvmlReturn_enum_NVML_SUCCESS;
    }
    if fault.crash {
        std::process::abort();
    }
    if fault.hang {
        loop {
            std::thread::park();
        }
    }
    std::thread::sleep(Duration::from_millis(fault.delay_ms));
    fault.error.unwrap_or(nvmlReturn_enum_NVML_SUCCESS)
}

/// Runs `work` on a device of the state, after the faults of the call.
pub(crate) fn with(name: &str, handle: usize, work: impl FnOnce(&Device)) -> nvmlReturn_t {
    // Handles are positions from 1, so that none is null.
    let position = handle.wrapping_sub(1);
    let result = enter(name, Some(position));
    if result != nvmlReturn_enum_NVML_SUCCESS {
        return result;
    }
    match state().devices.get(position) {
        Some(device) => {
            work(device);
            nvmlReturn_enum_NVML_SUCCESS
        }
        None => nvmlReturn_enum_NVML_ERROR_UNKNOWN,
    }
}
