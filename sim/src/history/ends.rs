//! How elements end, wait again and come back, as the log says.

use gangsaw_core::id::{Attempt, Index, JobId, LeaseId};
use gangsaw_core::job::record::{Next, Outcome};

use super::{Check, History, Stand, held};
use crate::truth::Truth;

impl History {
    pub(super) fn cancelled(&mut self, job: JobId, index: Index) -> Check {
        let element = self.element(job, index)?;
        element.cancelled = true;
        match element.stand {
            Stand::Waits => self.ends(job, index),
            Stand::Leased(_) => Ok(()),
            Stand::Ended => Err(format!("{job}[{index}] had ended and was cancelled")),
        }
    }

    pub(super) fn retried(&mut self, job: JobId, index: Index) -> Check {
        let element = self.element(job, index)?;
        let ended = element.stand == Stand::Ended;
        element.stand = Stand::Waits;
        element.cancelled = false;
        self.waiting += 1;
        held(ended, || format!("{job}[{index}] was retried before it ended"))
    }

    pub(super) fn completed(&mut self, lease: LeaseId, job: JobId, index: Index, truth: &Truth) -> Check {
        self.is_current(lease, Some(index))?;
        let element = self.element(job, index)?;
        let attempt = element.attempt;
        element.ended = attempt;
        let well = truth.went_well((job, index, 0, attempt));
        held(well, || format!("{job}[{index}] COMPLETED in attempt {attempt} without an exit 0"))?;
        self.leaves(lease);
        self.ends(job, index)
    }

    #[expect(clippy::too_many_arguments, reason = "they are the fields of one event")]
    pub(super) fn attempt_ended(
        &mut self,
        lease: LeaseId,
        job: JobId,
        index: Index,
        attempt: Attempt,
        outcome: Outcome,
        next: Next,
        truth: &Truth,
    ) -> Check {
        let track = self.leases.get(&lease).ok_or_else(|| format!("lease {lease} was never granted"))?;
        let (head, fenced) = (track.head, track.fenced);
        let ranks = self.jobs.get(&job).map_or(0, |track| track.ranks);
        // A gang may have been stopped for another reason before one of its leases was fenced.
        let by_fence = match outcome {
            Outcome::Fenced | Outcome::Infra | Outcome::Cancelled => true,
            Outcome::Ok | Outcome::Failed | Outcome::Oom | Outcome::Timeout | Outcome::Preempted => false,
        };
        held(!fenced || by_fence || ranks > 1, || format!("{job}[{index}] ended {outcome:?} under a fenced lease"))?;
        let element = self.element(job, index)?;
        let current = element.stand == Stand::Leased(head) && element.attempt == attempt;
        held(current, || format!("{job}[{index}] ended attempt {attempt} of lease {lease} and stands {element:?}"))?;
        element.ended = attempt;
        if outcome == Outcome::Ok {
            let well = (0..ranks).all(|rank| truth.went_well((job, index, rank, attempt)));
            held(well, || format!("{job}[{index}] ended ok in attempt {attempt} without an exit 0 of every rank"))?;
        }
        self.leaves(lease);
        match next {
            Next::Retry { .. } => {
                self.element(job, index)?.stand = Stand::Waits;
                Ok(())
            }
            Next::End(_) => self.ends(job, index),
        }
    }

    pub(super) fn returned(&mut self, lease: LeaseId, job: JobId, index: Index) -> Check {
        self.is_current(lease, Some(index))?;
        let element = self.element(job, index)?;
        element.stand = Stand::Waits;
        let cancelled = element.cancelled;
        self.leaves(lease);
        if cancelled { self.ends(job, index) } else { Ok(()) }
    }
}
