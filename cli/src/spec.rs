//! From a file, flags, the environment and the config to the jobs that are submitted.
//!
//! Everything a person can get wrong is found here at once, each fault with its place: in the file, on the command
//! line, in an environment variable or in the config file. Later sources lie over earlier ones:
//! config < spec < `GANGSAW_*` < flags. Nothing is sent while there is a fault.
//!
//! The scheduler checks everything again and adds what only it knows; [`Loaded::faults`] finds the places of its faults.

pub(crate) mod demand;
pub(crate) mod flags;
pub(crate) mod hint;
pub(crate) mod job;
pub(crate) mod jobs;
pub(crate) mod read;
pub(crate) mod render;
pub(crate) mod script;
pub(crate) mod sweep;
pub(crate) mod toml_file;
pub(crate) mod tree;
pub(crate) mod units;
pub(crate) mod yaml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gangsaw_proto::jobs::v1::{JobSpec, SubmitFaults};

use flags::{JobFlags, Line, command_line};
use read::{Fault, Reader};
use tree::{Sources, Span, Tree, Value};

/// The largest spec that is read; a thousand jobs with long commands fit.
pub(crate) const SPEC_BYTES_MAX: u64 = 1 << 20;

/// Environment variables that stand for spec keys. Not `GANGSAW_OUTPUT_DIR`: a task has it, and may submit.
const VARIABLES: &[(&str, &str)] =
    &[("GANGSAW_QUEUE", "queue"), ("GANGSAW_PRIORITY", "priority"), ("GANGSAW_TIME_LIMIT", "time_limit")];

/// Variables a task inherits unless `--export` says otherwise.
const EXPORTED: &[&str] = &["PATH", "HOME", "LANG", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH"];

/// Where a submit's pieces come from.
pub(crate) struct Pieces<'a> {
    /// The spec file, if one is named.
    pub(crate) file: Option<&'a Path>,
    /// The words after `--`.
    pub(crate) command: &'a [String],
    pub(crate) flags: &'a JobFlags,
    /// This process's arguments, for the places of flags.
    pub(crate) args: &'a [String],
    /// This process's environment.
    pub(crate) environment: &'a BTreeMap<String, String>,
    /// What the config file sets for every submit, as a tree of its own source.
    pub(crate) config: Option<(tree::Source, Tree)>,
    /// The submit folder.
    pub(crate) folder: &'a Path,
}

/// Jobs without a fault, and what is needed to place faults the scheduler finds.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) specs: Vec<JobSpec>,
    /// For each job what a sweep chose for it; null when nothing is swept.
    pub(crate) chosen: Vec<serde_json::Value>,
    sources: Sources,
    trees: Vec<Tree>,
}

/// Why nothing was submitted.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) sources: Sources,
    pub(crate) faults: Vec<Fault>,
}

impl Loaded {
    /// The scheduler's faults, each in its place.
    pub(crate) fn rejected(self, found: &SubmitFaults) -> Rejected {
        let mut faults = Vec::new();
        for fault in &found.faults {
            let fault = Fault {
                reason: fault.reason.clone(),
                span: self.trees.get(fault.job as usize).map(|tree| tree.place(&fault.path)),
                message: fault.message.clone(),
                hint: fault.hint.clone(),
            };
            // What jobs of one sweep share is told once.
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        Rejected { sources: self.sources, faults }
    }
}

/// Reads everything; either all of it is good or every fault is told.
pub(crate) fn load(pieces: &Pieces<'_>) -> Result<Loaded, Rejected> {
    let mut sources = Sources::default();
    let mut faults = Vec::new();
    let read = trees(pieces, &mut sources, &mut faults);
    let Some((read, from_list)) = read else { return Err(Rejected { sources, faults }) };
    let over = overlays(pieces, &mut sources, &mut faults);
    let export = pieces.flags.export.clone();
    let mut r = Reader { faults };
    let names = jobs::names(&read, from_list);
    let (mut specs, mut chosen, mut trees) = (Vec::new(), Vec::new(), Vec::new());
    for (mut tree, export_of_file) in read {
        lay(&mut tree, pieces, &mut sources, &over);
        let which = export.clone().or(export_of_file);
        let inherited = exported(&mut r, which.as_deref(), &tree, pieces.environment);
        for point in sweep::expand(&mut r, tree, &sources, from_list) {
            let around = job::Surroundings { folder: pieces.folder, names: &names };
            let known = r.faults.len();
            let mut spec = job::read(&mut r, &point.tree, &around);
            once(&mut r.faults, known);
            spec.alias = if from_list { spec.name.clone() } else { String::new() };
            spec.exported_env = inherited.clone();
            specs.push(spec);
            chosen.push(job::chosen(&mut r, &point.chosen));
            trees.push(point.tree);
        }
    }
    jobs::check(&mut r, &trees, &specs, from_list);
    if !r.faults.is_empty() {
        return Err(Rejected { sources, faults: r.faults });
    }
    Ok(Loaded { specs, chosen, sources, trees })
}

/// Drops faults after the first `known` that were found before: the jobs of one sweep share most of their spec.
fn once(faults: &mut Vec<Fault>, known: usize) {
    for fault in faults.split_off(known) {
        if !faults.contains(&fault) {
            faults.push(fault);
        }
    }
}

/// The jobs' own trees, each with what its file exports, and whether they come from a `jobs:` list.
#[expect(clippy::type_complexity, reason = "a list, and a flag about it")]
fn trees(
    pieces: &Pieces<'_>,
    sources: &mut Sources,
    faults: &mut Vec<Fault>,
) -> Option<(Vec<(Tree, Option<String>)>, bool)> {
    let Some(path) = pieces.file else {
        let (line, tokens) = command_line(pieces.args);
        let source = sources.add("command line", line);
        let after = tokens.iter().position(|token| token.text == "--").map_or(tokens.len(), |at| at + 1);
        let words: Vec<Tree> = tokens[after..]
            .iter()
            .map(|token| Tree::text(&token.text, Span { source, range: token.range.clone() }))
            .collect();
        let span = Span { source, range: Line { source, tokens: &tokens[after..] }.whole() };
        let mut tree = Tree::empty(span.clone());
        tree.set("run", Tree { value: Value::List(words), span });
        return Some((vec![(tree, None)], false));
    };
    let text = match file(path) {
        Ok(text) => text,
        Err(fault) => {
            faults.push(fault);
            return None;
        }
    };
    let source = sources.add(path.display().to_string(), text.clone());
    let root = match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => yaml::yaml(source, &text).map_err(|fault| faults.push(fault)).ok()?,
        Some("json") => yaml::json(source, &text).map_err(|fault| faults.push(fault)).ok()?,
        Some("toml") => toml_file::toml(source, &text).map_err(|found| faults.extend(found)).ok()?,
        Some(_) | None => {
            let (tree, export) = script::script(source, &text, &path.display().to_string(), pieces.command, faults);
            return Some((vec![(tree, export)], false));
        }
    };
    let mut r = Reader::default();
    if !pieces.command.is_empty() {
        let hint = "give a spec or a command, not both; arguments go to batch scripts only";
        r.fault("conflict", &root.span, "a spec says itself what runs", hint);
    }
    let found = jobs::split(&mut r, root);
    faults.extend(r.faults);
    found.map(|(trees, from_list)| (trees.into_iter().map(|tree| (tree, None)).collect(), from_list))
}

/// Reads a spec file, but not one that is too large.
fn file(path: &Path) -> Result<String, Fault> {
    let fault = |reason: &str, message: String, hint: &str| Fault {
        reason: reason.into(),
        span: None,
        message,
        hint: hint.into(),
    };
    let shown = path.display();
    let found = std::fs::metadata(path).map_err(|error| {
        let hint = "give a spec file, or a command after `--`: gangsaw submit -- python train.py";
        fault("no-such-spec", format!("{shown} cannot be read: {error}"), hint)
    })?;
    if !found.is_file() {
        return Err(fault(
            "no-such-spec",
            format!("{shown} is not a file"),
            "give a YAML, TOML or JSON file, or a script",
        ));
    }
    if found.len() > SPEC_BYTES_MAX {
        let message = format!("{shown} has {} bytes, and a spec has at most {SPEC_BYTES_MAX}", found.len());
        return Err(fault("too-large", message, "keep data in files the job reads, and only the job in its spec"));
    }
    let bytes = std::fs::read(path)
        .map_err(|error| fault("no-such-spec", format!("{shown} cannot be read: {error}"), "check its permissions"))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        fault(
            "syntax",
            format!("{shown} is not UTF-8 text at byte {at}"),
            "give a YAML, TOML or JSON file, or a script",
        )
    })
}

/// What lies over a spec: the environment, then flags.
fn overlays(pieces: &Pieces<'_>, sources: &mut Sources, faults: &mut Vec<Fault>) -> Vec<Tree> {
    let mut over = Vec::new();
    for (variable, key) in VARIABLES {
        let Some(value) = pieces.environment.get(*variable) else { continue };
        let source = sources.add("environment", format!("{variable}={value}"));
        let start = variable.len() + 1;
        let span = Span { source, range: start..start + value.len() };
        let mut tree = Tree::empty(span.clone());
        let value = match value.parse::<i64>() {
            Ok(whole) if *key == "priority" => {
                let raw = value.clone();
                Tree { value: Value::Number(tree::Number { whole: Some(whole), float: whole as f64, raw }), span }
            }
            Ok(_) | Err(_) => Tree::text(value, span),
        };
        tree.set(key, value);
        over.push(tree);
    }
    let (text, tokens) = command_line(pieces.args);
    let source = sources.add("command line", text);
    over.push(pieces.flags.tree(&Line { source, tokens: &tokens }, faults));
    over
}

/// Puts the config below a job's tree and the overlays above it.
fn lay(tree: &mut Tree, pieces: &Pieces<'_>, sources: &mut Sources, over: &[Tree]) {
    if let Some((source, config)) = &pieces.config {
        let number = sources.add(source.name.clone(), source.text.clone());
        let own = std::mem::replace(tree, moved(config.clone(), number));
        let span = own.span.clone();
        tree.overlay(own);
        tree.span = span;
    }
    for over in over {
        tree.overlay(over.clone());
    }
}

/// The same tree with its places in source `number`.
fn moved(mut tree: Tree, number: usize) -> Tree {
    tree.span.source = number;
    if let Value::Map(entries) = &mut tree.value {
        for (key, value) in entries {
            key.span.source = number;
            *value = moved(value.clone(), number);
        }
    }
    tree
}

/// What the task inherits from the submitter's shell; never what is Gangsaw's own, such as its token.
fn exported(
    r: &mut Reader,
    which: Option<&str>,
    tree: &Tree,
    environment: &BTreeMap<String, String>,
) -> std::collections::HashMap<String, String> {
    let chosen = |name: &str| match which.unwrap_or("default") {
        "all" => !name.starts_with("GANGSAW_"),
        "none" => false,
        _ => EXPORTED.contains(&name) || name.starts_with("CONDA_"),
    };
    if let Some(other) = which.filter(|which| !["all", "none", "default"].contains(which)) {
        let message = format!("`--export` cannot be `{}`", read::shown(other));
        r.fault("bad-value", &tree.span, message, "choose from all, none, default");
    }
    environment.iter().filter(|(name, _)| chosen(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The submit folder: where the shell is, by the name the shell uses when it is the same folder.
pub(crate) fn folder() -> std::io::Result<PathBuf> {
    let real = std::env::current_dir()?;
    let named = std::env::var_os("PWD").map(PathBuf::from).filter(|named| named.is_absolute());
    Ok(named.filter(|named| named.canonicalize().is_ok_and(|found| found == real)).unwrap_or(real))
}

#[cfg(test)]
mod tests;
