//! One progress message: parsed strictly in what it holds, tolerantly in what it adds.
//!
//! Unknown keys are ignored, so that a newer trainer works with an older agent. A known key of the wrong type drops
//! the whole message: half of it would be worse than none.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::DATAGRAM_MAX;

/// Most metrics of one task.
const METRICS_MAX: usize = 64;
/// Longest name of a metric, and longest path of a checkpoint, in bytes.
const NAME_MAX: usize = 128;
const PATH_MAX: usize = 1024;

/// What a task last said of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Update {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) epoch: Option<f64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "numbers")]
    pub(crate) metrics: BTreeMap<String, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<String>,
    /// Which task of the lease it is about, as `GANGSAW_TASK_ID` says it. Stays on the node.
    #[serde(default, skip_serializing)]
    pub(crate) task: Option<String>,
}

/// A metric that is null has no value now: JSON has no other word for a NaN.
fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let all = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
    Ok(all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}

impl Update {
    /// Parses one datagram. Nothing when it is not a valid message.
    pub(crate) fn parse(datagram: &[u8]) -> Option<Update> {
        if datagram.len() > DATAGRAM_MAX {
            return None;
        }
        let update: Update = serde_json::from_slice(datagram).ok()?;
        let plain = |text: &str, max: usize| text.len() <= max && !text.chars().any(char::is_control);
        let good = update.metrics.len() <= METRICS_MAX
            && update.metrics.iter().all(|(name, value)| plain(name, NAME_MAX) && value.is_finite())
            && update.epoch.is_none_or(f64::is_finite)
            && update.checkpoint.as_deref().is_none_or(|path| plain(path, PATH_MAX));
        good.then_some(update)
    }

    /// Lets a newer message replace what it names.
    pub(crate) fn merge(&mut self, newer: Update) {
        self.step = newer.step.or(self.step);
        self.total = newer.total.or(self.total);
        self.epoch = newer.epoch.or(self.epoch);
        self.checkpoint = newer.checkpoint.or(self.checkpoint.take());
        let mut merged = std::mem::take(&mut self.metrics);
        merged.extend(newer.metrics.clone());
        // Names that change with every message must not pile up.
        self.metrics = if merged.len() <= METRICS_MAX { merged } else { newer.metrics };
    }

    /// The message as the scheduler gets it: at most 4 KiB, or nothing.
    pub(crate) fn to_json(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok().filter(|json| json.len() <= DATAGRAM_MAX)
    }
}
