//! Limits of queues and arrays, judged at each grant.

use gangsaw_core::id::{JobId, LeaseId};

use super::{Check, History, held};

impl History {
    /// No lease may be granted over a limit.
    pub(super) fn within_limits(&self, job: JobId, lease: LeaseId) -> Check {
        let Some(track) = self.jobs.get(&job) else { return Ok(()) };
        let mut of_job = 0;
        let mut of_queue = 0;
        for lease in self.leases.range(self.oldest..).map(|(id, lease)| (lease.head == *id, lease)) {
            let (true, lease) = lease else { continue };
            if lease.fenced || lease.live == 0 {
                continue;
            }
            let runs = lease.live.min(lease.slots);
            of_job += if lease.job == job { runs } else { 0 };
            let in_queue = self.jobs.get(&lease.job).is_some_and(|other| other.queue == track.queue);
            of_queue += if in_queue { runs } else { 0 };
        }
        let fits = track.running_max.is_none_or(|most| of_job <= u64::from(most));
        held(fits, || format!("job {job} runs {of_job} elements and may run {:?}", track.running_max))?;
        let Some(limits) = self.limits.get(&track.queue) else { return Ok(()) };
        if let Some(most) = limits.running_max {
            held(of_queue <= most, || format!("queue {:?} runs {of_queue} elements and may run {most}", track.queue))?;
        }
        let takes_gpus = self.leases.get(&lease).is_some_and(|track| !track.devices.is_empty());
        if let Some(most) = limits.gpus_max.filter(|_| takes_gpus) {
            let of_queue = |lease: &&LeaseId| {
                // A fenced lease holds its devices on the node, and counts for its queue no more.
                let live = self.leases.get(lease).filter(|track| !track.fenced);
                let job = live.and_then(|track| self.jobs.get(&track.job));
                job.is_some_and(|job| job.queue == track.queue)
            };
            let gpus = self.holders.values().filter(of_queue).count() as u64;
            held(gpus <= most, || format!("queue {:?} holds {gpus} GPUs and may hold {most}", track.queue))?;
        }
        Ok(())
    }
}
