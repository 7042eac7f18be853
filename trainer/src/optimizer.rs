//! Optimisers over flat buffers, and the learning-rate schedule.
//!
//! All parameters lie end to end in one buffer, weights before biases, and so do the
//! gradients and the optimiser's state. A step copies gradients in, runs one fused loop,
//! and copies parameters out to candle's variables. The state is two buffers; both are
//! in a checkpoint, and with the step's number they are all there is.
//!
//! SGD with momentum: `u ← μ·u + g; p ← p − lr·u − lr·λ·p` (Polyak 1964 in the form of
//! Sutskever et al. 2013, with the decay decoupled as in Loshchilov and Hutter 2019).
//! AdamW is `gangsaw_kernels::adamw`.

#[cfg(test)]
mod tests;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use gangsaw_kernels::adamw;

use crate::config::{Optimizer, TrainConfig};
use crate::model::Model;

/// An optimiser with its state.
#[derive(Debug)]
pub(crate) struct Flat {
    kind: Optimizer,
    weight_decay: f64,
    momentum: f64,
    decayed: usize,
    /// Parameters; the truth between steps.
    pub(crate) param: Vec<f32>,
    grad: Vec<f32>,
    /// First moment, or momentum.
    pub(crate) first: Vec<f32>,
    /// Second moment; empty for SGD.
    pub(crate) second: Vec<f32>,
}

impl Flat {
    /// Takes a network's parameters, with an optimiser state of zeros.
    pub(crate) fn new(config: &TrainConfig, model: &Model) -> Result<Flat> {
        let mut param = Vec::new();
        let mut decayed = 0;
        for (i, p) in model.params.iter().enumerate() {
            param.extend(p.var.flatten_all()?.to_vec1::<f32>()?);
            if i < model.weights {
                decayed = param.len();
            }
        }
        let size = param.len();
        let second = match config.optimizer {
            Optimizer::Adamw => size,
            Optimizer::Sgd => 0,
        };
        Ok(Flat {
            kind: config.optimizer,
            weight_decay: config.weight_decay,
            momentum: config.momentum,
            decayed,
            param,
            grad: vec![0.0; size],
            first: vec![0.0; size],
            second: vec![0.0; second],
        })
    }

    /// Copies the gradients in, one a parameter in order, and returns their global norm, summed in f64.
    pub(crate) fn gather(&mut self, grads: &[Tensor]) -> Result<f64> {
        let mut rest = self.grad.as_mut_slice();
        for grad in grads {
            let (mine, others) = rest.split_at_mut(grad.elem_count());
            rest = others;
            copy_out(grad, mine)?;
        }
        Ok(norm(&self.grad))
    }

    /// Performs step `step`, counted from 1, on the gathered gradients times `scale`.
    pub(crate) fn step(&mut self, step: u64, lr: f64, scale: f32) -> Result<()> {
        match self.kind {
            Optimizer::Adamw => {
                let hyper = adamw::Hyper { weight_decay: self.weight_decay, ..adamw::Hyper::default() };
                let flat = adamw::Flat {
                    param: &mut self.param,
                    grad: &self.grad,
                    first: &mut self.first,
                    second: &mut self.second,
                };
                adamw::reference(flat, self.decayed, &hyper.at(step, lr, scale)).map_err(candle_core::Error::wrap)
            }
            Optimizer::Sgd => {
                self.sgd(lr, scale);
                Ok(())
            }
        }
    }

    fn sgd(&mut self, lr: f64, scale: f32) {
        let (momentum, rate) = (self.momentum as f32, lr as f32);
        let shrink = (1.0 - lr * self.weight_decay) as f32;
        let all = self.param.iter_mut().zip(&mut self.first).zip(&self.grad);
        for (i, ((p, u), g)) in all.enumerate() {
            *u = momentum * *u + g * scale;
            let kept = if i < self.decayed { *p * shrink } else { *p };
            *p = kept - rate * *u;
        }
    }

    /// Copies the parameters out to the network's variables.
    pub(crate) fn scatter(&self, model: &Model) -> Result<()> {
        let mut rest = self.param.as_slice();
        for p in &model.params {
            let (mine, others) = rest.split_at(p.var.elem_count());
            rest = others;
            if p.var.device().is_cpu() {
                p.var.inplace_op1(&Fill(mine))?;
            } else {
                p.var.set(&Tensor::from_slice(mine, p.var.dims(), p.var.device())?)?;
            }
        }
        Ok(())
    }
}

/// Copies a tensor's elements to the host; without a detour where it lies there.
fn copy_out(tensor: &Tensor, out: &mut [f32]) -> Result<()> {
    let (storage, layout) = tensor.storage_and_layout();
    if let Storage::Cpu(CpuStorage::F32(data)) = &*storage
        && let Some((start, end)) = layout.contiguous_offsets()
    {
        out.copy_from_slice(&data[start..end]);
        return Ok(());
    }
    drop(storage);
    out.copy_from_slice(&tensor.flatten_all()?.to_vec1::<f32>()?);
    Ok(())
}

/// Overwrites a variable's elements in place.
struct Fill<'a>(&'a [f32]);

impl InplaceOp1 for Fill<'_> {
    fn name(&self) -> &'static str {
        "fill"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(data), Some((start, end))) if end - start == self.0.len() => {
                data[start..end].copy_from_slice(self.0);
                Ok(())
            }
            (other, _) => bail!("a parameter is not {} contiguous f32: {other:?}", self.0.len()),
        }
    }
}

/// The Euclidean norm, summed in f64 in eight lanes so that it vectorises; the order of
/// summation is fixed.
fn norm(values: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; 8];
    let mut chunks = values.chunks_exact(8);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*x) * f64::from(*x);
        }
    }
    let rest: f64 = chunks.remainder().iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    (lanes.iter().sum::<f64>() + rest).sqrt()
}

/// Returns what gradients of global norm `norm` are multiplied by to be at most `limit`.
pub(crate) fn clip_scale(norm: f64, limit: Option<f64>) -> f32 {
    match limit {
        Some(limit) if norm > limit => (limit / norm) as f32,
        Some(_) | None => 1.0,
    }
}

/// Returns the learning rate of `step` (from 0) of `total`: a straight rise over the
/// warm-up, then half a cosine down to zero (Loshchilov and Hutter, "SGDR", 2017).
pub(crate) fn learning_rate(config: &TrainConfig, step: u32, total: u32) -> f64 {
    let warmup = (config.warmup * f64::from(total)).round();
    let at = f64::from(step);
    if at < warmup {
        return config.lr * (at + 1.0) / (warmup + 1.0);
    }
    let progress = (at - warmup) / (f64::from(total) - warmup).max(1.0);
    config.lr * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}
