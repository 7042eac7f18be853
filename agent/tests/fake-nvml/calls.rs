//! The functions that every version of the library has.

use std::os::raw::{c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlMemory_v2_t, nvmlPciInfo_t, nvmlProcessInfo_t, nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT, nvmlReturn_enum_NVML_SUCCESS, nvmlReturn_t, nvmlUtilization_t,
};

use crate::state::{enter, state, with};

/// Writes text and its closing zero into a C buffer, cut to its length.
///
/// # Safety
/// `to` points to `length` writable bytes, or `length` is zero.
unsafe fn put(text: &str, to: *mut c_char, length: usize) {
    let Some(room) = length.checked_sub(1) else { return };
    let bytes = text.as_bytes();
    let count = bytes.len().min(room);
    for (at, byte) in bytes.iter().take(count).chain(&[0]).enumerate() {
        // SAFETY: `at` is at most `count`, which is at most `length - 1`; the caller gave `length` bytes.
        unsafe { to.add(at).write(byte.cast_signed()) };
    }
}

/// See the NVML reference, as for all functions here.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    enter("nvmlInit_v2", None)
}

/// # Safety
/// As the NVML reference asks.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    let result = enter("nvmlSystemGetDriverVersion", None);
    if result == nvmlReturn_enum_NVML_SUCCESS {
        // SAFETY: the caller gives a buffer of `length` bytes.
        unsafe { put(&state().driver, version, length as usize) };
    }
    result
}

/// # Safety
/// As the NVML reference asks.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
    let result = enter("nvmlDeviceGetCount_v2", None);
    if result == nvmlReturn_enum_NVML_SUCCESS {
        // SAFETY: the caller gives a writable number.
        unsafe { count.write(u32::try_from(state().devices.len()).unwrap_or(u32::MAX)) };
    }
    result
}

/// # Safety
/// As the NVML reference asks.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(
    index: c_uint,
    device: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    let result = enter("nvmlDeviceGetHandleByIndex_v2", Some(index as usize));
    if result != nvmlReturn_enum_NVML_SUCCESS {
        return result;
    }
    if index as usize >= state().devices.len() {
        return nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
    }
    // SAFETY: the caller gives a writable handle. It is a number to us and never followed.
    unsafe { device.write(std::ptr::without_provenance_mut(index as usize + 1)) };
    result
}

/// # Safety
/// As the NVML reference asks.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlDeviceGetUUID(
    device: nvmlDevice_t,
    uuid: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    with("nvmlDeviceGetUUID", device.addr(), |device| {
        // SAFETY: the caller gives a buffer of `length` bytes.
        unsafe { put(&device.uuid, uuid, length as usize) };
    })
}

/// # Safety
/// As the NVML reference asks.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlDeviceGetName(
    device: nvmlDevice_t,
    name: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    with("nvmlDeviceGetName", device.addr(), |device| {
        // SAFETY: the caller gives a buffer of `length` bytes.
        unsafe { put(&device.name, name, length as usize) };
    })
}

/// # Safety
/// As the NVML reference asks.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: nvmlDevice_t,
    memory: *mut nvmlMemory_v2_t,
) -> nvmlReturn_t {
    with("nvmlDeviceGetMemoryInfo_v2", device.addr(), |device| {
        let (total, used) = (device.memory_mib << 20, device.used_mib << 20);
        // SAFETY: the caller gives a writable struct of this version, with its version set.
        unsafe {
            let version = (*memory).version;
            memory.write(nvmlMemory_v2_t { version, total, reserved: 0, free: total - used, used });
        }
    })
}

/// # Safety
/// As the NVML reference asks.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) -> nvmlReturn_t {
    with("nvmlDeviceGetPciInfo_v3", device.addr(), |device| {
        // SAFETY: the caller gives a writable struct; every field may be zero.
        unsafe {
            pci.write(std::mem::zeroed());
            let bus_id = &raw mut (*pci).busId;
            put(&device.pci, bus_id.cast(), 32);
        }
    })
}

/// # Safety
/// As the NVML reference asks.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: nvmlDevice_t,
    major: *mut c_int,
    minor: *mut c_int,
) -> nvmlReturn_t {
    with("nvmlDeviceGetCudaComputeCapability", device.addr(), |device| {
        // SAFETY: the caller gives two writable numbers.
        unsafe {
            major.write(device.capability[0]);
            minor.write(device.capability[1]);
        }
    })
}

/// # Safety
/// As the NVML reference asks.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlDeviceGetUtilizationRates(
    device: nvmlDevice_t,
    rates: *mut nvmlUtilization_t,
) -> nvmlReturn_t {
    with("nvmlDeviceGetUtilizationRates", device.addr(), |device| {
        // SAFETY: the caller gives a writable struct.
        unsafe { rates.write(nvmlUtilization_t { gpu: device.utilisation, memory: 0 }) };
    })
}

/// # Safety
/// As the NVML reference asks.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    list: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    let mut processes = Vec::new();
    let result = with("nvmlDeviceGetGraphicsRunningProcesses_v3", device.addr(), |device| {
        processes.clone_from(&device.graphics);
    });
    // SAFETY: as the caller promises us.
    unsafe { fill(result, &processes, count, list) }
}

/// Answers both calls of a process list: the count first, then the list.
///
/// # Safety
/// `count` is writable and says how many entries `list` has room for; `list` may be null when that is none.
pub(crate) unsafe fn fill(
    result: nvmlReturn_t,
    processes: &[(u32, u64)],
    count: *mut c_uint,
    list: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    if result != nvmlReturn_enum_NVML_SUCCESS {
        return result;
    }
    // SAFETY: the caller gives a writable number.
    let room = unsafe { count.read() } as usize;
    // SAFETY: as before.
    unsafe { count.write(u32::try_from(processes.len()).unwrap_or(u32::MAX)) };
    if room < processes.len() {
        return nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;
    }
    for (at, (pid, mib)) in processes.iter().enumerate() {
        let process = nvmlProcessInfo_t {
            pid: *pid,
            usedGpuMemory: mib << 20,
            gpuInstanceId: u32::MAX,
            computeInstanceId: u32::MAX,
        };
        // SAFETY: `at` is below `room`, and the list has that many entries.
        unsafe { list.add(at).write(process) };
    }
    result
}
