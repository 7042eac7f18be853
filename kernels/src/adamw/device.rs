//! The CUDA side of AdamW: compiled by NVRTC when loaded, launched on one stream.
//!
//! **It has never run on a GPU.** What was checked is that `adamw.cu` compiles.

use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};

use super::{LengthError, Scalars, check};

const SOURCE: &str = include_str!("../adamw.cu");

/// The oldest architecture whose PTX runs on every device we support.
const ARCHITECTURE: &str = "compute_80";

/// Blocks per launch at most: enough to fill any device, and threads stride further.
const BLOCKS_MAX: u32 = 4096;

/// Threads of one block.
const THREADS: u32 = 256;

/// Why the kernel could not be loaded or launched.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The buffers do not belong together.
    #[error(transparent)]
    Length(#[from] LengthError),
    /// A buffer lives on another stream than the kernel.
    #[error("a buffer belongs to another stream than the kernel")]
    Stream,
    /// libnvrtc cannot be opened.
    #[error("the CUDA compiler library (libnvrtc) is not installed")]
    Compiler,
    /// The text does not compile.
    #[error("adamw.cu does not compile: {0}")]
    Source(String),
    /// The driver refused.
    #[error("the CUDA driver refused: {0:?}")]
    Driver(#[from] DriverError),
}

/// The compiled kernel, bound to a stream.
#[derive(Clone, Debug)]
pub struct Kernel {
    stream: Arc<CudaStream>,
    function: CudaFunction,
}

impl Kernel {
    /// Compiles the kernel for the stream's device.
    ///
    /// # Errors
    /// `Compiler` without NVRTC, `Source` if it refuses the text, `Driver` if the
    /// driver refuses the image.
    pub fn load(stream: &Arc<CudaStream>) -> Result<Kernel, KernelError> {
        let module = stream.context().load_module(compile()?)?;
        Ok(Kernel { stream: stream.clone(), function: module.load_function("adamw")? })
    }

    /// Performs one step; elements below `decayed` are decayed.
    ///
    /// | tensor   | shape | dtype | layout               |
    /// |----------|-------|-------|----------------------|
    /// | `param`  | \[n\] | f32   | flat, device, changed |
    /// | `grad`   | \[n\] | f32   | flat, device, read    |
    /// | `first`  | \[n\] | f32   | flat, device, changed |
    /// | `second` | \[n\] | f32   | flat, device, changed |
    ///
    /// Meant to equal [`reference`](super::reference) bit for bit. Asynchronous: a fault
    /// inside the kernel surfaces at the stream's next synchronisation.
    ///
    /// # Errors
    /// `Length` and `Stream` before any launch; `Driver` if the launch is refused.
    pub fn run(
        &self,
        scalars: &Scalars,
        decayed: usize,
        param: &mut CudaSlice<f32>,
        grad: &CudaSlice<f32>,
        first: &mut CudaSlice<f32>,
        second: &mut CudaSlice<f32>,
    ) -> Result<(), KernelError> {
        check(param.len(), grad.len(), first.len(), second.len())?;
        let streams = [param.stream(), grad.stream(), first.stream(), second.stream()];
        if streams.iter().any(|stream| **stream != self.stream) {
            return Err(KernelError::Stream);
        }
        if param.is_empty() {
            return Ok(());
        }
        let (length, decayed) = (param.len() as u64, decayed as u64);
        let blocks = length.div_ceil(u64::from(THREADS)).min(u64::from(BLOCKS_MAX));
        let config = LaunchConfig {
            grid_dim: (u32::try_from(blocks).unwrap_or(BLOCKS_MAX), 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: 0,
        };
        let mut launch = self.stream.launch_builder(&self.function);
        launch.arg(param).arg(grad).arg(first).arg(second).arg(&length).arg(&decayed);
        launch.arg(&scalars.grad_scale);
        launch.arg(&scalars.beta1).arg(&scalars.one_minus_beta1);
        launch.arg(&scalars.beta2).arg(&scalars.one_minus_beta2);
        launch.arg(&scalars.root_correction).arg(&scalars.epsilon);
        launch.arg(&scalars.step_size).arg(&scalars.shrink);
        // SAFETY: the fifteen arguments match `adamw` in adamw.cu in order and type and
        // live on this stream's device. `check` proved that each buffer holds `length`
        // elements, and the kernel touches only those below it. The four buffers are
        // distinct: three are borrowed mutably and the fourth beside them.
        unsafe { launch.launch(config)? };
        Ok(())
    }
}

/// Compiles the text to PTX; needs libnvrtc and no device.
pub(super) fn compile() -> Result<Ptx, KernelError> {
    // SAFETY: only opens the library by name and closes it again.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        return Err(KernelError::Compiler);
    }
    let options = CompileOptions {
        fmad: Some(false),
        ftz: Some(false),
        prec_div: Some(true),
        prec_sqrt: Some(true),
        arch: Some(ARCHITECTURE),
        name: Some("adamw.cu".to_owned()),
        ..CompileOptions::default()
    };
    compile_ptx_with_opts(SOURCE, options).map_err(|error| KernelError::Source(format!("{error:?}")))
}
