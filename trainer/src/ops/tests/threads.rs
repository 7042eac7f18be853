//! Products and convolutions large enough for the pool give the bits of one thread.

use candle_core::{DType, Tensor, Var};

use super::values;
use crate::ops::{Conv, Dense};

/// Runs `work` on pools of one, two, three and four threads and compares the results.
fn same_on_all_pools(what: &str, work: impl Fn() -> Vec<Vec<u32>> + Sync) {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(&work)
    };
    let one = on(1);
    for threads in 2..=4 {
        assert!(on(threads) == one, "{what} differs on {threads} threads");
    }
}

fn bits(t: &Tensor) -> Vec<u32> {
    let values = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

fn f32_var(dims: &[usize], salt: u32) -> Var {
    Var::from_tensor(&values(dims, salt).to_dtype(DType::F32).unwrap()).unwrap()
}

/// The result and the three gradients.
fn all(y: &Tensor, vars: &[Var; 3]) -> Vec<Vec<u32>> {
    let weights = f32_var(y.dims(), 9).detach();
    let grads = (y * weights).unwrap().sum_all().unwrap().backward().unwrap();
    let of = vars.iter().map(|v| bits(grads.get(v.as_tensor()).unwrap()));
    std::iter::once(bits(y)).chain(of).collect()
}

#[test]
fn large_products_do_not_depend_on_the_number_of_threads() {
    for (rows, inputs, outputs) in [(128, 784, 512), (128, 513, 257), (1031, 300, 70), (37, 5000, 99)] {
        let vars = [f32_var(&[rows, inputs], 1), f32_var(&[outputs, inputs], 2), f32_var(&[outputs], 3)];
        assert!(rows * inputs * outputs >= 1 << 24, "too small for the pool");
        same_on_all_pools(&format!("dense {rows} × {inputs} to {outputs}"), || {
            let dense = Dense { relu: true, input_gradient: true };
            all(&vars[0].apply_op3(&vars[1], &vars[2], dense).unwrap(), &vars)
        });
    }
}

#[test]
fn large_convolutions_do_not_depend_on_the_number_of_threads() {
    for (dims, outputs) in [([50, 15, 17, 16], 9), ([130, 14, 14, 3], 20)] {
        let vars = [f32_var(&dims, 1), f32_var(&[outputs, 3, 3, dims[3]], 2), f32_var(&[outputs], 3)];
        assert!(dims.iter().product::<usize>() * 9 >= 8 << 16, "too few chunks for the pool");
        same_on_all_pools(&format!("conv {dims:?} to {outputs}"), || {
            let conv = Conv { stride: 1, padding: 1, relu: true, input_gradient: true };
            all(&vars[0].apply_op3(&vars[1], &vars[2], conv).unwrap(), &vars)
        });
    }
}
