//! Runs of worlds: one seed, or many on several threads.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use gangsaw_core::state::State;

use crate::counters::Counters;
use crate::world::World;

/// Lines of a failing run that are shown.
const TAIL_LINES: usize = 200;

/// Switches that break the world's scheduler around the core on purpose. All off unless a test says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Broken {
    /// Appends are not flushed, so a loss of power forgets them.
    pub fsync_off: bool,
    /// Effects are performed before their events are appended.
    pub reply_first: bool,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The source of all chance.
    pub seed: u64,
    /// Inputs of the scheduler's core after which the faults stop.
    pub inputs: u64,
    /// The state before the first event.
    pub initial: State,
    /// What is broken on purpose.
    pub broken: Broken,
    /// Keep so many of the last lines of the trace as text.
    pub tail_lines: usize,
}

impl Plan {
    /// Returns a plan of a core and a scheduler that are whole.
    pub fn new(seed: u64, inputs: u64) -> Self {
        Self { seed, inputs, initial: State::new(), broken: Broken::default(), tail_lines: 0 }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Inputs of the scheduler's core.
    pub inputs: u64,
    /// Hash of everything that happened.
    pub trace_hash: u64,
    /// How often what happened.
    pub counters: Counters,
    /// What was violated, if anything.
    pub violation: Option<String>,
    /// The end of the trace, if the plan asked for it.
    pub tail: Vec<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.tail {
            writeln!(f, "{line}")?;
        }
        match &self.violation {
            Some(violation) => write!(f, "seed {} after {} inputs: {violation}", self.seed, self.inputs),
            None => write!(f, "seed {}: {} inputs, trace {:016x}", self.seed, self.inputs, self.trace_hash),
        }
    }
}

/// Runs a plan to its end.
pub fn run(plan: &Plan) -> Outcome {
    let mut world = World::new(plan);
    while world.step() {}
    Outcome {
        seed: plan.seed,
        inputs: world.inputs(),
        trace_hash: world.trace_hash(),
        counters: world.counters().clone(),
        violation: world.violation().map(str::to_owned),
        tail: world.trace_tail(),
    }
}

/// Runs a plan and, if it fails, runs it again to read its trace.
pub fn run_and_explain(plan: &Plan) -> Outcome {
    let outcome = run(plan);
    if outcome.violation.is_none() {
        return outcome;
    }
    run(&Plan { tail_lines: plan.tail_lines.max(TAIL_LINES), ..plan.clone() })
}

/// Runs `seeds` seeds from `first` on `threads` threads, and returns the outcomes by seed.
pub fn run_many(first: u64, seeds: u64, threads: usize, plan: impl Fn(u64) -> Plan + Sync) -> Vec<Outcome> {
    let next = AtomicU64::new(first);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let outcome = run(&plan(seed));
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.push(outcome);
                    }
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_default();
    outcomes.sort_by_key(|outcome| outcome.seed);
    outcomes
}
