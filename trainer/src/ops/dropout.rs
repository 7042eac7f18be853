//! Dropout whose mask is a function of (seed, layer, step, sample, element).
//!
//! Nothing is stored for the backward pass: it applies the same mask to the gradient,
//! computed again. What is kept is divided by the share that is kept, so evaluation
//! needs no scaling. Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural
//! Networks from Overfitting" (JMLR 2014), in its inverted form.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::{Real, Width, elements, width};
use crate::random::{Purpose, Random, unit};

/// The layer at one step, for one batch of samples in rows.
#[derive(Clone, Debug)]
pub(crate) struct Dropout {
    /// The run's numbers.
    pub(crate) random: Random,
    /// Which dropout of the network this is.
    pub(crate) layer: u16,
    /// The optimiser step.
    pub(crate) step: u32,
    /// The data set's row number of each row of the batch.
    pub(crate) samples: Arc<[u32]>,
    /// The share of elements dropped, in 0..1 (1 excluded).
    pub(crate) rate: f64,
}

impl Dropout {
    fn run<T: Real>(&self, x: &[T]) -> Result<Vec<T>> {
        if self.samples.is_empty() || !x.len().is_multiple_of(self.samples.len()) {
            bail!("dropout: {} samples for {} elements", self.samples.len(), x.len())
        }
        let kept = T::from_f64(1.0 / (1.0 - self.rate));
        let mut out = vec![T::zero(); x.len()];
        let size = x.len() / self.samples.len();
        let rows = x.chunks_exact(size).zip(out.chunks_exact_mut(size));
        for ((x, out), sample) in rows.zip(self.samples.iter()) {
            for (block, (x, out)) in (0_u32..).zip(x.chunks(4).zip(out.chunks_mut(4))) {
                let purpose = Purpose::Dropout(self.layer);
                let words = self.random.words(purpose, self.step, *sample, block);
                for ((x, out), word) in x.iter().zip(out).zip(words) {
                    if unit(word) >= self.rate {
                        *out = *x * kept;
                    }
                }
            }
        }
        Ok(out)
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = match width(self.name(), x)? {
            Width::F32 => CpuStorage::F32(self.run(elements(x, layout)?)?),
            Width::F64 => CpuStorage::F64(self.run(elements(x, layout)?)?),
        };
        Ok((out, layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(self)?))
    }
}
