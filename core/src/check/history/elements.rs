//! Where each element of a job stands: only those that deviate are kept one by one.

use std::collections::BTreeMap;

use super::{Check, History};
use crate::check::{Violation, ensure};
use crate::id::{Attempt, Index, JobId, LeaseId};
use crate::queue::QueueKey;
use crate::ranges::RangeSet;

/// Where an element stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    Waits,
    Leased(LeaseId),
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) stand: Stand,
    /// The newest attempt that was leased.
    pub(super) attempt: Attempt,
    /// The newest attempt that ended.
    pub(super) ended: Attempt,
    pub(super) cancelled: bool,
}

/// What an element is before anything happened to it.
const FRESH: Element = Element { stand: Stand::Waits, attempt: 0, ended: 0, cancelled: false };
/// What nearly every element comes to.
const ONCE: Element = Element { stand: Stand::Ended, attempt: 1, ended: 1, cancelled: false };

#[derive(Clone, Debug)]
pub(super) struct JobTrack {
    pub(super) queue: QueueKey,
    pub(super) ranks: u32,
    pub(super) running_max: Option<u32>,
    /// Somebody is told of its end.
    pub(super) tells: bool,
    pub(super) all: RangeSet,
    /// Elements that have not ended.
    pub(super) open: u64,
    /// Elements that ended in their first attempt.
    pub(super) once: RangeSet,
    /// Elements that are neither fresh nor of `once`.
    pub(super) deviating: BTreeMap<Index, Element>,
}

impl JobTrack {
    pub(super) fn get(&self, index: Index) -> Option<Element> {
        let kept = self.deviating.get(&index).copied();
        kept.or_else(|| self.once.contains(index).then_some(ONCE)).or_else(|| self.all.contains(index).then_some(FRESH))
    }

    fn put(&mut self, index: Index, element: Element) {
        if element == ONCE {
            self.deviating.remove(&index);
            self.once.insert(index, index);
        } else {
            self.once.remove(index, index);
            self.deviating.insert(index, element);
        }
    }
}

impl History {
    /// Changes an element, whether or not the change may be.
    pub(super) fn change(&mut self, job: JobId, index: Index, change: impl FnOnce(&mut Element) -> Check) -> Check {
        let unknown = || Violation(format!("{job}[{index}] does not exist"));
        let track = self.jobs.get_mut(&job).ok_or_else(unknown)?;
        let mut element = track.get(index).ok_or_else(unknown)?;
        let changed = change(&mut element);
        track.put(index, element);
        changed
    }

    pub(super) fn element(&self, job: JobId, index: Index) -> Result<Element, Violation> {
        let found = self.jobs.get(&job).and_then(|track| track.get(index));
        found.ok_or_else(|| Violation(format!("{job}[{index}] does not exist")))
    }

    pub(super) fn ends(&mut self, job: JobId, index: Index) -> Check {
        self.waiting = self.waiting.saturating_sub(1);
        if let Some(track) = self.jobs.get_mut(&job) {
            track.open = track.open.saturating_sub(1);
        }
        self.change(job, index, |element| {
            let open = element.stand != Stand::Ended;
            element.stand = Stand::Ended;
            ensure(open, || format!("{job}[{index}] ended twice"))
        })
    }

    /// An element that ended waits again.
    pub(super) fn opens(&mut self, job: JobId, index: Index) -> Check {
        self.waiting += 1;
        if let Some(track) = self.jobs.get_mut(&job) {
            track.open += 1;
        }
        self.notices.remove(&job);
        self.change(job, index, |element| {
            let ended = element.stand == Stand::Ended;
            *element = Element { stand: Stand::Waits, cancelled: false, ..*element };
            ensure(ended, || format!("{job}[{index}] was retried before it ended"))
        })
    }
}
