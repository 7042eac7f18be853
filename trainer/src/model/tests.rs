//! Whole recipes: gradients against differences in f64, initial values, what must fit.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use candle_core::Var;

use super::pass::Op;
use super::*;
use crate::batch;
use crate::data::Dataset;
use crate::ops::CrossEntropy;

const H: f64 = 1e-5;

/// A data set of random pixels with a shape of our choosing.
fn noise(height: usize, width: usize, count: u32) -> Dataset {
    let random = Random::new(17);
    let byte = |sample: u32, i: u32| random.words(Purpose::Init(0), 0, sample, i)[0] as u8;
    let size = (height * width) as u32;
    Dataset {
        height,
        width,
        classes: 4,
        white: 255,
        pixels: (0..count).flat_map(|n| (0..size).map(move |i| byte(n, i))).collect(),
        labels: (0..count).map(|n| byte(n, size) % 4).collect(),
        train: (0..count).collect(),
        test: Vec::new(),
    }
}

fn tiny(recipe: Recipe, dropout: f64) -> TrainConfig {
    let mut config = TrainConfig::default_of(recipe);
    config.dropout = dropout;
    config.hidden = vec![9, 7];
    if recipe == Recipe::Cnn {
        config.channels = vec![3, 5];
        config.hidden = vec![7];
    }
    config
}

/// Moves a variable along `direction` by ±h and returns the slope of `loss`.
fn slope(var: &Var, direction: &Tensor, loss: impl Fn() -> f64) -> f64 {
    let original = var.copy().unwrap();
    let at = |h: f64| {
        var.set(&(&original + (direction * h).unwrap()).unwrap()).unwrap();
        loss()
    };
    let slope = (at(H) - at(-H)) / (2.0 * H);
    var.set(&original).unwrap();
    slope
}

/// Directions to check: each element where there are few, else 16 random signs.
fn directions(dims: &[usize]) -> Vec<Tensor> {
    let count: usize = dims.iter().product();
    let unit_vector = |at: usize| (0..count).map(|i| f64::from(u8::from(i == at))).collect();
    let random = Random::new(5);
    let signs = |salt: u32| {
        let bit = |i: usize| random.words(Purpose::Init(1), salt, 0, i as u32)[0] & 1;
        let size = (count as f64).sqrt();
        (0..count).map(|i| if bit(i) == 0 { 1.0 / size } else { -1.0 / size }).collect()
    };
    let all: Vec<Vec<f64>> =
        if count <= 512 { (0..count).map(unit_vector).collect() } else { (0..16).map(signs).collect() };
    all.into_iter().map(|v| Tensor::from_vec(v, dims, &Device::Cpu).unwrap()).collect()
}

#[test]
fn every_recipes_gradients_equal_central_differences_in_f64() {
    for (recipe, dropout) in [(Recipe::Mlp, 0.0), (Recipe::Mlp, 0.4), (Recipe::Cnn, 0.0), (Recipe::Cnn, 0.4)] {
        for (height, width) in [(8, 8), (5, 9), (7, 4)] {
            let data = noise(height, width, 6);
            let config = tiny(recipe, dropout);
            let shape = Shape { height, width, classes: 4 };
            let model = Model::new(&config, shape, DType::F64, &Device::Cpu).unwrap();
            // Biases off zero: at zero, padding puts ReLUs exactly on their kink.
            for (i, p) in model.params.iter().enumerate().skip(model.weights) {
                let shifted = (p.var.as_tensor() + (0.05 + 0.01 * i as f64)).unwrap();
                p.var.set(&shifted).unwrap();
            }
            let batch = batch::make(&data, &data.train, None, DType::F64, &Device::Cpu).unwrap();
            let mode = Mode::Train { random: Random::new(1), step: 3, dropout };
            let loss = || model.gradients(&batch, mode).unwrap().loss;
            let grads = model.gradients(&batch, mode).unwrap().of;
            for (p, grad) in model.params.iter().zip(&grads) {
                for direction in directions(p.var.dims()) {
                    let got = (grad * &direction).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
                    let want = slope(&p.var, &direction, || loss().to_scalar().unwrap());
                    let error = (got - want).abs();
                    assert!(
                        error <= 1e-6 * want.abs() + 1e-8,
                        "{} {height} × {width} dropout {dropout}, {}: {got} for {want}",
                        recipe.name(),
                        p.name
                    );
                }
            }
        }
    }
}

/// The loss as a graph that candle walks back over by itself.
fn graph_loss(model: &Model, batch: &batch::Batch, mode: Mode) -> Tensor {
    let mut x = batch.images.clone();
    for op in model.operations(batch, mode) {
        x = match op {
            Op::Conv(conv, w, b) => x.apply_op3(model.var(w), model.var(b), conv),
            Op::Dense(dense, w, b) => x.apply_op3(model.var(w), model.var(b), dense),
            Op::Pool(pool) => x.apply_op1(pool),
            Op::Dropout(dropout) => x.apply_op1(dropout),
            Op::Flatten => x.flatten_from(1),
        }
        .unwrap();
    }
    x.apply_op2(&batch.labels, CrossEntropy).unwrap()
}

#[test]
fn our_walk_back_gives_what_candles_gives() {
    let data = noise(8, 8, 16);
    for recipe in Recipe::ALL {
        let config = tiny(recipe, 0.3);
        let shape = Shape { height: 8, width: 8, classes: 4 };
        let model = Model::new(&config, shape, DType::F32, &Device::Cpu).unwrap();
        let batch = batch::make(&data, &data.train, None, DType::F32, &Device::Cpu).unwrap();
        let mode = Mode::Train { random: Random::new(1), step: 3, dropout: 0.3 };
        let Gradients { loss, of } = model.gradients(&batch, mode).unwrap();
        let want = graph_loss(&model, &batch, mode);
        assert_eq!(loss.to_scalar::<f32>().unwrap(), want.to_scalar::<f32>().unwrap());
        let want = want.backward().unwrap();
        for (p, grad) in model.params.iter().zip(&of) {
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(grad), flat(want.get(p.var.as_tensor()).unwrap()), "{}", p.name);
        }
    }
}

#[test]
fn f32_and_f64_agree_on_loss_and_gradients() {
    let data = noise(8, 8, 16);
    for recipe in Recipe::ALL {
        let config = tiny(recipe, 0.0);
        let shape = Shape { height: 8, width: 8, classes: 4 };
        let run = |dtype| {
            let model = Model::new(&config, shape, dtype, &Device::Cpu).unwrap();
            let batch = batch::make(&data, &data.train, None, dtype, &Device::Cpu).unwrap();
            let Gradients { loss, of } = model.gradients(&batch, Mode::Evaluate).unwrap();
            let wide = |t: &Tensor| {
                let t = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
                t.to_vec1::<f64>().unwrap()
            };
            let mut all = wide(&loss);
            of.iter().for_each(|grad| all.extend(wide(grad)));
            all
        };
        let (narrow, wide) = (run(DType::F32), run(DType::F64));
        let top = wide.iter().fold(0.0_f64, |top, x| top.max(x.abs()));
        for (a, b) in narrow.iter().zip(&wide) {
            assert!((a - b).abs() <= 1e-5 * top, "{}: {a} for {b}", recipe.name());
        }
    }
}

#[test]
fn initial_values_follow_from_the_seed_and_lie_within_their_bound() {
    let shape = Shape { height: 8, width: 8, classes: 10 };
    let values = |seed| {
        let mut config = TrainConfig::default_of(Recipe::Cnn);
        config.seed = seed;
        let model = Model::new(&config, shape, DType::F32, &Device::Cpu).unwrap();
        let flat = |p: &Param| p.var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        model.params.iter().map(flat).collect::<Vec<_>>()
    };
    let one = values(1);
    assert_eq!(values(1), one);
    assert_ne!(values(2), one);
    assert_ne!(one[0][..9], one[1][..9]);
    // conv1.weight: 9 × 32 inputs an output.
    let bound = (6.0_f32 / 288.0).sqrt();
    assert!(one[1].iter().all(|x| x.abs() <= bound));
    let mean_square = one[1].iter().map(|x| x * x).sum::<f32>() / one[1].len() as f32;
    assert!((mean_square / (bound * bound / 3.0) - 1.0).abs() < 0.05);
    assert!(one[4..].iter().flatten().all(|bias| *bias == 0.0));
}

#[test]
fn settings_that_do_not_fit_the_images_are_refused_with_their_key() {
    let shape = Shape { height: 8, width: 8, classes: 10 };
    let mut config = TrainConfig::default_of(Recipe::Cnn);
    assert_eq!(check(&config, shape), Ok(()));
    config.channels = vec![4; 4];
    let (key, problem) = check(&config, shape).unwrap_err();
    assert_eq!((key, problem.as_str()), ("channels", "4 blocks that halve the image do not fit 8 × 8 pixels"));
    let mut config = TrainConfig::default_of(Recipe::Mlp);
    config.hidden = vec![16_384; 3];
    let (key, problem) = check(&config, shape).unwrap_err();
    assert_eq!(key, "hidden");
    assert!(problem.starts_with("the network has 538132490 parameters"), "{problem}");
}

#[test]
fn each_recipe_overfits_one_batch() {
    let data = noise(8, 8, 16);
    for recipe in Recipe::ALL {
        let mut config = tiny(recipe, 0.0);
        (config.hidden, config.weight_decay) = (vec![32], 0.0);
        let shape = Shape { height: 8, width: 8, classes: 4 };
        let model = Model::new(&config, shape, DType::F32, &Device::Cpu).unwrap();
        let mut flat = crate::optimizer::Flat::new(&config, &model).unwrap();
        let batch = batch::make(&data, &data.train, None, DType::F32, &Device::Cpu).unwrap();
        let mut last = f32::INFINITY;
        for step in 1..=400 {
            let Gradients { loss, of } = model.gradients(&batch, Mode::Evaluate).unwrap();
            last = loss.to_scalar().unwrap();
            flat.gather(&of).unwrap();
            flat.step(step, 0.01, 1.0).unwrap();
            flat.scatter(&model).unwrap();
        }
        assert!(last < 0.02, "{} ends at loss {last} on sixteen samples", recipe.name());
    }
}
