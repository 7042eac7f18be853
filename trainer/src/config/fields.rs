//! Reads the keys of a JSON object one by one and gathers every fault.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Fault, Recipe};

/// Layers of one kind at most; more cannot be meant for the data we read.
const LAYERS_MAX: usize = 16;

/// An object being read: what is not taken by the end is unknown.
pub(super) struct Fields {
    map: Map<String, Value>,
    known: Vec<&'static str>,
    pub(super) faults: Vec<Fault>,
}

impl Fields {
    pub(super) fn new(map: Map<String, Value>) -> Fields {
        Fields { map, known: Vec::new(), faults: Vec::new() }
    }

    fn fault(&mut self, key: &str, problem: String) {
        self.faults.push(Fault::new(key, problem));
    }

    fn remove(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.map.remove(key)
    }

    /// The recipe, or a fault that lists what there is.
    pub(super) fn recipe(&mut self) -> Option<Recipe> {
        let given = self.remove("recipe").unwrap_or(Value::Null);
        let found = Recipe::ALL.into_iter().find(|recipe| given == recipe.name());
        if found.is_none() {
            let names = Recipe::ALL.map(Recipe::name).join(", ");
            self.fault("recipe", format!("{given} is none of: {names}"));
        }
        found
    }

    /// A value of any type; `expected` completes "expected …".
    pub(super) fn take<T: DeserializeOwned>(&mut self, key: &'static str, default: T, expected: &str) -> T {
        let Some(value) = self.remove(key) else {
            return default;
        };
        let shown = shorten(&value);
        serde_json::from_value(value).unwrap_or_else(|_| {
            self.fault(key, format!("expected {expected}, found {shown}"));
            default
        })
    }

    fn ranged<T>(&mut self, key: &'static str, default: T, range: RangeInclusive<T>, kind: &str) -> T
    where
        T: DeserializeOwned + PartialOrd + Display + Copy,
    {
        let expected = format!("{kind} from {} to {}", range.start(), range.end());
        let value = self.take(key, default, &expected);
        if range.contains(&value) {
            return value;
        }
        self.fault(key, format!("expected {expected}, found {value}"));
        default
    }

    /// A whole number in a range.
    pub(super) fn whole(&mut self, key: &'static str, default: u32, range: RangeInclusive<u32>) -> u32 {
        self.ranged(key, default, range, "a whole number")
    }

    /// A number in a range.
    pub(super) fn real(&mut self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> f64 {
        self.ranged(key, default, range, "a number")
    }

    /// A number in a range, or null or absent.
    pub(super) fn optional_real(&mut self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        match self.map.get(key) {
            None | Some(Value::Null) => {
                self.remove(key);
                None
            }
            Some(_) => Some(self.real(key, *range.start(), range)),
        }
    }

    /// A list of layer sizes.
    pub(super) fn sizes(&mut self, key: &'static str, default: Vec<u32>, max: u32) -> Vec<u32> {
        let expected = format!("a list of up to {LAYERS_MAX} whole numbers from 1 to {max}");
        let sizes = self.take(key, default, &expected);
        if sizes.len() > LAYERS_MAX || sizes.iter().any(|size| !(1..=max).contains(size)) {
            self.fault(key, format!("expected {expected}, found {}", shorten(&sizes.clone().into())));
        }
        sizes
    }

    /// A key this recipe does not have; an empty list is the same as absent.
    pub(super) fn absent(&mut self, key: &'static str, default: Vec<u32>) -> Vec<u32> {
        if self.remove(key).is_some_and(|value| value != Value::Array(Vec::new())) {
            self.fault(key, "is not a setting of this recipe".to_owned());
        }
        default
    }

    /// Returns all faults, unknown keys included.
    pub(super) fn finish(mut self) -> Vec<Fault> {
        let known = self.known.join(", ");
        for key in self.map.keys() {
            let problem = format!("unknown setting; there are: {known}");
            self.faults.push(Fault::new(key, problem));
        }
        self.faults
    }
}

/// Shows a value in a message without letting it fill the screen.
fn shorten(value: &Value) -> String {
    const SHOWN_MAX: usize = 60;
    let text = value.to_string();
    if text.chars().count() <= SHOWN_MAX {
        return text;
    }
    text.chars().take(SHOWN_MAX).chain("…".chars()).collect()
}
