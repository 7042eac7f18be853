//! One turn of the engine: drain, decide, place, append once, perform, answer.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use gangsaw_core::apply::apply;
use gangsaw_core::effect::{Effect, Reply, Step};
use gangsaw_core::event::Event;
use gangsaw_core::id::{Actor, JobId, NodeId, RequestId, Tenant};
use gangsaw_core::input::{Input, Request};
use gangsaw_core::owed::owed;
use gangsaw_core::place::place;
use gangsaw_core::state::State;
use gangsaw_core::time::Time;
use gangsaw_proto::node::v1::attach_response::Message as ToNode;
use gangsaw_proto::node::v1::{HeartbeatAck, Reconcile};
use tokio::sync::oneshot;

use super::desk::{self, Desk, View};
use super::refused::{self, Refused};
use super::session::{Outbox, Said};
use super::{Answer, EngineError, Hello, Message, Parts, Read};
use crate::clock::{Clock, boot_ns, wall_ms};
use crate::disk::DiskGuard;
use crate::metrics::Metrics;
use crate::rpc::errors::Refusal;
use crate::store::sqlite::{AppendError, Row};
use crate::store::{SqliteStore, old};
use crate::wire::grant;
use crate::wire::view::Now;

/// Messages one batch takes: it bounds how long the first waits for the last.
const BATCH_MESSAGES_MAX: usize = 1_024;
/// Events after which a batch takes no more messages, so that one append stays a few MB.
const BATCH_EVENTS_MAX: usize = 20_000;
/// Placement rounds in one batch; the next batch goes on.
const BATCH_ROUNDS_MAX: usize = 16;
/// Longest wait: silence and back-offs are looked at once a second at least.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Shortest wait after a turn in which nothing became true: a moment that passed and changes nothing (placement that
/// waits for disk space) must not spin. A message ends any wait at once.
const IDLE_WAIT_MIN: Duration = Duration::from_millis(5);
/// Tries of an append on a full disk after the ballast was given up, and the wait between two.
const FULL_TRIES: u32 = 100;
const FULL_WAIT: Duration = Duration::from_millis(100);

/// The core's `decide`, or a test's.
pub(super) type Decide = fn(&State, Time, &Request) -> Step;

/// The engine's own side.
pub(super) struct Running {
    state: State,
    store: SqliteStore,
    disk: DiskGuard,
    clock: Clock,
    now: Now,
    desk: Desk,
    refused: Refused,
    metrics: Arc<Metrics>,
    decide: Decide,
    /// The last turn appended nothing.
    idle: bool,
}

/// What leaves after the append, in order.
enum Leaving {
    Effect(Effect),
    Open { node: NodeId, session: u64, out: Outbox, welcome: ToNode, answer: oneshot::Sender<Result<NodeId, Refusal>> },
    Tell(NodeId, ToNode),
    Answer(oneshot::Sender<Answer>, Answer),
}

/// One batch on its way to the log.
#[derive(Default)]
struct Batch {
    events: Vec<Event>,
    rows: Vec<Row>,
    leaving: Vec<Leaving>,
    reads: Vec<Read>,
    /// Index of each JobsSubmitted among the events, and when its request arrived.
    submits: Vec<(usize, u64)>,
    touched: BTreeSet<JobId>,
}

impl Running {
    pub(super) fn new(parts: Parts, decide: Decide) -> Running {
        let state = parts.loaded.state;
        let clock = Clock::resume(state.now().0, parts.loaded.last_wall_ms);
        let now = Now { time: Time(clock.now_ms()), wall_ms: wall_ms() };
        let desk = Desk::starting(&state, now.time);
        Running {
            state,
            store: parts.store,
            disk: parts.disk,
            clock,
            now,
            desk,
            refused: Refused::new(parts.refused_inputs),
            metrics: parts.metrics,
            decide,
            idle: false,
        }
    }

    /// Drains a batch, decides each, appends once, performs and answers. Returns false when told to stop.
    pub(super) fn turn(&mut self, messages: &Receiver<Message>) -> Result<bool, EngineError> {
        let mut batch = Batch::default();
        let mut going = true;
        let mut next = messages.recv_timeout(self.wait());
        self.look_around();
        for _ in 0..BATCH_MESSAGES_MAX {
            match next {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    going = false;
                    break;
                }
                Ok(message) => self.take(message, &mut batch),
                Err(RecvTimeoutError::Timeout) => break,
            }
            if batch.events.len() >= BATCH_EVENTS_MAX {
                break;
            }
            next = messages.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            });
        }
        self.pass_time(&mut batch);
        self.place(&mut batch);
        self.append(&mut batch)?;
        self.perform(&mut batch);
        self.show(batch);
        Ok(going)
    }

    /// Returns how long nothing happens if nobody says anything.
    fn wait(&self) -> Duration {
        let overdue = self.desk.liveness.next_overdue(Desk::ttl(&self.state));
        let next = [self.state.next_wake(), overdue].into_iter().flatten().min();
        let now = self.clock.now_ms();
        let wait = next.map_or(WAIT_MAX, |next| Duration::from_millis(next.0.saturating_sub(now)).min(WAIT_MAX));
        let picture = self.desk.watches.next_due_ns();
        let wait = picture.map_or(wait, |due| wait.min(Duration::from_nanos(due.saturating_sub(boot_ns()))));
        if self.idle { wait.max(IDLE_WAIT_MIN) } else { wait }
    }

    /// Reads the clocks and the disk, once a batch.
    fn look_around(&mut self) {
        // The state's time may be ahead by the milliseconds that the clock's base was rounded down by.
        self.now = Now { time: Time(self.clock.now_ms().max(self.state.now().0)), wall_ms: wall_ms() };
        let full = self.disk.check().unwrap_or_else(|error| {
            tracing::error!(%error, "the state folder's file system cannot be asked for its space");
            true
        });
        if full != self.desk.disk_full {
            tracing::warn!(full, "disk space changed sides");
            self.metrics.disk_full.set(i64::from(full));
        }
        self.desk.disk_full = full;
    }

    fn take(&mut self, message: Message, batch: &mut Batch) {
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
            Some(Reply::Refused(refusal)) => Err(refusal.into()),
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
            if let Event::JobForgotten { job } = event {
                batch.rows.extend(old::rows(&self.state, *job, self.now));
            }
            apply(&mut self.state, self.now.time, event);
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
        let refusal = match self.decide(&request, batch) {
            Some(Reply::Welcome { node, acked_report }) => {
                self.desk.heard(node, self.now);
                self.desk.devices(node, volatile);
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
    fn pass_time(&mut self, batch: &mut Batch) {
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
    fn place(&mut self, batch: &mut Batch) {
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

    /// Makes the batch durable. On a full disk the ballast goes, for the state is already ahead of the log.
    fn append(&mut self, batch: &mut Batch) -> Result<(), EngineError> {
        if let Some(failure) = self.store.keeper_failure() {
            return Err(EngineError::Keeper(failure.to_string()));
        }
        self.idle = batch.events.is_empty();
        if self.idle {
            return Ok(());
        }
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            match self.store.append(self.now.time, self.now.wall_ms, &batch.events, &batch.rows) {
                Ok(_) => break,
                Err(AppendError::Full) if tries < FULL_TRIES => {
                    tries += 1;
                    if !self.disk.release().unwrap_or(false) {
                        std::thread::sleep(FULL_WAIT);
                    }
                }
                Err(error) => return Err(EngineError::Append(error)),
            }
        }
        self.metrics.append.observe(begun.elapsed().as_secs_f64());
        self.metrics.batches_appended.inc();
        self.metrics.events_appended.inc_by(batch.events.len() as u64);
        if self.store.snapshot_if_due(&self.state, self.now.wall_ms) {
            self.metrics.snapshots.inc();
        }
        Ok(())
    }

    /// Performs and answers, now that everything the batch rests on is on disk.
    fn perform(&mut self, batch: &mut Batch) {
        let durable_ns = boot_ns();
        let mut submits = batch.submits.iter().peekable();
        for (at, event) in batch.events.iter().enumerate() {
            let arrived = submits.next_if(|(index, _)| *index == at).map_or(durable_ns, |(_, arrived)| *arrived);
            self.desk.phases.note(event, arrived, durable_ns);
            if is_submit(event) {
                let nanos = Duration::from_nanos(durable_ns.saturating_sub(arrived));
                self.metrics.submit_to_durable.observe(nanos.as_secs_f64());
            }
        }
        for leaving in batch.leaving.drain(..) {
            match leaving {
                Leaving::Effect(effect) => self.desk.sessions.perform(effect),
                Leaving::Tell(node, message) => self.desk.sessions.send(node, message),
                Leaving::Open { node, session, out, welcome, answer } => {
                    self.desk.sessions.open(node, session, out);
                    self.desk.sessions.send(node, welcome);
                    // The session's task may be gone already; its Gone follows.
                    let _ = answer.send(Ok(node));
                }
                Leaving::Answer(answer, came_to) => {
                    let _ = answer.send(came_to);
                }
            }
        }
    }

    /// Shows the new state to watchers and readers.
    fn show(&mut self, batch: Batch) {
        for job in &batch.touched {
            self.desk.watches.touch(*job);
        }
        let mut watches = std::mem::take(&mut self.desk.watches);
        let (state, desk, now, seq) = (&self.state, &self.desk, self.now, self.store.last_seq());
        watches.show(boot_ns(), |job| desk::has_ended(state, job), |job| desk::picture(state, desk, job, now, seq));
        self.desk.watches = watches;
        let mut view = View {
            state: &self.state,
            now: self.now,
            last_seq: self.store.last_seq(),
            history: self.store.connection(),
            desk: &mut self.desk,
        };
        for read in batch.reads {
            read(&mut view);
        }
    }
}

fn is_submit(event: &Event) -> bool {
    matches!(event, Event::JobsSubmitted { .. })
}

/// Says whether an input makes the state grow, and so must wait while the disk is full.
fn grows(input: &Input) -> bool {
    match input {
        Input::Submit(_) | Input::Retry { .. } | Input::SetQueue { .. } | Input::Update { .. } => true,
        Input::Cancel { .. }
        | Input::Hold { .. }
        | Input::Release { .. }
        | Input::NodeHello(_)
        | Input::NodeSilent { .. }
        | Input::NodeReport { .. }
        | Input::NodeInventory { .. }
        | Input::SetNode { .. }
        | Input::ForgetNode { .. }
        | Input::Tick => false,
    }
}

/// Returns a request of the scheduler's own.
fn own_request(who: &str, input: Input) -> Option<Request> {
    let (actor, request_id) = (Actor::new(who).ok()?, RequestId::new("internal").ok()?);
    Some(Request { actor, tenant: Tenant::default(), request_id, input })
}
