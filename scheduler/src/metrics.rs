//! Numbers for Prometheus, all named `gangsaw_…` and in base units.
//!
//! Metrics take another road than the log: they are counted where things happen, lost at restart, and decide nothing.
//!
//! Elsewhere: serving them is `http`.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Labels of a metric with one dimension.
type Label = [(&'static str, &'static str); 1];

/// Every number of one scheduler. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Jobs the engine holds, by state.
    pub(crate) jobs: Family<Label, Gauge>,
    /// Nodes that are connected, and those that are silent.
    pub(crate) nodes: Family<Label, Gauge>,
    /// Events that became durable.
    pub(crate) events_appended: Counter,
    /// Batches that became durable.
    pub(crate) batches_appended: Counter,
    /// One append: transaction and fsync.
    pub(crate) append: Histogram,
    /// From a submit's arrival until it was durable.
    pub(crate) submit_to_durable: Histogram,
    /// Inputs refused, by why.
    pub(crate) inputs_refused: Family<Label, Counter>,
    /// Connections there were when the last one came.
    pub(crate) connections: Gauge,
    /// Connections closed at the door, by why.
    pub(crate) connections_refused: Family<Label, Counter>,
    /// Calls denied, by why.
    pub(crate) denied: Family<Label, Counter>,
    /// One while growth is refused for lack of disk.
    pub(crate) disk_full: Gauge,
    /// Snapshots handed to the keeper.
    pub(crate) snapshots: Counter,
    /// Standbys of PostgreSQL that hold every commit, as the leader saw last; zero while another leads.
    pub(crate) synchronous_standbys: Gauge,
    /// The cluster clock.
    pub(crate) cluster_time: Gauge<f64, AtomicU64>,
    /// Watch streams that are open.
    pub(crate) watchers: Gauge,
    /// Tries to tell of a job's end, by what came of them.
    pub(crate) notices: Family<Label, Counter>,
    /// Bytes of logs copied from nodes, before compression.
    pub(crate) log_copied: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// Returns metrics that all read zero.
    #[must_use]
    pub(crate) fn new() -> Metrics {
        let mut registry = Registry::with_prefix("gangsaw");
        // 50 µs … 1.6 s: from a quiet fsync to a disk in trouble.
        let seconds = || Histogram::new(exponential_buckets(0.000_05, 2.0, 16));
        let metrics = Metrics {
            registry: Registry::default(),
            jobs: Family::default(),
            nodes: Family::default(),
            events_appended: Counter::default(),
            batches_appended: Counter::default(),
            append: seconds(),
            submit_to_durable: seconds(),
            inputs_refused: Family::default(),
            connections: Gauge::default(),
            connections_refused: Family::default(),
            denied: Family::default(),
            disk_full: Gauge::default(),
            snapshots: Counter::default(),
            synchronous_standbys: Gauge::default(),
            cluster_time: Gauge::default(),
            watchers: Gauge::default(),
            notices: Family::default(),
            log_copied: Counter::default(),
        };
        registry.register("jobs", "Jobs the engine holds", metrics.jobs.clone());
        registry.register("nodes", "Nodes not forgotten", metrics.nodes.clone());
        registry.register("events_appended", "Events that became durable", metrics.events_appended.clone());
        registry.register("batches_appended", "Batches that became durable", metrics.batches_appended.clone());
        registry.register_with_unit("append", "One append", Unit::Seconds, metrics.append.clone());
        let submit = metrics.submit_to_durable.clone();
        registry.register_with_unit(
            "submit_to_durable",
            "From a submit's arrival until durable",
            Unit::Seconds,
            submit,
        );
        registry.register("inputs_refused", "Inputs refused", metrics.inputs_refused.clone());
        registry.register("connections", "Connections when the last one came", metrics.connections.clone());
        let refused = metrics.connections_refused.clone();
        registry.register("connections_refused", "Connections closed at the door", refused);
        registry.register("denied", "Calls denied", metrics.denied.clone());
        registry.register("disk_full", "One while growth is refused for lack of disk", metrics.disk_full.clone());
        registry.register("snapshots", "Snapshots handed to the keeper", metrics.snapshots.clone());
        let standbys = metrics.synchronous_standbys.clone();
        registry.register("synchronous_standbys", "Standbys of PostgreSQL that hold every commit", standbys);
        let time = metrics.cluster_time.clone();
        registry.register_with_unit("cluster_time", "The cluster clock", Unit::Seconds, time);
        registry.register("watchers", "Watch streams that are open", metrics.watchers.clone());
        registry.register("notices", "Tries to tell of a job's end", metrics.notices.clone());
        let copied = metrics.log_copied.clone();
        registry.register_with_unit("log_copied", "Bytes of logs copied from nodes", Unit::Bytes, copied);
        Metrics { registry, ..metrics }
    }

    /// Returns everything in the OpenMetrics text format.
    #[must_use]
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

#[cfg(test)]
mod tests {
    //! What a scrape reads.

    use super::*;

    #[test]
    fn a_scrape_reads_what_was_counted_in_base_units() {
        let metrics = Metrics::new();
        metrics.events_appended.inc_by(3);
        metrics.append.observe(0.000_3);
        metrics.jobs.get_or_create(&[("state", "running")]).set(2);
        let text = metrics.render();
        assert!(text.contains("gangsaw_events_appended_total 3\n"), "{text}");
        assert!(text.contains("gangsaw_append_seconds_count 1\n"), "{text}");
        assert!(text.contains("gangsaw_jobs{state=\"running\"} 2\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
