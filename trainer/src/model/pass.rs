//! Forward and backward through a network's layers, without a graph.
//!
//! The networks are chains, so the backward pass is a walk back over the layers that
//! calls each operation's own `bwd`. candle's walk over a recorded graph gives the same
//! values and is the oracle in the tests; it is not used to train, because it adds every
//! gradient to a tensor of zeros first, on a pool of threads that spin while they wait:
//! on a busy machine of two cores that took longer than the arithmetic.

use candle_core::{CustomOp1, CustomOp2, CustomOp3, Result, Tensor, bail};

use super::{KERNEL, Layer, Model};
use crate::batch::Batch;
use crate::ops::{Conv, CrossEntropy, Dense, Dropout, MaxPool};
use crate::random::Random;

/// What a pass is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// A training step: activations are dropped.
    Train {
        /// The run's numbers.
        random: Random,
        /// The optimiser step.
        step: u32,
        /// The share dropped.
        dropout: f64,
    },
    /// Nothing is dropped.
    Evaluate,
}

/// A layer's operation in one pass; numbers are indices of the network's parameters.
#[derive(Debug)]
pub(super) enum Op {
    Conv(Conv, usize, usize),
    Dense(Dense, usize, usize),
    Pool(MaxPool),
    Dropout(Dropout),
    Flatten,
}

/// A loss and what it says about each parameter.
pub(crate) struct Gradients {
    /// The mean loss of the batch, a scalar.
    pub(crate) loss: Tensor,
    /// One gradient a parameter, in the network's order.
    pub(crate) of: Vec<Tensor>,
}

impl Model {
    /// Returns \[samples, classes\] logits.
    pub(crate) fn forward(&self, batch: &Batch, mode: Mode) -> Result<Tensor> {
        let mut x = batch.images.clone();
        for op in self.operations(batch, mode) {
            x = self.apply(&op, &x)?;
        }
        Ok(x)
    }

    /// Returns the loss of a batch with the gradients of all parameters.
    pub(crate) fn gradients(&self, batch: &Batch, mode: Mode) -> Result<Gradients> {
        let operations = self.operations(batch, mode);
        let mut inputs = vec![batch.images.clone()];
        for op in &operations {
            let x = &inputs[inputs.len() - 1];
            inputs.push(self.apply(op, x)?);
        }
        let logits = &inputs[inputs.len() - 1];
        let loss = logits.apply_op2_no_bwd(&batch.labels, &CrossEntropy)?;
        let (grad, _) = CrossEntropy.bwd(logits, &batch.labels, &loss, &loss.ones_like()?)?;
        let mut of: Vec<Option<Tensor>> = vec![None; self.params.len()];
        let mut grad = grad;
        for (i, op) in operations.iter().enumerate().rev() {
            let Some(known) = grad else { break };
            grad = self.apply_backward(op, &inputs[i], &inputs[i + 1], &known, &mut of)?;
            // What lies behind is not needed any more; its memory serves what comes.
            inputs.truncate(i + 1);
        }
        match of.iter().position(Option::is_none) {
            Some(i) => bail!("{} got no gradient", self.params[i].name),
            None => Ok(Gradients { loss, of: of.into_iter().flatten().collect() }),
        }
    }

    /// The operations of one pass, first to last.
    pub(super) fn operations(&self, batch: &Batch, mode: Mode) -> Vec<Op> {
        let operation = |layer: &Layer| match (*layer, mode) {
            (Layer::Conv { weight, bias, first }, _) => {
                let (stride, padding) = (1, KERNEL / 2);
                Some(Op::Conv(Conv { stride, padding, relu: true, input_gradient: !first }, weight, bias))
            }
            (Layer::Dense { weight, bias, relu, first }, _) => {
                Some(Op::Dense(Dense { relu, input_gradient: !first }, weight, bias))
            }
            (Layer::Pool, _) => Some(Op::Pool(MaxPool::new(2))),
            (Layer::Flatten, _) => Some(Op::Flatten),
            (Layer::Dropout, Mode::Train { random, step, dropout: rate }) if rate > 0.0 => {
                let samples = batch.rows.clone();
                Some(Op::Dropout(Dropout { random, layer: 0, step, samples, rate }))
            }
            (Layer::Dropout, Mode::Train { .. } | Mode::Evaluate) => None,
        };
        self.layers.iter().filter_map(operation).collect()
    }

    pub(super) fn var(&self, index: usize) -> &Tensor {
        self.params[index].var.as_tensor()
    }

    fn apply(&self, op: &Op, x: &Tensor) -> Result<Tensor> {
        match op {
            Op::Conv(conv, w, b) => x.apply_op3_no_bwd(self.var(*w), self.var(*b), conv),
            Op::Dense(dense, w, b) => x.apply_op3_no_bwd(self.var(*w), self.var(*b), dense),
            Op::Pool(pool) => x.apply_op1_no_bwd(pool),
            Op::Dropout(dropout) => x.apply_op1_no_bwd(dropout),
            Op::Flatten => x.flatten_from(1),
        }
    }

    /// Returns the gradient of the input `x` (absent for the first layer) from that of
    /// the result `y`; notes those of the parameters in `of`.
    fn apply_backward(
        &self,
        op: &Op,
        x: &Tensor,
        y: &Tensor,
        grad: &Tensor,
        of: &mut [Option<Tensor>],
    ) -> Result<Option<Tensor>> {
        let (of_x, parameters) = match op {
            Op::Conv(conv, w, b) => {
                let (of_x, of_w, of_b) = conv.bwd(x, self.var(*w), self.var(*b), y, grad)?;
                (of_x, Some((*w, of_w, *b, of_b)))
            }
            Op::Dense(dense, w, b) => {
                let (of_x, of_w, of_b) = dense.bwd(x, self.var(*w), self.var(*b), y, grad)?;
                (of_x, Some((*w, of_w, *b, of_b)))
            }
            Op::Pool(pool) => (pool.bwd(x, y, grad)?, None),
            Op::Dropout(dropout) => (dropout.bwd(x, y, grad)?, None),
            Op::Flatten => (Some(grad.reshape(x.dims())?), None),
        };
        if let Some((w, of_w, b, of_b)) = parameters {
            (of[w], of[b]) = (of_w, of_b);
        }
        Ok(of_x)
    }
}
