//! Which CUDA devices are here, or the reason why there are none.
//!
//! cudarc opens libcuda at the first call and panics when it is missing, so the probe
//! asks for the library first. A driver too old for a symbol also panics inside cudarc;
//! that panic is caught and becomes a reason. No context is created: the probe takes no
//! device memory and does not disturb a running task.
//!
//! A broken driver can hang or end the process that asks it. A caller that must survive
//! that runs the probe in a child process with a time limit.

#![expect(unsafe_code, reason = "the driver's device queries are foreign functions")]

use std::panic::catch_unwind;

use cudarc::driver::sys::{CUdevice_attribute, CUuuid};
use cudarc::driver::{DriverError, result, sys};

/// One CUDA device, as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The device's index in this process, after `CUDA_VISIBLE_DEVICES`.
    pub ordinal: u32,
    /// The stable name, `GPU-` and 32 hexadecimal digits in five groups.
    pub uuid: String,
    /// The model, such as `NVIDIA H200`.
    pub name: String,
    /// Major and minor compute capability.
    pub compute_capability: (u32, u32),
    /// All of the device's memory.
    pub memory_bytes: u64,
}

/// Why no device can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDevice {
    /// libcuda cannot be opened: no driver is installed.
    #[error("the CUDA driver library (libcuda) is not installed")]
    Library,
    /// The library is there and refuses.
    #[error("the CUDA driver does not answer: {0}")]
    Driver(String),
    /// The driver works and owns no device that this process may see.
    #[error("the CUDA driver reports no device")]
    Empty,
}

/// Lists the CUDA devices of this machine; the list is never empty.
///
/// # Errors
/// Says why there is none. Never panics.
pub fn probe() -> Result<Vec<Device>, NoDevice> {
    if !library_present() {
        return Err(NoDevice::Library);
    }
    match catch_unwind(list) {
        Ok(Ok(devices)) if devices.is_empty() => Err(NoDevice::Empty),
        Ok(Ok(devices)) => Ok(devices),
        Ok(Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE))) => Err(NoDevice::Empty),
        Ok(Err(error)) => Err(NoDevice::Driver(format!("{:?}", error.0))),
        Err(panic) => Err(NoDevice::Driver(panic_text(panic.as_ref()))),
    }
}

/// Tells whether libcuda can be opened.
pub(crate) fn library_present() -> bool {
    // SAFETY: only opens the library by name and closes it again; nothing of it is
    // called. Its initialisers are the driver's own, as in any program linked to it.
    unsafe { sys::is_culib_present() }
}

fn list() -> Result<Vec<Device>, DriverError> {
    result::init()?;
    (0..result::device::get_count()?).map(describe).collect()
}

fn describe(ordinal: i32) -> Result<Device, DriverError> {
    let device = result::device::get(ordinal)?;
    let attribute = |which| {
        // SAFETY: `device` came from the driver after a successful init.
        unsafe { result::device::get_attribute(device, which) }
    };
    let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device)? };
    Ok(Device {
        ordinal: ordinal.unsigned_abs(),
        uuid: uuid_text(&result::device::get_uuid(device)?),
        name: result::device::get_name(device)?,
        compute_capability: (major.unsigned_abs(), minor.unsigned_abs()),
        memory_bytes: memory as u64,
    })
}

/// Writes a device id as NVML and `CUDA_VISIBLE_DEVICES` do.
fn uuid_text(uuid: &CUuuid) -> String {
    let mut text = String::from("GPU");
    for (i, byte) in uuid.bytes.iter().enumerate() {
        if matches!(i, 0 | 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", byte.cast_unsigned()));
    }
    text
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("the driver binding panicked").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_cuda_gets_a_reason_and_one_with_it_a_device() {
        match probe() {
            Ok(devices) => {
                assert!(library_present());
                for device in devices {
                    assert!(device.uuid.starts_with("GPU-"), "{device:?}");
                    assert!(device.memory_bytes > 0, "{device:?}");
                }
            }
            Err(reason) => {
                assert_eq!(reason == NoDevice::Library, !library_present());
                println!("no CUDA device is here ({reason}): only the refusal is checked");
            }
        }
    }

    #[test]
    fn a_uuid_is_written_as_nvml_writes_it() {
        let mut bytes = [0; 16];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = i8::try_from(i).map_or(0, |i| i * 7 - 60);
        }
        assert_eq!(uuid_text(&CUuuid { bytes }), "GPU-c4cbd2d9-e0e7-eef5-fc03-0a11181f262d");
    }

    #[test]
    fn a_panic_of_the_binding_keeps_its_words() {
        let caught = catch_unwind(|| panic!("no symbol cuFoo")).expect_err("it panics");
        assert_eq!(panic_text(caught.as_ref()), "no symbol cuFoo");
    }
}
