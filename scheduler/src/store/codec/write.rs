//! From an event to its message.

use gangsaw_core::event::{By, Event, GangPart, NewJob, Restored};
use gangsaw_core::id::{Actor, Attempt, IdempotencyKey, Index, JobId, LeaseId, NodeId, NodeName, Tenant};
use gangsaw_core::job::body::{After, CancelCause, DeviceChoice};
use gangsaw_core::job::record::{Exit, Next, Outcome};
use gangsaw_core::lease::RankHold;
use gangsaw_core::ranges::RangeSet;
use gangsaw_core::resources::Inventory;
use gangsaw_core::time::{Millis, Time};
use gangsaw_proto::log::v1 as log;
use gangsaw_proto::log::v1::record::Event as Wire;

use super::part::{self, by, pairs};
use super::{body, lease as leases};
use crate::wire::{node as nodes, terms};

/// Returns the message of `event`.
pub(super) fn event(event: &Event) -> Wire {
    match event {
        Event::JobsSubmitted { by: who, tenant, user, key, digest, jobs } => {
            Wire::JobsSubmitted(submitted(who, tenant, user, key, *digest, jobs))
        }
        Event::KeysExpired { used_until } => Wire::KeysExpired(log::KeysExpired { used_until_ms: used_until.0 }),
        Event::JobCancelled { by, job, elements, cause } => Wire::JobCancelled(cancelled(by, *job, elements, *cause)),
        Event::JobHeld { by: who, job } => Wire::JobHeld(log::JobHeld { by: by(who), job_id: job.0 }),
        Event::JobReleased { by: who, job } => Wire::JobReleased(log::JobReleased { by: by(who), job_id: job.0 }),
        Event::ElementsRetried { by, job, elements, after } => {
            Wire::ElementsRetried(retried(by, *job, elements, after))
        }
        Event::JobUpdated { by: who, job, priority, queue, time_limit } => {
            let (queue, time_limit_ms) = (queue.as_ref().map(ToString::to_string), time_limit.map(|Millis(ms)| ms));
            let (by, job_id, priority) = (by(who), job.0, *priority);
            Wire::JobUpdated(log::JobUpdated { by, job_id, priority, queue, time_limit_ms })
        }
        Event::JobForgotten { job } => Wire::JobForgotten(log::JobForgotten { job_id: job.0 }),
        Event::NodeRegistered { node, name, uuid, boot_id, agent_version, inventory } => {
            Wire::NodeRegistered(registered(*node, name, [uuid, boot_id, agent_version], inventory))
        }
        Event::NodeReturned { node, boot_id, agent_version } => {
            Wire::NodeReturned(returned_node(*node, boot_id, agent_version))
        }
        Event::NodeInventoryChanged { node, inventory } => {
            let inventory = Some(nodes::inventory(inventory));
            Wire::NodeInventoryChanged(log::NodeInventoryChanged { node_id: node.0, inventory })
        }
        Event::NodeSilenced { node } => Wire::NodeSilenced(log::NodeSilenced { node_id: node.0 }),
        Event::NodeModeSet { by: who, node, mode, reason } => {
            let (by, mode, reason) = (by(who), terms::mode(*mode).into(), reason.clone());
            Wire::NodeModeSet(log::NodeModeSet { by, node_id: node.0, mode, reason })
        }
        Event::NodeForgotten { by: who, node } => {
            Wire::NodeForgotten(log::NodeForgotten { by: by(who), node_id: node.0 })
        }
        Event::QueueSet { by: who, queue, limits } => {
            let (tenant, queue) = (queue.tenant.to_string(), queue.name.to_string());
            Wire::QueueSet(log::QueueSet { by: by(who), tenant, queue, limits: part::limits(*limits) })
        }
        Event::RoundDecided { .. } | Event::ChunkLeased { .. } | Event::GangLeased { .. } => placement(event),
        Event::LeasePrepared { .. }
        | Event::GangStarted { .. }
        | Event::TaskStarted { .. }
        | Event::ElementsSucceeded { .. }
        | Event::RankEnded { .. }
        | Event::GangStopping { .. }
        | Event::AttemptEnded { .. }
        | Event::ElementsReturned { .. }
        | Event::LeaseTrimmed { .. }
        | Event::LeaseFenced { .. }
        | Event::FenceConfirmed { .. }
        | Event::NodeExcluded { .. }
        | Event::ReportTaken { .. }
        | Event::Restored(_) => execution(event),
    }
}
