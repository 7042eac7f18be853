//! Flags that describe a job, on the command line and on `#GANGSAW` lines of a batch script.
//!
//! Each flag stands for the spec key of the same name. Flags are kept as text here and become a [`Tree`] with the same
//! keys as a file, so that one reader checks both and a wrong flag gets its caret under the flag's value.

use std::ops::Range;

use super::read::{Fault, shown};
use super::tree::{Key, Number, Span, Tree, Value};

#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct JobFlags {
    /// The job's name
    #[arg(long, value_name = "NAME", help_heading = "Job")]
    name: Option<String>,
    /// Queue to submit to
    #[arg(long, value_name = "QUEUE", help_heading = "Job")]
    queue: Option<String>,
    /// From -1000 to 1000, higher first
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Job")]
    priority: Option<String>,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "K=V", help_heading = "Job")]
    labels: Vec<String>,
    /// GPUs of each rank: N, or MODEL:N
    #[arg(long, value_name = "N|MODEL:N", allow_hyphen_values = true, help_heading = "Resources")]
    gpus: Option<String>,
    /// Least memory of each GPU, such as 40GiB
    #[arg(long, value_name = "SIZE", help_heading = "Resources")]
    gpu_memory: Option<String>,
    /// CPU cores of each rank, such as 4 or 0.5
    #[arg(long, value_name = "CORES", allow_hyphen_values = true, help_heading = "Resources")]
    cpus: Option<String>,
    /// Memory of each rank, such as 8GiB
    #[arg(long, value_name = "SIZE", help_heading = "Resources")]
    memory: Option<String>,
    /// auto, cpu or gpu
    #[arg(long, value_name = "DEVICE", help_heading = "Resources")]
    device: Option<String>,
    /// Indices of a job array, such as 0-99%10
    #[arg(long, value_name = "INDICES", allow_hyphen_values = true, help_heading = "Job")]
    array: Option<String>,
    /// One job for each value, and for each combination when repeated: `{NAME}` in the command, the recipe's
    /// setting NAME, GANGSAW_SWEEP_NAME
    #[arg(long, value_name = "NAME=A,B,…", help_heading = "Job")]
    sweep: Vec<String>,
    /// Ranks that start together or not at all
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Job")]
    replicas: Option<String>,
    /// How ranks find each other: per-node or per-process
    #[arg(long, value_name = "MODE", help_heading = "Job")]
    rendezvous: Option<String>,
    /// Start after another job: ok:ID, any:ID or failed:ID; may be repeated
    #[arg(long, value_name = "KIND:ID", help_heading = "Job")]
    after: Vec<String>,
    /// Longest run of each attempt, such as 2h
    #[arg(long, value_name = "TIME", help_heading = "Job")]
    time_limit: Option<String>,
    /// Further attempts after a failure
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Job")]
    retry: Option<String>,
    /// An environment variable; may be repeated
    #[arg(long, value_name = "K=V", help_heading = "Environment")]
    env: Vec<String>,
    /// What the task inherits from this shell: all, none or default
    #[arg(long, value_name = "WHICH", help_heading = "Environment")]
    pub(crate) export: Option<String>,
    /// Where the task starts; default this folder
    #[arg(long, value_name = "DIR", help_heading = "Environment")]
    workdir: Option<String>,
    /// Where the task's results go
    #[arg(long, value_name = "DIR", help_heading = "Environment")]
    output_dir: Option<String>,
    /// Time between SIGTERM and SIGKILL
    #[arg(long, value_name = "TIME", help_heading = "Job")]
    grace: Option<String>,
    /// keep or stop: what a silent node does with the task
    #[arg(long, value_name = "WHAT", help_heading = "Job")]
    on_disconnect: Option<String>,
    /// Silence of a node after which another attempt may start
    #[arg(long, value_name = "TIME", help_heading = "Job")]
    lost_after: Option<String>,
    /// Silence after which the node stops the task, with --on-disconnect stop
    #[arg(long, value_name = "TIME", help_heading = "Job")]
    stop_after: Option<String>,
    /// An exit code that requeues instead of failing; may be repeated
    #[arg(long, value_name = "CODE", help_heading = "Job")]
    requeue_on: Vec<String>,
    /// POST one JSON object to this URL when the job has ended
    #[arg(long, value_name = "URL", help_heading = "Job")]
    notify: Option<String>,
    /// Submit held; `gangsaw release` lets it start
    #[arg(long, help_heading = "Job")]
    hold: bool,
}

/// A word of a command line, and where it stands in its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) range: Range<usize>,
}

/// Writes arguments as a shell would take them, and says where each stands.
pub(crate) fn command_line(args: &[String]) -> (String, Vec<Token>) {
    let mut line = String::new();
    let mut tokens = Vec::new();
    for arg in args {
        if !line.is_empty() {
            line.push(' ');
        }
        let start = line.len();
        line.push_str(&quoted(arg));
        tokens.push(Token { text: arg.clone(), range: start..line.len() });
    }
    (line, tokens)
}

/// Quotes an argument when a shell would not take it as it is.
pub(crate) fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,+@%".contains(c);
    if !arg.is_empty() && arg.chars().all(plain) { arg.to_owned() } else { format!("'{}'", arg.replace('\'', "'\\''")) }
}

/// Words a source is made of, to find where a flag's value stands.
pub(crate) struct Line<'a> {
    pub(crate) source: usize,
    pub(crate) tokens: &'a [Token],
}

impl Line<'_> {
    /// Where the value of the nth `--flag` stands; the whole line when it cannot be found.
    fn value(&self, flag: &str, nth: usize) -> Span {
        let with_equals = format!("{flag}=");
        let mut found =
            self.tokens.iter().enumerate().take_while(|(_, token)| token.text != "--").filter_map(|(at, token)| {
                if token.text == flag {
                    return Some(self.tokens.get(at + 1).map_or(token, |next| next).range.clone());
                }
                token.text.starts_with(&with_equals).then(|| token.range.start + with_equals.len()..token.range.end)
            });
        let range = found.nth(nth).unwrap_or_else(|| self.whole());
        Span { source: self.source, range }
    }

    /// From the first word to the last.
    pub(crate) fn whole(&self) -> Range<usize> {
        match (self.tokens.first(), self.tokens.last()) {
            (Some(first), Some(last)) => first.range.start..last.range.end,
            (_, _) => 0..0,
        }
    }
}

impl JobFlags {
    /// The keys these flags set, as a tree.
    pub(crate) fn tree(&self, line: &Line<'_>, faults: &mut Vec<Fault>) -> Tree {
        let mut tree = Tree::empty(Span { source: line.source, range: line.whole() });
        let words = [
            ("--name", "name", &self.name),
            ("--queue", "queue", &self.queue),
            ("--device", "resources.device", &self.device),
            ("--array", "array", &self.array),
            ("--rendezvous", "rendezvous", &self.rendezvous),
            ("--time-limit", "time_limit", &self.time_limit),
            ("--workdir", "workdir", &self.workdir),
            ("--output-dir", "output_dir", &self.output_dir),
            ("--grace", "grace", &self.grace),
            ("--on-disconnect", "on_disconnect", &self.on_disconnect),
            ("--lost-after", "lost_after", &self.lost_after),
            ("--stop-after", "stop_after", &self.stop_after),
            ("--notify", "notify", &self.notify),
            ("--gpu-memory", "resources.gpu_memory", &self.gpu_memory),
            ("--memory", "resources.memory", &self.memory),
            ("--gpus", "resources.gpus", &self.gpus),
            ("--cpus", "resources.cpus", &self.cpus),
        ];
        for (flag, path, value) in words {
            if let Some(text) = value {
                tree.set(path, Tree::text(text, line.value(flag, 0)));
            }
        }
        let numbers = [
            ("--priority", "priority", &self.priority),
            ("--replicas", "replicas", &self.replicas),
            ("--retry", "retry", &self.retry),
        ];
        for (flag, path, value) in numbers {
            if let Some(text) = value {
                tree.set(path, number(text, line.value(flag, 0)));
            }
        }
        self.lists(line, &mut tree);
        pairs(&self.env, "--env", "env", line, &mut tree, faults);
        pairs(&self.labels, "--label", "labels", line, &mut tree, faults);
        sweeps(&self.sweep, line, &mut tree, faults);
        tree
    }

    /// Flags that may be repeated, and the one without a value.
    fn lists(&self, line: &Line<'_>, tree: &mut Tree) {
        let span = tree.span.clone();
        let list = |flag: &str, values: &[String], item: fn(&str, Span) -> Tree| {
            let items = values.iter().enumerate().map(|(nth, text)| item(text, line.value(flag, nth))).collect();
            Tree { value: Value::List(items), span: line.value(flag, 0) }
        };
        if !self.after.is_empty() {
            tree.set("after", list("--after", &self.after, |text, span| Tree::text(text, span)));
        }
        if !self.requeue_on.is_empty() {
            tree.set("requeue_on", list("--requeue-on", &self.requeue_on, number));
        }
        if self.hold {
            tree.set("hold", Tree { value: Value::Bool(true), span });
        }
    }
}

/// A number when the text is one, else the text, which the reader will refuse in its place.
fn number(text: &str, span: Span) -> Tree {
    match text.parse::<f64>() {
        Ok(float) if float.is_finite() => {
            let value = Number { whole: text.parse().ok(), float, raw: text.to_owned() };
            Tree { value: Value::Number(value), span }
        }
        Ok(_) | Err(_) => Tree::text(text, span),
    }
}

/// `K=V` flags as a map.
fn pairs(values: &[String], flag: &str, path: &str, line: &Line<'_>, tree: &mut Tree, faults: &mut Vec<Fault>) {
    if values.is_empty() {
        return;
    }
    let mut map: Vec<(Key, Tree)> = Vec::new();
    for (nth, text) in values.iter().enumerate() {
        let span = line.value(flag, nth);
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                map.retain(|(known, _)| known.text != key);
                map.push((Key { text: key.to_owned(), span: span.clone() }, Tree::text(value, span)));
            }
            Some(_) | None => faults.push(Fault {
                reason: "bad-value".into(),
                span: Some(span),
                message: format!("`{flag} {}` sets nothing", shown(text)),
                hint: format!("write `{flag} NAME=VALUE`"),
            }),
        }
    }
    tree.set(path, Tree { value: Value::Map(map), span: line.value(flag, 0) });
}

/// `--sweep NAME=A,B` flags as a map of lists.
fn sweeps(values: &[String], line: &Line<'_>, tree: &mut Tree, faults: &mut Vec<Fault>) {
    if values.is_empty() {
        return;
    }
    let mut map: Vec<(Key, Tree)> = Vec::new();
    for (nth, text) in values.iter().enumerate() {
        let span = line.value("--sweep", nth);
        // Each part has its own place, unless quotes moved it.
        let exact = span.range.len() == text.len();
        let place = |range: Range<usize>| Span {
            source: span.source,
            range: if exact {
                span.range.start + range.start..span.range.start + range.end
            } else {
                span.range.clone()
            },
        };
        let fault = |message: String, hint: &str| Fault {
            reason: "bad-value".into(),
            span: Some(span.clone()),
            message,
            hint: hint.into(),
        };
        let Some((key, list)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            let message = format!("`--sweep {}` lists no values", shown(text));
            faults.push(fault(message, "write `--sweep NAME=VALUE,VALUE`"));
            continue;
        };
        if map.iter().any(|(known, _)| known.text == key) {
            let message = format!("`{}` is swept over twice", shown(key));
            faults.push(fault(message, "list all its values once: `--sweep NAME=VALUE,VALUE`"));
            continue;
        }
        let mut at = key.len() + 1;
        let mut items = Vec::new();
        for item in list.split(',') {
            items.push(plain(item, place(at..at + item.len())));
            at += item.len() + 1;
        }
        let key = Key { text: key.to_owned(), span: place(0..key.len()) };
        map.push((key, Tree { value: Value::List(items), span: span.clone() }));
    }
    tree.set("sweep", Tree { value: Value::Map(map), span: line.value("--sweep", 0) });
}

/// A value of a flag as a file would have it: a number, true or false, or text.
fn plain(text: &str, span: Span) -> Tree {
    match text.parse::<bool>() {
        Ok(value) => Tree { value: Value::Bool(value), span },
        Err(_) => number(text, span),
    }
}
