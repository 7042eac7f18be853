//! A simulated supervisor and the processes of its tasks.
//!
//! It does what the real one promises: a lease runs by itself, elements in order on its slots; every task ends in
//! exactly one fact, written to the spool before it is told; a lease id that is known starts nothing. What a task does
//! is written in its command, see `jobs`.

use std::collections::{BTreeMap, BTreeSet};

use gangsaw_core::agent::{Order, Spooled, StopReason};
use gangsaw_core::effect::Grant;
use gangsaw_core::id::{Attempt, DeviceId, Index, JobId, LeaseId, Rank};
use gangsaw_core::input::{Fact, FactKind};
use gangsaw_core::job::record::{Cause, Exit};
use gangsaw_core::ranges::{IndexRange, RangeSet};
use gangsaw_core::time::Time;

use crate::jobs::{Act, Behaviour};
use crate::world::{Happening, World};

/// A process of a task.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    supervisor: u64,
    pub(crate) lease: LeaseId,
    pub(crate) job: JobId,
    pub(crate) index: Index,
    pub(crate) rank: Rank,
    pub(crate) attempt: Attempt,
    pub(crate) devices: Vec<DeviceId>,
    began: u64,
    ends: u64,
    exit: Exit,
    /// Ends only by SIGKILL once it is told to stop.
    stubborn: bool,
}

impl Process {
    /// Says whether it will still run then if nothing happens to it.
    pub(crate) fn lives_at(&self, at: u64) -> bool {
        self.ends > at
    }
}

/// How far a gang's lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gang {
    Preparing,
    Prepared,
    Started,
}

/// A lease that a supervisor holds.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    grant: Grant,
    gang: Option<Gang>,
    /// Elements that have not begun; a gang's are none.
    todo: RangeSet,
    running: BTreeMap<(Index, Rank), u64>,
    renewed: Time,
}

impl Run {
    /// Returns the units without an end.
    pub(crate) fn open(&self) -> RangeSet {
        let mut open: RangeSet = match self.gang {
            Some(Gang::Preparing | Gang::Prepared) => {
                self.grant.ranks.iter().map(|hold| IndexRange::one(hold.rank)).collect()
            }
            Some(Gang::Started) | None => self.todo.clone(),
        };
        for &(index, rank) in self.running.keys() {
            let unit = if self.gang.is_some() { rank } else { index };
            open.insert(unit, unit);
        }
        open
    }

    fn is_over(&self) -> bool {
        let waits = match self.gang {
            Some(Gang::Preparing | Gang::Prepared) => true,
            Some(Gang::Started) => false,
            None => !self.todo.is_empty(),
        };
        !waits && self.running.is_empty()
    }
}

/// A supervisor.
#[derive(Clone, Debug)]
pub(crate) struct Supervisor {
    pub(crate) start: u64,
    pub(crate) runs: BTreeMap<LeaseId, Run>,
    known: BTreeSet<LeaseId>,
}

impl Supervisor {
    pub(crate) fn new(start: u64) -> Self {
        Self { start, runs: BTreeMap::new(), known: BTreeSet::new() }
    }
}

impl World {
    /// Carries out an order of the agent.
    pub(crate) fn order(&mut self, at: usize, order: Order) {
        match order {
            Order::Spawn { lease } | Order::Prepare { lease } => self.run(at, lease),
            Order::Start { lease, .. } => self.start_gang(at, lease),
            Order::Stop { lease, elements, grace, reason } => self.stop(at, lease, &elements, grace.0, reason),
            Order::Trim { lease } => {
                self.give_back(at, lease, &RangeSet::new());
                self.forget_run(at, lease);
            }
            Order::AckFacts { seq } => self.nodes[at].disk.spool.retain(|spooled| spooled.seq > seq),
            Order::Renew { heard } => {
                let node = &mut self.nodes[at];
                node.disk.renewed = node.disk.renewed.max(heard);
                let leases: Vec<LeaseId> =
                    node.supervisor.iter().flat_map(|supervisor| supervisor.runs.keys().copied()).collect();
                for lease in leases {
                    self.renew(at, lease, heard);
                }
            }
        }
    }

    fn run(&mut self, at: usize, lease: LeaseId) {
        let node = &mut self.nodes[at];
        let Some(grant) = node.disk.grants.get(&lease).cloned() else { return };
        let Some(supervisor) = &mut node.supervisor else { return };
        if !supervisor.known.insert(lease) {
            return;
        }
        let gang = grant.gang.is_some().then_some(Gang::Preparing);
        let (first, last) = (grant.first, grant.last);
        let todo = if gang.is_some() { RangeSet::new() } else { RangeSet::range(first, last) };
        let renewed = node.disk.renewed;
        supervisor.runs.insert(lease, Run { grant, gang, todo, running: BTreeMap::new(), renewed });
        self.note("run", &[at as u64, lease.0, u64::from(first), u64::from(last)]);
        if gang.is_some() {
            let delay = if self.rng.permille(10) { 70_000 } else { self.rng.range(1, 40) };
            self.queue.add(self.now + delay, Happening::Prepared { node: at, lease });
        } else {
            self.fill_slots(at, lease);
        }
    }

    pub(crate) fn on_prepared(&mut self, at: usize, lease: LeaseId) {
        let bad = self.nodes[at].bad_until > self.now;
        let Some(run) = self.nodes[at].supervisor.as_mut().and_then(|supervisor| supervisor.runs.get_mut(&lease))
        else {
            return;
        };
        if run.gang != Some(Gang::Preparing) {
            return;
        }
        let grant = run.grant.clone();
        let users_fault = Behaviour::of(&grant.task.work).act == Act::NoCommand;
        if bad || users_fault {
            run.gang = Some(Gang::Started);
            let rank = grant.ranks.first().map_or(0, |hold| hold.rank);
            self.tell(at, lease, start_failed(grant.first, rank, users_fault));
            self.forget_run(at, lease);
        } else {
            run.gang = Some(Gang::Prepared);
            self.tell(at, lease, FactKind::Prepared { port: 29_500 });
        }
    }

    fn start_gang(&mut self, at: usize, lease: LeaseId) {
        let Some(run) = self.nodes[at].supervisor.as_mut().and_then(|supervisor| supervisor.runs.get_mut(&lease))
        else {
            return;
        };
        if run.gang != Some(Gang::Prepared) {
            return;
        }
        run.gang = Some(Gang::Started);
        let grant = run.grant.clone();
        self.nodes[at].disk.begun.insert(lease, u64::from(grant.first) + 1);
        for hold in &grant.ranks {
            self.exec(at, &grant, grant.first, hold.rank, hold.gpu_uuids.clone());
        }
        self.forget_run(at, lease);
    }

    /// Begins elements while there are slots and elements.
    fn fill_slots(&mut self, at: usize, lease: LeaseId) {
        loop {
            let Some(run) = self.nodes[at].supervisor.as_mut().and_then(|supervisor| supervisor.runs.get_mut(&lease))
            else {
                return;
            };
            let slots = usize::try_from(run.grant.slots.max(1)).unwrap_or(1);
            let Some(index) = run.todo.first().filter(|_| run.running.len() < slots) else { break };
            run.todo.remove(index, index);
            let grant = run.grant.clone();
            self.nodes[at].disk.begun.insert(lease, u64::from(index) + 1);
            let devices = grant.ranks.first().map(|hold| hold.gpu_uuids.clone()).unwrap_or_default();
            if !self.exec(at, &grant, index, 0, devices) {
                // As the real one: a failed start gives the rest of the lease back.
                self.give_back(at, lease, &RangeSet::new());
            }
        }
        self.forget_run(at, lease);
    }

    /// Executes a task. Says whether it started.
    fn exec(&mut self, at: usize, grant: &Grant, index: Index, rank: Rank, devices: Vec<DeviceId>) -> bool {
        let behaviour = Behaviour::of(&grant.task.work);
        let bad = self.nodes[at].bad_until > self.now;
        if bad || behaviour.act == Act::NoCommand {
            let users_fault = behaviour.act == Act::NoCommand && !bad;
            self.tell(at, grant.lease, start_failed(index, rank, users_fault));
            return false;
        }
        let (mut ran_ms, mut exit) = behaviour.end(index, grant.attempt);
        if let Some(limit) = grant.task.time_limit.filter(|limit| limit.0 < ran_ms) {
            ran_ms = limit.0;
            exit = Exit { cause: Cause::TimeLimit, exit_code: None, signal: Some(9), ..exit };
        }
        exit.ran_us = ran_ms * 1_000;
        self.processes_made += 1;
        let id = self.processes_made;
        let supervisor = self.nodes[at].supervisor.as_ref().map_or(0, |supervisor| supervisor.start);
        let process = Process {
            supervisor,
            lease: grant.lease,
            job: grant.job,
            index,
            rank,
            attempt: grant.attempt,
            devices,
            began: self.now,
            ends: self.now + ran_ms,
            exit,
            stubborn: behaviour.stubborn,
        };
        self.saw_exec(at, &process);
        self.queue.add(process.ends, Happening::TaskEnds { node: at, process: id });
        let node = &mut self.nodes[at];
        node.processes.insert(id, process);
        if let Some(run) = node.supervisor.as_mut().and_then(|supervisor| supervisor.runs.get_mut(&grant.lease)) {
            run.running.insert((index, rank), id);
        }
        if grant.gang.is_some() || grant.first == grant.last || ran_ms >= 20 {
            let output_dir = String::from("out");
            let pid = u32::try_from(id).unwrap_or(u32::MAX);
            let spawn_us = 900;
            self.tell(at, grant.lease, FactKind::Started { index, rank, pid, start_ticks: id, output_dir, spawn_us });
        }
        true
    }

    pub(crate) fn on_task_ends(&mut self, at: usize, id: u64) {
        let now = self.now;
        let Some(process) = self.nodes[at].processes.get(&id) else { return };
        if process.ends > now {
            return;
        }
        let Some(process) = self.nodes[at].processes.remove(&id) else { return };
        let Some(supervisor) = &mut self.nodes[at].supervisor else { return };
        if supervisor.start != process.supervisor {
            return;
        }
        let Some(run) = supervisor.runs.get_mut(&process.lease) else { return };
        run.running.remove(&(process.index, process.rank));
        let is_gang = run.gang.is_some();
        self.saw_end(&process, &process.exit);
        let well = process.exit.cause == Cause::Exit && process.exit.exit_code == Some(0);
        let kind = if well && !is_gang {
            let mean_us = (now - process.began) * 1_000;
            FactKind::Succeeded { first: process.index, last: process.index, mean_us }
        } else {
            FactKind::Ended { index: process.index, rank: process.rank, exit: process.exit }
        };
        self.tell(at, process.lease, kind);
        self.fill_slots(at, process.lease);
    }

    /// Stops processes of a lease, and gives back what has not begun.
    fn stop(&mut self, at: usize, lease: LeaseId, elements: &RangeSet, grace_ms: u64, reason: StopReason) {
        self.give_back(at, lease, elements);
        let now = self.now;
        let cause = match reason {
            StopReason::Revoked(_) | StopReason::Shutdown => Cause::Revoked,
            StopReason::Silence => Cause::Disconnected,
        };
        let node = &mut self.nodes[at];
        let Some(run) = node.supervisor.as_ref().and_then(|supervisor| supervisor.runs.get(&lease)) else { return };
        let mut plans = Vec::new();
        for (&(index, _), &id) in &run.running {
            if !elements.is_empty() && !elements.contains(index) {
                continue;
            }
            let Some(process) = node.processes.get_mut(&id) else { continue };
            let wait = if process.stubborn { grace_ms } else { id % 20 };
            if now + wait < process.ends {
                process.ends = now + wait;
                process.exit = Exit {
                    cause,
                    exit_code: None,
                    signal: Some(if process.stubborn { 9 } else { 15 }),
                    ran_us: (process.ends - process.began) * 1_000,
                    ..process.exit.clone()
                };
                plans.push((process.ends, id));
            }
        }
        for (ends, process) in plans {
            self.queue.add(ends, Happening::TaskEnds { node: at, process });
        }
        self.forget_run(at, lease);
    }

    /// Gives back what has not begun: among `elements`, or all if that is empty.
    fn give_back(&mut self, at: usize, lease: LeaseId, elements: &RangeSet) {
        let Some(run) = self.nodes[at].supervisor.as_mut().and_then(|supervisor| supervisor.runs.get_mut(&lease))
        else {
            return;
        };
        match run.gang {
            Some(Gang::Started) => return,
            Some(Gang::Preparing | Gang::Prepared) => {
                run.gang = Some(Gang::Started);
                let index = run.grant.first;
                self.tell(at, lease, FactKind::Returned { first: index, last: index });
                return;
            }
            None => {}
        }
        let back = if elements.is_empty() { run.todo.clone() } else { run.todo.intersection(elements) };
        run.todo.subtract(&back);
        for part in back.iter() {
            self.tell(at, lease, FactKind::Returned { first: part.first, last: part.last });
        }
    }

    fn forget_run(&mut self, at: usize, lease: LeaseId) {
        if let Some(supervisor) = &mut self.nodes[at].supervisor
            && supervisor.runs.get(&lease).is_some_and(Run::is_over)
        {
            supervisor.runs.remove(&lease);
        }
    }

    /// Writes a fact to the spool, and tells the agent soon.
    fn tell(&mut self, at: usize, lease: LeaseId, kind: FactKind) {
        let delay = self.rng.below(6);
        let node = &mut self.nodes[at];
        node.disk.spool_last += 1;
        node.disk.spool.push(Spooled { seq: node.disk.spool_last, fact: Fact { lease, kind } });
        if let Some(agent) = &node.agent {
            self.queue.add(self.now + delay, Happening::News { node: at, agent: agent.start });
        }
    }

    /// Moves the supervisor's own fence, which holds also when no agent lives.
    fn renew(&mut self, at: usize, lease: LeaseId, heard: Time) {
        let node = &mut self.nodes[at];
        let Some(run) = node.supervisor.as_mut().and_then(|supervisor| supervisor.runs.get_mut(&lease)) else { return };
        let Some(after) = run.grant.task.stop_after else { return };
        run.renewed = run.renewed.max(heard);
        let due = run.renewed + after + run.grant.task.grace;
        let due = node.at(due);
        self.queue.add(due.max(self.now), Happening::Fence { node: at, lease });
    }

    pub(crate) fn on_fence(&mut self, at: usize, lease: LeaseId) {
        let node = &self.nodes[at];
        let Some(run) = node.supervisor.as_ref().and_then(|supervisor| supervisor.runs.get(&lease)) else { return };
        let Some(after) = run.grant.task.stop_after else { return };
        let grace = run.grant.task.grace;
        if run.renewed + after + grace <= node.clock(self.now) {
            self.stop(at, lease, &RangeSet::new(), grace.0, StopReason::Silence);
        }
    }

    /// Ends the supervisor's process; most tasks go with it, and some stay behind as orphans.
    pub(crate) fn kill_supervisor(&mut self, at: usize) {
        if self.nodes[at].supervisor.take().is_none() {
            return;
        }
        self.note("supervisor-killed", &[at as u64]);
        let ids: Vec<u64> = self.nodes[at].processes.keys().copied().collect();
        for id in ids {
            if self.rng.permille(700) {
                self.nodes[at].processes.remove(&id);
            }
        }
        let delay = self.rng.range(1, 60);
        self.queue.add(self.now + delay, Happening::SupervisorLost { node: at });
    }
}

fn start_failed(index: Index, rank: Rank, users_fault: bool) -> FactKind {
    let detail = String::from(if users_fault { "no such command" } else { "the slot is broken" });
    FactKind::StartFailed { index, rank, users_fault, detail }
}
