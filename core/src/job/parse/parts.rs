//! The parts of a draft that are lists and maps.

use std::collections::{BTreeMap, BTreeSet};

use super::Parser;
use super::limits::*;
use crate::id::{JobId, JobName};
use crate::job::draft::{ArrayDraft, DemandDraft, DependencyDraft, JobRefDraft, RetryDraft, StepRange};
use crate::job::spec::{Array, Dependency, DependsOn, Retry, Work};
use crate::ranges::RangeSet;
use crate::resources::Demand;
use crate::time::Millis;

/// The exit code by which a rank of a recipe says that it wants to go on in a new attempt.
const REQUEUE_CODE: u8 = 75;

impl Parser {
    pub(super) fn labels(&mut self, labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
        if labels.len() > LABELS_MAX {
            self.fault("labels", "too-many", format!("{} labels, and {LABELS_MAX} are allowed", labels.len()), "");
        }
        for (key, value) in &labels {
            let path = format!("labels.{}", key.escape_debug());
            if key.is_empty() || key.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX {
                self.fault(&path, "bad-label", format!("key and value have 1 to {LABEL_BYTES_MAX} bytes"), "");
            }
            if key.chars().chain(value.chars()).any(char::is_control) {
                self.fault(&path, "bad-label", "it has a control character", "");
            }
        }
        labels
    }

    pub(super) fn demands(&mut self, drafts: &[DemandDraft]) -> Vec<Demand> {
        if drafts.len() > DEMANDS_MAX {
            let message = format!("{} alternatives, and {DEMANDS_MAX} are allowed", drafts.len());
            self.fault("resources", "too-many", message, "");
            return vec![Demand::default()];
        }
        let mut demands: Vec<Demand> = drafts.iter().map(|draft| self.demand(draft)).collect();
        if demands.is_empty() {
            demands.push(Demand::default());
        }
        demands
    }

    fn demand(&mut self, draft: &DemandDraft) -> Demand {
        if draft.milli_cpus > MILLI_CPUS_MAX {
            self.fault("resources.cpus", "out-of-range", "no machine has so many CPUs", "");
        }
        if draft.memory_bytes > MEMORY_BYTES_MAX {
            self.fault("resources.memory", "out-of-range", "no machine has so much memory", "");
        }
        if draft.gpus > GPUS_MAX {
            self.fault("resources.gpus", "out-of-range", format!("{} is above {GPUS_MAX}", draft.gpus), "");
        }
        if draft.gpus == 0 && draft.gpu_memory_bytes > 0 {
            self.fault("resources.gpu_memory", "no-gpus", "it means nothing without GPUs", "add `gpus: 1`");
        }
        if draft.gpus == 0 && !draft.gpu_model.is_empty() {
            self.fault("resources.gpus", "no-gpus", "a model with a count of 0", "write `MODEL:1`");
        }
        if draft.gpu_model.len() > LABEL_BYTES_MAX || draft.gpu_model.chars().any(char::is_control) {
            self.fault("resources.gpus", "bad-name", "the model is too long or has a control character", "");
        }
        Demand {
            milli_cpus: if draft.milli_cpus == 0 { 1_000 } else { draft.milli_cpus },
            memory_bytes: draft.memory_bytes,
            gpus: draft.gpus,
            gpu_model: (!draft.gpu_model.is_empty()).then(|| draft.gpu_model.clone()),
            gpu_memory_bytes: draft.gpu_memory_bytes,
        }
    }

    pub(super) fn array(&mut self, draft: &ArrayDraft) -> Option<Array> {
        let faults = self.faults.len();
        if draft.ranges.is_empty() {
            self.fault("array", "empty-array", "the array has no index", "write `array: 0-9`");
        }
        let (mut elements, mut ranges, mut before) = (0_u64, 0_u64, None);
        for range in &draft.ranges {
            let StepRange { first, last, .. } = *range;
            if first > last {
                self.fault("array", "bad-range", format!("{first}-{last} runs downwards"), "");
                return None;
            }
            if before.is_some_and(|before| first <= before) {
                let message = format!("{first}-{last} overlaps what is before it, or is out of order");
                self.fault("array", "bad-range", message, "write ascending ranges");
                return None;
            }
            before = Some(last);
            let step = u64::from(range.step.max(1));
            let count = u64::from(last - first) / step + 1;
            elements += count;
            ranges += if step == 1 { 1 } else { count };
        }
        if elements > ARRAY_ELEMENTS_MAX {
            let message = format!("the array has {elements} elements, and {ARRAY_ELEMENTS_MAX} are allowed");
            self.fault("array", "array-too-large", message, "submit several jobs, or do more work in each element");
        } else if ranges > ARRAY_RANGES_MAX {
            let message = format!("the array has {ranges} ranges, and {ARRAY_RANGES_MAX} are allowed");
            self.fault("array", "array-too-sparse", message, "number the elements without gaps");
        }
        if self.faults.len() > faults {
            return None;
        }
        let mut indices = RangeSet::new();
        for range in &draft.ranges {
            match range.step {
                0 | 1 => indices.insert(range.first, range.last),
                step => (range.first..=range.last)
                    .step_by(usize::try_from(step).unwrap_or(usize::MAX))
                    .for_each(|index| indices.insert(index, index)),
            }
        }
        Some(Array { indices, running_max: (draft.running_max > 0).then_some(draft.running_max) })
    }

    pub(super) fn after(&mut self, drafts: &[DependencyDraft]) -> Vec<Dependency> {
        if drafts.len() > AFTER_MAX {
            self.fault("after", "too-many", format!("{} jobs, and {AFTER_MAX} are allowed", drafts.len()), "");
            return Vec::new();
        }
        let parsed = drafts.iter().enumerate().map(|(at, draft)| {
            let path = format!("after[{at}]");
            let kind = draft.kind.or_else(|| {
                self.fault(&path, "bad-dependency", "it says neither ok, any nor failed", "write `ok:JOB`");
                None
            });
            let on = match &draft.job {
                Some(JobRefDraft::Id(0)) | None => {
                    self.fault(&path, "bad-dependency", "it names no job", "write `ok:JOB`");
                    None
                }
                Some(JobRefDraft::Id(id)) => Some(DependsOn::Job(JobId(*id))),
                Some(JobRefDraft::Alias(alias)) => self.name(&path, JobName::new(alias)).map(DependsOn::Alias),
            };
            Some(Dependency { kind: kind?, on: on? })
        });
        parsed.collect::<Vec<_>>().into_iter().flatten().collect()
    }

    pub(super) fn retry(&mut self, draft: &RetryDraft) -> Retry {
        let default = Retry::default();
        let limited = [("retry.failure", draft.failure), ("retry.infra", draft.infra), ("retry.oom", draft.oom)];
        for (path, value) in limited {
            if value.is_some_and(|value| value > RETRIES_MAX) {
                self.fault(path, "out-of-range", format!("it is above {RETRIES_MAX}"), "");
            }
        }
        Retry {
            failure: draft.failure.unwrap_or(default.failure),
            infra: draft.infra.unwrap_or(default.infra),
            preempted: draft.preempted,
            oom: draft.oom.unwrap_or(default.oom),
            backoff: self.span("retry.backoff", draft.backoff_ms, BACKOFF_DEFAULT, Millis(0), BACKOFF_MAX),
        }
    }

    pub(super) fn env(&mut self, path: &str, env: BTreeMap<String, String>) -> BTreeMap<String, String> {
        if env.len() > ENV_NAMES_MAX {
            self.fault(path, "too-many", format!("{} names, and {ENV_NAMES_MAX} are allowed", env.len()), "");
        }
        let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        if bytes > ENV_BYTES_MAX {
            let message = format!("it has {bytes} bytes, and {ENV_BYTES_MAX} are allowed");
            self.fault(path, "too-long", message, "put it into a file");
        }
        for (name, value) in &env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                let path = format!("{path}.{}", name.escape_debug());
                self.fault(&path, "bad-env", "a name has no `=`, and neither it nor the value a NUL byte", "");
            }
        }
        env
    }

    pub(super) fn path(&mut self, key: &str, path: String) -> Option<String> {
        if path.is_empty() {
            return None;
        }
        if !path.starts_with('/') {
            self.fault(key, "not-absolute", "it is not an absolute path", "begin it with `/`");
        }
        if path.len() > PATH_BYTES_MAX || path.chars().any(char::is_control) {
            let message = format!("it is longer than {PATH_BYTES_MAX} bytes or has a control character");
            self.fault(key, "bad-path", message, "");
        }
        Some(path)
    }

    /// A URL as far as the core goes: it parses no more of it than tells a slip from an address.
    pub(super) fn notify(&mut self, url: String) -> Option<String> {
        if url.is_empty() {
            return None;
        }
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
        let hint = "write it as `https://host/path`";
        if url.len() > URL_BYTES_MAX || !url.chars().all(|c| c.is_ascii_graphic()) {
            let message = format!("it is longer than {URL_BYTES_MAX} bytes or has other than plain characters");
            self.fault("notify", "bad-url", message, hint);
        } else if host.is_none_or(|host| host.is_empty() || host.starts_with(':')) {
            self.fault("notify", "bad-url", "it names no http or https host", hint);
        } else if host.is_some_and(|host| host.contains('@')) {
            self.fault("notify", "bad-url", "it has a user name in it, which nobody would be told", hint);
        }
        Some(url)
    }

    pub(super) fn requeue_on(&mut self, codes: &[u32], work: Option<&Work>, replicas: u32) -> BTreeSet<u8> {
        let mut set = BTreeSet::new();
        for code in codes {
            match u8::try_from(*code) {
                Ok(code) if code > 0 => {
                    set.insert(code);
                }
                Ok(_) | Err(_) => {
                    self.fault("requeue_on", "out-of-range", format!("{code} is not within 1..=255"), "");
                    break;
                }
            }
        }
        if set.is_empty() && replicas > 1 && matches!(work, Some(Work::Recipe { .. })) {
            set.insert(REQUEUE_CODE);
        }
        set
    }
}
