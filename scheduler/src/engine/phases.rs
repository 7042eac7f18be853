//! When a job passed each step, in microseconds: measured here, volatile, and only for people.
//!
//! The log counts in milliseconds, which is too coarse for a path that takes three of them. A bounded number of the
//! newest jobs is remembered; for others the log's times must do.

use std::collections::BTreeMap;

use gangsaw_core::event::Event;
use gangsaw_core::id::{Index, JobId};
use gangsaw_proto::jobs::v1::Phases;

/// Jobs that are remembered.
const JOBS_MAX: usize = 4_096;

/// BOOTTIME in ns of each step of a job's first element, in its newest attempt.
#[derive(Clone, Copy, Debug, Default)]
struct Stamps {
    element: Index,
    arrived: u64,
    durable: u64,
    granted: u64,
    spawn_us: Option<u64>,
    ran_us: Option<u64>,
    recorded: u64,
}

/// The stamps of the newest jobs.
#[derive(Debug, Default)]
pub(super) struct PhaseBook {
    jobs: BTreeMap<JobId, Stamps>,
}

impl PhaseBook {
    /// Notes what became durable at `durable_ns`.
    pub(super) fn note(&mut self, event: &Event, arrived_ns: u64, durable_ns: u64) {
        match event {
            Event::JobsSubmitted { jobs, .. } => {
                for job in jobs {
                    let element = job.spec.elements().first().unwrap_or(0);
                    let stamps = Stamps { element, arrived: arrived_ns, durable: durable_ns, ..Stamps::default() };
                    self.jobs.insert(job.id, stamps);
                }
                while self.jobs.len() > JOBS_MAX {
                    self.jobs.pop_first();
                }
            }
            Event::ChunkLeased { job, first, last, .. } => self.leased(*job, (*first, *last), durable_ns),
            Event::GangLeased { job, index, .. } => self.leased(*job, (*index, *index), durable_ns),
            Event::TaskStarted { job, index, rank: 0, spawn_us, .. } => {
                if let Some(stamps) = self.of(*job, *index, *index) {
                    stamps.spawn_us = Some(*spawn_us);
                }
            }
            Event::ElementsSucceeded { job, first, last, mean_us, .. } => {
                self.ended(*job, (*first, *last), *mean_us, durable_ns);
            }
            Event::AttemptEnded { job, index, exit, .. } => self.ended(*job, (*index, *index), exit.ran_us, durable_ns),
            Event::JobForgotten(job) => {
                self.jobs.remove(job);
            }
            Event::KeysExpired(_)
            | Event::JobCancelled { .. }
            | Event::JobHeld { .. }
            | Event::JobReleased { .. }
            | Event::ElementsRetried { .. }
            | Event::JobUpdated { .. }
            | Event::NodeRegistered { .. }
            | Event::NodeReturned { .. }
            | Event::NodeInventoryChanged { .. }
            | Event::NodeSilenced(_)
            | Event::NodeModeSet { .. }
            | Event::NodeEvicted(_)
            | Event::NodeClearing { .. }
            | Event::NodeForgotten { .. }
            | Event::QueueSet { .. }
            | Event::TenantSet { .. }
            | Event::Join(_)
            | Event::RoundDecided { .. }
            | Event::LeasePrepared { .. }
            | Event::GangStarted { .. }
            | Event::TaskStarted { .. }
            | Event::RankEnded { .. }
            | Event::GangStopping { .. }
            | Event::ElementsReturned { .. }
            | Event::LeaseTrimmed { .. }
            | Event::LeasePreempted { .. }
            | Event::LeaseFenced { .. }
            | Event::FenceConfirmed { .. }
            | Event::NodeExcluded { .. }
            | Event::Notice { .. }
            | Event::ReportTaken { .. }
            | Event::Token(_)
            | Event::ClusterRestored { .. }
            | Event::Restored(_) => {}
        }
    }

    fn leased(&mut self, job: JobId, (first, last): (Index, Index), granted: u64) {
        if let Some(stamps) = self.of(job, first, last) {
            *stamps = Stamps { granted, spawn_us: None, ran_us: None, recorded: 0, ..*stamps };
        }
    }

    fn ended(&mut self, job: JobId, (first, last): (Index, Index), ran_us: u64, recorded: u64) {
        if let Some(stamps) = self.of(job, first, last) {
            stamps.ran_us = Some(ran_us);
            stamps.recorded = recorded;
        }
    }

    fn of(&mut self, job: JobId, first: Index, last: Index) -> Option<&mut Stamps> {
        self.jobs.get_mut(&job).filter(|stamps| (first..=last).contains(&stamps.element))
    }

    /// Returns a job's phases if it is remembered.
    pub(super) fn phases(&self, job: JobId) -> Option<Phases> {
        let stamps = self.jobs.get(&job)?;
        let between = |from: u64, to: u64| if to == 0 { 0 } else { to.saturating_sub(from) / 1_000 };
        let spawned_us = stamps.spawn_us.unwrap_or(0);
        let ran_us = stamps.ran_us.unwrap_or(0);
        Some(Phases {
            durable_us: between(stamps.arrived, stamps.durable),
            placed_us: between(stamps.durable, stamps.granted),
            spawned_us,
            ran_us,
            // The exit's moment is the grant's plus what the node measured since.
            recorded_us: between(stamps.granted, stamps.recorded).saturating_sub(spawned_us + ran_us),
        })
    }
}
