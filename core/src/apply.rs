//! Folds one event into the state. Never fails: what may happen was decided before the event was logged.
//!
//! There is no second way to change the state: recovery, snapshots, the engine and the simulator all fold events. An
//! event about something that is gone changes nothing; an event that contradicts the state is a broken invariant and
//! panics.
//!
//! Elsewhere: which events there are is `decide` and `place`; the indices are kept by `state::index`.

mod ends;
mod jobs;
mod leases;
mod nodes;
mod notices;
mod snapshot;

pub(crate) use leases::{CHUNK_LATE_AFTER, INFRA_STARTS_WITHIN};
pub use snapshot::snapshot_events;

use crate::event::{Event, TokenEvent};
use crate::state::State;
use crate::time::Time;

/// Folds `event`, which became true at `at`, into `state`.
pub fn apply(state: &mut State, at: Time, event: &Event) {
    state.advance(at);
    match event {
        Event::JobsSubmitted { .. } => state.jobs_submitted(at, event),
        Event::KeysExpired(used_until) => state.keys.expire(*used_until),
        Event::JobCancelled { job, elements, cause, .. } => state.job_cancelled(at, *job, elements, *cause),
        Event::JobHeld { job, .. } => state.job_held(*job, true),
        Event::JobReleased { job, .. } => state.job_held(*job, false),
        Event::ElementsRetried { job, elements, after, .. } => state.elements_retried(at, *job, elements, after),
        Event::JobUpdated { job, priority, queue, time_limit, .. } => {
            state.job_updated(*job, *priority, queue.as_ref(), *time_limit);
        }
        Event::Notice { job, tries, change } => state.notice_changed(*job, *tries, change),
        Event::JobForgotten(job) => state.job_forgotten(*job),
        Event::NodeRegistered { .. } => state.node_registered(event),
        Event::NodeReturned { node, boot_id, agent_version } => state.node_returned(*node, boot_id, agent_version),
        Event::NodeInventoryChanged { node, inventory } => state.node_inventory(*node, inventory),
        Event::NodeSilenced(node) => state.node_silenced(at, *node),
        Event::NodeModeSet { node, mode, reason, evict_at, .. } => state.node_mode(*node, *mode, reason, *evict_at),
        Event::NodeEvicted(node) => state.set_eviction(*node, None),
        Event::NodeClearing { node, leases } => state.node_clearing(*node, leases),
        Event::NodeForgotten { node, .. } => state.node_forgotten(*node),
        Event::QueueSet { queue, limits, .. } => state.queue_set(queue, *limits),
        Event::TenantSet { tenant, limits, .. } => state.tenant_set(tenant, *limits),
        Event::RoundDecided { round, more, .. } => state.round_decided(*round, *more),
        Event::ChunkLeased { .. } => state.chunk_leased(at, event),
        Event::GangLeased { .. } => state.gang_leased(at, event),
        Event::LeasePrepared { lease, port, .. } => state.lease_prepared(*lease, *port),
        Event::GangStarted { job, index, master } => state.gang_started(*job, *index, master),
        Event::TaskStarted { .. } => state.task_started(at, event),
        Event::ElementsSucceeded { lease, first, last, mean_us, .. } => {
            state.elements_succeeded(at, *lease, (*first, *last), *mean_us);
        }
        Event::RankEnded { lease, rank, exit, .. } => state.rank_ended(at, *lease, *rank, exit),
        Event::GangStopping { job, index, outcome, exit, late } => {
            state.gang_stopping(*job, *index, *outcome, exit);
            late.iter().for_each(|node| state.count_infra_start(at, *job, *node));
        }
        Event::AttemptEnded { .. } => state.attempt_ended(at, event),
        Event::ElementsReturned { lease, first, last, .. } => state.elements_returned(at, *lease, *first, *last),
        Event::LeaseTrimmed { lease, .. } => state.lease_trimmed(at, *lease),
        Event::LeasePreempted { lease, .. } => state.lease_preempted(*lease),
        Event::LeaseFenced { lease, .. } => state.lease_fenced(*lease),
        Event::FenceConfirmed { lease, first, last, rank, .. } => {
            state.fence_confirmed(*lease, *first, *last, *rank);
        }
        Event::NodeExcluded { job, node, until, reason } => state.node_excluded(*job, *node, *until, reason),
        Event::ReportTaken { node, seq } => state.report_taken(*node, *seq),
        Event::Join(event) => state.joins.apply(at, event),
        Event::Token(TokenEvent::Created { token, .. }) => state.tokens.insert((**token).clone()),
        Event::Token(TokenEvent::Revoked { token, .. }) => state.tokens.remove(*token),
        Event::Token(TokenEvent::Expired { until }) => state.tokens.expire(*until),
        Event::ClusterRestored(raised) => state.cluster_restored(at, raised),
        Event::Restored(restored) => state.restored(restored),
    }
}
