//! A two-dimensional convolution by patches and GEMM, with written-out gradients.
//!
//! | tensor | shape                                        |
//! |--------|----------------------------------------------|
//! | `x`    | \[batch, height, width, channels\]             |
//! | `w`    | \[outputs, kernel, kernel, channels\]          |
//! | `b`    | \[outputs\]                                    |
//! | result | \[batch, out_height, out_width, outputs\]      |
//!
//! A patch row holds the kernel × kernel × channels inputs under one output pixel, so
//! the forward pass is patches · wᵀ, the weight gradient gᵀ · patches, and the data
//! gradient g · w scattered back. Patches are made for a few samples at a time, so that
//! they stay in the second-level cache, and are made again in the backward pass: that
//! is cheaper than keeping them.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::matrix::{Matrix, Threads, each_chunk, multiply, sum_parts};
use super::{BiasGradient, Real, Width, before_relu, elements, finish_rows, width};

/// Patch elements made at a time: 256 KiB of f32. It fixes the order of summation, so
/// it must not depend on the machine or the number of threads.
const PATCH_ELEMENTS: usize = 1 << 16;

/// The layer, applied as `x.apply_op3(w, b, Conv { .. })`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conv {
    /// Input pixels between neighbouring output pixels, at least 1.
    pub(crate) stride: usize,
    /// Rows and columns of zeros around the input.
    pub(crate) padding: usize,
    /// Clamps the result at zero.
    pub(crate) relu: bool,
    /// Computes the gradient of `x`; a network's first layer does not need it.
    pub(crate) input_gradient: bool,
}

/// The sizes of one application, all above zero.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
    outputs: usize,
    kernel: usize,
    out_height: usize,
    out_width: usize,
}

impl Sizes {
    fn patch(&self) -> usize {
        self.kernel * self.kernel * self.channels
    }

    fn sample_in(&self) -> usize {
        self.height * self.width * self.channels
    }

    fn sample_out(&self) -> usize {
        self.out_height * self.out_width * self.outputs
    }

    /// Samples whose patches are made together.
    fn samples_per_chunk(&self) -> usize {
        (PATCH_ELEMENTS / (self.out_height * self.out_width * self.patch())).max(1)
    }
}

impl Conv {
    fn sizes(&self, x: &[usize], w: &[usize]) -> Result<Sizes> {
        let (&[batch, height, width, channels], &[outputs, kernel, columns, of]) = (x, w) else {
            bail!("conv: input {x:?} and weights {w:?} must have four dimensions")
        };
        let (tall, wide) = (height + 2 * self.padding, width + 2 * self.padding);
        let fits = kernel == columns && channels == of && kernel <= tall && kernel <= wide;
        if !fits || self.stride == 0 || [kernel, channels, outputs, batch].contains(&0) {
            bail!("conv: input {x:?} does not fit weights {w:?} with {self:?}")
        }
        let out_height = (tall - kernel) / self.stride + 1;
        let out_width = (wide - kernel) / self.stride + 1;
        Ok(Sizes { batch, height, width, channels, outputs, kernel, out_height, out_width })
    }

    /// Calls `visit(patch offset, image offset, length)` for each contiguous run that
    /// the patches of one sample share with its image; the rest of a patch is padding.
    #[inline(always)]
    fn runs(&self, s: &Sizes, mut visit: impl FnMut(usize, usize, usize)) {
        let row = s.kernel * s.channels;
        for oy in 0..s.out_height {
            for ox in 0..s.out_width {
                let patch = (oy * s.out_width + ox) * s.patch();
                let left = ox * self.stride;
                let first = self.padding.saturating_sub(left);
                let last = s.kernel.min((s.width + self.padding).saturating_sub(left));
                if first >= last {
                    continue;
                }
                for ky in 0..s.kernel {
                    let y = oy * self.stride + ky;
                    if y < self.padding || y >= s.height + self.padding {
                        continue;
                    }
                    let x = left + first - self.padding;
                    let image = ((y - self.padding) * s.width + x) * s.channels;
                    let at = patch + ky * row + first * s.channels;
                    visit(at, image, (last - first) * s.channels);
                }
            }
        }
    }

    /// Fills `patches` from the samples of `x`; what is padding must be zero already.
    fn gather<T: Real>(&self, s: &Sizes, x: &[T], patches: &mut [T]) {
        let size = s.out_height * s.out_width * s.patch();
        for (image, patches) in x.chunks_exact(s.sample_in()).zip(patches.chunks_exact_mut(size)) {
            self.runs(s, |at, from, length| {
                let (to, from) = (&mut patches[at..at + length], &image[from..from + length]);
                to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            });
        }
    }

    /// Adds each patch element to the input element it came from.
    fn scatter<T: Real>(&self, s: &Sizes, patches: &[T], x: &mut [T]) {
        let size = s.out_height * s.out_width * s.patch();
        for (image, patches) in x.chunks_exact_mut(s.sample_in()).zip(patches.chunks_exact(size)) {
            self.runs(s, |at, to, length| {
                let (from, to) = (&patches[at..at + length], &mut image[to..to + length]);
                to.iter_mut().zip(from).for_each(|(to, from)| *to += *from);
            });
        }
    }

    fn patches<T: Real>(&self, s: &Sizes, x: &[T]) -> Vec<T> {
        let samples = x.len() / s.sample_in();
        let mut patches = vec![T::zero(); samples * s.out_height * s.out_width * s.patch()];
        self.gather(s, x, &mut patches);
        patches
    }

    fn forward<T: Real>(&self, s: &Sizes, x: &[T], w: &[T], b: &[T]) -> Vec<T> {
        let samples = s.samples_per_chunk();
        let mut out = vec![T::zero(); s.batch * s.sample_out()];
        let weights = Matrix::new(w, s.patch()).transpose();
        each_chunk(&mut out, samples * s.sample_out(), |i, out| {
            let from = i * samples * s.sample_in();
            let count = out.len() / s.sample_out() * s.sample_in();
            let patches = self.patches(s, &x[from..from + count]);
            multiply(out, Matrix::new(&patches, s.patch()), weights, false, Threads::One);
            finish_rows(out, b, self.relu);
        });
        out
    }

    fn input_gradient<T: Real>(&self, s: &Sizes, grad: &[T], w: &[T]) -> Vec<T> {
        let samples = s.samples_per_chunk();
        let mut out = vec![T::zero(); s.batch * s.sample_in()];
        let weights = Matrix::new(w, s.patch());
        each_chunk(&mut out, samples * s.sample_in(), |i, out| {
            let from = i * samples * s.sample_out();
            let count = out.len() / s.sample_in() * s.sample_out();
            let grad = Matrix::new(&grad[from..from + count], s.outputs);
            let mut patches = vec![T::zero(); count / s.outputs * s.patch()];
            multiply(&mut patches, grad, weights, false, Threads::One);
            self.scatter(s, &patches, out);
        });
        out
    }

    fn weight_gradient<T: Real>(&self, s: &Sizes, grad: &[T], x: &[T]) -> Vec<T> {
        let samples = s.samples_per_chunk();
        let parts = s.batch.div_ceil(samples);
        sum_parts(s.outputs * s.patch(), parts, |i, out| {
            let (first, last) = (i * samples, s.batch.min((i + 1) * samples));
            let patches = self.patches(s, &x[first * s.sample_in()..last * s.sample_in()]);
            let grad = &grad[first * s.sample_out()..last * s.sample_out()];
            let grad = Matrix::new(grad, s.outputs).transpose();
            multiply(out, grad, Matrix::new(&patches, s.patch()), false, Threads::One);
        })
    }
}

impl CustomOp3 for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let s = self.sizes(x_layout.dims(), w_layout.dims())?;
        if b_layout.dims() != [s.outputs] {
            bail!("conv: bias {:?} for {} outputs", b_layout.dims(), s.outputs)
        }
        let out = match width(self.name(), x)? {
            Width::F32 => CpuStorage::F32(self.forward(
                &s,
                elements(x, x_layout)?,
                elements(w, w_layout)?,
                elements(b, b_layout)?,
            )),
            Width::F64 => CpuStorage::F64(self.forward(
                &s,
                elements(x, x_layout)?,
                elements(w, w_layout)?,
                elements(b, b_layout)?,
            )),
        };
        Ok((out, (s.batch, s.out_height, s.out_width, s.outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _b: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = before_relu(self.relu, result, grad)?;
        let gradient = |of| Gradient { conv: *self, of, x: x.dims().to_vec(), w: w.dims().to_vec() };
        let of_x = if self.input_gradient { Some(grad.apply_op2_no_bwd(w, &gradient(Of::Input))?) } else { None };
        let of_w = grad.apply_op2_no_bwd(x, &gradient(Of::Weights))?;
        Ok((of_x, Some(of_w), Some(grad.apply_op1_no_bwd(&BiasGradient)?)))
    }
}

/// What a gradient is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Input,
    Weights,
}

/// One of the two large gradients; its second argument is the other tensor.
struct Gradient {
    conv: Conv,
    of: Of,
    x: Vec<usize>,
    w: Vec<usize>,
}

impl Gradient {
    fn run<T: Real>(&self, grad: &[T], other: &[T]) -> Result<Vec<T>> {
        let s = self.conv.sizes(&self.x, &self.w)?;
        Ok(match self.of {
            Of::Input => self.conv.input_gradient(&s, grad, other),
            Of::Weights => self.conv.weight_gradient(&s, grad, other),
        })
    }
}

impl CustomOp2 for Gradient {
    fn name(&self) -> &'static str {
        "conv-gradient"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        other: &CpuStorage,
        other_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = match width(self.name(), grad)? {
            Width::F32 => CpuStorage::F32(self.run(elements(grad, grad_layout)?, elements(other, other_layout)?)?),
            Width::F64 => CpuStorage::F64(self.run(elements(grad, grad_layout)?, elements(other, other_layout)?)?),
        };
        let shape = match self.of {
            Of::Input => self.x.as_slice(),
            Of::Weights => self.w.as_slice(),
        };
        Ok((out, shape.into()))
    }
}
