//! How elements end, wait again and come back, as the log says.

use super::{Check, History, Stand, Truth};
use crate::check::ensure;
use crate::id::{Attempt, Index, JobId, LeaseId};
use crate::job::record::{Next, Outcome};

impl History {
    pub(super) fn cancelled(&mut self, job: JobId, index: Index) -> Check {
        self.change(job, index, |element| {
            element.cancelled = true;
            Ok(())
        })?;
        match self.element(job, index)?.stand {
            Stand::Waits => self.ends(job, index),
            Stand::Leased(_) => Ok(()),
            Stand::Ended => ensure(false, || format!("{job}[{index}] had ended and was cancelled")),
        }
    }

    pub(super) fn completed(&mut self, lease: LeaseId, job: JobId, index: Index, truth: &impl Truth) -> Check {
        self.is_current(lease, Some(index))?;
        let attempt = self.element(job, index)?.attempt;
        self.change(job, index, |element| {
            element.ended = attempt;
            Ok(())
        })?;
        let well = truth.went_well((job, index, 0, attempt));
        ensure(well, || format!("{job}[{index}] COMPLETED in attempt {attempt} without an exit 0"))?;
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
        truth: &impl Truth,
    ) -> Check {
        let track = self.lease(lease)?;
        let (head, fenced) = (track.head, track.fenced);
        let ranks = self.jobs.get(&job).map_or(0, |track| track.ranks);
        // A gang may have been stopped for another reason before one of its leases was fenced.
        let by_fence = match outcome {
            Outcome::Fenced | Outcome::Infra | Outcome::Cancelled => true,
            Outcome::Ok | Outcome::Failed | Outcome::Oom | Outcome::Timeout | Outcome::Preempted => false,
        };
        ensure(!fenced || by_fence || ranks > 1, || format!("{job}[{index}] ended {outcome:?} under a fenced lease"))?;
        self.change(job, index, |element| {
            let before = *element;
            element.ended = attempt;
            let current = before.stand == Stand::Leased(head) && before.attempt == attempt;
            ensure(current, || format!("{job}[{index}] ended attempt {attempt} of lease {lease} and stands {before:?}"))
        })?;
        if outcome == Outcome::Ok {
            let well = (0..ranks).all(|rank| truth.went_well((job, index, rank, attempt)));
            ensure(well, || format!("{job}[{index}] ended ok in attempt {attempt} without an exit 0 of every rank"))?;
        }
        self.leaves(lease);
        match next {
            Next::Retry { .. } => self.change(job, index, |element| {
                element.stand = Stand::Waits;
                Ok(())
            }),
            Next::End(_) => self.ends(job, index),
        }
    }

    pub(super) fn returned(&mut self, lease: LeaseId, job: JobId, index: Index) -> Check {
        self.is_current(lease, Some(index))?;
        self.change(job, index, |element| {
            element.stand = Stand::Waits;
            Ok(())
        })?;
        let cancelled = self.element(job, index)?.cancelled;
        self.leaves(lease);
        if cancelled { self.ends(job, index) } else { Ok(()) }
    }
}
