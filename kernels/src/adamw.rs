//! AdamW over flat buffers: one pass for all parameters of a model.
//!
//! The optimiser is Adam with bias correction (Kingma and Ba, "Adam: A Method for
//! Stochastic Optimization", 2015, algorithm 1) with the weight decay taken out of the
//! gradient (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019,
//! algorithm 2). All tensors lie end to end in one buffer, so a step is one loop and
//! one launch whatever the number of tensors. The decayed ones come first: element `i`
//! is decayed when `i < decayed`, which keeps biases and norms out without a mask.
//!
//! [`reference`] *is* the trainer's CPU update, not only a test oracle. It is compiled
//! for plain x86-64 and for AVX2 and picks at run time; neither version fuses a product
//! with a sum, so both give the same bits, and so is the kernel written.
//!
//! The kernel [`Kernel`] **has never run on a GPU.**
//!
//! Elsewhere: gradient clipping and the learning-rate schedule are the trainer's; they
//! arrive here as [`Scalars`].

#![expect(unsafe_code, reason = "a kernel launch and a CPU feature call")]

mod device;
#[cfg(test)]
mod tests;

pub use device::{Kernel, KernelError};

/// What stays the same for a whole training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    /// Decay of the first moment, in 0..1.
    pub beta1: f64,
    /// Decay of the second moment, in 0..1.
    pub beta2: f64,
    /// Added to the root of the second moment, above 0.
    pub epsilon: f64,
    /// Share of a decayed parameter taken away per step and learning rate, from 0.
    pub weight_decay: f64,
}

impl Default for Hyper {
    fn default() -> Hyper {
        Hyper { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }
    }
}

/// The scalars of one step, rounded once so that every backend multiplies by the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scalars {
    /// Multiplies each gradient: 1, or less where the global norm is clipped.
    pub grad_scale: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// 1 − beta1.
    pub one_minus_beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// 1 − beta2.
    pub one_minus_beta2: f32,
    /// 1 / √(1 − beta2^step): corrects the bias of the second moment.
    pub root_correction: f32,
    /// Added to the corrected root.
    pub epsilon: f32,
    /// lr / (1 − beta1^step): the rate with the first moment's bias corrected.
    pub step_size: f32,
    /// 1 − lr × weight_decay: multiplies a decayed parameter.
    pub shrink: f32,
}

impl Hyper {
    /// Returns the scalars of `step`, which counts from 1.
    #[must_use]
    pub fn at(&self, step: u64, lr: f64, grad_scale: f32) -> Scalars {
        let power = i32::try_from(step.max(1)).unwrap_or(i32::MAX);
        let correction1 = 1.0 - self.beta1.powi(power);
        let correction2 = 1.0 - self.beta2.powi(power);
        Scalars {
            grad_scale,
            beta1: self.beta1 as f32,
            one_minus_beta1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            root_correction: (1.0 / correction2.sqrt()) as f32,
            epsilon: self.epsilon as f32,
            step_size: (lr / correction1) as f32,
            shrink: (1.0 - lr * self.weight_decay) as f32,
        }
    }
}

/// The four flat buffers of a model; equal in length, element `i` belongs together.
#[derive(Debug)]
pub struct Flat<'a> {
    /// Parameters, changed.
    pub param: &'a mut [f32],
    /// Gradients, read.
    pub grad: &'a [f32],
    /// First moments, changed.
    pub first: &'a mut [f32],
    /// Second moments, changed.
    pub second: &'a mut [f32],
}

/// Buffers of different lengths were given; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lengths differ: {param} parameters, {grad} gradients, {first} and {second} moments")]
pub struct LengthError {
    /// Number of parameters.
    pub param: usize,
    /// Number of gradients.
    pub grad: usize,
    /// Number of first moments.
    pub first: usize,
    /// Number of second moments.
    pub second: usize,
}

/// Performs one step on the CPU; elements below `decayed` are decayed.
///
/// A `decayed` beyond the end means all. The result does not depend on the CPU.
///
/// # Errors
/// The four buffers must be equally long; otherwise nothing changes.
pub fn reference(flat: Flat<'_>, decayed: usize, scalars: &Scalars) -> Result<(), LengthError> {
    check(flat.param.len(), flat.grad.len(), flat.first.len(), flat.second.len())?;
    let decayed = decayed.min(flat.param.len());
    let (param, param_rest) = flat.param.split_at_mut(decayed);
    let (grad, grad_rest) = flat.grad.split_at(decayed);
    let (first, first_rest) = flat.first.split_at_mut(decayed);
    let (second, second_rest) = flat.second.split_at_mut(decayed);
    update(Flat { param, grad, first, second }, scalars);
    let undecayed = Scalars { shrink: 1.0, ..*scalars };
    let rest = Flat { param: param_rest, grad: grad_rest, first: first_rest, second: second_rest };
    update(rest, &undecayed);
    Ok(())
}

fn check(param: usize, grad: usize, first: usize, second: usize) -> Result<(), LengthError> {
    if grad == param && first == param && second == param {
        Ok(())
    } else {
        Err(LengthError { param, grad, first, second })
    }
}

fn update(flat: Flat<'_>, scalars: &Scalars) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2, the only feature `update_avx2` is compiled for.
        unsafe { update_avx2(flat, scalars) };
        return;
    }
    update_plain(flat, scalars);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn update_avx2(flat: Flat<'_>, scalars: &Scalars) {
    update_plain(flat, scalars);
}

/// The loop itself, inlined into each version so that each gets its own vector width.
///
/// A parameter times a `shrink` of exactly 1 keeps its bits, so an undecayed element
/// needs no branch. `check` has made the lengths equal; the slices below let the
/// compiler know it.
#[inline(always)]
fn update_plain(flat: Flat<'_>, scalars: &Scalars) {
    let s = *scalars;
    let n = flat.param.len();
    let param = &mut flat.param[..n];
    let (grad, first, second) = (&flat.grad[..n], &mut flat.first[..n], &mut flat.second[..n]);
    for i in 0..n {
        let g = grad[i] * s.grad_scale;
        let m = s.beta1 * first[i] + s.one_minus_beta1 * g;
        let v = s.beta2 * second[i] + s.one_minus_beta2 * (g * g);
        let root = v.sqrt() * s.root_correction + s.epsilon;
        first[i] = m;
        second[i] = v;
        param[i] = param[i] * s.shrink - s.step_size * (m / root);
    }
}
