//! The functions that an old driver's library lacks.

use std::os::raw::c_uint;

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlProcessInfo_t, nvmlReturn_t};

use crate::calls::fill;
use crate::state::{enter, with};

/// See the NVML reference.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    enter("nvmlShutdown", None)
}

/// # Safety
/// As the NVML reference asks.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    list: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    let mut processes = Vec::new();
    let result = with("nvmlDeviceGetComputeRunningProcesses_v3", device.addr(), |device| {
        processes.clone_from(&device.compute);
    });
    // SAFETY: as the caller promises us.
    unsafe { fill(result, &processes, count, list) }
}
