//! One turn of the engine: drain, decide, place, append once, perform, answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use gangsaw_core::effect::{Effect, Step};
use gangsaw_core::event::Event;
use gangsaw_core::id::{JobId, NodeId};
use gangsaw_core::input::Request;
use gangsaw_core::state::State;
use gangsaw_core::time::Time;
use gangsaw_proto::node::v1::attach_response::Message as ToNode;
use tokio::sync::{oneshot, watch};

use super::desk::{self, Desk, View};
use super::refused::Refused;
use super::session::Outbox;
use super::take::is_submit;
use super::{Answer, EngineError, Message, Parts, Read};
use crate::clock::{Clock, boot_ns, wall_ms};
use crate::disk::DiskGuard;
use crate::keyring::Keyring;
use crate::metrics::Metrics;
use crate::rpc::errors::Refusal;
use crate::store::contract::{AppendError, Store};
use crate::store::fail::{FailAt, FailMoment};
use crate::store::project::Projection;
use crate::wire::view::Now;

/// Messages one batch takes: it bounds how long the first waits for the last.
const BATCH_MESSAGES_MAX: usize = 1_024;
/// Events after which a batch takes no more messages, so that one append stays a few MB.
const BATCH_EVENTS_MAX: usize = 20_000;
/// Longest wait: silence and back-offs are looked at once a second at least.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Shortest wait after a turn in which nothing became true: a moment that passed and changes nothing (placement that
/// waits for disk space) must not spin. A message ends any wait at once.
const IDLE_WAIT_MIN: Duration = Duration::from_millis(5);
/// How long a report from the middle of a chunk waits for others: nobody is kept waiting by it, its node gathers more
/// for the next one meanwhile, and a hundred appends a second cost less than a thousand.
const COMPANY_WAIT: Duration = Duration::from_millis(10);
/// How far the wall clock may run from the cluster's before times for people follow it.
const WALL_STEP_MS: u64 = 500;
/// Tries of an append on a full disk after the ballast was given up, and the wait between two.
const FULL_TRIES: u32 = 100;
const FULL_WAIT: Duration = Duration::from_millis(100);

/// The core's `decide`, or a test's.
pub(super) type Decide = fn(&State, Time, &Request) -> Step;

/// The engine's own side.
pub(super) struct Running {
    pub(super) state: State,
    pub(super) store: Box<dyn Store>,
    pub(super) disk: DiskGuard,
    pub(super) clock: Clock,
    pub(super) now: Now,
    pub(super) desk: Desk,
    pub(super) refused: Refused,
    notices: watch::Sender<u64>,
    pub(super) metrics: Arc<Metrics>,
    /// The tokens in force, for the door.
    pub(super) keys: watch::Sender<Arc<Keyring>>,
    pub(super) decide: Decide,
    /// Wall time of cluster time zero.
    pub(super) wall_base_ms: u64,
    /// The last turn appended nothing.
    pub(super) idle: bool,
    fail_at: Option<FailAt>,
    /// Batches appended so far.
    appended: u64,
}

/// The next message, or why there is none.
type Received = Result<Message, RecvTimeoutError>;

/// What leaves after the append, in order.
pub(super) enum Leaving {
    Effect(Effect),
    Open { node: NodeId, session: u64, out: Outbox, welcome: ToNode, answer: oneshot::Sender<Result<NodeId, Refusal>> },
    Tell(NodeId, ToNode),
    Answer(oneshot::Sender<Answer>, Answer),
}

/// One batch on its way to the log.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) events: Vec<Event>,
    /// Which rows the events change.
    pub(super) projection: Projection,
    pub(super) leaving: Vec<Leaving>,
    pub(super) reads: Vec<Read>,
    /// Index of each JobsSubmitted among the events, and when its request arrived.
    pub(super) submits: Vec<(usize, u64)>,
    pub(super) touched: BTreeSet<JobId>,
}

impl Running {
    pub(super) fn new(parts: Parts, decide: Decide) -> Running {
        let state = parts.loaded.state;
        let clock = Clock::resume(state.now().0, parts.loaded.last_wall_ms);
        let now = Now { time: Time(clock.now_ms()), wall_ms: wall_ms() };
        let desk = Desk::starting(&state, now.time);
        let keys = watch::Sender::new(Arc::new(Keyring::new(state.tokens(), clock)));
        Running {
            state,
            store: parts.store,
            disk: parts.disk,
            clock,
            now,
            desk,
            refused: Refused::new(parts.refused_inputs),
            notices: parts.notices,
            metrics: parts.metrics,
            keys,
            decide,
            wall_base_ms: now.wall_ms.saturating_sub(now.time.0),
            idle: false,
            fail_at: parts.fail_at,
            appended: 0,
        }
    }

    /// Drains a batch, decides each, appends once, performs and answers. Returns false when told to stop.
    pub(super) fn turn(&mut self, messages: &Receiver<Message>) -> Result<bool, EngineError> {
        let mut batch = Batch::default();
        let mut going = true;
        let mut next = messages.recv_timeout(self.wait());
        let waiting = match next {
            Ok(message) if self.can_wait(&message) => {
                let (waiting, after) = self.company(message, messages);
                next = after;
                waiting
            }
            other => {
                next = other;
                Vec::new()
            }
        };
        self.store.confirm().map_err(EngineError::Append)?;
        self.look_around();
        for message in waiting {
            self.take(message, &mut batch);
        }
        for taken in 1.. {
            match next {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    going = false;
                    break;
                }
                Ok(message) => self.take(message, &mut batch),
                Err(RecvTimeoutError::Timeout) => break,
            }
            if taken == BATCH_MESSAGES_MAX || batch.events.len() >= BATCH_EVENTS_MAX {
                break;
            }
            next = messages.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            });
        }
        self.pass_time(&mut batch);
        self.strike(FailMoment::Decided, &batch);
        self.place(&mut batch);
        self.strike(FailMoment::Placed, &batch);
        self.append(&mut batch)?;
        self.perform(&mut batch);
        self.strike(FailMoment::Performed, &batch);
        self.appended += u64::from(!batch.events.is_empty());
        self.show(batch);
        Ok(going)
    }

    /// Ends the process if that was planned for this moment on the way to this batch's append.
    fn strike(&self, moment: FailMoment, batch: &Batch) {
        if let Some(fail) = self.fail_at.filter(|_| !batch.events.is_empty()) {
            fail.step(self.appended + 1, moment);
        }
    }

    /// Waits a moment for company to share an append with; ends at once with the first message that cannot wait.
    fn company(&self, first: Message, messages: &Receiver<Message>) -> (Vec<Message>, Received) {
        let until = Instant::now() + COMPANY_WAIT;
        let mut waiting = vec![first];
        while waiting.len() < BATCH_MESSAGES_MAX {
            match messages.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(message) if self.can_wait(&message) => waiting.push(message),
                other => return (waiting, other),
            }
        }
        (waiting, Err(RecvTimeoutError::Timeout))
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
        let time = self.clock.now_ms().max(self.state.now().0);
        self.desk.after_gap(&self.state, self.now.time, Time(time));
        self.now = Now { time: Time(time), wall_ms: self.steady_wall(time) };
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

    /// Returns the wall time that goes with `time`: the same moment reads the same twice, unless somebody set the clock.
    fn steady_wall(&mut self, time: u64) -> u64 {
        let wall = wall_ms();
        let steady = self.wall_base_ms + time;
        if steady.abs_diff(wall) <= WALL_STEP_MS {
            return steady;
        }
        self.wall_base_ms = wall.saturating_sub(time);
        wall
    }

    /// Makes the batch durable. On a full disk the ballast goes, for the state is already ahead of the log.
    fn append(&mut self, batch: &mut Batch) -> Result<(), EngineError> {
        if let Some(failure) = self.store.keeper_failure() {
            return Err(EngineError::Keeper(failure));
        }
        self.idle = batch.events.is_empty();
        if self.idle {
            return Ok(());
        }
        let begun = Instant::now();
        let rows = std::mem::take(&mut batch.projection).rows(&self.state, self.now);
        let mut tries = 0;
        loop {
            match self.store.append(self.now.time, self.now.wall_ms, &batch.events, &rows) {
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
        if batch.events.iter().any(|event| matches!(event, Event::Token(_))) {
            self.keys.send_modify(|keys| *keys = Arc::new(keys.follow(self.state.tokens())));
        }
        let mut submits = batch.submits.iter().peekable();
        for (at, event) in batch.events.iter().enumerate() {
            let arrived = submits.next_if(|(index, _)| *index == at).map_or(durable_ns, |(_, arrived)| *arrived);
            self.desk.phases.note(event, arrived, durable_ns);
            if is_submit(event) {
                let nanos = Duration::from_nanos(durable_ns.saturating_sub(arrived));
                self.metrics.submit_to_durable.observe(nanos.as_secs_f64());
            }
        }
        let leaving = std::mem::take(&mut batch.leaving);
        let half = leaving.len() / 2;
        for (number, leaving) in leaving.into_iter().enumerate() {
            if number == half {
                self.strike(FailMoment::Performing, batch);
            }
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
        let made = self.state.notices_made();
        self.notices.send_if_modified(|seen| std::mem::replace(seen, made) != made);
        let mut view = View {
            state: &self.state,
            now: self.now,
            last_seq: self.store.last_seq(),
            history: self.store.history(),
            desk: &mut self.desk,
        };
        for read in batch.reads {
            read(&mut view);
        }
    }
}
