//! What a turn does with each message: decide it, fold what became true, keep what leaves for after the append.
//!
//! Elsewhere: the order of a turn is `turn`.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use gangsaw_core::access::Reach;
use gangsaw_core::effect::{Effect, RefusalKind, Reply, Step};
use gangsaw_core::event::Event;
use gangsaw_core::id::{Actor, LeaseId, NodeId, RequestId, Tenant};
use gangsaw_core::input::{FactKind, Input, Request};
use gangsaw_core::owed::owed;
use gangsaw_core::place::place;
use gangsaw_proto::node::v1::attach_response::Message as ToNode;
use gangsaw_proto::node::v1::{HeartbeatAck, Reconcile};

use super::desk::Desk;
use super::refused;
use super::session::Said;
use super::turn::{Batch, Leaving, Running};
use super::{Answer, Hello, Message};
use crate::clock::boot_ns;
use crate::rpc::errors::Refusal;
use crate::wire::grant;

/// Placement rounds in one batch; the next batch goes on.
const BATCH_ROUNDS_MAX: usize = 16;

impl Running {
    /// Says whether a message may wait for company: a report that elements in the middle of chunks succeeded. What ends a
    /// lease, starts or fails cannot, for something follows from it.
    pub(super) fn can_wait(&self, message: &Message) -> bool {
        let Message::Node { said: Said::Report { facts, .. }, .. } = message else { return false };
        let mut ended: BTreeMap<LeaseId, u64> = BTreeMap::new();
        for fact in facts {
            let FactKind::Succeeded { first, last, .. } = fact.kind else { return false };
            *ended.entry(fact.lease).or_default() += u64::from(last - first) + 1;
        }
        ended.iter().all(|(lease, count)| self.state.lease(*lease).is_some_and(|lease| lease.live.len() > *count))
    }

    pub(super) fn take(&mut self, message: Message, batch: &mut Batch) {
        match message {
            Message::Ask { request, answer, arrived_ns } => {
                let before = batch.events.len();
                let came_to = self.ask(&request, batch);
                if let Some(at) = batch.events[before..].iter().position(is_submit) {
                    batch.submits.push((before + at, arrived_ns));
                }
                batch.leaving.push(Leaving::Answer(answer, came_to));
            }
            Message::Hello(hello) => self.hello(*hello, batch),
            Message::Node { node, session, said } => {
                if self.desk.sessions.is_current(node, session) {
                    self.node_said(node, session, said, batch);
                }
            }
            Message::Read(read) => batch.reads.push(read),
            // The caller ends the batch for it.
            Message::Stop => {}
        }
    }

    fn ask(&mut self, request: &Request, batch: &mut Batch) -> Answer {
        if self.desk.disk_full && grows(&request.input) {
            self.metrics.inputs_refused.get_or_create(&[("reason", "disk-full")]).inc();
            return Err(Refusal::disk_full());
        }
        match self.decide(request, batch) {
            Some(Reply::Refused(refusal)) => {
                if refusal.kind == RefusalKind::Denied {
                    let (actor, request_id) = (&request.actor, &request.request_id);
                    self.metrics.denied.get_or_create(&[("reason", refusal.reason)]).inc();
                    tracing::warn!(%actor, %request_id, reason = refusal.reason, "a change was denied");
                }
                Err(refusal.into())
            }
            Some(Reply::Faults(faults)) => Err(faults.into()),
            Some(reply) => Ok(reply),
            None => Err(Refusal::invariant()),
        }
    }

    /// Decides one input and folds what it came to. `None`: deciding panicked, or there was nothing to answer.
    fn decide(&mut self, request: &Request, batch: &mut Batch) -> Option<Reply> {
        let decided = catch_unwind(AssertUnwindSafe(|| (self.decide)(&self.state, self.now.time, request)));
        match decided {
            Ok(step) => self.fold(step, batch),
            Err(panic) => {
                self.panicked(Some(request), panic.as_ref());
                None
            }
        }
    }

    fn panicked(&mut self, request: Option<&Request>, panic: &(dyn std::any::Any + Send)) {
        self.refused.keep(request, &refused::text(panic));
        self.desk.refused_inputs = self.refused.count;
        self.metrics.inputs_refused.get_or_create(&[("reason", "invariant")]).inc();
    }

    /// Folds a step's events into the state and keeps its effects for after the append. Returns its reply.
    fn fold(&mut self, step: Step, batch: &mut Batch) -> Option<Reply> {
        let now_ns = boot_ns();
        for event in &step.events {
            self.desk.before(&self.state, event, now_ns);
            batch.projection.fold(&mut self.state, self.now, event);
            batch.touched.extend(event.jobs());
        }
        batch.events.extend(step.events);
        let mut answer = None;
        for effect in step.effects {
            match effect {
                Effect::Reply { reply, .. } => answer = Some(reply),
                Effect::Grant(_)
                | Effect::Start { .. }
                | Effect::Revoke { .. }
                | Effect::Trim { .. }
                | Effect::AckReport { .. } => batch.leaving.push(Leaving::Effect(effect)),
            }
        }
        answer
    }

    fn hello(&mut self, said: Hello, batch: &mut Batch) {
        let Hello { request, session, out, volatile, answer } = said;
        if let Input::NodeHello(hello) = &request.input
            && self.desk.is_late(&self.state, hello, &volatile)
        {
            // The node's newer stream goes on.
            let _ = answer.send(Err(Refusal::late_hello()));
            return;
        }
        let refusal = match self.decide(&request, batch) {
            Some(Reply::Welcome { node, acked_report }) => {
                self.desk.heard(node, self.now);
                self.desk.hello(node, volatile);
                let ttl = Desk::ttl(&self.state).0;
                let heartbeat = ttl / gangsaw_core::liveness::HEARTBEATS_PER_TTL;
                let welcome = grant::welcome(node, acked_report, ttl, heartbeat);
                batch.leaving.push(Leaving::Open { node, session, out, welcome, answer });
                if let Input::NodeHello(hello) = &request.input {
                    let owed = owed(&self.state, node, &hello.leases);
                    batch.leaving.extend(owed.into_iter().map(Leaving::Effect));
                }
                return;
            }
            Some(Reply::Refused(refusal)) => refusal.into(),
            Some(_) | None => Refusal::invariant(),
        };
        // A refusal rests on no event.
        let _ = answer.send(Err(refusal));
    }

    fn node_said(&mut self, node: NodeId, session: u64, said: Said, batch: &mut Batch) {
        let connected = self.state.node(node).is_some_and(gangsaw_core::node::Node::connected);
        match said {
            Said::Gone => self.desk.sessions.close(node, session),
            // Silenced meanwhile: only a Hello brings it back.
            _ if !connected => batch.leaving.push(Leaving::Tell(node, ToNode::Reconcile(Reconcile {}))),
            Said::Heartbeat { sent_ms, leases } => {
                self.desk.heard(node, self.now);
                batch.leaving.push(Leaving::Tell(node, ToNode::HeartbeatAck(HeartbeatAck { sent_ms })));
                if self.desk.sessions.differs(node, leases, self.state.lease_summary(node)) {
                    batch.leaving.push(Leaving::Tell(node, ToNode::Reconcile(Reconcile {})));
                }
            }
            Said::Report { seq, facts } => {
                self.desk.heard(node, self.now);
                self.node_input(node, Input::NodeReport { node, seq, facts }, batch);
            }
            Said::Inventory { inventory, volatile } => {
                self.desk.devices(node, volatile);
                self.node_input(node, Input::NodeInventory { node, inventory }, batch);
            }
            Said::Progress(tasks) => {
                for task in tasks {
                    self.desk.progress(&self.state, node, task);
                }
            }
        }
    }

    fn node_input(&mut self, node: NodeId, input: Input, batch: &mut Batch) {
        if let Some(request) = own_request(&format!("node-{node}"), input) {
            self.decide(&request, batch);
        }
    }

    /// Feeds what time alone brings: silent nodes, and the core's own deadlines.
    pub(super) fn pass_time(&mut self, batch: &mut Batch) {
        for node in self.desk.liveness.overdue(self.now.time, Desk::ttl(&self.state)) {
            self.desk.liveness.forget(node);
            self.node_input(node, Input::NodeSilent { node }, batch);
        }
        if self.state.next_wake().is_some_and(|wake| wake <= self.now.time)
            && let Some(request) = own_request("scheduler", Input::Tick)
        {
            self.decide(&request, batch);
        }
    }

    /// Runs placement rounds while they may decide something. A full disk takes no new work on.
    pub(super) fn place(&mut self, batch: &mut Batch) {
        for _ in 0..BATCH_ROUNDS_MAX {
            if self.desk.disk_full || !self.state.wants_round(self.now.time) {
                return;
            }
            match catch_unwind(AssertUnwindSafe(|| place(&self.state, self.now.time))) {
                Ok(step) if step.events.is_empty() => return,
                Ok(step) => {
                    self.fold(step, batch);
                }
                Err(panic) => {
                    self.panicked(None, panic.as_ref());
                    return;
                }
            }
        }
    }
}

pub(super) fn is_submit(event: &Event) -> bool {
    matches!(event, Event::JobsSubmitted { .. })
}

/// Says whether an input makes the state grow, and so must wait while the disk is full.
fn grows(input: &Input) -> bool {
    match input {
        Input::Submit(_)
        | Input::Retry { .. }
        | Input::SetQueue { .. }
        | Input::SetTenant { .. }
        | Input::Update { .. }
        | Input::CreateToken(_) => true,
        Input::Cancel { .. }
        | Input::Hold { .. }
        | Input::Release { .. }
        | Input::NodeHello(_)
        | Input::NodeSilent { .. }
        | Input::NodeReport { .. }
        | Input::NodeInventory { .. }
        | Input::SetNode { .. }
        | Input::ForgetNode { .. }
        | Input::RevokeToken { .. }
        | Input::Tick => false,
    }
}

/// Returns a request of the scheduler's own.
fn own_request(who: &str, input: Input) -> Option<Request> {
    let (actor, request_id) = (Actor::new(who).ok()?, RequestId::new("internal").ok()?);
    Some(Request { actor, tenant: Tenant::default(), reach: Reach::Own, request_id, input })
}
