//! One job: a tree of the spec's keys becomes a [`JobSpec`].
//!
//! This is the one place that knows the keys. Types, units and ranges are checked here, where the place is known; what
//! depends on the cluster (never fits, unknown queue, limits) is the scheduler's, whose faults name the same paths.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gangsaw_proto::jobs::v1::job_spec::Work;
use gangsaw_proto::jobs::v1::{Argv, Dependency, JobSpec, OnDisconnect, Recipe, Rendezvous, Retry, dependency};

use super::demand;
use super::read::{Reader, items, shown};
use super::tree::{Key, Tree, Value};
use super::units;

/// Every key of a job.
pub(crate) const KEYS: &[&str] = &[
    "name",
    "queue",
    "priority",
    "labels",
    "run",
    "recipe",
    "resources",
    "array",
    "replicas",
    "rendezvous",
    "after",
    "time_limit",
    "retry",
    "env",
    "workdir",
    "output_dir",
    "grace",
    "on_disconnect",
    "lost_after",
    "stop_after",
    "requeue_on",
    "hold",
    "sweep",
];

/// Characters a name may have; the scheduler holds the same limit.
const NAME_MAX: usize = 128;
/// What reading a job needs to know besides its tree.
pub(crate) struct Surroundings<'a> {
    /// Relative folders start here.
    pub(crate) folder: &'a Path,
    /// Names of the jobs in the same file, for `after`.
    pub(crate) names: &'a [String],
}

/// Reads one job; it counts only when the reader found no fault.
pub(crate) fn read(r: &mut Reader, tree: &Tree, around: &Surroundings<'_>) -> JobSpec {
    let mut spec = JobSpec::default();
    r.map(tree, "a job", KEYS, "a job is a map such as `run: python train.py`");
    identity(r, tree, &mut spec);
    work(r, tree, &mut spec);
    shape(r, tree, &mut spec);
    spec.after = dependencies(r, tree, around);
    spec.env = environment(r, tree);
    folders(r, tree, around, &mut spec);
    times(r, tree, &mut spec);
    silence(r, tree, &mut spec);
    spec.retry = tree.get("retry").and_then(|retry| self::retry(r, retry));
    let recipe = matches!(spec.work, Some(Work::Recipe(_)));
    spec.demands = demand::read(r, tree, recipe);
    spec
}

/// A name: short and without control characters.
pub(crate) fn name(r: &mut Reader, tree: &Tree, what: &str) -> Option<String> {
    let hint = "use 1 to 128 letters, digits, `-`, `_` or spaces";
    let text = r.text(tree, what, hint)?;
    if let Some(bad) = text.chars().find(|c| c.is_control()) {
        let message = format!("{what} contains the control character `{}`", bad.escape_default());
        r.fault("bad-value", &tree.span, message, hint);
        return None;
    }
    if text.trim().is_empty() || text.chars().count() > NAME_MAX {
        let message = format!("{what} has {} characters", text.chars().count());
        r.fault("bad-value", &tree.span, message, hint);
        return None;
    }
    Some(text)
}

/// Who the job is: name, queue, priority, labels, hold.
fn identity(r: &mut Reader, tree: &Tree, spec: &mut JobSpec) {
    if let Some(value) = tree.get("name") {
        spec.name = name(r, value, "`name`").unwrap_or_default();
    }
    if let Some(value) = tree.get("queue") {
        spec.queue = name(r, value, "`queue`").unwrap_or_default();
    }
    if let Some(value) = tree.get("priority") {
        spec.priority = r.whole(value, "`priority`", -1000..=1000).map(|priority| priority as i32);
    }
    if let Some(value) = tree.get("hold") {
        spec.hold = r.truth(value, "`hold`").unwrap_or_default();
    }
    if let Some(labels) = tree.get("labels") {
        let hint = "labels are a map of short texts such as `team: vision`";
        for (key, value) in r.open_map(labels, "`labels`", hint) {
            if let Some(text) = r.scalar(value, &format!("label `{}`", shown(&key.text)), hint) {
                spec.labels.insert(key.text.clone(), text);
            }
        }
    }
}

/// What runs: `run` or `recipe`, and not both.
fn work(r: &mut Reader, tree: &Tree, spec: &mut JobSpec) {
    match (tree.get("run"), tree.get("recipe")) {
        (Some(run), None) => spec.work = command(r, run),
        (None, Some(recipe)) => spec.work = self::recipe(r, recipe),
        (Some(_), Some(recipe)) => {
            r.fault("conflict", &recipe.span, "a job has either `run` or `recipe`, and this has both", "remove one");
        }
        (None, None) if matches!(tree.value, Value::Map(_)) => {
            let hint = "add `run: python train.py`, or `recipe: cnn`";
            r.fault("missing-key", &tree.span, "the job does not say what runs", hint);
        }
        (None, None) => {}
    }
}

/// `run`: text for the shell, or a list executed as it is.
fn command(r: &mut Reader, run: &Tree) -> Option<Work> {
    let hint = "write a command line, or a list such as [python, train.py]";
    let Value::List(items) = &run.value else {
        if let Value::Bool(word) = run.value {
            r.wrong_type(run, "`run`", "text", format!("for the command of that name write `run: \"{word}\"`"));
            return None;
        }
        let shell = r.text(run, "`run`", hint)?;
        if shell.trim().is_empty() {
            r.fault("bad-value", &run.span, "`run` is empty", hint);
            return None;
        }
        return Some(Work::Shell(shell));
    };
    let args: Vec<String> = items.iter().filter_map(|item| r.scalar(item, "an argument of `run`", hint)).collect();
    if args.first().is_none_or(String::is_empty) {
        r.fault("bad-value", &run.span, "`run` names no command", hint);
        return None;
    }
    Some(Work::Argv(Argv { args }))
}

/// `recipe`: a name, or a map of a name and the recipe's settings, which the recipe itself checks.
fn recipe(r: &mut Reader, recipe: &Tree) -> Option<Work> {
    let hint = "write `recipe: cnn`, or a map such as {name: cnn, epochs: 5}";
    let known: Vec<&str> = gangsaw_trainer::recipes().iter().map(|recipe| recipe.name).collect();
    if let Value::Text(_) = &recipe.value {
        let name = r.choice(recipe, "`recipe`", &known)?;
        return Some(Work::Recipe(Recipe { name: name.to_owned(), settings_json: String::new() }));
    }
    let mut settings = serde_json::Map::new();
    for (key, value) in r.open_map(recipe, "`recipe`", hint).iter().filter(|(key, _)| key.text != "name") {
        if let Some(json) = json(r, value) {
            settings.insert(key.text.clone(), json);
        }
    }
    let Some(name) = recipe.get("name") else {
        if matches!(recipe.value, Value::Map(_)) {
            r.fault("missing-key", &recipe.span, "`recipe` has no `name`", hint);
        }
        return None;
    };
    let name = r.choice(name, "`recipe.name`", &known)?.to_owned();
    let settings_json =
        if settings.is_empty() { String::new() } else { serde_json::Value::Object(settings).to_string() };
    if let Err(wrong) = gangsaw_trainer::TrainConfig::parse(&name, &settings_json) {
        for fault in wrong.0 {
            let place = recipe.place(&fault.key);
            let message = format!("`recipe.{}` {}", shown(&fault.key), fault.problem);
            r.fault("bad-setting", &place, message, "see the recipe's settings in its documentation");
        }
        return None;
    }
    Some(Work::Recipe(Recipe { name, settings_json }))
}

/// A recipe's setting as JSON; the recipe itself knows what it may be.
fn json(r: &mut Reader, tree: &Tree) -> Option<serde_json::Value> {
    Some(match &tree.value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Text(text) => text.clone().into(),
        Value::Number(number) => match number.whole {
            Some(whole) => whole.into(),
            None => match serde_json::Number::from_f64(number.float) {
                Some(number) => number.into(),
                None => {
                    r.fault("bad-value", &tree.span, "a setting must be a finite number", "write a number");
                    return None;
                }
            },
        },
        Value::List(items) => items.iter().filter_map(|item| json(r, item)).collect::<Vec<_>>().into(),
        Value::Map(entries) => {
            let fields = entries.iter().filter_map(|(key, value)| Some((key.text.clone(), json(r, value)?)));
            serde_json::Value::Object(fields.collect())
        }
    })
}

/// What a sweep chose for a job, as programs read it; null when nothing is swept.
pub(crate) fn chosen(r: &mut Reader, chosen: &[(Key, Tree)]) -> serde_json::Value {
    let fields = chosen.iter().filter_map(|(key, value)| Some((key.text.clone(), json(r, value)?)));
    let fields: serde_json::Map<_, _> = fields.collect();
    if fields.is_empty() { serde_json::Value::Null } else { fields.into() }
}

/// How many: array, replicas, and how ranks find each other.
fn shape(r: &mut Reader, tree: &Tree, spec: &mut JobSpec) {
    spec.array = tree.get("array").and_then(|array| r.amount(array, "`array`", units::array));
    if let Some(value) = tree.get("replicas") {
        spec.replicas = r.whole(value, "`replicas`", 1..=4096).unwrap_or_default() as u32;
    }
    if let Some(value) = tree.get("rendezvous") {
        let mode = match r.choice(value, "`rendezvous`", &["per-node", "per-process"]) {
            Some("per-process") => Rendezvous::PerProcess,
            Some(_) | None => Rendezvous::PerNode,
        };
        spec.rendezvous = mode.into();
    }
    for value in tree.get("requeue_on").into_iter().flat_map(items) {
        if let Some(code) = r.whole(value, "an exit code of `requeue_on`", 1..=255) {
            spec.requeue_on.push(code as u32);
        }
    }
}

/// `after`: `ok:12`, `any:prepare`, or just `prepare`, one or a list.
fn dependencies(r: &mut Reader, tree: &Tree, around: &Surroundings<'_>) -> Vec<Dependency> {
    let hint = "write `ok:12`, `any:12` or `failed:12`, with a job's number or its name in this file";
    let mut found = Vec::new();
    for item in tree.get("after").into_iter().flat_map(items) {
        let Some(text) = r.scalar(item, "`after`", hint) else { continue };
        let (kind, job) = text.split_once(':').unwrap_or(("ok", text.as_str()));
        let kind = match kind.trim() {
            "ok" => dependency::Kind::Ok,
            "any" => dependency::Kind::Any,
            "failed" => dependency::Kind::Failed,
            other => {
                let message = format!("`after` does not know `{}`", shown(other));
                r.fault("bad-value", &item.span, message, hint);
                continue;
            }
        };
        let job = job.trim();
        let job = match job.parse::<u64>() {
            Ok(id) if id > 0 => dependency::Job::JobId(id),
            Ok(_) | Err(_) if around.names.iter().any(|name| name == job) => dependency::Job::Alias(job.to_owned()),
            Ok(_) | Err(_) => {
                let near = super::hint::nearest(job, around.names.iter().map(String::as_str));
                let hint = near.map_or_else(|| hint.to_owned(), |near| format!("did you mean `{near}`?"));
                r.fault("unknown-job", &item.span, format!("no job in this file is named `{}`", shown(job)), hint);
                continue;
            }
        };
        found.push(Dependency { kind: kind.into(), job: Some(job) });
    }
    found
}

/// `env`: names and what they are set to.
fn environment(r: &mut Reader, tree: &Tree) -> std::collections::HashMap<String, String> {
    let hint = "`env` is a map such as {SEED: 1}";
    let Some(env) = tree.get("env") else { return Default::default() };
    let mut found = BTreeMap::new();
    for (key, value) in r.open_map(env, "`env`", hint) {
        if key.text.is_empty() || key.text.contains(['=', '\0']) {
            let message = format!("`{}` cannot name an environment variable", shown(&key.text));
            r.fault("bad-value", &key.span, message, "use letters, digits and `_`");
        } else if let Some(text) = r.scalar(value, &format!("variable `{}`", shown(&key.text)), hint) {
            found.insert(key.text.clone(), text);
        }
    }
    found.into_iter().collect()
}

/// `workdir` and `output_dir`; relative ones start at the submit folder.
fn folders(r: &mut Reader, tree: &Tree, around: &Surroundings<'_>, spec: &mut JobSpec) {
    let mut folder = |key: &str| -> Option<String> {
        let text = r.text(tree.get(key)?, &format!("`{key}`"), "write a folder")?;
        Some(around.folder.join(PathBuf::from(text)).display().to_string())
    };
    spec.workdir = folder("workdir").unwrap_or_else(|| around.folder.display().to_string());
    spec.output_dir = folder("output_dir").unwrap_or_default();
}

/// A duration on the wire.
fn wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: duration.as_secs() as i64, nanos: duration.subsec_nanos() as i32 }
}

/// A key that holds a duration.
fn duration(r: &mut Reader, tree: &Tree, key: &str) -> Option<prost_types::Duration> {
    r.amount(tree.get(key)?, &format!("`{key}`"), units::duration).map(wire)
}

/// `time_limit` and `grace`.
fn times(r: &mut Reader, tree: &Tree, spec: &mut JobSpec) {
    spec.time_limit = duration(r, tree, "time_limit");
    if let (Some(limit), Some(value)) = (&spec.time_limit, tree.get("time_limit"))
        && limit.seconds == 0
        && limit.nanos == 0
    {
        r.fault("bad-value", &value.span, "`time_limit` is zero", "leave the key out for no limit");
    }
    spec.grace = duration(r, tree, "grace");
    if let (Some(grace), Some(value)) = (&spec.grace, tree.get("grace"))
        && grace.seconds > 3600
    {
        r.fault("bad-value", &value.span, "`grace` is longer than an hour", "choose at most `1h`");
    }
}

/// What happens when a node falls silent.
fn silence(r: &mut Reader, tree: &Tree, spec: &mut JobSpec) {
    spec.lost_after = duration(r, tree, "lost_after");
    spec.stop_after = duration(r, tree, "stop_after");
    let Some(value) = tree.get("on_disconnect") else {
        if let Some(stop_after) = tree.get("stop_after") {
            let hint = "add `on_disconnect: stop`";
            r.fault("conflict", &stop_after.span, "`stop_after` needs `on_disconnect: stop`", hint);
        }
        return;
    };
    match r.choice(value, "`on_disconnect`", &["keep", "stop"]) {
        Some("stop") => {
            spec.on_disconnect = OnDisconnect::Stop.into();
            if tree.get("stop_after").is_none() {
                r.fault(
                    "missing-key",
                    &value.span,
                    "`on_disconnect: stop` needs `stop_after`",
                    "add `stop_after: 2min`",
                );
            }
        }
        Some(_) => spec.on_disconnect = OnDisconnect::Keep.into(),
        None => {}
    }
}

/// `retry`: a number for failures, or a map by what ended the attempt.
fn retry(r: &mut Reader, tree: &Tree) -> Option<Retry> {
    let mut retry = Retry::default();
    if let Value::Number(_) = &tree.value {
        retry.failure = r.whole(tree, "`retry`", 0..=10_000).map(|times| times as u32);
        return Some(retry);
    }
    let hint = "write `retry: 3`, or a map such as {failure: 3, oom: 1, backoff: 10s}";
    r.map(tree, "`retry`", &["failure", "infra", "preempted", "oom", "backoff"], hint);
    let mut times = |key: &str| {
        let times = r.whole(tree.get(key)?, &format!("`retry.{key}`"), 0..=10_000);
        times.map(|times| times as u32)
    };
    retry.failure = times("failure");
    retry.infra = times("infra");
    retry.preempted = times("preempted");
    retry.oom = times("oom");
    retry.backoff = tree.get("backoff").and_then(|value| r.amount(value, "`retry.backoff`", units::duration)).map(wire);
    Some(retry)
}
