//! The world: one scheduler, some machines, people, a wire and a disk, under one clock and one source of chance.
//!
//! [`World::step`] takes the next happening and ends with [`World::check`]. Nothing happens between happenings, and
//! nothing happens that was not planned, so a seed is a whole run.
//!
//! Neighbours: `scheduler` is the engine's loop, `node` and `supervisor` are a machine, `driver` the people, `faults`
//! what goes wrong, `history` and `truth` what must hold.

mod durable;
mod wire;

use gangsaw_core::check::{History, check};
use gangsaw_core::event::Record;
use gangsaw_core::id::{JobId, LeaseId};
use gangsaw_core::place::replay;
use gangsaw_core::state::State;
use gangsaw_core::time::Time;

use crate::counters::Counters;
use crate::disk::{CrashPoint, Disk};
use crate::driver::Clients;
use crate::jobs::Size;
use crate::net::{Down, Net, Session, Up};
use crate::node::Node;
use crate::queue::Queue;
use crate::rng::Rng;
use crate::run::{Broken, Plan};
use crate::scheduler::Scheduler;
use crate::trace::Trace;
use crate::truth::Truth;

/// Chaos ends at the latest then, so that a run in which nothing is asked ends, too.
const CHAOS_MS_MAX: u64 = 90 * 86_400_000;
/// After the chaos the queue must be empty by then.
const CALM_MS_MAX: u64 = 12 * 3_600_000;

/// Batches after which all of the state is checked.
const CHECKED_EVERY: u32 = 16;

/// Something that is planned.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    Work,
    Fault,
    Tidy,
    Call { call: u64 },
    CallAgain { call: u64 },
    Batch { scheduler: u64 },
    Pulse { scheduler: u64 },
    Posted { scheduler: u64, job: JobId, ended_at: Time },
    SchedulerUp { died: u64 },
    DiskHasRoom,
    Up { session: Session, message: Up },
    Down { session: Session, message: Down },
    Hangup { session: Session },
    Dial { node: usize, agent: u64 },
    Heal { node: usize },
    Forget { node: usize },
    Overtake { node: usize },
    AgentTick { node: usize, agent: u64 },
    AgentUp { node: usize },
    News { node: usize, agent: u64 },
    SupervisorLost { node: usize },
    LeftoversGone { node: usize, lease: LeaseId },
    Prepared { node: usize, lease: LeaseId },
    TaskEnds { node: usize, process: u64 },
    Fence { node: usize, lease: LeaseId },
    DeviceBack { node: usize },
    WatcherBack { watcher: usize },
}

/// Somebody who reads the log as it grows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watcher {
    pub(crate) connected: bool,
    cursor: u64,
}

/// A simulated cluster.
#[derive(Clone, Debug)]
pub struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) queue: Queue<Happening>,
    pub(crate) initial: State,
    pub(crate) broken: Broken,
    pub(crate) chaos: bool,
    calm_since: u64,
    pub(crate) size: Size,
    pub(crate) work_pause_ms: u64,
    pub(crate) fault_pause_ms: u64,
    pub(crate) long_downtimes: u32,
    pub(crate) hardy_scheduler: bool,
    pub(crate) measured_downtime: Option<u64>,
    /// Nobody asks and nothing breaks until then: the scheduler is down for days.
    pub(crate) quiet_until: u64,
    pub(crate) inputs: u64,
    inputs_wanted: u64,
    pub(crate) disk: Disk,
    pub(crate) crash_at: Option<CrashPoint>,
    pub(crate) scheduler: Option<Scheduler>,
    pub(crate) scheduler_starts: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) processes_made: u64,
    pub(crate) net: Net,
    pub(crate) clients: Clients,
    pub(crate) watchers: Vec<Watcher>,
    /// The fold of every durable record, made one by one.
    shadow: State,
    log: Vec<Record>,
    /// Batches since the state was checked.
    unchecked: u32,
    pub(crate) history: History,
    pub(crate) truth: Truth,
    pub(crate) counters: Counters,
    trace: Trace,
    read: bool,
    violation: Option<String>,
}

impl World {
    /// Returns the world of a plan, at time zero.
    pub fn new(plan: &Plan) -> Self {
        let mut rng = Rng::new(plan.seed);
        let count = rng.range(1, 5);
        let gpus = rng.pick(&[0, 1, 2, 4]).unwrap_or(0);
        let nodes: Vec<Node> = (0..count).filter_map(|at| crate::node::machine(&mut rng, at, gpus)).collect();
        let mut world = Self {
            now: 0,
            queue: Queue::new(),
            initial: plan.initial.clone(),
            broken: plan.broken,
            chaos: true,
            calm_since: 0,
            size: Size { nodes: count, gpus },
            work_pause_ms: rng.pick(&[40, 150, 600]).unwrap_or(150),
            fault_pause_ms: rng.pick(&[300, 1_500, 8_000]).unwrap_or(1_500),
            long_downtimes: u32::from(rng.permille(400)),
            hardy_scheduler: rng.permille(500),
            measured_downtime: None,
            quiet_until: 0,
            inputs: 0,
            inputs_wanted: plan.inputs,
            disk: Disk::default(),
            crash_at: None,
            scheduler: None,
            scheduler_starts: 0,
            net: Net::new(nodes.len()),
            nodes,
            processes_made: 0,
            clients: Clients::default(),
            watchers: vec![Watcher { connected: true, cursor: 0 }; 3],
            shadow: plan.initial.clone(),
            log: Vec::new(),
            unchecked: 0,
            history: History::default(),
            truth: Truth::default(),
            counters: Counters::default(),
            trace: Trace::new(plan.tail_lines),
            read: plan.tail_lines > 0,
            violation: None,
            rng,
        };
        world.start_scheduler(0);
        for at in 0..world.nodes.len() {
            world.start_agent(at);
        }
        world.queue.add(100, Happening::Work);
        world.queue.add(2_000, Happening::Fault);
        world
    }

    /// Takes the next happening and checks everything. Says whether there is more to come.
    pub fn step(&mut self) -> bool {
        let Some((at, happening)) = self.queue.next() else { return false };
        self.now = at;
        self.happen(happening);
        if self.chaos && (self.inputs >= self.inputs_wanted || self.now > CHAOS_MS_MAX) {
            self.calm();
        }
        self.check();
        self.violation.is_none() && !self.is_over()
    }

    /// Checks what must hold at every moment. A violation ends the run. The history, the truth and the replay of
    /// rounds are checked record by record as they become durable; what costs all of the state waits for
    /// [`CHECKED_EVERY`] batches, a recovery, a snapshot or the end.
    pub fn check(&mut self) {
        if self.unchecked >= CHECKED_EVERY {
            self.check_state();
        }
    }

    fn check_state(&mut self) {
        self.unchecked = 0;
        let Some(scheduler) = &self.scheduler else { return };
        if let Err(violation) = check(&scheduler.state) {
            return self.fail(format!("an invariant of the core does not hold: {violation}"));
        }
        if !scheduler.state.same_as(&self.shadow) {
            self.fail(String::from("the state is not the fold of the log"));
        }
    }

    /// Returns what was violated, if anything.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Returns the hash of everything that happened.
    pub fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    /// Returns the last lines of the trace, if the plan asked for them.
    pub fn trace_tail(&self) -> Vec<String> {
        self.trace.tail()
    }

    /// Returns the counts.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns how many inputs the scheduler's core was given.
    pub fn inputs(&self) -> u64 {
        self.inputs
    }

    /// Returns the log.
    pub fn log(&self) -> &[Record] {
        &self.log
    }

    /// Says whether the chaos is over and the queue is empty.
    fn is_over(&mut self) -> bool {
        if self.chaos || self.violation.is_some() {
            return false;
        }
        let at_rest = self.history.is_over()
            && self.scheduler.as_ref().is_some_and(|scheduler| scheduler.state.leases().next().is_none());
        if at_rest {
            self.finish();
            return true;
        }
        if self.now > self.calm_since + CALM_MS_MAX {
            let what = self.stuck();
            self.fail(format!("the faults stopped and the queue did not empty: {what}"));
        }
        false
    }

    fn stuck(&self) -> String {
        let Some(scheduler) = &self.scheduler else { return String::from("the scheduler is down") };
        let leases: Vec<String> = scheduler.state.leases().take(3).map(|lease| format!("{lease:?}")).collect();
        let Some((job, open)) = self.history.unfinished() else { return format!("leases are left: {leases:?}") };
        let reasons = scheduler.state.wait_reasons(job, scheduler.state.now());
        let body = scheduler.state.job(job).map(|job| &job.body);
        format!("job {job} has {open} open elements: {reasons:?}\n  {body:?}\n  {leases:?}")
    }

    /// The last checks, over the whole run.
    fn finish(&mut self) {
        self.check_state();
        let diffs = replay(self.initial.clone(), &self.log);
        if let Some(diff) = diffs.first() {
            return self.fail(format!("{} rounds are replayed otherwise, first {diff:?}", diffs.len()));
        }
        let last = self.log.last().map_or(0, |record| record.seq);
        if let Some(watcher) = self.watchers.iter().find(|watcher| watcher.connected && watcher.cursor != last) {
            self.fail(format!("a watcher saw {} of {last} records", watcher.cursor));
        }
    }

    fn happen(&mut self, happening: Happening) {
        if let Some(until) = self.waits_for_agent(&happening) {
            return self.queue.add(until, happening);
        }
        match happening {
            Happening::Work => self.on_work(),
            Happening::Fault => self.on_fault(),
            Happening::Tidy => self.on_tidy(),
            Happening::Call { call } => self.on_call(call),
            Happening::CallAgain { call } => self.on_call_again(call),
            Happening::Batch { scheduler } => self.on_batch(scheduler),
            Happening::Pulse { scheduler } => self.on_pulse(scheduler),
            Happening::Posted { scheduler, job, ended_at } => self.on_posted(scheduler, job, ended_at),
            Happening::SchedulerUp { died } => {
                let measured = self.measured_downtime.take();
                self.start_scheduler(measured.unwrap_or(self.now - died));
            }
            Happening::DiskHasRoom => self.disk.full = false,
            Happening::Up { session, message } => self.on_up(session, message),
            Happening::Down { session, message } => self.on_down(session, message),
            Happening::Hangup { session } => self.on_hangup(session),
            Happening::Dial { node, agent } => self.on_dial(node, agent),
            Happening::Forget { node } => self.forget(node),
            Happening::Heal { node } if self.net.wires[node].ill_until > self.now => {}
            Happening::Heal { node } => self.heal(node),
            Happening::Overtake { node } => {
                self.net.wires[node].slow_ms = 0;
                self.hang_up(node);
            }
            Happening::AgentTick { node, agent } => self.on_agent_tick(node, agent),
            Happening::AgentUp { node } => self.start_agent(node),
            Happening::News { node, agent } => self.on_news(node, agent),
            Happening::SupervisorLost { node } => self.on_supervisor_lost(node),
            Happening::LeftoversGone { node, lease } => self.on_leftovers_gone(node, lease),
            Happening::Prepared { node, lease } => self.on_prepared(node, lease),
            Happening::TaskEnds { node, process } => self.on_task_ends(node, process),
            Happening::Fence { node, lease } => self.on_fence(node, lease),
            Happening::DeviceBack { node } => {
                self.nodes[node].inventory = self.nodes[node].owned.clone();
                self.tell_inventory(node);
            }
            Happening::WatcherBack { watcher } => self.resume_watcher(watcher),
        }
    }

    /// Returns until when a happening must wait because its agent is stopped.
    fn waits_for_agent(&self, happening: &Happening) -> Option<u64> {
        let at = match happening {
            Happening::Dial { node, .. }
            | Happening::AgentTick { node, .. }
            | Happening::News { node, .. }
            | Happening::SupervisorLost { node }
            | Happening::Overtake { node }
            | Happening::LeftoversGone { node, .. } => *node,
            Happening::Down { session, .. } | Happening::Hangup { session } => {
                self.net.streams.get(session).map(|stream| stream.node)?
            }
            Happening::Work
            | Happening::Fault
            | Happening::Tidy
            | Happening::Call { .. }
            | Happening::CallAgain { .. }
            | Happening::Batch { .. }
            | Happening::Pulse { .. }
            | Happening::Posted { .. }
            | Happening::SchedulerUp { .. }
            | Happening::DiskHasRoom
            | Happening::Up { .. }
            | Happening::Heal { .. }
            | Happening::Forget { .. }
            | Happening::AgentUp { .. }
            | Happening::Prepared { .. }
            | Happening::TaskEnds { .. }
            | Happening::Fence { .. }
            | Happening::DeviceBack { .. }
            | Happening::WatcherBack { .. } => return None,
        };
        self.nodes[at].agent.as_ref().map(|agent| agent.paused_until).filter(|until| *until > self.now)
    }

    /// Ends the chaos: heals what is ill, and lets what is planned come.
    fn calm(&mut self) {
        self.chaos = false;
        self.calm_since = self.now;
        self.note("calm", &[self.inputs]);
        self.disk.full = false;
        self.disk.fails_next = false;
        self.crash_at = None;
        for at in 0..self.nodes.len() {
            self.nodes[at].bad_until = 0;
            if let Some(agent) = &mut self.nodes[at].agent {
                agent.paused_until = 0;
            }
            self.heal(at);
        }
        self.queue.add(self.now + 1_000, Happening::Tidy);
    }

    /// Notes what happened.
    pub(crate) fn note(&mut self, what: &str, numbers: &[u64]) {
        self.trace.note(self.now, what, numbers);
    }

    /// Adds a line to the trace if it is read.
    pub(crate) fn read(&mut self, line: impl FnOnce() -> String) {
        if self.read {
            self.trace.line(self.now, &line());
        }
    }

    /// Ends the run with a violation.
    pub(crate) fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }
}
