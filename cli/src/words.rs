//! The wire's enums and times as people and programs read them.

use std::time::Duration;

use gangsaw_proto::jobs::v1::{DeviceReason, Outcome, State, StateCount, Task};
use serde_json::{Value, json};

/// A state's name, such as `RUNNING`.
pub(crate) fn state(state: State) -> &'static str {
    match state {
        State::Unspecified => "UNKNOWN",
        State::Pending => "PENDING",
        State::Held => "HELD",
        State::Starting => "STARTING",
        State::Running => "RUNNING",
        State::Completing => "COMPLETING",
        State::Completed => "COMPLETED",
        State::Failed => "FAILED",
        State::Cancelled => "CANCELLED",
        State::Timeout => "TIMEOUT",
        State::OutOfMemory => "OUT_OF_MEMORY",
        State::NodeFail => "NODE_FAIL",
    }
}

/// Every state a job can be asked for by name.
pub(crate) const STATES: [State; 11] = [
    State::Pending,
    State::Held,
    State::Starting,
    State::Running,
    State::Completing,
    State::Completed,
    State::Failed,
    State::Cancelled,
    State::Timeout,
    State::OutOfMemory,
    State::NodeFail,
];

/// True when nothing more will happen.
pub(crate) fn is_terminal(state: State) -> bool {
    match state {
        State::Completed | State::Failed | State::Cancelled | State::Timeout | State::OutOfMemory | State::NodeFail => {
            true
        }
        State::Unspecified | State::Pending | State::Held | State::Starting | State::Running | State::Completing => {
            false
        }
    }
}

/// An outcome's name, such as `ok`; nothing before the first attempt ended.
pub(crate) fn outcome(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Unspecified => None,
        Outcome::Ok => Some("ok"),
        Outcome::Failed => Some("failed"),
        Outcome::Oom => Some("oom"),
        Outcome::Timeout => Some("timeout"),
        Outcome::Preempted => Some("preempted"),
        Outcome::Infra => Some("infra"),
        Outcome::Cancelled => Some("cancelled"),
        Outcome::Fenced => Some("fenced"),
    }
}

/// Text, or null when it is empty.
pub(crate) fn text_or_null(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

/// A time as RFC 3339 in UTC, or null.
pub(crate) fn time(at: Option<prost_types::Timestamp>) -> Value {
    at.and_then(instant).map_or(Value::Null, |at| at.to_string().into())
}

/// The wire's time as an instant.
pub(crate) fn instant(at: prost_types::Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(at.seconds, at.nanos).ok()
}

/// From one time to the other; nothing when either is missing or they are the wrong way round.
pub(crate) fn between(from: Option<prost_types::Timestamp>, to: Option<prost_types::Timestamp>) -> Option<Duration> {
    Duration::try_from(instant(to?)?.duration_since(instant(from?)?)).ok()
}

/// Now, on the wire.
pub(crate) fn now() -> prost_types::Timestamp {
    let now = jiff::Timestamp::now();
    prost_types::Timestamp { seconds: now.as_second(), nanos: now.subsec_nanosecond() }
}

/// Why the device was chosen, or null.
pub(crate) fn device_reason(reason: Option<&DeviceReason>) -> Value {
    reason.map_or(Value::Null, |reason| json!({ "code": reason.code, "detail": reason.detail }))
}

/// Counts by state.
pub(crate) fn counts(counts: &[StateCount]) -> Value {
    counts
        .iter()
        .map(|count| (state(count.state()).to_owned(), Value::from(count.count)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A task as programs read it.
pub(crate) fn task(task: &Task) -> Value {
    json!({
        "index": task.index,
        "rank": task.rank,
        "state": state(task.state()),
        "attempt": task.attempt,
        "node": text_or_null(&task.node),
        "pid": (task.pid != 0).then_some(task.pid),
        "exit_code": task.exit_code,
        "signal": task.signal,
        "outcome": outcome(task.outcome()),
        "detail": text_or_null(&task.detail),
        "started_at": time(task.started_at),
        "ended_at": time(task.ended_at),
        "gpu_uuids": task.gpu_uuids,
        "output_dir": text_or_null(&task.output_dir),
        "progress": task.progress.as_ref().map(|progress| json!({
            "step": progress.step,
            "total": progress.total,
            "epoch": progress.epoch,
            "metrics": sorted(&progress.metrics),
            "checkpoint": text_or_null(&progress.checkpoint),
        })),
    })
}

/// Labels on one line, harmless to a terminal: `lr=1e-4 seed=1`.
pub(crate) fn labels(labels: &std::collections::HashMap<String, String>) -> String {
    let ordered: std::collections::BTreeMap<_, _> = labels.iter().collect();
    let pairs: Vec<String> = ordered.iter().map(|(key, value)| format!("{key}={value}")).collect();
    crate::spec::read::harmless(&pairs.join(" "))
}

/// A map of the wire in the order of its keys.
pub(crate) fn sorted<V: Clone + Into<Value>>(map: &std::collections::HashMap<String, V>) -> Value {
    let ordered: std::collections::BTreeMap<_, _> = map.iter().collect();
    ordered
        .into_iter()
        .map(|(key, value)| (key.clone(), value.clone().into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Bytes for people.
pub(crate) fn bytes(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// Cores for people.
pub(crate) fn cores(milli_cpus: u64) -> String {
    if milli_cpus.is_multiple_of(1000) {
        (milli_cpus / 1000).to_string()
    } else {
        format!("{:.1}", milli_cpus as f64 / 1000.0)
    }
}
