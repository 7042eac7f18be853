//! Max pooling over square windows that do not overlap, channels last.
//!
//! The forward pass notes which element of each window won, the first of equals, and
//! the backward pass sends the whole gradient there. Rows and columns that do not fill
//! a window are left out, and get no gradient.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::{Real, Width, elements, width};

/// Window sizes up to this fit the one byte that notes the winner.
const WINDOW_MAX: usize = 15;

/// The layer; one value serves one application, because it notes the winners.
#[derive(Clone, Debug)]
pub(crate) struct MaxPool {
    window: usize,
    winners: Arc<OnceLock<Vec<u8>>>,
}

/// Sizes of one application.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
    window: usize,
}

impl Sizes {
    fn out_height(&self) -> usize {
        self.height / self.window
    }

    fn out_width(&self) -> usize {
        self.width / self.window
    }

    fn out_elements(&self) -> usize {
        self.batch * self.out_height() * self.out_width() * self.channels
    }

    /// Calls `visit(output offset, input offset, position in the window)` for each run
    /// of `channels` elements.
    fn runs(&self, mut visit: impl FnMut(usize, usize, u8)) {
        let mut out = 0;
        for b in 0..self.batch {
            for oy in 0..self.out_height() {
                for ox in 0..self.out_width() {
                    for position in 0..self.window * self.window {
                        let y = oy * self.window + position / self.window;
                        let x = ox * self.window + position % self.window;
                        let from = ((b * self.height + y) * self.width + x) * self.channels;
                        visit(out, from, position as u8);
                    }
                    out += self.channels;
                }
            }
        }
    }
}

impl MaxPool {
    /// Pools windows of `window` × `window`.
    pub(crate) fn new(window: usize) -> MaxPool {
        MaxPool { window, winners: Arc::default() }
    }

    fn sizes(&self, dims: &[usize]) -> Result<Sizes> {
        let &[batch, height, width, channels] = dims else {
            bail!("max-pool: input {dims:?} must have four dimensions")
        };
        let window = self.window;
        if window == 0 || window > WINDOW_MAX || height < window || width < window {
            bail!("max-pool: windows of {window} do not fit input {dims:?}")
        }
        Ok(Sizes { batch, height, width, channels, window })
    }

    fn forward<T: Real>(&self, s: &Sizes, x: &[T]) -> Vec<T> {
        let mut out = vec![T::zero(); s.out_elements()];
        let mut winners = vec![0_u8; s.out_elements()];
        s.runs(|to, from, position| {
            let out = &mut out[to..to + s.channels];
            let winners = &mut winners[to..to + s.channels];
            let x = &x[from..from + s.channels];
            for ((out, winner), x) in out.iter_mut().zip(winners).zip(x) {
                // A NaN wins and stays: no comparison with it is true.
                let better = *x > *out || x.partial_cmp(x).is_none();
                if position == 0 || better {
                    *out = *x;
                    *winner = position;
                }
            }
        });
        // Set once per value, as the type's contract says; a second run is equal anyway.
        let _ = self.winners.set(winners);
        out
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let s = self.sizes(layout.dims())?;
        let out = match width(self.name(), x)? {
            Width::F32 => CpuStorage::F32(self.forward(&s, elements(x, layout)?)),
            Width::F64 => CpuStorage::F64(self.forward(&s, elements(x, layout)?)),
        };
        Ok((out, (s.batch, s.out_height(), s.out_width(), s.channels).into()))
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let gradient = Gradient { pool: self.clone(), dims: x.dims().to_vec() };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&gradient)?))
    }
}

/// Sends each window's gradient to its winner.
struct Gradient {
    pool: MaxPool,
    dims: Vec<usize>,
}

impl Gradient {
    fn run<T: Real>(&self, grad: &[T]) -> Result<Vec<T>> {
        let s = self.pool.sizes(&self.dims)?;
        let Some(winners) = self.pool.winners.get() else { bail!("max-pool: backward before forward") };
        if winners.len() != grad.len() || grad.len() != s.out_elements() {
            bail!("max-pool: a value was applied to two inputs")
        }
        let mut out = vec![T::zero(); self.dims.iter().product()];
        s.runs(|from, to, position| {
            let out = &mut out[to..to + s.channels];
            let (grad, winners) = (&grad[from..from + s.channels], &winners[from..]);
            for ((out, grad), winner) in out.iter_mut().zip(grad).zip(winners) {
                *out = if *winner == position { *grad } else { T::zero() };
            }
        });
        Ok(out)
    }
}

impl CustomOp1 for Gradient {
    fn name(&self) -> &'static str {
        "max-pool-gradient"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = match width(self.name(), grad)? {
            Width::F32 => CpuStorage::F32(self.run(elements(grad, layout)?)?),
            Width::F64 => CpuStorage::F64(self.run(elements(grad, layout)?)?),
        };
        Ok((out, self.dims.as_slice().into()))
    }
}
