//! AdamW against a plain f64 computation, against itself on another CPU, and compiled.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

/// Values that look random and are the same in every run.
fn values(n: usize, salt: u32) -> Vec<f32> {
    let mut x = salt.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x as f32 / u32::MAX as f32 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

struct Buffers {
    param: Vec<f32>,
    grad: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Buffers {
    fn new(n: usize) -> Buffers {
        Buffers { param: values(n, 1), grad: values(n, 2), first: vec![0.0; n], second: vec![0.0; n] }
    }

    fn flat(&mut self) -> Flat<'_> {
        Flat { param: &mut self.param, grad: &self.grad, first: &mut self.first, second: &mut self.second }
    }

    fn bits(&self) -> Vec<u32> {
        let all = self.param.iter().chain(&self.first).chain(&self.second);
        all.map(|x| x.to_bits()).collect()
    }
}

#[test]
fn fifty_steps_agree_with_the_papers_formulas_in_f64() {
    let hyper = Hyper { weight_decay: 0.1, ..Hyper::default() };
    let (n, decayed, lr) = (37, 20, 1e-2);
    let mut ours = Buffers::new(n);
    let mut param: Vec<f64> = ours.param.iter().map(|x| f64::from(*x)).collect();
    let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
    for step in 1..=50_u64 {
        ours.grad = values(n, step as u32 + 7);
        reference(ours.flat(), decayed, &hyper.at(step, lr, 0.5)).unwrap();
        for i in 0..n {
            let g = f64::from(ours.grad[i]) * 0.5;
            m[i] = hyper.beta1 * m[i] + (1.0 - hyper.beta1) * g;
            v[i] = hyper.beta2 * v[i] + (1.0 - hyper.beta2) * g * g;
            let m_hat = m[i] / (1.0 - hyper.beta1.powi(step as i32));
            let v_hat: f64 = v[i] / (1.0 - hyper.beta2.powi(step as i32));
            let decay = if i < decayed { hyper.weight_decay * param[i] } else { 0.0 };
            param[i] -= lr * (m_hat / (v_hat.sqrt() + hyper.epsilon) + decay);
        }
    }
    for (i, want) in param.iter().enumerate() {
        let got = f64::from(ours.param[i]);
        assert!((got - want).abs() < 2e-6, "element {i}: {got} for {want}");
    }
}

#[test]
fn the_avx2_version_gives_the_same_bits_as_the_plain_one() {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        for n in [0, 1, 7, 8, 9, 1023, 4096 + 5] {
            let (mut plain, mut wide) = (Buffers::new(n), Buffers::new(n));
            for step in 1..=5 {
                let scalars = Hyper::default().at(step, 3e-3, 0.7);
                update_plain(plain.flat(), &scalars);
                // SAFETY: AVX2 was just detected.
                unsafe { update_avx2(wide.flat(), &scalars) };
            }
            assert_eq!(plain.bits(), wide.bits(), "{n} elements");
        }
        return;
    }
    println!("this CPU has no AVX2: there is one version only, nothing to compare");
}

#[test]
fn only_the_elements_before_the_limit_are_decayed() {
    let mut buffers = Buffers::new(6);
    buffers.grad.fill(0.0);
    let before = buffers.param.clone();
    let scalars = Hyper { weight_decay: 0.5, ..Hyper::default() }.at(1, 0.1, 1.0);
    reference(buffers.flat(), 4, &scalars).unwrap();
    let shrunk: Vec<f32> = before[..4].iter().map(|x| x * 0.95).collect();
    assert_eq!(buffers.param[..4], shrunk);
    assert_eq!(buffers.param[4..], before[4..]);
}

#[test]
fn buffers_of_different_lengths_are_refused_unchanged() {
    let mut buffers = Buffers::new(5);
    buffers.grad.pop();
    let before = buffers.bits();
    let error = reference(buffers.flat(), 5, &Hyper::default().at(1, 0.1, 1.0)).unwrap_err();
    assert_eq!(error.to_string(), "lengths differ: 5 parameters, 4 gradients, 5 and 5 moments");
    assert_eq!(buffers.bits(), before);
}

#[test]
#[ignore = "needs libnvrtc (pip install nvidia-cuda-nvrtc, LD_LIBRARY_PATH to it); no GPU"]
fn the_kernel_text_compiles() {
    let ptx = device::compile().unwrap().to_src();
    assert!(ptx.contains(".visible .entry adamw("), "{ptx}");
    assert!(!ptx.contains("fma.rn.f32"), "a product and a sum were fused:\n{ptx}");
}

#[test]
#[ignore = "needs a CUDA device and libnvrtc; has never run"]
fn the_kernel_gives_the_same_bits_as_the_reference() {
    crate::probe().unwrap();
    let stream = cudarc::driver::CudaContext::new(0).unwrap().default_stream();
    let kernel = Kernel::load(&stream).unwrap();
    for n in [1, 255, 256, 257, 1 << 20, 3_000_001] {
        let mut host = Buffers::new(n);
        let mut param = stream.clone_htod(&host.param).unwrap();
        let mut first = stream.clone_htod(&host.first).unwrap();
        let mut second = stream.clone_htod(&host.second).unwrap();
        for step in 1..=5 {
            host.grad = values(n, step as u32 + 7);
            let grad = stream.clone_htod(&host.grad).unwrap();
            let scalars = Hyper::default().at(step, 3e-3, 0.7);
            reference(host.flat(), n / 2, &scalars).unwrap();
            kernel.run(&scalars, n / 2, &mut param, &grad, &mut first, &mut second).unwrap();
        }
        host.grad.clear();
        let device = Buffers {
            param: stream.clone_dtoh(&param).unwrap(),
            grad: Vec::new(),
            first: stream.clone_dtoh(&first).unwrap(),
            second: stream.clone_dtoh(&second).unwrap(),
        };
        assert_eq!(device.bits(), host.bits(), "{n} elements");
    }
}
