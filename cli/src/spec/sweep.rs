//! `sweep`: one spec, and one job for each combination of the values it lists.
//!
//! `--sweep lr=1e-4,1e-3 --sweep batch=32,64` is four jobs, stored all or none, the last name varying fastest. In each
//! of them a swept value
//! - stands where `{lr}` is written, in any text of the spec but the program of a batch script, whose braces are its
//!   own; `${lr}` is the shell's and stays;
//! - is the recipe's setting `lr`, when a recipe runs;
//! - is `GANGSAW_SWEEP_LR` in the task's environment;
//! - is the job's label `lr`, which `ps` and `show` print.
//!
//! An `output_dir` that is the same for all gets a folder for each, `lr=1e-4,batch=32`: results never lie over each
//! other. Jobs, and not elements of one array: each has a recipe's settings, a record and retries of its own.
//!
//! Neighbours: `flags` makes the same tree from `--sweep`, [`super::load`] reads each combination as any job.

use super::jobs::JOBS_MAX;
use super::read::{Reader, items, shown};
use super::tree::{Key, Sources, Tree, Value};

/// How a sweep is written.
const HINT: &str = "write a map such as {lr: [1e-4, 1e-3], seed: [1, 2, 3]}, or `--sweep lr=1e-4,1e-3`";
/// What the task's environment calls a swept value.
const VARIABLE: &str = "GANGSAW_SWEEP_";
/// Names that `output_dir` fills in itself, for each task.
const TAKEN: &[&str] = &["index", "rank", "attempt"];
/// Bytes of a name; it becomes a label and a variable.
const NAME_MAX: usize = 64;
/// Bytes of a value; a label has no more.
const VALUE_MAX: usize = 256;
/// Bytes of a combination's folder; file systems take 255.
const FOLDER_MAX: usize = 200;
/// Keys whose value stays text when it is nothing but a placeholder; anywhere else a number becomes a number.
const TEXTS: &[&str] = &["name", "queue", "run", "workdir", "output_dir"];

/// One name with its values.
struct Axis {
    name: Key,
    values: Vec<Tree>,
}

/// One combination: its job's tree, and what was chosen.
pub(crate) struct Point {
    pub(crate) tree: Tree,
    /// Empty when nothing is swept.
    pub(crate) chosen: Vec<(Key, Tree)>,
}

/// Takes `sweep` out of a job's tree and returns a tree for each combination; the tree itself when there is none.
pub(crate) fn expand(r: &mut Reader, mut tree: Tree, sources: &Sources, from_list: bool) -> Vec<Point> {
    let Some(sweep) = tree.take("sweep") else { return vec![Point { tree, chosen: Vec::new() }] };
    if from_list {
        let hint = "submit the job to sweep by itself";
        r.fault("conflict", &sweep.span, "`jobs` lists its jobs itself, and `sweep` makes jobs of one", hint);
        return vec![Point { tree, chosen: Vec::new() }];
    }
    let axes = axes(r, &sweep);
    clashes(r, &tree, &axes);
    let combinations = axes.iter().try_fold(1usize, |all, axis| all.checked_mul(axis.values.len()));
    let mut count = combinations.unwrap_or(usize::MAX);
    if count > JOBS_MAX {
        let sizes: Vec<String> = axes.iter().map(|axis| axis.values.len().to_string()).collect();
        let message = format!("the sweep has {} combinations", sizes.join(" × "));
        r.fault("too-many", &sweep.span, message, format!("sweep over at most {JOBS_MAX} at once"));
        // One is enough to find what else is wrong.
        count = 1;
    }
    let apart = tells_apart(&tree, &axes);
    (0..count).map(|number| point(&tree, &axes, number, apart, sources)).collect()
}

/// The names and their values, without those at fault.
fn axes(r: &mut Reader, sweep: &Tree) -> Vec<Axis> {
    let before = r.faults.len();
    let mut axes: Vec<Axis> = Vec::new();
    for (key, values) in r.open_map(sweep, "`sweep`", HINT) {
        let taken = axes.iter().find(|axis| variable(&axis.name.text) == variable(&key.text));
        if !is_name(&key.text) {
            let hint = format!("use at most {NAME_MAX} letters, digits, `_` and `-`, a letter first");
            r.fault("bad-value", &key.span, format!("`{}` cannot be swept over", shown(&key.text)), hint);
        } else if TAKEN.contains(&key.text.as_str()) {
            let message = format!("`{{{}}}` is filled in for each task", key.text);
            r.fault("bad-value", &key.span, message, "choose another name");
        } else if let Some(other) = taken {
            let message = format!("`{}` and `{}` would both be {}", other.name.text, key.text, variable(&key.text));
            r.fault("bad-value", &key.span, message, "choose another name");
        } else if let Some(values) = self::values(r, &key.text, values) {
            axes.push(Axis { name: key.clone(), values });
        }
    }
    if axes.is_empty() && r.faults.len() == before {
        r.fault("bad-value", &sweep.span, "`sweep` names nothing", HINT);
    }
    axes
}

/// The values of one name; none when one of them is at fault.
fn values(r: &mut Reader, name: &str, list: &Tree) -> Option<Vec<Tree>> {
    let before = r.faults.len();
    let values = items(list);
    if values.is_empty() {
        r.fault("bad-value", &list.span, format!("`sweep.{name}` lists no value"), HINT);
    }
    let mut seen = std::collections::BTreeSet::new();
    for value in values {
        let Some(text) = said(value) else {
            r.wrong_type(value, &format!("a value of `sweep.{name}`"), "text, a number, or a list of those", HINT);
            continue;
        };
        if text.is_empty() {
            r.fault("bad-value", &value.span, format!("`sweep.{name}` has an empty value"), HINT);
        } else if text.len() > VALUE_MAX || text.chars().any(char::is_control) {
            let message = format!("`{}` is no value for a sweep", shown(&text));
            let hint = format!("use at most {VALUE_MAX} bytes without control characters");
            r.fault("bad-value", &value.span, message, hint);
        } else if !seen.insert(text.clone()) {
            let message = format!("`sweep.{name}` lists `{}` twice", shown(&text));
            r.fault("bad-value", &value.span, message, "list each value once");
        }
    }
    (r.faults.len() == before).then(|| values.to_vec())
}

/// Refuses a name that is also a label of the job.
fn clashes(r: &mut Reader, tree: &Tree, axes: &[Axis]) {
    let Some(Value::Map(labels)) = tree.get("labels").map(|labels| &labels.value) else { return };
    for (key, _) in labels.iter().filter(|(key, _)| axes.iter().any(|axis| axis.name.text == key.text)) {
        let message = format!("label `{}` is set here, and swept over", shown(&key.text));
        r.fault("conflict", &key.span, message, "rename the label, or leave it out: the sweep sets it");
    }
}

/// True when the spec's own `output_dir` differs between all combinations.
fn tells_apart(tree: &Tree, axes: &[Axis]) -> bool {
    let Some(Value::Text(folder)) = tree.get("output_dir").map(|folder| &folder.value) else { return true };
    axes.iter().filter(|axis| axis.values.len() > 1).all(|axis| folder.contains(&format!("{{{}}}", axis.name.text)))
}

/// One combination; the last name varies fastest.
fn point(tree: &Tree, axes: &[Axis], number: usize, apart: bool, sources: &Sources) -> Point {
    let mut left = number;
    let mut chosen: Vec<(Key, Tree)> = Vec::new();
    for axis in axes.iter().rev() {
        let value = axis.values[left % axis.values.len()].clone();
        left /= axis.values.len();
        chosen.push((axis.name.clone(), value));
    }
    chosen.reverse();
    let mut tree = tree.clone();
    if let Value::Map(entries) = &mut tree.value {
        for (key, value) in entries {
            fill(value, &chosen, sources, TEXTS.contains(&key.text.as_str()));
        }
    }
    if let Some(Tree { value: Value::Text(folder), span }) = tree.get("output_dir").cloned()
        && !apart
    {
        tree.set("output_dir", Tree::text(format!("{folder}/{}", self::folder(&chosen, number)), span));
    }
    let recipe = tree.get("recipe").cloned();
    if let Some(name @ Tree { value: Value::Text(_), .. }) = recipe {
        tree.set("recipe.name", name);
    }
    let recipe = tree.get("recipe").is_some();
    for (key, value) in &chosen {
        let text = Tree::text(said(value).unwrap_or_default(), value.span.clone());
        if recipe {
            put(&mut tree, "recipe", &key.text, value);
        }
        put(&mut tree, "env", &variable(&key.text), &text);
        put(&mut tree, "labels", &key.text, &text);
    }
    Point { tree, chosen }
}

/// Sets an entry of a map; what should be a map and is none is left for its reader to refuse.
fn put(tree: &mut Tree, map: &str, key: &str, value: &Tree) {
    if tree.get(map).is_none_or(|map| matches!(map.value, Value::Map(_))) {
        tree.set(&format!("{map}.{key}"), value.clone());
    }
}

/// Writes chosen values where their names stand in braces.
fn fill(tree: &mut Tree, chosen: &[(Key, Tree)], sources: &Sources, text_only: bool) {
    match &mut tree.value {
        Value::Text(text) => {
            // The program of a batch script is all of its file.
            if sources.0.get(tree.span.source).is_some_and(|source| source.text == *text) {
                return;
            }
            let whole = chosen.iter().find(|(key, _)| *text == format!("{{{}}}", key.text));
            match whole.filter(|_| !text_only) {
                Some((_, value)) => *tree = value.clone(),
                None => *text = filled(text, chosen),
            }
        }
        Value::List(items) => items.iter_mut().for_each(|item| fill(item, chosen, sources, text_only)),
        Value::Map(entries) => entries.iter_mut().for_each(|(_, value)| fill(value, chosen, sources, text_only)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A text with its placeholders filled in, from left to right; what was filled in is not read again.
fn filled(text: &str, chosen: &[(Key, Tree)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let named = chosen.iter().find_map(|(key, value)| {
            let after = from[1..].strip_prefix(key.text.as_str())?.strip_prefix('}')?;
            Some((after, said(value)?))
        });
        match named.filter(|_| !before.ends_with('$')) {
            Some((after, value)) => {
                out.push_str(&value);
                rest = after;
            }
            None => {
                out.push('{');
                rest = &from[1..];
            }
        }
    }
    out + rest
}

/// A combination's own folder below `output_dir`.
fn folder(chosen: &[(Key, Tree)], number: usize) -> String {
    let pairs: Vec<String> =
        chosen.iter().map(|(key, value)| format!("{}={}", key.text, said(value).unwrap_or_default())).collect();
    let name = pairs.join(",").replace('%', "%25").replace('/', "%2F");
    if name.len() <= FOLDER_MAX { name } else { format!("sweep-{number}") }
}

/// True for what can be a placeholder, a label, a recipe's setting and, in capitals, part of a variable's name.
fn is_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        && name.len() <= NAME_MAX
}

/// The variable of a name.
fn variable(name: &str) -> String {
    format!("{VARIABLE}{}", name.to_uppercase().replace('-', "_"))
}

/// A value as text: as it was written, a list with commas; none when it is nothing or a map.
fn said(value: &Tree) -> Option<String> {
    match &value.value {
        Value::Text(text) => Some(text.clone()),
        Value::Number(number) => Some(number.raw.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::List(items) => items.iter().map(said).collect::<Option<Vec<_>>>().map(|items| items.join(",")),
        Value::Null | Value::Map(_) => None,
    }
}

#[cfg(test)]
mod tests;
