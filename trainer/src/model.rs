//! Networks: a recipe's layers, their parameters, and their initial values.
//!
//! A network is a list of layers over a list of parameters, built from the settings and
//! the data's shape. Nothing here assumes a device or an element type: tests run the
//! same networks in f64. Elsewhere: forward and backward are `pass`.
//!
//! Invariants:
//! - Weights come before biases in `params`: the optimiser decays a prefix.
//! - Initial values depend on (seed, parameter, element) alone.

mod pass;
#[cfg(test)]
mod tests;

pub(crate) use pass::{Gradients, Mode};

use candle_core::{DType, Device, Result, Tensor, Var};

use crate::config::{Recipe, TrainConfig};
use crate::random::{Purpose, Random, unit};

/// Convolution kernels are this wide and high.
const KERNEL: usize = 3;

/// Parameters at most: what a recipe with legal settings could ask for must not take
/// the machine's memory.
const PARAMETERS_MAX: usize = 1 << 28;

/// A parameter tensor.
#[derive(Debug)]
pub(crate) struct Param {
    /// Its name in files, such as `conv0.weight`.
    pub(crate) name: String,
    /// Its values.
    pub(crate) var: Var,
}

/// One step of the forward pass; numbers are indices of `params`.
#[derive(Clone, Copy, Debug)]
enum Layer {
    Conv { weight: usize, bias: usize, first: bool },
    Pool,
    Flatten,
    Dropout,
    Dense { weight: usize, bias: usize, relu: bool, first: bool },
}

/// The image sizes and classes a network is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Pixel rows.
    pub(crate) height: usize,
    /// Pixel columns.
    pub(crate) width: usize,
    /// Number of classes.
    pub(crate) classes: usize,
}

/// A network with its parameters.
#[derive(Debug)]
pub(crate) struct Model {
    layers: Vec<Layer>,
    /// All parameters: weights first, then biases.
    pub(crate) params: Vec<Param>,
    /// How many of `params` are weights.
    pub(crate) weights: usize,
}

/// Gathers layers and the shapes of their parameters.
#[derive(Default)]
struct Plan {
    layers: Vec<Layer>,
    weights: Vec<(String, Vec<usize>)>,
    biases: Vec<(String, Vec<usize>)>,
}

impl Plan {
    /// The settings' layers, or why they do not fit the data.
    fn new(config: &TrainConfig, shape: Shape) -> std::result::Result<Plan, String> {
        let mut plan = Plan::default();
        let (mut height, mut width, mut channels) = (shape.height, shape.width, 1);
        for outputs in config.channels.iter().map(|n| *n as usize) {
            if height < 2 || width < 2 {
                return Err(format!(
                    "{} blocks that halve the image do not fit {} × {} pixels",
                    config.channels.len(),
                    shape.height,
                    shape.width
                ));
            }
            plan.conv(channels, outputs);
            (height, width, channels) = (height / 2, width / 2, outputs);
        }
        plan.layers.push(Layer::Flatten);
        let mut inputs = height * width * channels;
        for outputs in config.hidden.iter().map(|n| *n as usize) {
            plan.dense(inputs, outputs, true);
            inputs = outputs;
        }
        plan.layers.push(Layer::Dropout);
        plan.dense(inputs, shape.classes, false);
        let elements = |list: &[(String, Vec<usize>)]| -> usize {
            list.iter().map(|(_, dims)| dims.iter().product::<usize>()).sum()
        };
        match elements(&plan.weights) + elements(&plan.biases) {
            total if total > PARAMETERS_MAX => {
                Err(format!("the network has {total} parameters, and at most {PARAMETERS_MAX} are allowed"))
            }
            _ => Ok(plan),
        }
    }

    fn parameters(&mut self, kind: &str, weight: Vec<usize>) -> (usize, usize, bool) {
        let index = self.weights.len();
        self.biases.push((format!("{kind}{index}.bias"), vec![weight[0]]));
        self.weights.push((format!("{kind}{index}.weight"), weight));
        (index, index, index == 0)
    }

    fn conv(&mut self, inputs: usize, outputs: usize) {
        let (weight, bias, first) = self.parameters("conv", vec![outputs, KERNEL, KERNEL, inputs]);
        self.layers.push(Layer::Conv { weight, bias, first });
        self.layers.push(Layer::Pool);
    }

    fn dense(&mut self, inputs: usize, outputs: usize, relu: bool) {
        let (weight, bias, first) = self.parameters("dense", vec![outputs, inputs]);
        self.layers.push(Layer::Dense { weight, bias, relu, first });
    }
}

/// Says why the settings do not fit the data, if they do not.
pub(crate) fn check(config: &TrainConfig, shape: Shape) -> std::result::Result<(), (&'static str, String)> {
    let key = match config.recipe {
        Recipe::Mlp => "hidden",
        Recipe::Cnn => "channels",
    };
    Plan::new(config, shape).map(|_| ()).map_err(|problem| (key, problem))
}

impl Model {
    /// Makes the settings' network with initial values from their seed.
    pub(crate) fn new(config: &TrainConfig, shape: Shape, dtype: DType, device: &Device) -> Result<Model> {
        let plan = Plan::new(config, shape).map_err(candle_core::Error::msg)?;
        let random = Random::new(config.seed);
        let weights = plan.weights.len();
        let mut params = Vec::new();
        for (name, dims) in plan.weights.into_iter().chain(plan.biases) {
            let index = u16::try_from(params.len()).map_err(candle_core::Error::wrap)?;
            let values = initial(random, index, &dims);
            let tensor = Tensor::from_vec(values, dims, device)?.to_dtype(dtype)?;
            params.push(Param { name, var: Var::from_tensor(&tensor)? });
        }
        // Biases were numbered from zero beside their weights; they lie behind them.
        let layers = plan.layers.into_iter().map(|layer| layer.with_biases_at(weights)).collect();
        Ok(Model { layers, params, weights })
    }
}

impl Layer {
    fn with_biases_at(self, start: usize) -> Layer {
        match self {
            Layer::Conv { weight, bias, first } => Layer::Conv { weight, bias: start + bias, first },
            Layer::Dense { weight, bias, relu, first } => Layer::Dense { weight, bias: start + bias, relu, first },
            Layer::Pool | Layer::Flatten | Layer::Dropout => self,
        }
    }
}

/// Initial values: weights evenly within ±√(6 / inputs), biases zero.
///
/// Source: He et al., "Delving Deep into Rectifiers" (ICCV 2015), in its uniform form,
/// which needs no transcendental function and so is the same on every machine.
fn initial(random: Random, index: u16, dims: &[usize]) -> Vec<f32> {
    let elements: usize = dims.iter().product();
    if dims.len() == 1 {
        return vec![0.0; elements];
    }
    let bound = (6.0 / (elements / dims[0]) as f64).sqrt();
    let mut values = Vec::with_capacity(elements + 3);
    let mut block = 0;
    while values.len() < elements {
        let words = random.words(Purpose::Init(index), 0, 0, block);
        values.extend(words.map(|word| ((2.0 * unit(word) - 1.0) * bound) as f32));
        block += 1;
    }
    values.truncate(elements);
    values
}
