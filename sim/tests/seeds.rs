//! Hundreds of seeds of the whole world, and what they must have reached together.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Instant;

use gangsaw_sim::{Counters, Group, Plan, run, run_and_explain, run_many};

/// Seeds of one run of the tests.
const SEEDS: u64 = 500;
/// Inputs of the scheduler's core in each before the faults stop.
const INPUTS: u64 = 2_000;
/// Every event and every effect must happen so often over all seeds.
const EVENTS_LEAST: u64 = 100;
/// Every kind of fault must happen so often over all seeds.
const FAULTS_LEAST: u64 = 50;

#[test]
fn no_seed_breaks_a_promise_and_every_event_effect_and_fault_happens() {
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let outcomes = run_many(0, SEEDS, threads, |seed| Plan::new(seed, INPUTS));
    let took = began.elapsed();
    if let Some(failed) = outcomes.iter().find(|outcome| outcome.violation.is_some()) {
        let failing: Vec<u64> =
            outcomes.iter().filter(|outcome| outcome.violation.is_some()).map(|outcome| outcome.seed).collect();
        panic!("{}\nfailing seeds: {failing:?}", run_and_explain(&Plan::new(failed.seed, INPUTS)));
    }
    let mut all = Counters::default();
    outcomes.iter().for_each(|outcome| all.merge(&outcome.counters));
    let inputs: u64 = outcomes.iter().map(|outcome| outcome.inputs).sum();
    println!("{SEEDS} seeds, {inputs} inputs, {:.1} s on {threads} threads\n{all}", took.as_secs_f64());
    assert_eq!(outcomes.len() as u64, SEEDS);
    assert!(outcomes.iter().all(|outcome| outcome.inputs >= INPUTS), "a seed had fewer than {INPUTS} inputs");
    assert_eq!(all.unlisted(), Vec::<&str>::new(), "counted and not listed");
    for group in [Group::Event, Group::Outcome, Group::Restored, Group::Effect, Group::Reply, Group::Input] {
        assert_eq!(all.below(group, EVENTS_LEAST), [], "{group:?} that happened less than {EVENTS_LEAST} times");
    }
    for group in [Group::AgentInput, Group::AgentEffect, Group::Fact] {
        assert_eq!(all.below(group, EVENTS_LEAST), [], "{group:?} that happened less than {EVENTS_LEAST} times");
    }
    assert_eq!(all.below(Group::Fault, FAULTS_LEAST), [], "faults that happened less than {FAULTS_LEAST} times");
}

#[test]
fn a_seed_run_twice_gives_one_trace() {
    let hash = |seed| run(&Plan::new(seed, 400)).trace_hash;
    for seed in 10_000..10_010 {
        assert_eq!(hash(seed), hash(seed), "seed {seed}");
    }
    assert_ne!(hash(10_000), hash(10_001));
}

#[test]
fn reading_a_trace_does_not_change_the_run() {
    let plan = Plan::new(10_000, 200);
    let read = run(&Plan { tail_lines: 10, ..plan.clone() });
    assert_eq!(read.trace_hash, run(&plan).trace_hash);
    assert!(read.tail.last().unwrap().contains("s "));
}
