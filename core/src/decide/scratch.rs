//! The leases and gangs that one decision touches, as they will be after the events it has made so far.
//!
//! A report has several facts, and each must see what the ones before it did. The scratch copies the few leases a
//! report is about; the state stays as it is.

use std::collections::{BTreeMap, BTreeSet};

use super::Decider;
use crate::effect::{Effect, Step};
use crate::event::Event;
use crate::id::{Index, JobId, LeaseId, NodeId};
use crate::job::record::{Cause, Exit, Outcome};
use crate::lease::{Gang, Lease, Stopping};
use crate::ranges::RangeSet;

/// A step in the making.
pub(super) struct Scratch<'a> {
    pub(super) decider: &'a Decider<'a>,
    pub(super) step: Step,
    leases: BTreeMap<LeaseId, Option<Lease>>,
    gangs: BTreeMap<(JobId, Index), Option<Gang>>,
    /// Jobs that nodes failed to start in this decision.
    pub(super) infra_starts: BTreeSet<(JobId, NodeId)>,
}

impl<'a> Scratch<'a> {
    pub(super) fn new(decider: &'a Decider<'a>) -> Self {
        let step = Step::default();
        Self { decider, step, leases: BTreeMap::new(), gangs: BTreeMap::new(), infra_starts: BTreeSet::new() }
    }

    pub(super) fn lease(&mut self, id: LeaseId) -> Option<&mut Lease> {
        let state = self.decider.state;
        self.leases.entry(id).or_insert_with(|| state.leases.get(&id).cloned()).as_mut()
    }

    pub(super) fn drop_if_dead(&mut self, id: LeaseId) {
        if let Some(slot) = self.leases.get_mut(&id)
            && slot.as_ref().is_some_and(|lease| !lease.is_live())
        {
            *slot = None;
        }
    }

    pub(super) fn gang(&mut self, job: JobId, index: Index) -> Option<&mut Gang> {
        let state = self.decider.state;
        let key = (job, index);
        self.gangs.entry(key).or_insert_with(|| state.gangs.get(&key).cloned()).as_mut()
    }

    pub(super) fn event(&mut self, event: Event) {
        self.step.events.push(event);
    }

    pub(super) fn effect(&mut self, effect: Effect) {
        self.step.effects.push(effect);
    }

    /// Ends the attempt of one element of a lease that is no gang's.
    pub(super) fn end_attempt(&mut self, lease: &Lease, index: Index, outcome: Outcome, exit: Exit) {
        let decider = self.decider;
        let Some(job) = decider.state.jobs.get(&lease.job) else {
            return;
        };
        let next = super::next::next(job, index, decider.now, outcome, &exit, lease.revokes(index));
        let attempt = lease.attempt;
        self.event(Event::AttemptEnded { lease: lease.id, job: lease.job, index, attempt, outcome, exit, next });
    }

    /// Ends a lease that its node lost or that was waited for too long. What is live in it ends with `outcome`.
    /// `gone`: nothing of it runs any more, so that what it holds returns now.
    pub(super) fn lose(&mut self, id: LeaseId, outcome: Outcome, detail: &str, gone: bool) {
        let Some(lease) = self.lease(id) else { return };
        if !lease.fenced {
            lease.fenced = true;
            let lease = lease.clone();
            self.event(Event::LeaseFenced { lease: id, job: lease.job });
            let exit = infra_exit(detail);
            match lease.gang {
                Some(_) => self.lose_gang(&lease, outcome, exit),
                None => {
                    for index in lease.live.indices() {
                        let outcome = if lease.revokes(index) { Outcome::Cancelled } else { outcome };
                        self.end_attempt(&lease, index, outcome, exit.clone());
                    }
                }
            }
        }
        let Some(lease) = self.lease(id) else { return };
        let (job, node, first, last) = (lease.job, lease.node, lease.first, lease.last);
        if gone {
            lease.live = RangeSet::new();
            lease.ranks.iter_mut().for_each(|hold| hold.live = false);
            self.drop_if_dead(id);
            self.event(Event::FenceConfirmed { lease: id, job, first, last, rank: None });
        } else {
            let reason = crate::lease::RevokeReason::Fenced;
            self.effect(Effect::Revoke { node, lease: id, reason, elements: RangeSet::new() });
        }
    }

    fn lose_gang(&mut self, lease: &Lease, outcome: Outcome, exit: Exit) {
        let cancelled = self.gang(lease.job, lease.first).is_some_and(|gang| gang.cancelled);
        let outcome = if cancelled { Outcome::Cancelled } else { outcome };
        self.stop_gang(lease.job, lease.first, outcome, exit.clone());
        self.settle_gang(lease.job, lease.first, &exit);
    }

    /// Ends a gang's attempt for all of its ranks, unless that was done before.
    pub(super) fn stop_gang(&mut self, job: JobId, index: Index, outcome: Outcome, exit: Exit) {
        self.stop(job, index, outcome, exit, Vec::new());
    }

    /// Ends the attempt of a gang for which `late` nodes were not ready.
    pub(super) fn stop_late_gang(&mut self, job: JobId, index: Index, exit: Exit, late: Vec<NodeId>) {
        self.stop(job, index, Outcome::Infra, exit, late);
    }

    fn stop(&mut self, job: JobId, index: Index, outcome: Outcome, exit: Exit, late: Vec<NodeId>) {
        let Some(gang) = self.gang(job, index) else {
            return;
        };
        if gang.stopping.is_some() {
            return;
        }
        gang.stopping = Some(Stopping { outcome, exit: exit.clone() });
        let leases = gang.leases.clone();
        self.event(Event::GangStopping { job, index, outcome, exit, late });
        for id in leases {
            let Some(lease) = self.lease(id) else {
                continue;
            };
            if lease.fenced || !lease.is_live() || lease.revoke.is_some() || lease.preempted {
                continue;
            }
            let (node, elements) = (lease.node, RangeSet::range(index, index));
            let reason = crate::lease::RevokeReason::Gang;
            lease.revoke = Some(crate::lease::Revoking { reason, elements });
            self.effect(Effect::Revoke { node, lease: id, reason, elements: RangeSet::new() });
        }
    }

    /// Ends a gang's attempt if none of its ranks is left. `exit`: how the last one ended.
    pub(super) fn settle_gang(&mut self, job: JobId, index: Index, exit: &Exit) {
        let Some(gang) = self.gang(job, index).cloned() else {
            return;
        };
        let waits = gang.leases.iter().any(|id| self.lease(*id).is_some_and(|lease| !lease.fenced && lease.is_live()));
        if waits {
            return;
        }
        let (outcome, exit) = match gang.stopping {
            Some(Stopping { outcome, exit }) => (outcome, exit),
            None => (Outcome::Ok, exit.clone()),
        };
        self.gangs.insert((job, index), None);
        let decider = self.decider;
        let Some(found) = decider.state.jobs.get(&job) else {
            return;
        };
        let next = super::next::next(found, index, decider.now, outcome, &exit, gang.cancelled);
        let lease = gang.leases.first().copied().unwrap_or_default();
        self.event(Event::AttemptEnded { lease, job, index, attempt: gang.attempt, outcome, exit, next });
    }
}

/// Returns how an attempt ended of which nothing else is known.
pub(super) fn infra_exit(detail: &str) -> Exit {
    Exit {
        cause: Cause::Infra,
        exit_code: None,
        signal: None,
        detail: detail.to_owned(),
        ran_us: 0,
        checkpoint: None,
        max_rss_bytes: 0,
    }
}
