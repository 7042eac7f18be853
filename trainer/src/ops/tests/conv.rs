//! The convolution against its definition, and its gradients against differences.

use candle_core::{DType, Tensor, Var};

use super::{check, values, weighed};
use crate::ops::Conv;

/// Straight loops for a convolution: the definition.
fn plain_conv(x: &Tensor, w: &Tensor, b: &Tensor, conv: Conv) -> Vec<f64> {
    let (batch, height, width, channels) = x.dims4().unwrap();
    let (outputs, kernel, _, _) = w.dims4().unwrap();
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let (x, w, b) = (flat(x), flat(w), flat(b));
    let out_height = (height + 2 * conv.padding - kernel) / conv.stride + 1;
    let out_width = (width + 2 * conv.padding - kernel) / conv.stride + 1;
    let mut out = Vec::new();
    for (n, oy, ox, o) in (0..batch * out_height * out_width * outputs).map(|i| {
        let (rest, o) = (i / outputs, i % outputs);
        let (rest, ox) = (rest / out_width, rest % out_width);
        (rest / out_height, rest % out_height, ox, o)
    }) {
        let mut sum = b[o];
        for (ky, kx, c) in
            (0..kernel * kernel * channels).map(|i| (i / channels / kernel, i / channels % kernel, i % channels))
        {
            let (y, x_at) = (oy * conv.stride + ky, ox * conv.stride + kx);
            let inside = (conv.padding..height + conv.padding).contains(&y)
                && (conv.padding..width + conv.padding).contains(&x_at);
            if inside {
                let (y, x_at) = (y - conv.padding, x_at - conv.padding);
                sum += x[((n * height + y) * width + x_at) * channels + c]
                    * w[((o * kernel + ky) * kernel + kx) * channels + c];
            }
        }
        out.push(if conv.relu { sum.max(0.0) } else { sum });
    }
    out
}

/// (input dims, outputs, kernel, stride, padding): non-square, odd, strided, 1-sized.
const CONVS: [([usize; 4], usize, usize, usize, usize); 8] = [
    ([2, 5, 7, 3], 4, 3, 1, 1),
    ([1, 4, 9, 2], 3, 3, 2, 1),
    ([2, 7, 4, 1], 2, 3, 2, 0),
    ([3, 6, 5, 2], 1, 2, 1, 0),
    ([1, 5, 5, 3], 2, 1, 1, 0),
    ([2, 3, 8, 1], 5, 5, 1, 2),
    ([1, 8, 5, 2], 3, 3, 3, 2),
    ([1, 1, 1, 1], 1, 3, 1, 1),
];

#[test]
fn a_convolution_equals_its_definition_and_so_do_its_gradients() {
    for (dims, outputs, kernel, stride, padding) in CONVS {
        for relu in [false, true] {
            let conv = Conv { stride, padding, relu, input_gradient: true };
            let w = values(&[outputs, kernel, kernel, dims[3]], 2);
            let vars = [values(&dims, 1), w, values(&[outputs], 3)];
            let what = format!("conv {dims:?} to {outputs}, {conv:?}");
            let y = vars[0].apply_op3(&vars[1], &vars[2], conv).unwrap();
            let want = plain_conv(&vars[0], &vars[1], &vars[2], conv);
            let got = y.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            assert_eq!(got.len(), want.len(), "{what}");
            let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-12;
            assert!(got.iter().zip(&want).all(close), "{what}");
            if got.iter().any(|y| *y > 0.0) {
                check(&what, &vars, |v| weighed(&v[0].apply_op3(&v[1], &v[2], conv).unwrap()));
            }
        }
    }
}

#[test]
fn a_convolution_of_several_chunks_has_right_gradients_in_f32_too() {
    // 40 samples of 16 × 15 × 9 patch elements each: chunks of 30 and 10.
    let conv = Conv { stride: 1, padding: 1, relu: true, input_gradient: true };
    let inputs = [values(&[40, 16, 15, 1], 1), values(&[2, 3, 3, 1], 2), values(&[2], 3)];
    let run = |dtype: DType| -> Vec<Vec<f64>> {
        let vars = inputs.each_ref().map(|v| Var::from_tensor(&v.to_dtype(dtype).unwrap()).unwrap());
        let y = vars[0].apply_op3(&vars[1], &vars[2], conv).unwrap();
        let weights = values(y.dims(), 1234).detach().to_dtype(dtype).unwrap();
        let grads = (&y * weights).unwrap().sum_all().unwrap().backward().unwrap();
        let flat = |t: &Tensor| {
            let t = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
            t.to_vec1::<f64>().unwrap()
        };
        let mut out = vec![flat(&y)];
        out.extend(vars.iter().map(|v| flat(grads.get(v.as_tensor()).unwrap())));
        out
    };
    let want = plain_conv(&inputs[0], &inputs[1], &inputs[2], conv);
    let (wide, narrow) = (run(DType::F64), run(DType::F32));
    assert!(wide[0].iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-12));
    for (wide, narrow) in wide.iter().zip(&narrow) {
        let size = wide.iter().fold(1.0_f64, |top, x| top.max(x.abs()));
        assert!(wide.iter().zip(narrow).all(|(a, b)| (a - b).abs() / size < 1e-5));
    }
    // The weight and bias gradients in f64 against differences: few enough to do all.
    let x = inputs[0].detach();
    let vars = [inputs[1].clone(), inputs[2].clone()];
    check("conv in chunks", &vars, |v| weighed(&x.apply_op3(&v[0], &v[1], conv).unwrap()));
}
