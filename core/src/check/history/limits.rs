//! Limits of tenants, queues and arrays, judged at each grant.

use super::{Check, History};
use crate::check::ensure;
use crate::id::{JobId, LeaseId};
use crate::queue::{Limits, QueueKey};

impl History {
    /// No lease may be granted over a limit.
    pub(super) fn within_limits(&self, job: JobId, lease: LeaseId) -> Check {
        let Some(track) = self.jobs.get(&job) else { return Ok(()) };
        if let Some(most) = track.running_max {
            let runs = self.running(|other| other == job);
            ensure(runs <= u64::from(most), || format!("job {job} runs {runs} elements and may run {most}"))?;
        }
        if let Some(limits) = self.limits.get(&track.queue) {
            self.within(*limits, lease, &format!("{:?}", track.queue), |key| *key == track.queue)?;
        }
        if let Some(limits) = self.tenant_limits.get(&track.queue.tenant) {
            let who = format!("tenant {}", track.queue.tenant);
            self.within(*limits, lease, &who, |key| key.tenant == track.queue.tenant)?;
        }
        Ok(())
    }

    /// Returns how many elements of some jobs run.
    fn running(&self, of: impl Fn(JobId) -> bool) -> u64 {
        let heads = self.leases.range(self.oldest..).filter(|(id, lease)| lease.head == **id).map(|(_, lease)| lease);
        let live = heads.filter(|lease| !lease.fenced && lease.live > 0 && of(lease.job));
        live.map(|lease| lease.live.min(lease.slots)).sum()
    }

    fn within(&self, limits: Limits, lease: LeaseId, who: &str, is_in: impl Fn(&QueueKey) -> bool) -> Check {
        let of = |job: JobId| self.jobs.get(&job).is_some_and(|other| is_in(&other.queue));
        if let Some(most) = limits.running_max {
            let runs = self.running(of);
            ensure(runs <= most, || format!("{who} runs {runs} elements and may run {most}"))?;
        }
        let takes_gpus = self.leases.get(&lease).is_some_and(|track| !track.devices.is_empty());
        if let Some(most) = limits.gpus_max.filter(|_| takes_gpus) {
            // A fenced lease holds its devices on the node, and counts for its queue no more.
            let counts = |lease: &&LeaseId| self.leases.get(lease).is_some_and(|track| !track.fenced && of(track.job));
            let gpus = self.holders.values().filter(counts).count() as u64;
            ensure(gpus <= most, || format!("{who} holds {gpus} GPUs and may hold {most}"))?;
        }
        Ok(())
    }
}
