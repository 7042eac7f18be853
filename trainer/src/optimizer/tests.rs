//! Updates against the formulas in f64, the schedule's shape, clipping.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use candle_core::{DType, Device};

use super::*;
use crate::batch;
use crate::config::{DataSource, Recipe};
use crate::data::Dataset;
use crate::model::{Mode, Shape};

fn small(optimizer: Optimizer) -> TrainConfig {
    let mut config = TrainConfig::default_of(Recipe::Mlp);
    config.hidden = vec![5];
    config.optimizer = optimizer;
    config.weight_decay = 0.1;
    config
}

fn network(config: &TrainConfig) -> (Model, Flat) {
    let shape = Shape { height: 8, width: 8, classes: 10 };
    let model = Model::new(config, shape, DType::F32, &Device::Cpu).unwrap();
    let flat = Flat::new(config, &model).unwrap();
    (model, flat)
}

#[test]
fn the_flat_buffer_holds_weights_then_biases_and_goes_back_where_it_came_from() {
    let (model, mut flat) = network(&small(Optimizer::Adamw));
    let names: Vec<&str> = model.params.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["dense0.weight", "dense1.weight", "dense0.bias", "dense1.bias"]);
    assert_eq!(flat.param.len(), 64 * 5 + 5 * 10 + 5 + 10);
    assert_eq!(flat.decayed, 64 * 5 + 5 * 10);
    for (i, p) in flat.param.iter_mut().enumerate() {
        *p = i as f32;
    }
    flat.scatter(&model).unwrap();
    let bias = model.params[2].var.to_vec1::<f32>().unwrap();
    assert_eq!(bias, [370.0, 371.0, 372.0, 373.0, 374.0]);
    assert_eq!(model.params[1].var.to_vec2::<f32>().unwrap()[9][4], 369.0);
}

#[test]
fn sgd_with_momentum_follows_its_formula() {
    let config = small(Optimizer::Sgd);
    let (_, mut flat) = network(&config);
    assert!(flat.second.is_empty());
    let start: Vec<f64> = flat.param.iter().map(|p| f64::from(*p)).collect();
    let (mut param, mut momentum) = (start.clone(), vec![0.0; start.len()]);
    for step in 1..=20_u64 {
        for (i, g) in flat.grad.iter_mut().enumerate() {
            *g = ((i as u64 * 31 + step * 17) % 13) as f32 / 13.0 - 0.5;
        }
        flat.step(step, 0.05, 0.5).unwrap();
        for i in 0..param.len() {
            momentum[i] = 0.9 * momentum[i] + 0.5 * f64::from(flat.grad[i]);
            let decay = if i < flat.decayed { 0.05 * 0.1 * param[i] } else { 0.0 };
            param[i] -= 0.05 * momentum[i] + decay;
        }
    }
    for (got, want) in flat.param.iter().zip(&param) {
        assert!((f64::from(*got) - want).abs() < 1e-5, "{got} for {want}");
    }
    assert_ne!(start, param);
}

#[test]
fn every_parameter_gets_a_gradient_and_the_norm_is_theirs() {
    let data = Dataset::load(&DataSource::Digits).unwrap();
    for recipe in Recipe::ALL {
        let mut config = TrainConfig::default_of(recipe);
        config.dropout = 0.0;
        let (model, mut flat) = network(&config);
        let batch = batch::make(&data, &data.train[..64], None, DType::F32, &Device::Cpu).unwrap();
        let grads = model.gradients(&batch, Mode::Evaluate).unwrap().of;
        let norm = flat.gather(&grads).unwrap();
        let mut squares = 0.0;
        for (p, grad) in model.params.iter().zip(&grads) {
            assert_eq!(grad.dims(), p.var.dims());
            let values = grad.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let sum: f64 = values.iter().map(|g| f64::from(*g).powi(2)).sum();
            assert!(sum > 0.0, "{}: {} has a gradient of zeros", recipe.name(), p.name);
            squares += sum;
        }
        assert!((norm - squares.sqrt()).abs() < 1e-9 * norm);
    }
}

#[test]
fn clipping_scales_down_to_the_limit_and_never_up() {
    assert_eq!(clip_scale(8.0, Some(2.0)), 0.25);
    assert_eq!(clip_scale(1.0, Some(2.0)), 1.0);
    assert_eq!(clip_scale(8.0, None), 1.0);
    assert_eq!(norm(&[3.0, 4.0]), 5.0);
    assert_eq!(norm(&vec![2.0; 1025]), (4.0_f64 * 1025.0).sqrt());
}

#[test]
fn the_rate_rises_in_a_line_and_falls_as_half_a_cosine() {
    let mut config = small(Optimizer::Adamw);
    (config.lr, config.warmup) = (1.0, 0.1);
    let rates: Vec<f64> = (0..100).map(|step| learning_rate(&config, step, 100)).collect();
    assert!((rates[0] - 1.0 / 11.0).abs() < 1e-12 && (rates[9] - 10.0 / 11.0).abs() < 1e-12);
    assert_eq!(rates[10], 1.0);
    assert!((rates[55] - 0.5).abs() < 1e-12);
    assert!(rates[99] > 0.0 && rates[99] < 0.001);
    assert!(rates[..=10].is_sorted() && rates[10..].iter().rev().is_sorted());
    config.warmup = 1.0;
    assert!((0..100).all(|step| learning_rate(&config, step, 100) <= 1.0));
}
