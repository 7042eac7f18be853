//! What a node's report means. A fact counts only under a lease the node holds, and only once.

use super::Decider;
use super::next::{INFRA_STARTS_MAX, NODE_EXCLUDED_FOR, outcome};
use super::scratch::Scratch;
use crate::apply::INFRA_STARTS_WITHIN;
use crate::effect::{Effect, Step};
use crate::event::Event;
use crate::id::{Index, LeaseId, NodeId, Rank};
use crate::input::{Fact, FactKind};
use crate::job::record::{Cause, Exit, Outcome};
use crate::lease::{Lease, Master, RevokeReason, coarse};
use crate::ranges::RangeSet;

impl Decider<'_> {
    pub(super) fn report(&self, id: NodeId, seq: u64, facts: &[Fact]) -> Step {
        let Some(node) = self.state.nodes.get(&id) else {
            return Step::default();
        };
        let acked = node.body.acked_report;
        let mut scratch = Scratch::new(self);
        if seq <= acked && !self.state.mutations.dedupe_off() {
            scratch.effect(Effect::AckReport { node: id, seq: acked });
            return scratch.step;
        }
        for fact in facts {
            scratch.fact(id, fact);
        }
        scratch.event(Event::ReportTaken { node: id, seq });
        scratch.effect(Effect::AckReport { node: id, seq });
        scratch.step
    }
}

impl Scratch<'_> {
    fn fact(&mut self, node: NodeId, fact: &Fact) {
        let Fact { lease: id, kind } = fact;
        let fence_off = self.decider.state.mutations.fence_off();
        let Some(lease) = self.lease(*id).filter(|lease| lease.node == node).cloned() else {
            let (reason, elements) = (RevokeReason::Fenced, RangeSet::new());
            self.effect(Effect::Revoke { node, lease: *id, reason, elements });
            return;
        };
        if lease.fenced && !fence_off {
            self.fenced_fact(&lease, kind);
            return;
        }
        match kind {
            FactKind::Prepared { port } => self.prepared(&lease, *port),
            FactKind::StartFailed { index, rank, users_fault, detail } => {
                let cause = if *users_fault { Cause::StartUser } else { Cause::StartInfra };
                let exit = Exit { cause, ..super::scratch::infra_exit(detail) };
                self.start_failed(&lease, *index, *rank, exit);
            }
            FactKind::Started { index, rank, pid, start_ticks, output_dir, spawn_us } => {
                if lease.runs(*index, *rank) && !lease.tasks.contains_key(&(*index, *rank)) {
                    self.event(Event::TaskStarted {
                        lease: *id,
                        job: lease.job,
                        index: *index,
                        rank: *rank,
                        pid: *pid,
                        start_ticks: *start_ticks,
                        output_dir: output_dir.clone(),
                        spawn_us: *spawn_us,
                    });
                    self.note_started(*id, *index, *rank);
                }
            }
            FactKind::Succeeded { first, last, mean_us } => self.succeeded(&lease, *first, *last, *mean_us),
            FactKind::Ended { index, rank, exit } => self.ended(&lease, *index, *rank, exit),
            FactKind::Returned { first, last } => self.returned(&lease, *first, *last),
        }
    }

    /// A fenced lease's facts count for nothing, and those that say that something of it is gone return what it held.
    fn fenced_fact(&mut self, lease: &Lease, kind: &FactKind) {
        let (first, last, rank) = match kind {
            FactKind::Prepared { .. } | FactKind::Started { .. } => {
                let (node, reason) = (lease.node, RevokeReason::Fenced);
                self.effect(Effect::Revoke { node, lease: lease.id, reason, elements: RangeSet::new() });
                return;
            }
            FactKind::StartFailed { index, rank, .. } => (*index, *index, lease.started.then_some(*rank)),
            FactKind::Ended { index, rank, .. } => (*index, *index, Some(*rank)),
            FactKind::Succeeded { first, last, .. } | FactKind::Returned { first, last } => (*first, *last, None),
        };
        let rank = rank.filter(|_| lease.gang.is_some());
        let Some(held) = self.lease(lease.id) else {
            return;
        };
        let gone = match lease.gang {
            None if first <= last => !held.live.intersection(&RangeSet::range(first, last)).is_empty(),
            None => false,
            Some(_) => held.ranks.iter().any(|hold| hold.live && rank.is_none_or(|rank| hold.rank == rank)),
        };
        if !gone {
            return;
        }
        match lease.gang {
            None => held.live.remove(first, last),
            Some(_) => {
                let ranks = held.ranks.iter_mut().filter(|hold| rank.is_none_or(|rank| hold.rank == rank));
                ranks.for_each(|hold| hold.live = false);
            }
        }
        self.drop_if_dead(lease.id);
        self.event(Event::FenceConfirmed { lease: lease.id, job: lease.job, first, last, rank });
    }

    fn prepared(&mut self, lease: &Lease, port: u16) {
        if lease.gang.is_none() || lease.port.is_some() {
            return;
        }
        self.event(Event::LeasePrepared { lease: lease.id, job: lease.job, port });
        if let Some(held) = self.lease(lease.id) {
            held.port = Some(port);
            held.begun = true;
        }
        let Some(gang) = self.gang(lease.job, lease.first).cloned() else {
            return;
        };
        let waits = gang.leases.iter().any(|id| self.lease(*id).is_none_or(|lease| lease.port.is_none()));
        if waits || gang.started.is_some() || gang.stopping.is_some() || gang.cancelled {
            return;
        }
        let Some(master) = gang.leases.first().and_then(|first| self.master(*first)) else {
            return;
        };
        let (job, index) = (gang.job, gang.index);
        self.event(Event::GangStarted { job, index, master: master.clone() });
        if let Some(gang) = self.gang(job, index) {
            gang.started = Some(master.clone());
        }
        for id in gang.leases {
            let Some(lease) = self.lease(id) else {
                continue;
            };
            lease.started = true;
            let node = lease.node;
            let (master_addr, master_port) = (master.address.clone(), master.port);
            self.effect(Effect::Start { node, lease: id, master_addr, master_port });
        }
    }

    fn master(&mut self, first: LeaseId) -> Option<Master> {
        let lease = self.lease(first)?;
        let (node, port) = (lease.node, lease.port?);
        let address = self.decider.state.nodes.get(&node)?.body.inventory.address.clone();
        Some(Master { address, port })
    }

    fn note_started(&mut self, id: LeaseId, index: Index, rank: Rank) {
        if let Some(lease) = self.lease(id) {
            lease.begun = true;
            let task = crate::lease::new_task(lease, rank);
            lease.tasks.insert((index, rank), task);
        }
    }

    fn succeeded(&mut self, lease: &Lease, first: Index, last: Index, mean_us: u64) {
        if lease.gang.is_some() || first > last {
            return;
        }
        // Equal elements of an array stay one record; a job of one element keeps the exact time, which people read.
        let alone = self.decider.state.job(lease.job).is_some_and(|job| job.body.spec.element_count() == 1);
        let mean_us = if alone { mean_us.max(1) } else { coarse(mean_us.max(1)) };
        let ranges: Vec<_> = lease.live.within(first, last).collect();
        for range in ranges {
            let (first, last) = (range.first, range.last);
            self.event(Event::ElementsSucceeded { lease: lease.id, job: lease.job, first, last, mean_us });
            if let Some(held) = self.lease(lease.id) {
                held.live.remove(first, last);
            }
        }
        self.drop_if_dead(lease.id);
    }

    fn ended(&mut self, lease: &Lease, index: Index, rank: Rank, exit: &Exit) {
        if !lease.runs(index, rank) {
            return;
        }
        if lease.gang.is_some() {
            self.ranks_ended(lease.id, &[rank], exit);
            return;
        }
        let revoked = lease.revoke.as_ref().filter(|_| lease.revokes(index)).map(|revoking| revoking.reason);
        let revoked = revoked.or(lease.preempted.then_some(RevokeReason::Preempted));
        let outcome = outcome(exit, revoked, lease.revokes(index));
        self.end_attempt(lease, index, outcome, exit.clone());
        if let Some(held) = self.lease(lease.id) {
            held.live.remove(index, index);
        }
        self.drop_if_dead(lease.id);
    }

    fn start_failed(&mut self, lease: &Lease, index: Index, rank: Rank, exit: Exit) {
        if !lease.runs(index, rank) {
            return;
        }
        if exit.cause == Cause::StartInfra {
            self.exclude(lease, &exit.detail);
        }
        match lease.gang {
            None => self.ended(lease, index, rank, &exit),
            Some(_) if lease.started => self.ranks_ended(lease.id, &[rank], &exit),
            Some(_) => {
                let ranks: Vec<_> = lease.ranks.iter().filter(|hold| hold.live).map(|hold| hold.rank).collect();
                self.ranks_ended(lease.id, &ranks, &exit);
            }
        }
    }

    /// Keeps a job from a node that failed to start it too often.
    pub(super) fn exclude(&mut self, lease: &Lease, reason: &str) {
        let now = self.decider.now;
        let Some(job) = self.decider.state.jobs.get(&lease.job) else {
            return;
        };
        let before = job.body.infra_starts.get(&lease.node);
        let before = before.map_or(0, |starts| {
            starts.iter().filter(|start| now.since(**start) <= INFRA_STARTS_WITHIN && **start != now).count()
        });
        let first_here = self.infra_starts.insert((lease.job, lease.node));
        if first_here && before + 1 >= INFRA_STARTS_MAX {
            let (job, node, until) = (lease.job, lease.node, now + NODE_EXCLUDED_FOR);
            self.event(Event::NodeExcluded { job, node, until, reason: reason.to_owned() });
        }
    }

    fn returned(&mut self, lease: &Lease, first: Index, last: Index) {
        if first > last {
            return;
        }
        if lease.gang.is_some() {
            if lease.tasks.is_empty() && lease.is_live() {
                self.gang_returned(lease.id);
            }
            return;
        }
        let ranges: Vec<_> = lease.live.within(first, last).collect();
        for range in ranges {
            let (first, last) = (range.first, range.last);
            self.event(Event::ElementsReturned { lease: lease.id, job: lease.job, first, last });
            if let Some(held) = self.lease(lease.id) {
                held.live.remove(first, last);
            }
        }
        self.drop_if_dead(lease.id);
    }

    /// Notes the end of ranks of a gang's lease; the first that failed stops the others.
    pub(super) fn ranks_ended(&mut self, id: LeaseId, ranks: &[Rank], exit: &Exit) {
        let Some(lease) = self.lease(id) else { return };
        let (job, index) = (lease.job, lease.first);
        let revoked = lease.revoke.as_ref().map(|revoking| revoking.reason);
        for rank in ranks {
            if let Some(held) = self.lease(id) {
                held.begun = true;
                held.tasks.remove(&(index, *rank));
                held.ranks.iter_mut().filter(|hold| hold.rank == *rank).for_each(|hold| hold.live = false);
            }
            self.event(Event::RankEnded { lease: id, job, rank: *rank, exit: exit.clone() });
        }
        self.drop_if_dead(id);
        let cancelled = self.gang(job, index).is_some_and(|gang| gang.cancelled);
        let outcome = outcome(exit, revoked, cancelled);
        if outcome != Outcome::Ok {
            self.stop_gang(job, index, outcome, exit.clone());
        }
        self.settle_gang(job, index, exit);
    }
}
