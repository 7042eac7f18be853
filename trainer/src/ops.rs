//! Our own tensor operations, as candle CustomOps with written-out gradients.
//!
//! candle's own are not used where they are wrong or slow: `max_pool2d` gives 1/k² of
//! the gradient, softmax and layer norm give none at all, conv2d's backward is slow and
//! suspect for non-square input with stride. Each op here is checked against central
//! finite differences in f64, on odd and non-square shapes.
//!
//! Layout: images are [batch, height, width, channels] (channels last), so a patch is a
//! few contiguous copies and a convolution's output is the GEMM's output as it falls.
//!
//! Invariants:
//! - Input is contiguous; anything else is an error, never a silent copy.
//! - Work is cut into chunks whose size does not depend on the number of threads, and
//!   partial sums are added in chunk order: the result does not depend on it either.
//! - An activation keeps a NaN: `max(NaN, 0)` would hide a broken step.
//!
//! There is a CPU implementation of each; on another device candle answers with an
//! error that names the op. Elsewhere: the layers that use them are `model`.

mod conv;
mod dense;
mod dropout;
mod loss;
mod matrix;
mod pool;
#[cfg(test)]
mod tests;

pub(crate) use conv::Conv;
pub(crate) use dense::Dense;
pub(crate) use dropout::Dropout;
pub(crate) use loss::CrossEntropy;
pub(crate) use pool::MaxPool;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType, bail};

/// A floating type the ops run in: f32 to train, f64 to check gradients.
pub(crate) trait Real: WithDType + std::ops::Neg<Output = Self> {
    /// e to the power of it.
    fn exp(self) -> Self;
}

impl Real for f32 {
    fn exp(self) -> f32 {
        f32::exp(self)
    }
}

impl Real for f64 {
    fn exp(self) -> f64 {
        f64::exp(self)
    }
}

/// Returns the elements of a contiguous tensor.
fn elements<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("an operation of the trainer got a tensor that is not contiguous")
    };
    Ok(&storage.as_slice::<T>()?[start..end])
}

/// The element types an op is written for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    F32,
    F64,
}

/// Returns the element type of an op's input, and refuses others.
fn width(name: &str, storage: &CpuStorage) -> Result<Width> {
    let dtype = storage.dtype();
    if dtype == DType::F32 {
        Ok(Width::F32)
    } else if dtype == DType::F64 {
        Ok(Width::F64)
    } else {
        bail!("{name} has no implementation for {dtype:?}")
    }
}

/// Lets zero through as it is and keeps NaN, unlike `max`.
#[inline(always)]
fn relu<T: Real>(x: T) -> T {
    if x < T::zero() { T::zero() } else { x }
}

/// Adds `bias` to each row and clamps at zero where the layer says so.
fn finish_rows<T: Real>(rows: &mut [T], bias: &[T], clamp: bool) {
    for row in rows.chunks_exact_mut(bias.len()) {
        if clamp {
            row.iter_mut().zip(bias).for_each(|(y, b)| *y = relu(*y + *b));
        } else {
            row.iter_mut().zip(bias).for_each(|(y, b)| *y += *b);
        }
    }
}

/// The gradient before a ReLU, from the gradient after it and the ReLU's result.
struct ReluGradient;

impl ReluGradient {
    fn run<T: Real>(result: &[T], grad: &[T]) -> Vec<T> {
        let masked = |(y, g): (&T, &T)| if *y > T::zero() { *g } else { T::zero() };
        result.iter().zip(grad).map(masked).collect()
    }
}

impl CustomOp2 for ReluGradient {
    fn name(&self) -> &'static str {
        "relu-gradient"
    }

    fn cpu_fwd(
        &self,
        result: &CpuStorage,
        result_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn typed<T: Real>(y: &CpuStorage, y_layout: &Layout, g: &CpuStorage, g_layout: &Layout) -> Result<CpuStorage> {
            let (y, g) = (elements::<T>(y, y_layout)?, elements::<T>(g, g_layout)?);
            Ok(T::to_cpu_storage_owned(ReluGradient::run(y, g)))
        }
        let out = match width(self.name(), grad)? {
            Width::F32 => typed::<f32>(result, result_layout, grad, grad_layout)?,
            Width::F64 => typed::<f64>(result, result_layout, grad, grad_layout)?,
        };
        Ok((out, grad_layout.shape().clone()))
    }
}

/// The gradient with the fused ReLU undone, or the gradient itself without one.
fn before_relu(clamp: bool, result: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let grad = grad.contiguous()?;
    if clamp { result.apply_op2_no_bwd(&grad, &ReluGradient) } else { Ok(grad) }
}

/// Sums the rows of a [rows, columns] gradient: the gradient of a bias.
struct BiasGradient;

impl BiasGradient {
    fn run<T: Real>(grad: &[T], columns: usize) -> Vec<T> {
        let mut sums = vec![T::zero(); columns];
        for row in grad.chunks_exact(columns) {
            sums.iter_mut().zip(row).for_each(|(sum, g)| *sum += *g);
        }
        sums
    }
}

impl candle_core::CustomOp1 for BiasGradient {
    fn name(&self) -> &'static str {
        "bias-gradient"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let columns = last_dim(layout)?;
        let out = match width(self.name(), grad)? {
            Width::F32 => CpuStorage::F32(BiasGradient::run(elements::<f32>(grad, layout)?, columns)),
            Width::F64 => CpuStorage::F64(BiasGradient::run(elements::<f64>(grad, layout)?, columns)),
        };
        Ok((out, columns.into()))
    }
}

/// The size of the last dimension, which must not be zero.
fn last_dim(layout: &Layout) -> Result<usize> {
    match layout.dims().last() {
        Some(&size) if size > 0 => Ok(size),
        Some(_) | None => bail!("an operation of the trainer got an empty last dimension"),
    }
}
