//! A fully connected layer: `y = x · wᵀ + b`, with the ReLU fused where there is one.
//!
//! | tensor | shape           |
//! |--------|-----------------|
//! | `x`    | \[rows, inputs\]    |
//! | `w`    | \[outputs, inputs\] |
//! | `b`    | \[outputs\]         |
//! | result | \[rows, outputs\]   |

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::matrix::{Matrix, Threads, multiply};
use super::{BiasGradient, Real, Width, before_relu, elements, finish_rows, last_dim, width};

/// The layer, applied as `x.apply_op3(w, b, Dense { .. })`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dense {
    /// Clamps the result at zero.
    pub(crate) relu: bool,
    /// Computes the gradient of `x`; a network's first layer does not need it.
    pub(crate) input_gradient: bool,
}

impl Dense {
    fn forward<T: Real>(self, x: &[T], w: &[T], b: &[T], inputs: usize) -> Vec<T> {
        let mut out = vec![T::zero(); x.len() / inputs * b.len()];
        let w = Matrix::new(w, inputs).transpose();
        multiply(&mut out, Matrix::new(x, inputs), w, false, Threads::Pool);
        finish_rows(&mut out, b, self.relu);
        out
    }
}

impl CustomOp3 for Dense {
    fn name(&self) -> &'static str {
        "dense"
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
        let (inputs, outputs) = (last_dim(x_layout)?, last_dim(b_layout)?);
        if w_layout.dims() != [outputs, inputs] || x_layout.dims().len() != 2 {
            bail!(
                "dense: input {:?} does not fit weights {:?} and bias {:?}",
                x_layout.dims(),
                w_layout.dims(),
                b_layout.dims()
            );
        }
        let rows = x_layout.dims()[0];
        let out = match width(self.name(), x)? {
            Width::F32 => CpuStorage::F32(self.forward(
                elements(x, x_layout)?,
                elements(w, w_layout)?,
                elements(b, b_layout)?,
                inputs,
            )),
            Width::F64 => CpuStorage::F64(self.forward(
                elements(x, x_layout)?,
                elements(w, w_layout)?,
                elements(b, b_layout)?,
                inputs,
            )),
        };
        Ok((out, (rows, outputs).into()))
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
        let of_x = if self.input_gradient {
            Some(grad.apply_op2_no_bwd(w, &Product { transpose_left: false })?)
        } else {
            None
        };
        let of_w = grad.apply_op2_no_bwd(x, &Product { transpose_left: true })?;
        Ok((of_x, Some(of_w), Some(grad.apply_op1_no_bwd(&BiasGradient)?)))
    }
}

/// The two products of the backward pass: `g · w` and `gᵀ · x`.
struct Product {
    transpose_left: bool,
}

impl Product {
    fn run<T: Real>(&self, left: Matrix<'_, T>, right: Matrix<'_, T>, out: usize) -> Vec<T> {
        let left = if self.transpose_left { left.transpose() } else { left };
        let mut product = vec![T::zero(); out];
        multiply(&mut product, left, right, false, Threads::Pool);
        product
    }
}

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "dense-gradient"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (a_columns, b_columns) = (last_dim(a_layout)?, last_dim(b_layout)?);
        let rows = if self.transpose_left { a_columns } else { a_layout.dims()[0] };
        let size = rows * b_columns;
        let out = match width(self.name(), a)? {
            Width::F32 => {
                let left = Matrix::new(elements::<f32>(a, a_layout)?, a_columns);
                let right = Matrix::new(elements::<f32>(b, b_layout)?, b_columns);
                CpuStorage::F32(self.run(left, right, size))
            }
            Width::F64 => {
                let left = Matrix::new(elements::<f64>(a, a_layout)?, a_columns);
                let right = Matrix::new(elements::<f64>(b, b_layout)?, b_columns);
                CpuStorage::F64(self.run(left, right, size))
            }
        };
        Ok((out, (rows, b_columns).into()))
    }
}
