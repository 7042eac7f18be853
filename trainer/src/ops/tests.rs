//! Every gradient against central finite differences in f64, and negative controls.
//!
//! A small op is checked at every element of every input; the inputs keep away from the
//! kinks of ReLU and max. The weights of the sum that makes the result a scalar differ
//! by element, so that a gradient that lands in the wrong place is seen.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod conv;
mod threads;

use candle_core::{DType, Device, Tensor, Var};

use super::*;
use crate::random::{Purpose, Random, unit};

/// Step of the central difference: error about h² and round-off about 1e-16 / h.
const H: f64 = 1e-5;

/// Values in ±1, none closer than 0.01 to zero.
fn values(dims: &[usize], salt: u32) -> Var {
    let count = dims.iter().product::<usize>() as u32;
    let random = Random::new(99);
    let value = |i| {
        let x = 2.0 * unit(random.words(Purpose::Init(0), salt, 0, i)[0]) - 1.0;
        x + 0.01 * x.signum()
    };
    let values: Vec<f64> = (0..count).map(value).collect();
    Var::from_tensor(&Tensor::from_vec(values, dims, &Device::Cpu).unwrap()).unwrap()
}

/// A scalar that weighs each element of `y` differently.
fn weighed(y: &Tensor) -> Tensor {
    let weights = values(y.dims(), 1234).detach();
    (y * weights).unwrap().sum_all().unwrap()
}

/// The largest error of the gradients of `f` at `vars`, relative to 1 and the value.
fn worst_error(vars: &[Var], f: impl Fn(&[Var]) -> Tensor) -> f64 {
    let grads = f(vars).backward().unwrap();
    let value = || f(vars).to_scalar::<f64>().unwrap();
    let mut worst: f64 = 0.0;
    for var in vars {
        let grad = grads.get(var.as_tensor()).expect("a gradient");
        assert_eq!(grad.dims(), var.dims());
        let grad = grad.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert!(grad.iter().any(|g| *g != 0.0), "a gradient is all zeros");
        let original = var.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for (i, grad) in grad.iter().enumerate() {
            let at = |x: f64| {
                let mut moved = original.clone();
                moved[i] = x;
                var.set(&Tensor::from_vec(moved, var.dims(), &Device::Cpu).unwrap()).unwrap();
                value()
            };
            let slope = (at(original[i] + H) - at(original[i] - H)) / (2.0 * H);
            worst = worst.max((slope - grad).abs() / slope.abs().max(1.0));
        }
        var.set(&Tensor::from_vec(original, var.dims(), &Device::Cpu).unwrap()).unwrap();
    }
    worst
}

/// Asserts that all gradients of `f` at `vars` are right.
fn check(what: &str, vars: &[Var], f: impl Fn(&[Var]) -> Tensor) {
    let worst = worst_error(vars, f);
    assert!(worst < 1e-6, "{what}: a gradient is off by {worst:e}");
}

#[test]
fn a_dense_layer_has_right_gradients() {
    for (rows, inputs, outputs) in [(1, 1, 1), (3, 5, 7), (4, 2, 9), (5, 13, 1)] {
        for relu in [false, true] {
            let dense = Dense { relu, input_gradient: true };
            let vars = [values(&[rows, inputs], 1), values(&[outputs, inputs], 2), values(&[outputs], 3)];
            let y = vars[0].apply_op3(&vars[1], &vars[2], dense).unwrap();
            let want = vars[0].matmul(&vars[1].t().unwrap()).unwrap().broadcast_add(&vars[2]).unwrap();
            let want = if relu { want.relu().unwrap() } else { want };
            let error = (y - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(error < 1e-12, "dense {rows} × {inputs} to {outputs}: {error:e}");
            if !relu || rows > 1 {
                let what = format!("dense {rows} × {inputs} to {outputs}, relu {relu}");
                check(&what, &vars, |v| weighed(&v[0].apply_op3(&v[1], &v[2], dense).unwrap()));
            }
        }
    }
}

#[test]
fn max_pooling_has_right_gradients_and_leaves_the_rest_out() {
    for (dims, window) in [([2, 4, 6, 3], 2), ([1, 5, 7, 2], 2), ([2, 7, 3, 1], 3), ([1, 1, 1, 5], 1)] {
        let vars = [values(&dims, 1)];
        let pooled = vars[0].apply_op1(MaxPool::new(window)).unwrap();
        assert_eq!(pooled.dims(), [dims[0], dims[1] / window, dims[2] / window, dims[3]]);
        check(&format!("max-pool {dims:?} by {window}"), &vars, |v| {
            weighed(&v[0].apply_op1(MaxPool::new(window)).unwrap())
        });
    }
}

#[test]
fn the_first_of_equal_maxima_gets_the_whole_gradient() {
    let x = Var::from_tensor(&Tensor::ones((1, 2, 2, 1), DType::F32, &Device::Cpu).unwrap()).unwrap();
    let grads = x.apply_op1(MaxPool::new(2)).unwrap().sum_all().unwrap().backward().unwrap();
    let grad = grads.get(x.as_tensor()).unwrap().flatten_all().unwrap();
    assert_eq!(grad.to_vec1::<f32>().unwrap(), [1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn cross_entropy_has_the_right_value_and_gradients() {
    let labels = Tensor::new(&[2_u32, 0, 4], &Device::Cpu).unwrap();
    let vars = [values(&[3, 5], 1)];
    let rows = vars[0].to_vec2::<f64>().unwrap();
    let loss = |row: &[f64], label: usize| row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[label];
    let want = (loss(&rows[0], 2) + loss(&rows[1], 0) + loss(&rows[2], 4)) / 3.0;
    let got = vars[0].apply_op2(&labels, CrossEntropy).unwrap().to_scalar::<f64>().unwrap();
    assert!((got - want).abs() < 1e-12, "{got} for {want}");
    // Times two: the gradient that comes in is used.
    let twice = |v: &[Var]| (v[0].apply_op2(&labels, CrossEntropy).unwrap() * 2.0).unwrap();
    check("cross-entropy", &vars, twice);
}

#[test]
fn cross_entropy_survives_huge_logits_and_refuses_bad_labels() {
    let logits = Tensor::new(&[[1e4_f32, -1e4, 0.0]], &Device::Cpu).unwrap();
    let with = |label: u32| logits.apply_op2(&Tensor::new(&[label], &Device::Cpu).unwrap(), CrossEntropy);
    assert_eq!(with(0).unwrap().to_scalar::<f32>().unwrap(), 0.0);
    assert_eq!(with(1).unwrap().to_scalar::<f32>().unwrap(), 2e4);
    assert!(with(3).unwrap_err().to_string().contains("label 3 of 3 classes"));
}

#[test]
fn dropout_keeps_the_expected_share_scaled_and_has_right_gradients() {
    let samples: std::sync::Arc<[u32]> = (0..40).collect();
    let dropout = |step| Dropout { random: Random::new(3), layer: 0, step, samples: samples.clone(), rate: 0.25 };
    let x = Tensor::ones((40, 101), DType::F64, &Device::Cpu).unwrap();
    let flat = |step| x.apply_op1(dropout(step)).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let y = flat(7);
    assert!(y.iter().all(|y| *y == 0.0 || *y == 4.0 / 3.0));
    let dropped = y.iter().filter(|y| **y == 0.0).count() as f64 / y.len() as f64;
    assert!((0.23..0.27).contains(&dropped), "{dropped} dropped");
    assert_eq!(flat(7), y);
    assert_ne!(flat(8), y);
    check("dropout", &[values(&[40, 3], 1)], |v| weighed(&v[0].apply_op1(dropout(7)).unwrap()));
}

#[test]
fn a_nan_is_never_hidden() {
    let nan = Tensor::from_vec(vec![0.0_f32, f32::NAN, 1.0, 2.0], (1, 2, 2, 1), &Device::Cpu).unwrap();
    let first = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0];
    assert!(first(&nan.apply_op1(MaxPool::new(2)).unwrap()).is_nan());
    let (w, b) =
        (Tensor::ones((1, 4), DType::F32, &Device::Cpu).unwrap(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
    let dense = Dense { relu: true, input_gradient: false };
    assert!(first(&nan.reshape((1, 4)).unwrap().apply_op3(&w, &b, dense).unwrap()).is_nan());
    let label = Tensor::new(&[0_u32], &Device::Cpu).unwrap();
    let loss = nan.reshape((1, 4)).unwrap().apply_op2(&label, CrossEntropy).unwrap();
    assert!(loss.to_scalar::<f32>().unwrap().is_nan());
}

#[test]
fn what_does_not_fit_is_refused_not_computed() {
    let x = Tensor::zeros((1, 4, 4, 2), DType::F32, &Device::Cpu).unwrap();
    let w = Tensor::zeros((3, 3, 3, 1), DType::F32, &Device::Cpu).unwrap();
    let b = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    let conv = Conv { stride: 1, padding: 0, relu: false, input_gradient: false };
    assert!(x.apply_op3(&w, &b, conv).unwrap_err().to_string().contains("does not fit"));
    assert!(x.apply_op1(MaxPool::new(5)).is_err());
    let moved = x.permute((0, 2, 1, 3)).unwrap();
    assert!(moved.apply_op1(MaxPool::new(2)).unwrap_err().to_string().contains("not contiguous"));
    let whole = Tensor::zeros((1, 4, 4, 2), DType::U32, &Device::Cpu).unwrap();
    assert!(whole.apply_op1(MaxPool::new(2)).unwrap_err().to_string().contains("no implementation for U32"));
}

/// An op whose gradient is one percent too large: the checker must see it.
struct OffByOnePercent;

impl candle_core::CustomOp1 for OffByOnePercent {
    fn name(&self) -> &'static str {
        "off-by-one-percent"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F64(elements::<f64>(x, layout)?.to_vec()), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some((grad * 1.01)?))
    }
}

#[test]
fn the_checker_sees_an_op_off_by_one_percent_and_candles_own_pooling() {
    let slightly = worst_error(&[values(&[2, 3], 1)], |v| weighed(&v[0].apply_op1(OffByOnePercent).unwrap()));
    assert!(slightly > 1e-3, "a gradient off by 1 % was taken for right ({slightly:e})");
    let candles = worst_error(&[values(&[1, 2, 4, 6], 1)], |v| weighed(&v[0].max_pool2d(2).unwrap()));
    assert!(candles > 1e-3, "candle's max_pool2d has right gradients now: ours may go ({candles:e})");
}
