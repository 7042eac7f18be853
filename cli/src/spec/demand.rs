//! `resources`: what a rank needs, as the alternatives it may run with.
//!
//! A map is one alternative, a list of maps is several, best first. `device: auto` of a recipe is the map twice: with a
//! GPU, and without. A command gets alternatives only by listing them, for nobody but its author knows that it can do
//! without a GPU.

use gangsaw_proto::jobs::v1::Demand;

use super::read::Reader;
use super::tree::{Tree, Value};
use super::units::{self, Gpus};

/// Keys of one alternative.
const KEYS: &[&str] = &["gpus", "gpu_memory", "cpus", "memory", "device"];
/// How the map is written.
const HINT: &str = "resources is a map such as {gpus: 1, cpus: 4, memory: 8GiB}";
/// Alternatives a job may list.
const ALTERNATIVES_MAX: usize = 8;

/// Reads the job's alternatives.
pub(crate) fn read(r: &mut Reader, job: &Tree, recipe: bool) -> Vec<Demand> {
    match job.get("resources") {
        None if recipe => both(Gpus::default(), Demand::default()),
        None => Vec::new(),
        Some(list @ Tree { value: Value::List(items), .. }) => {
            if items.is_empty() || items.len() > ALTERNATIVES_MAX {
                let message = format!("`resources` lists {} alternatives", items.len());
                r.fault("bad-value", &list.span, message, format!("list 1 to {ALTERNATIVES_MAX}"));
            }
            items.iter().flat_map(|item| alternative(r, item, recipe, true)).collect()
        }
        Some(one) => alternative(r, one, recipe, false),
    }
}

/// Reads one map: one alternative, or two for a recipe's `device: auto`.
fn alternative(r: &mut Reader, tree: &Tree, recipe: bool, listed: bool) -> Vec<Demand> {
    r.map(tree, "`resources`", KEYS, HINT);
    let mut base = Demand::default();
    if let Some(value) = tree.get("cpus") {
        base.milli_cpus = r.amount(value, "`cpus`", units::milli_cpus).unwrap_or_default();
    }
    if let Some(value) = tree.get("memory") {
        base.memory_bytes = r.amount(value, "`memory`", units::bytes).unwrap_or_default();
    }
    if let Some(value) = tree.get("gpu_memory") {
        base.gpu_memory_bytes = r.amount(value, "`gpu_memory`", units::bytes).unwrap_or_default();
    }
    let gpus = tree.get("gpus").and_then(|value| r.amount(value, "`gpus`", units::gpus));
    let device =
        tree.get("device").and_then(|value| Some((value, r.choice(value, "`device`", &["auto", "cpu", "gpu"])?)));
    let without_gpu = gpus.as_ref().is_none_or(|gpus| gpus.count == 0);
    match device {
        Some((_, "auto")) if recipe && !listed => return both(gpus.unwrap_or_default(), base),
        Some((value, "auto")) => {
            let hint = "list both, best first: resources: [{gpus: 1}, {cpus: 4}]";
            let message = "`device: auto` is for recipes: only its author knows that a command can do without a GPU";
            r.fault("conflict", &value.span, message, hint);
        }
        Some((_, "cpu")) if !without_gpu => {
            r.fault(
                "conflict",
                &tree.place("gpus"),
                "`device: cpu` asks for no GPU, and `gpus` asks for some",
                "remove one",
            );
        }
        Some((_, "gpu")) => return vec![with_gpus(gpus.unwrap_or_default(), base)],
        None if recipe && gpus.is_none() && !listed => return both(Gpus::default(), base),
        Some(_) | None => {}
    }
    if without_gpu && base.gpu_memory_bytes > 0 {
        r.fault("conflict", &tree.place("gpu_memory"), "`gpu_memory` needs `gpus`", "add `gpus: 1`");
    }
    let gpus = gpus.unwrap_or_default();
    vec![Demand { gpus: gpus.count, gpu_model: gpus.model, ..base }]
}

/// A demand with at least one GPU.
fn with_gpus(gpus: Gpus, base: Demand) -> Demand {
    Demand { gpus: gpus.count.max(1), gpu_model: gpus.model, ..base }
}

/// The two alternatives of `device: auto`: with GPUs first.
fn both(gpus: Gpus, base: Demand) -> Vec<Demand> {
    let cpu = Demand { gpu_memory_bytes: 0, ..base.clone() };
    vec![with_gpus(gpus, base), cpu]
}
