//! The scheduler's process as far as the core needs one: an inbox, a batch loop, streams, and recovery from disk.
//!
//! The loop is the engine's: drain, decide and apply each, place, append once, and only then perform. A crash may come
//! before, within and after the append. Everything else (codec, RPC, files) is not simulated.
//!
//! A Hello of a stream older than the node's newest is dropped: it would show a list of leases that is out of date. A
//! report of an older stream is taken: reports are safe in any order.

mod hear;
mod perform;

use std::collections::{BTreeMap, VecDeque};

use gangsaw_core::access::Reach;
use gangsaw_core::apply::{apply, snapshot_events};
use gangsaw_core::decide::decide;
use gangsaw_core::effect::{Effect, Refusal, RefusalKind, Reply};
use gangsaw_core::event::{Event, Record};
use gangsaw_core::id::{Actor, NodeId, RequestId, Tenant};
use gangsaw_core::input::{HeldLease, Input, Request};
use gangsaw_core::liveness::{Liveness, lease_ttl};
use gangsaw_core::place::place;
use gangsaw_core::state::State;
use gangsaw_core::time::{Millis, Time};

use crate::disk::{CrashPoint, grows_state};
use crate::net::Session;
use crate::world::{Happening, World};

/// Most inputs of one batch.
const BATCH_MAX: usize = 16;
/// Most rounds after one batch; more is a loop that never ends.
const ROUNDS_MAX: usize = 2_000;
/// The timer fires at least so often.
const PULSE_MS: u64 = 10_000;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    Client(u64),
    Node(Session),
    Engine,
}

#[derive(Clone, Debug)]
struct Asked {
    asker: Asker,
    request: Request,
}

/// A running scheduler.
#[derive(Clone, Debug)]
pub(crate) struct Scheduler {
    pub(crate) start: u64,
    pub(crate) state: State,
    seq: u64,
    liveness: Liveness,
    inbox: VecDeque<Asked>,
    batch_planned: bool,
    pulse_planned: Option<u64>,
    /// Each node's stream.
    streams: BTreeMap<NodeId, Session>,
    /// Each stream's node, once it was welcomed.
    nodes: BTreeMap<Session, NodeId>,
    /// The newest stream that said Hello, by machine.
    newest: BTreeMap<usize, Session>,
    /// Heartbeats in a row that counted other leases.
    mismatches: BTreeMap<NodeId, u32>,
    requests: u64,
    /// Cluster time and the simulation's time when it started.
    base: (Time, u64),
}

impl Scheduler {
    fn clock(&self, now: u64) -> Time {
        (self.base.0 + Millis(now - self.base.1)).max(self.state.now())
    }

    fn at(&self, clock: Time) -> u64 {
        self.base.1 + clock.since(self.base.0).0
    }

    fn ttl(&self) -> Millis {
        lease_ttl(self.state.nodes().count())
    }
}

/// Returns a request in the name of somebody who does not matter.
pub(crate) fn request(number: u64, actor: &str, input: Input) -> Option<Request> {
    Some(Request {
        actor: Actor::new(actor).ok()?,
        tenant: Tenant::default(),
        reach: Reach::Tenant,
        request_id: RequestId::new(&number.to_string()).ok()?,
        input,
    })
}

impl World {
    /// Starts the scheduler from what is on disk.
    pub(crate) fn start_scheduler(&mut self, downtime_ms: u64) {
        if self.scheduler.is_some() {
            return;
        }
        let mut state = self.initial.clone();
        let mut seq = 0;
        for record in self.disk.snapshot().iter().chain(self.disk.tail()) {
            apply(&mut state, record.at, &record.event);
            seq = record.seq;
        }
        self.recovered(&state, seq);
        let base = (state.now() + Millis(downtime_ms), self.now);
        self.scheduler_starts += 1;
        let connected: Vec<NodeId> = state.nodes().filter(|node| node.connected()).map(|node| node.body.id).collect();
        self.scheduler = Some(Scheduler {
            start: self.scheduler_starts,
            liveness: Liveness::starting(base.0, connected),
            state,
            seq,
            inbox: VecDeque::new(),
            batch_planned: false,
            pulse_planned: None,
            streams: BTreeMap::new(),
            nodes: BTreeMap::new(),
            newest: BTreeMap::new(),
            mismatches: BTreeMap::new(),
            requests: 0,
            base,
        });
        self.note("scheduler-up", &[self.scheduler_starts, seq]);
        self.plan_pulse();
        for at in 0..self.nodes.len() {
            if self.nodes[at].agent.as_ref().is_some_and(|agent| agent.wants_stream) {
                self.plan_dial(at, 300);
            }
        }
    }

    /// Ends the scheduler's process and its streams.
    pub(crate) fn kill_scheduler(&mut self, power: bool) {
        let Some(scheduler) = self.scheduler.take() else { return };
        if power {
            self.disk.lose_power();
        }
        self.note("scheduler-killed", &[scheduler.start, u64::from(power)]);
        let sessions: Vec<Session> = self.net.streams.keys().copied().collect();
        for session in sessions {
            let Some(stream) = self.net.streams.get_mut(&session) else { continue };
            stream.scheduler_open = false;
            stream.held_up.clear();
            if stream.agent_open {
                let delay = self.rng.range(1, 50);
                self.queue.add(self.now + delay, Happening::Hangup { session });
            }
        }
        self.net.sweep(self.net.last());
    }

    /// Puts an input into the inbox.
    pub(crate) fn ask(&mut self, asker: Asker, actor: &str, tenant: Option<Tenant>, input: Input) {
        let wait = self.rng.below(3);
        let Some(scheduler) = &mut self.scheduler else { return };
        scheduler.requests += 1;
        let Some(mut request) = request(scheduler.requests, actor, input) else { return };
        if let Some(tenant) = tenant {
            request.tenant = tenant;
        }
        scheduler.inbox.push_back(Asked { asker, request });
        if !scheduler.batch_planned {
            scheduler.batch_planned = true;
            let start = scheduler.start;
            self.queue.add(self.now + wait, Happening::Batch { scheduler: start });
        }
    }

    /// Fires the engine's timer: who is overdue, and what time alone changes.
    pub(crate) fn on_pulse(&mut self, start: u64) {
        let now = self.now;
        let Some(scheduler) = &mut self.scheduler else { return };
        if scheduler.start != start || scheduler.pulse_planned.is_none_or(|planned| planned > now) {
            return;
        }
        scheduler.pulse_planned = None;
        let clock = scheduler.clock(now);
        let overdue = scheduler.liveness.overdue(clock, scheduler.ttl());
        let wakes = scheduler.state.next_wake().is_some_and(|wake| wake <= clock);
        for node in overdue {
            if let Some(scheduler) = &mut self.scheduler {
                scheduler.liveness.forget(node);
            }
            self.ask(Asker::Engine, "scheduler", None, Input::NodeSilent { node });
        }
        if wakes {
            self.ask(Asker::Engine, "scheduler", None, Input::Tick);
        }
        self.plan_pulse();
    }

    pub(crate) fn plan_pulse(&mut self) {
        let now = self.now;
        let Some(scheduler) = &mut self.scheduler else { return };
        let wake = scheduler.state.next_wake().map(|wake| scheduler.at(wake));
        let overdue = scheduler.liveness.next_overdue(scheduler.ttl()).map(|due| scheduler.at(due));
        let next = [wake, overdue].into_iter().flatten().min().unwrap_or(u64::MAX);
        let next = next.clamp(now + 1, now + PULSE_MS);
        if scheduler.pulse_planned.is_none_or(|planned| next < planned) {
            scheduler.pulse_planned = Some(next);
            let start = scheduler.start;
            self.queue.add(next, Happening::Pulse { scheduler: start });
        }
    }

    /// Runs one turn of the engine's loop.
    pub(crate) fn on_batch(&mut self, start: u64) {
        let Some(mut scheduler) = self.scheduler.take() else { return };
        if scheduler.start != start {
            self.scheduler = Some(scheduler);
            return;
        }
        scheduler.batch_planned = false;
        let clock = scheduler.clock(self.now);
        let mut events = Vec::new();
        let mut effects = Vec::new();
        let mut hellos = Vec::new();
        for _ in 0..BATCH_MAX {
            let Some(asked) = scheduler.inbox.pop_front() else { break };
            self.decide_one(&mut scheduler, clock, asked, &mut events, &mut effects, &mut hellos);
        }
        self.place_all(&mut scheduler, clock, &mut events, &mut effects);
        if !scheduler.inbox.is_empty() {
            scheduler.batch_planned = true;
            self.queue.add(self.now + 1, Happening::Batch { scheduler: start });
        }
        let records: Vec<Record> = (scheduler.seq + 1..)
            .zip(events)
            .map(|(seq, event)| Record { seq, at: clock, wall_ms: self.now, event })
            .collect();
        scheduler.seq += records.len() as u64;
        self.finish_batch(scheduler, &records, effects, &hellos);
    }

    fn decide_one(
        &mut self,
        scheduler: &mut Scheduler,
        clock: Time,
        asked: Asked,
        events: &mut Vec<Event>,
        effects: &mut Vec<(Asker, Effect)>,
        hellos: &mut Vec<(Session, Vec<HeldLease>)>,
    ) {
        let Asked { asker, request } = asked;
        self.inputs += 1;
        self.counters.input(&request.input);
        self.note("input", &[scheduler.seq, events.len() as u64]);
        self.read(|| format!("{asker:?} {:?}", request.input));
        if self.disk.full && grows_state(&request.input) {
            let refusal = Refusal {
                kind: RefusalKind::Exhausted,
                reason: "disk-full",
                message: String::from("the scheduler's disk is full"),
                hint: String::new(),
            };
            let reply = Reply::Refused(refusal);
            effects.push((asker, Effect::Reply { request_id: request.request_id, reply }));
            return;
        }
        if let (Asker::Node(session), Input::NodeHello(hello)) = (asker, &request.input) {
            hellos.push((session, hello.leases.clone()));
        }
        let step = decide(&scheduler.state, clock, &request);
        for event in &step.events {
            apply(&mut scheduler.state, clock, event);
        }
        events.extend(step.events);
        effects.extend(step.effects.into_iter().map(|effect| (asker, effect)));
    }

    fn place_all(
        &mut self,
        scheduler: &mut Scheduler,
        clock: Time,
        events: &mut Vec<Event>,
        effects: &mut Vec<(Asker, Effect)>,
    ) {
        for _ in 0..ROUNDS_MAX {
            if !scheduler.state.wants_round(clock) {
                return;
            }
            let step = place(&scheduler.state, clock);
            if step.events.is_empty() {
                return;
            }
            for event in &step.events {
                apply(&mut scheduler.state, clock, event);
            }
            events.extend(step.events);
            effects.extend(step.effects.into_iter().map(|effect| (Asker::Engine, effect)));
        }
        self.fail(String::from("placement never comes to rest"));
    }

    /// Appends and then performs, unless the scheduler dies in between.
    fn finish_batch(
        &mut self,
        scheduler: Scheduler,
        records: &[Record],
        effects: Vec<(Asker, Effect)>,
        hellos: &[(Session, Vec<HeldLease>)],
    ) {
        if self.broken.reply_first {
            // Broken on purpose: visible before durable.
            self.scheduler = Some(scheduler);
            self.perform(effects, hellos);
            let Some(scheduler) = self.scheduler.take() else { return };
            self.append(scheduler, records);
            self.plan_pulse();
            return;
        }
        if self.append(scheduler, records) {
            self.perform(effects, hellos);
        }
        self.plan_pulse();
    }

    /// Makes the records durable. Says whether the scheduler lives.
    fn append(&mut self, scheduler: Scheduler, records: &[Record]) -> bool {
        self.scheduler = Some(scheduler);
        if records.is_empty() {
            return true;
        }
        if let Some(point) = self.crash_at.take() {
            self.note("crash-at-append", &[point as u64]);
            if self.disk.interrupt(records, point) {
                self.became_durable(records);
            }
            self.kill_scheduler(true);
            self.plan_scheduler_up();
            return false;
        }
        if self.disk.append(records, !self.broken.fsync_off).is_err() {
            // Latched: nothing of the batch is acknowledged, the process ends and reads the disk again.
            self.kill_scheduler(false);
            self.plan_scheduler_up();
            return false;
        }
        self.became_durable(records);
        true
    }

    pub(crate) fn plan_scheduler_up(&mut self) {
        let delay = self.rng.range(20, 4_000);
        self.queue.add(self.now + delay, Happening::SchedulerUp { died: self.now });
    }

    /// Replaces the log by a snapshot, whose fold must be the state.
    pub(crate) fn compact(&mut self) {
        let Some(scheduler) = &self.scheduler else { return };
        let (seq, at) = (scheduler.seq, scheduler.state.now());
        let events = snapshot_events(&scheduler.state);
        let mut fold = self.initial.clone();
        for event in &events {
            apply(&mut fold, at, event);
            self.counters.event(event);
        }
        let same = fold.same_as(&scheduler.state);
        let records = events.into_iter().map(|event| Record { seq, at, wall_ms: self.now, event }).collect();
        self.disk.compact(records);
        self.note("snapshot", &[seq]);
        if !same {
            self.fail(String::from("the fold of a snapshot is not the state"));
        }
    }

    /// Arms a crash at the next append.
    pub(crate) fn crash_at_next_append(&mut self, point: CrashPoint) {
        self.crash_at = Some(point);
    }
}
