//! The agent's own machine: leases of one node between the scheduler and the supervisor.
//!
//! It gives orders to the supervisor, reports what the supervisor says, and keeps a lease until the scheduler has
//! everything of it on disk. It owns no process and no file: after a restart of the agent all of it is made again from
//! the supervisor's list, so nothing here needs to be durable. Time is the node's own BOOTTIME.
//!
//! Invariants:
//! - A lease is spawned at most once: a grant that is known or finished is void.
//! - A lease is forgotten only after its last fact was acknowledged.
//! - At most one report is unacknowledged, and sequences rise over restarts (see `outbox`).
//! - A Hello leaves only after the supervisor's list is known, so it never hides a lease.
//!
//! Neighbours: `held` is one lease, `outbox` the reports, `message` the words. The agent process and the simulator
//! perform the effects. Deliberately absent: the task's own description, progress and logs; and that there may be two
//! versions' supervisors at once, which the agent process shows as one.

mod held;
mod message;
mod outbox;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use self::held::{Held, Stage};
pub use self::message::{Adopted, Effect, Input, Order, Spool, Spooled, StopReason, Terms};
use self::outbox::Outbox;
pub use self::outbox::REPORT_FACTS_MAX;
use crate::id::LeaseId;
use crate::input::{Fact, FactKind, HeldLease};
use crate::liveness;
use crate::ranges::RangeSet;
use crate::time::{Millis, Time};

/// Finished leases that are remembered so that a late copy of their grant starts nothing. A copy can be late by one
/// stream only, so this is far more than needed.
const FINISHED_MAX: usize = 4_096;

/// The control stream to the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down,
    /// Open, and the Hello waits for the supervisor's list.
    Waiting,
    /// The Hello left and is not answered.
    Greeted {
        hello: Time,
    },
    /// The scheduler took the Hello.
    Open {
        next_heartbeat: Time,
        heartbeat: Millis,
    },
}

/// The machine. Feed it with [`Agent::step`] and do what it returns, in order.
#[derive(Clone, Debug)]
pub struct Agent {
    leases: BTreeMap<LeaseId, Held>,
    finished: BTreeSet<LeaseId>,
    outbox: Outbox,
    link: Link,
    /// The supervisor has said what it holds.
    listed: bool,
    /// Sending time of the newest heartbeat, or Hello, that the scheduler acknowledged.
    heard: Time,
}

impl Agent {
    /// Returns a machine that holds nothing and waits for [`Input::SupervisorList`] or [`Input::SupervisorLost`].
    /// `seq_base` must be above every report sequence of an earlier start: `starts << 32`, `starts` counted on disk.
    pub fn new(seq_base: u64, now: Time) -> Self {
        Self {
            leases: BTreeMap::new(),
            finished: BTreeSet::new(),
            outbox: Outbox::new(seq_base),
            link: Link::Down,
            listed: false,
            heard: now,
        }
    }

    /// Takes one input and returns what to do, in order.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        match input {
            Input::Connected => self.greet(now, &mut out),
            Input::Disconnected => self.link = Link::Down,
            Input::Welcomed { acked_report, heartbeat } => self.welcomed(now, acked_report, heartbeat, &mut out),
            Input::HeartbeatAcked { sent } => self.heard(sent, &mut out),
            Input::Reconcile => self.reconcile(&mut out),
            Input::Granted(terms) => self.granted(terms, &mut out),
            Input::StartRequested { lease, master_addr, master_port } => {
                let waits = |held: &&mut Held| held.stage == Stage::Prepared && !held.is_ended();
                if let Some(held) = self.leases.get_mut(&lease).filter(waits) {
                    held.stage = Stage::Running;
                    out.push(Effect::ToSupervisor(Order::Start { lease, master_addr, master_port }));
                }
            }
            Input::RevokeRequested { lease, reason, elements } => {
                self.stop(lease, StopReason::Revoked(reason), elements, Millis(u64::MAX), &mut out);
            }
            Input::TrimRequested { lease } => {
                if self.leases.get(&lease).is_some_and(|held| held.stage == Stage::Running && !held.is_ended()) {
                    out.push(Effect::ToSupervisor(Order::Trim { lease }));
                }
            }
            Input::ReportAcked { seq } => self.acked(seq, &mut out),
            Input::SupervisorList(list) => self.listed(now, list, &mut out),
            Input::SupervisorLost(spool) => self.lost(now, spool, &mut out),
            Input::LeftoversGone { lease } => {
                let facts = self.leases.get_mut(&lease).map(Held::lose).unwrap_or_default();
                self.tell(lease, None, facts);
            }
            Input::Fact(spooled) => self.learn(spooled),
            Input::StopTasks { grace_max } => {
                let all: Vec<LeaseId> = self.leases.keys().copied().collect();
                for lease in all {
                    self.stop(lease, StopReason::Shutdown, RangeSet::new(), grace_max, &mut out);
                }
            }
            Input::Tick => self.tick(now, &mut out),
        }
        self.send_report(&mut out);
        if self.listed
            && let Some(seq) = self.outbox.forgettable()
        {
            out.push(Effect::ToSupervisor(Order::AckFacts { seq }));
        }
        out
    }

    /// Returns the time before which a [`Input::Tick`] changes nothing; absent when only another input can.
    pub fn next_tick(&self) -> Option<Time> {
        let heartbeat = match self.link {
            Link::Open { next_heartbeat, .. } => Some(next_heartbeat),
            Link::Down | Link::Waiting | Link::Greeted { .. } => None,
        };
        let silence = self.leases.values().filter_map(|held| self.stops_at(held)).min();
        [heartbeat, silence].into_iter().flatten().min()
    }

    /// Returns every lease held or not yet acknowledged, as a Hello lists it.
    pub fn held(&self) -> Vec<HeldLease> {
        self.leases.values().map(Held::hello).collect()
    }

    fn greet(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.link = Link::Waiting;
        if self.listed {
            self.link = Link::Greeted { hello: now };
            out.push(Effect::SendHello { leases: self.held() });
        }
    }

    fn welcomed(&mut self, now: Time, acked_report: u64, heartbeat: Millis, out: &mut Vec<Effect>) {
        match self.link {
            Link::Greeted { hello } => self.heard(hello, out),
            Link::Open { .. } => {}
            Link::Down | Link::Waiting => return,
        }
        let fresh = matches!(self.link, Link::Greeted { .. });
        self.link = Link::Open { next_heartbeat: now + heartbeat, heartbeat };
        self.acked(acked_report, out);
        if let (true, Some((seq, facts))) = (fresh, self.outbox.again()) {
            out.push(Effect::SendReport { seq, facts });
        }
    }

    fn heard(&mut self, sent: Time, out: &mut Vec<Effect>) {
        if sent <= self.heard {
            return;
        }
        self.heard = sent;
        if self.leases.values().any(|held| held.terms.stop_after.is_some()) {
            out.push(Effect::ToSupervisor(Order::Renew { heard: sent }));
        }
    }

    /// Says Hello again, on a new stream: on this one a grant may be under way that the list could not name, and the
    /// scheduler would take it for one that never came.
    fn reconcile(&mut self, out: &mut Vec<Effect>) {
        match self.link {
            Link::Open { .. } => {
                self.link = Link::Down;
                out.push(Effect::Redial);
            }
            Link::Down | Link::Waiting | Link::Greeted { .. } => {}
        }
    }

    fn granted(&mut self, terms: Terms, out: &mut Vec<Effect>) {
        let lease = terms.lease;
        if !self.listed || self.leases.contains_key(&lease) || self.finished.contains(&lease) {
            return;
        }
        out.push(Effect::ToSupervisor(if terms.gang.is_empty() {
            Order::Spawn { lease }
        } else {
            Order::Prepare { lease }
        }));
        if terms.stop_after.is_some() {
            out.push(Effect::ToSupervisor(Order::Renew { heard: self.heard }));
        }
        self.leases.insert(lease, Held::new(terms));
    }

    fn stop(
        &mut self,
        lease: LeaseId,
        reason: StopReason,
        elements: RangeSet,
        grace_max: Millis,
        out: &mut Vec<Effect>,
    ) {
        let Some(held) = self.leases.get(&lease) else { return };
        match held.stage {
            Stage::Clearing { .. } => {}
            Stage::Preparing | Stage::Prepared | Stage::Running if held.is_ended() => {}
            Stage::Preparing | Stage::Prepared | Stage::Running => {
                let grace = held.terms.grace.min(grace_max);
                out.push(Effect::ToSupervisor(Order::Stop { lease, elements, grace, reason }));
            }
        }
    }

    fn acked(&mut self, seq: u64, out: &mut Vec<Effect>) {
        let mut touched = BTreeSet::new();
        for lease in self.outbox.acked(seq) {
            if let Some(held) = self.leases.get_mut(&lease) {
                held.unacked -= 1;
                touched.insert(lease);
            }
        }
        for lease in touched {
            self.forget_finished(lease, out);
        }
    }

    /// Drops the lease if the scheduler has all of it on disk.
    fn forget_finished(&mut self, lease: LeaseId, out: &mut Vec<Effect>) {
        if !self.leases.get(&lease).is_some_and(Held::is_finished) {
            return;
        }
        self.leases.remove(&lease);
        self.finished.insert(lease);
        if self.finished.len() > FINISHED_MAX {
            self.finished.pop_first();
        }
        out.push(Effect::ForgetLease { lease });
    }

    /// Takes the list of a living supervisor. A lease that it does not hold never reached it, or died with an earlier
    /// one: what was open of it is lost.
    fn listed(&mut self, now: Time, list: Spool, out: &mut Vec<Effect>) {
        let begun: BTreeMap<LeaseId, Option<u64>> =
            list.leases.iter().map(|adopted| (adopted.terms.lease, (!adopted.held).then_some(adopted.begun))).collect();
        let careful = list.leases.iter().filter(|adopted| adopted.held && adopted.terms.stop_after.is_some());
        if let Some(renewed) = careful.map(|adopted| adopted.renewed).max()
            && !self.listed
        {
            self.heard = renewed;
        }
        self.adopt(list, out);
        self.clear(
            |held| {
                let unseen = Some(u64::from(held.terms.first));
                begun.get(&held.terms.lease).copied().unwrap_or(unseen)
            },
            out,
        );
        self.list_known(now, out);
    }

    /// Takes what a dead supervisor left. Without it everything open counts as begun.
    fn lost(&mut self, now: Time, spool: Option<Spool>, out: &mut Vec<Effect>) {
        let begun: Option<BTreeMap<LeaseId, u64>> = spool
            .as_ref()
            .map(|spool| spool.leases.iter().map(|adopted| (adopted.terms.lease, adopted.begun)).collect());
        self.adopt(spool.unwrap_or_default(), out);
        self.clear(
            |held| {
                let unseen = u64::from(held.terms.first);
                Some(begun.as_ref().map_or(u64::MAX, |begun| *begun.get(&held.terms.lease).unwrap_or(&unseen)))
            },
            out,
        );
        self.list_known(now, out);
    }

    fn adopt(&mut self, spool: Spool, out: &mut Vec<Effect>) {
        let leases: Vec<LeaseId> = spool.leases.iter().map(|adopted| adopted.terms.lease).collect();
        for adopted in spool.leases {
            let lease = adopted.terms.lease;
            if self.finished.contains(&lease) || self.leases.contains_key(&lease) {
                continue;
            }
            let facts = spool.facts.iter().filter(|spooled| spooled.fact.lease == lease).map(|s| &s.fact.kind);
            self.leases.insert(lease, Held::adopt(adopted, facts));
        }
        for spooled in spool.facts {
            self.learn(spooled);
        }
        for lease in leases {
            self.forget_finished(lease, out);
        }
    }

    /// Begins to clear the open leases for which `begun` says where their unbegun units begin.
    fn clear(&mut self, begun: impl Fn(&Held) -> Option<u64>, out: &mut Vec<Effect>) {
        for (&lease, held) in &mut self.leases {
            if held.is_ended() {
                continue;
            }
            match held.stage {
                // Said again: whoever was clearing may have been told of another death meanwhile.
                Stage::Clearing { .. } => out.push(Effect::KillLeftovers { lease }),
                Stage::Preparing | Stage::Prepared | Stage::Running => {
                    if let Some(begun) = begun(held) {
                        held.stage = Stage::Clearing { begun };
                        out.push(Effect::KillLeftovers { lease });
                    }
                }
            }
        }
    }

    fn list_known(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.listed = true;
        if self.link == Link::Waiting {
            self.greet(now, out);
        }
    }

    fn learn(&mut self, spooled: Spooled) {
        let Spooled { seq, fact } = spooled;
        let news = self.leases.get_mut(&fact.lease).map(|held| held.learn(fact.kind)).unwrap_or_default();
        self.outbox.heard(seq);
        self.tell(fact.lease, Some(seq), news);
    }

    /// Queues what is news about a lease.
    fn tell(&mut self, lease: LeaseId, spooled: Option<u64>, news: Vec<FactKind>) {
        for kind in news {
            if self.outbox.push(spooled, Fact { lease, kind })
                && let Some(held) = self.leases.get_mut(&lease)
            {
                held.unacked += 1;
            }
        }
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Effect>) {
        let silent: Vec<LeaseId> = self
            .leases
            .values()
            .filter(|held| self.stops_at(held).is_some_and(|at| at <= now))
            .map(|held| held.terms.lease)
            .collect();
        for lease in silent {
            self.stop(lease, StopReason::Silence, RangeSet::new(), Millis(u64::MAX), out);
            if let Some(held) = self.leases.get_mut(&lease) {
                held.stopped_for_silence = true;
            }
        }
        match self.link {
            Link::Open { next_heartbeat, heartbeat } if next_heartbeat <= now => {
                self.link = Link::Open { next_heartbeat: now + heartbeat, heartbeat };
                let open: Vec<LeaseId> =
                    self.leases.values().filter(|held| !held.is_ended()).map(|held| held.terms.lease).collect();
                let lease_count = u32::try_from(open.len()).unwrap_or(u32::MAX);
                out.push(Effect::SendHeartbeat { sent: now, lease_count, lease_hash: liveness::lease_hash(open) });
            }
            Link::Open { .. } | Link::Down | Link::Waiting | Link::Greeted { .. } => {}
        }
    }

    /// Returns when the lease is to be stopped for silence, if it ever is and has not been.
    fn stops_at(&self, held: &Held) -> Option<Time> {
        let counts = !held.is_ended() && !held.stopped_for_silence;
        held.terms.stop_after.filter(|_| counts).map(|after| self.heard + after)
    }

    fn send_report(&mut self, out: &mut Vec<Effect>) {
        if !matches!(self.link, Link::Open { .. }) {
            return;
        }
        if let Some((seq, facts)) = self.outbox.next() {
            out.push(Effect::SendReport { seq, facts });
        }
    }
}
