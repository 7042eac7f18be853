//! Softmax and cross-entropy in one, averaged over the batch.
//!
//! The forward pass gives one number, −log softmax(logits)\[label\], summed in f64 and
//! divided by the batch. The gradient is (softmax − one-hot) / batch, which needs no
//! logarithm and cannot divide by zero. The largest logit is subtracted first.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::{Real, Width, elements, last_dim, width};

/// The loss, applied as `logits.apply_op2(labels, CrossEntropy)`: \[batch, classes\]
/// logits, \[batch\] labels of u32, a scalar result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrossEntropy;

/// The softmax of one row, written to `out`; returns log Σ exp of the row.
fn softmax<T: Real>(row: &[T], out: &mut [T]) -> f64 {
    let top = row.iter().fold(row[0], |top, x| if *x > top { *x } else { top });
    let mut sum = T::zero();
    for (out, x) in out.iter_mut().zip(row) {
        *out = (*x - top).exp();
        sum += *out;
    }
    out.iter_mut().for_each(|p| *p /= sum);
    sum.to_f64().ln() + top.to_f64()
}

fn check(labels: &[u32], rows: usize, classes: usize) -> Result<()> {
    if labels.len() != rows || rows == 0 {
        bail!("cross-entropy: {} labels for {rows} rows", labels.len())
    }
    match labels.iter().find(|label| **label as usize >= classes) {
        Some(label) => bail!("cross-entropy: label {label} of {classes} classes"),
        None => Ok(()),
    }
}

fn forward<T: Real>(logits: &[T], labels: &[u32], classes: usize) -> T {
    let mut probabilities = vec![T::zero(); classes];
    let mut total = 0.0;
    for (row, label) in logits.chunks_exact(classes).zip(labels) {
        total += softmax(row, &mut probabilities) - row[*label as usize].to_f64();
    }
    T::from_f64(total / labels.len() as f64)
}

fn backward<T: Real>(logits: &[T], labels: &[u32], classes: usize, grad: T) -> Vec<T> {
    let scale = grad / T::from_f64(labels.len() as f64);
    let mut out = vec![T::zero(); logits.len()];
    let rows = logits.chunks_exact(classes).zip(out.chunks_exact_mut(classes));
    for ((row, out), label) in rows.zip(labels) {
        softmax(row, out);
        out[*label as usize] -= T::one();
        out.iter_mut().for_each(|g| *g *= scale);
    }
    out
}

impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        labels: &CpuStorage,
        labels_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let classes = last_dim(logits_layout)?;
        let labels = elements::<u32>(labels, labels_layout)?;
        check(labels, logits_layout.shape().elem_count() / classes, classes)?;
        let out = match width(self.name(), logits)? {
            Width::F32 => {
                let logits = elements::<f32>(logits, logits_layout)?;
                CpuStorage::F32(vec![forward(logits, labels, classes)])
            }
            Width::F64 => {
                let logits = elements::<f64>(logits, logits_layout)?;
                CpuStorage::F64(vec![forward(logits, labels, classes)])
            }
        };
        Ok((out, ().into()))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        labels: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(logits.apply_op3_no_bwd(labels, &grad.contiguous()?, &Gradient)?), None))
    }
}

struct Gradient;

impl CustomOp3 for Gradient {
    fn name(&self) -> &'static str {
        "cross-entropy-gradient"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        labels: &CpuStorage,
        labels_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let classes = last_dim(logits_layout)?;
        let labels = elements::<u32>(labels, labels_layout)?;
        check(labels, logits_layout.shape().elem_count() / classes, classes)?;
        let out = match width(self.name(), logits)? {
            Width::F32 => {
                let grad = elements::<f32>(grad, grad_layout)?[0];
                let logits = elements::<f32>(logits, logits_layout)?;
                CpuStorage::F32(backward(logits, labels, classes, grad))
            }
            Width::F64 => {
                let grad = elements::<f64>(grad, grad_layout)?[0];
                let logits = elements::<f64>(logits, logits_layout)?;
                CpuStorage::F64(backward(logits, labels, classes, grad))
            }
        };
        Ok((out, logits_layout.shape().clone()))
    }
}
