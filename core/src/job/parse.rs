//! Checks a draft and makes a spec of it. Validation is parsing: whoever holds a `JobSpec` need not check it again,
//! and a refused draft gets all of its faults at once, each with the spec key it belongs to.

mod limits;
mod parts;

use std::sync::Arc;

use crate::id::{JobName, NameError, QueueName};
use crate::job::draft::{JobDraft, WorkDraft};
use crate::job::spec::{Fault, Faults, JobSpec, OnDisconnect, Rendezvous, Work};
use crate::time::Millis;

pub use limits::*;

/// Collects faults while the parts are parsed.
#[derive(Default)]
struct Parser {
    faults: Vec<Fault>,
}

impl TryFrom<JobDraft> for JobSpec {
    type Error = Faults;

    fn try_from(draft: JobDraft) -> Result<Self, Faults> {
        let mut parser = Parser::default();
        let spec = parser.spec(draft);
        match spec {
            Some(spec) if parser.faults.is_empty() => Ok(spec),
            Some(_) | None => Err(Faults(parser.faults)),
        }
    }
}

impl Parser {
    fn spec(&mut self, draft: JobDraft) -> Option<JobSpec> {
        let work = self.work(draft.work.as_ref());
        let name = self.job_name(&draft.name, work.as_ref());
        let queue = match draft.queue.as_str() {
            "" => Some(QueueName::default()),
            text => self.name("queue", QueueName::new(text)),
        };
        let alias = match draft.alias.as_str() {
            "" => None,
            text => self.name("jobs", JobName::new(text)),
        };
        let grace = self.span("grace", draft.grace_ms, GRACE_DEFAULT, Millis(0), GRACE_MAX);
        let lost_after =
            self.span("lost_after", draft.lost_after_ms, LOST_AFTER_DEFAULT, LOST_AFTER_MIN, LOST_AFTER_MAX);
        let stop_after = draft.stop_after_ms.filter(|_| draft.stop_on_disconnect);
        let on_disconnect = self.on_disconnect(&draft, stop_after, grace, lost_after);
        let spec = JobSpec {
            priority: self.priority(draft.priority),
            labels: self.labels(draft.labels),
            demands: self.demands(&draft.demands),
            array: draft.array.as_ref().and_then(|array| self.array(array)),
            replicas: self.replicas(draft.replicas),
            rendezvous: match draft.per_process_rendezvous {
                true => Rendezvous::PerProcess,
                false => Rendezvous::PerNode,
            },
            after: self.after(&draft.after),
            time_limit: draft
                .time_limit_ms
                .map(|ms| self.span("time_limit", Some(ms), Millis(1), Millis(1), TIME_LIMIT_MAX)),
            retry: self.retry(&draft.retry),
            env: Arc::new(self.env("env", draft.env)),
            exported_env: Arc::new(self.env("export", draft.exported_env)),
            workdir: self.path("workdir", draft.workdir),
            output_dir: self.path("output_dir", draft.output_dir),
            requeue_on: self.requeue_on(&draft.requeue_on, work.as_ref(), draft.replicas),
            grace,
            on_disconnect,
            lost_after,
            hold: draft.hold,
            notify: self.notify(draft.notify),
            alias,
            name: name?,
            queue: queue?,
            work: Arc::new(work?),
        };
        Some(spec)
    }

    fn fault(&mut self, path: &str, reason: &'static str, message: impl Into<String>, hint: impl Into<String>) {
        self.faults.push(Fault { path: path.into(), reason, message: message.into(), hint: hint.into() });
    }

    fn name<T>(&mut self, path: &str, name: Result<T, NameError>) -> Option<T> {
        match name {
            Ok(name) => Some(name),
            Err(error) => {
                self.fault(path, "bad-name", format!("the {path} {error}"), "");
                None
            }
        }
    }

    /// A job without a name is called after the file it runs, or its recipe.
    fn job_name(&mut self, text: &str, work: Option<&Work>) -> Option<JobName> {
        if !text.is_empty() {
            return self.name("name", JobName::new(text));
        }
        let word = match work? {
            Work::Shell(line) => line.split_whitespace().next().unwrap_or("sh"),
            Work::Argv(args) => args.first().map_or("job", String::as_str),
            Work::Recipe { name, .. } => name,
        };
        let base = word.rsplit('/').next().unwrap_or(word);
        let clean: String = base.chars().filter(|c| !c.is_control()).take(crate::id::NAME_CHARS_MAX).collect();
        Some(JobName::new(&clean).unwrap_or_else(|_| JobName::literal("job")))
    }

    fn work(&mut self, work: Option<&WorkDraft>) -> Option<Work> {
        let work = match work {
            None => {
                self.fault("run", "no-work", "the job says neither `run` nor `recipe`", "add `run: COMMAND`");
                return None;
            }
            Some(WorkDraft::Shell(line)) if line.trim().is_empty() => {
                self.fault("run", "no-work", "the command is empty", "");
                return None;
            }
            Some(WorkDraft::Argv(args)) if args.first().is_none_or(String::is_empty) => {
                self.fault("run", "no-work", "the command is empty", "");
                return None;
            }
            Some(WorkDraft::Shell(line)) => Work::Shell(line.clone()),
            Some(WorkDraft::Argv(args)) => Work::Argv(args.clone()),
            Some(WorkDraft::Recipe { name, settings_json }) => {
                if let Err(error) = JobName::new(name) {
                    self.fault("recipe.name", "bad-name", format!("the recipe's name {error}"), "");
                    return None;
                }
                Work::Recipe { name: name.clone(), settings_json: settings_json.clone() }
            }
        };
        let (path, bytes, max, nul) = match &work {
            Work::Shell(line) => ("run", line.len(), COMMAND_BYTES_MAX, line.contains('\0')),
            Work::Argv(args) => {
                let nul = args.iter().any(|arg| arg.contains('\0'));
                ("run", args.iter().map(|arg| arg.len() + 1).sum(), COMMAND_BYTES_MAX, nul)
            }
            Work::Recipe { settings_json, .. } => ("recipe", settings_json.len(), SETTINGS_BYTES_MAX, false),
        };
        if bytes > max {
            self.fault(path, "too-long", format!("it has {bytes} bytes, and {max} are allowed"), "put it into a file");
        }
        if nul {
            self.fault(path, "nul", "it contains a NUL byte", "");
        }
        Some(work)
    }

    fn priority(&mut self, priority: Option<i32>) -> i32 {
        let priority = priority.unwrap_or(0);
        if !PRIORITIES.contains(&priority) {
            self.fault("priority", "out-of-range", format!("{priority} is not within -1000..=1000"), "");
        }
        priority
    }

    fn replicas(&mut self, replicas: u32) -> u32 {
        if replicas > REPLICAS_MAX {
            self.fault("replicas", "out-of-range", format!("{replicas} is above {REPLICAS_MAX}"), "");
        }
        replicas.max(1)
    }

    fn span(&mut self, path: &str, ms: Option<i64>, default: Millis, min: Millis, max: Millis) -> Millis {
        let Some(ms) = ms else { return default };
        match u64::try_from(ms).map(Millis) {
            Ok(span) if (min..=max).contains(&span) => span,
            Ok(_) | Err(_) => {
                self.fault(path, "out-of-range", format!("{ms} ms is not within {min} to {max}"), "");
                default
            }
        }
    }

    fn on_disconnect(
        &mut self,
        draft: &JobDraft,
        stop_after: Option<i64>,
        grace: Millis,
        lost_after: Millis,
    ) -> OnDisconnect {
        if !draft.stop_on_disconnect {
            if draft.stop_after_ms.is_some() {
                let hint = "add `on_disconnect: stop`";
                self.fault("stop_after", "stop-without-stop", "it means nothing with `on_disconnect: keep`", hint);
            }
            return OnDisconnect::Keep;
        }
        if stop_after.is_none() {
            let hint = "add `stop_after: 2m`";
            self.fault("stop_after", "missing", "`on_disconnect: stop` needs it", hint);
            return OnDisconnect::Keep;
        }
        let after = self.span("stop_after", stop_after, STOP_AFTER_MIN, STOP_AFTER_MIN, LOST_AFTER_MAX);
        let needed = (after.0 + 2 * grace.0) * 11 / 10;
        if needed >= lost_after.0 {
            let message = format!(
                "stop_after + 2 × grace + 10 % is {}, which must be below lost_after, {lost_after}",
                Millis(needed)
            );
            self.fault("stop_after", "stop-too-late", message, "make lost_after longer, or stop_after shorter");
        }
        OnDisconnect::Stop { after }
    }
}

#[cfg(test)]
mod tests;
