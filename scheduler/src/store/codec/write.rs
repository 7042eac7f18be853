//! From an event to its message.

use gangsaw_core::event::{Event, GangPart, Restored};
use gangsaw_core::time::Millis;
use gangsaw_proto::log::v1 as log;
use gangsaw_proto::log::v1::record::Event as Wire;

use super::part::{self, by, cause, exit, pairs};
use super::{body, lease};
use crate::wire::{node, terms};

/// Returns the message of `event`.
#[expect(clippy::too_many_lines, reason = "one short arm a variant: the table of the stored log")]
pub(super) fn event(event: &Event) -> Wire {
    match event {
        Event::JobsSubmitted { by: who, tenant, user, key, digest, jobs } => Wire::JobsSubmitted(log::JobsSubmitted {
            by: by(who),
            tenant: tenant.to_string(),
            user: user.clone(),
            key: key.to_string(),
            digest: *digest,
            jobs: jobs.iter().map(part::new_job).collect(),
        }),
        Event::KeysExpired { used_until } => Wire::KeysExpired(log::KeysExpired { used_until_ms: used_until.0 }),
        Event::JobCancelled { by: who, job, elements, cause: why } => Wire::JobCancelled(log::JobCancelled {
            by: by(who),
            job_id: job.0,
            elements: pairs(elements),
            cause: Some(cause(*why)),
        }),
        Event::JobHeld { by: who, job } => Wire::JobHeld(log::JobHeld { by: by(who), job_id: job.0 }),
        Event::JobReleased { by: who, job } => Wire::JobReleased(log::JobReleased { by: by(who), job_id: job.0 }),
        Event::ElementsRetried { by: who, job, elements, after } => Wire::ElementsRetried(log::ElementsRetried {
            by: by(who),
            job_id: job.0,
            elements: pairs(elements),
            after: after.iter().map(part::after).collect(),
        }),
        Event::JobUpdated { by: who, job, priority, queue, time_limit } => Wire::JobUpdated(log::JobUpdated {
            by: by(who),
            job_id: job.0,
            priority: *priority,
            queue: queue.as_ref().map(ToString::to_string),
            time_limit_ms: time_limit.map(|Millis(ms)| ms),
        }),
        Event::JobForgotten { job } => Wire::JobForgotten(log::JobForgotten { job_id: job.0 }),
        Event::NodeRegistered { .. }
        | Event::NodeReturned { .. }
        | Event::NodeInventoryChanged { .. }
        | Event::NodeSilenced { .. }
        | Event::NodeModeSet { .. }
        | Event::NodeForgotten { .. }
        | Event::QueueSet { .. }
        | Event::NodeExcluded { .. }
        | Event::ReportTaken { .. } => node_event(event),
        Event::RoundDecided { .. } | Event::ChunkLeased { .. } | Event::GangLeased { .. } => round_event(event),
        Event::LeasePrepared { lease, job, port } => {
            let port = u32::from(*port);
            Wire::LeasePrepared(log::LeasePrepared { lease_id: lease.0, job_id: job.0, port })
        }
        Event::GangStarted { job, index, master } => {
            let master = Some(part::master(master));
            Wire::GangStarted(log::GangStarted { job_id: job.0, index: *index, master })
        }
        Event::TaskStarted { lease, job, index, rank, pid, start_ticks, output_dir, spawn_us } => {
            Wire::TaskStarted(log::TaskStarted {
                lease_id: lease.0,
                job_id: job.0,
                index: *index,
                rank: *rank,
                pid: *pid,
                start_ticks: *start_ticks,
                output_dir: output_dir.clone(),
                spawn_us: *spawn_us,
            })
        }
        Event::ElementsSucceeded { .. }
        | Event::RankEnded { .. }
        | Event::GangStopping { .. }
        | Event::AttemptEnded { .. }
        | Event::ElementsReturned { .. }
        | Event::LeaseTrimmed { .. }
        | Event::LeaseFenced { .. }
        | Event::FenceConfirmed { .. } => end_event(event),
        Event::Restored(part) => restored(part),
    }
}
