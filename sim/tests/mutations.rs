//! The checks notice a broken core and a broken engine: each switch is flipped, and a seed must fail.

use gangsaw_core::mutations::Mutations;
use gangsaw_core::state::State;
use gangsaw_sim::{Broken, Plan, run};

/// Seeds in which a break must be noticed.
const SEEDS: u64 = 200;
/// Inputs of each.
const INPUTS: u64 = 2_000;

/// Returns the first violation, with its seed.
fn noticed(plan: impl Fn(u64) -> Plan) -> Option<(u64, String)> {
    (0..SEEDS).find_map(|seed| run(&plan(seed)).violation.map(|violation| (seed, violation)))
}

fn with_core(mutations: Mutations) -> Option<(u64, String)> {
    noticed(|seed| Plan { initial: State::broken(mutations), ..Plan::new(seed, INPUTS) })
}

fn with_engine(broken: Broken) -> Option<(u64, String)> {
    noticed(|seed| Plan { broken, ..Plan::new(seed, INPUTS) })
}

fn must_be_noticed(what: &str, found: Option<(u64, String)>) {
    match found {
        Some((seed, violation)) => println!("{what}: seed {seed}: {violation}"),
        None => panic!("{what} was not noticed in {SEEDS} seeds"),
    }
}

#[test]
fn taking_reports_of_fenced_leases_is_noticed() {
    must_be_noticed("fence off", with_core(Mutations { fence_off: true, ..Mutations::default() }));
}

#[test]
fn taking_repeated_requests_and_reports_again_is_noticed() {
    must_be_noticed("dedupe off", with_core(Mutations { dedupe_off: true, ..Mutations::default() }));
}

#[test]
fn owing_nothing_is_noticed() {
    must_be_noticed("owed skipped", with_core(Mutations { owed_skipped: true, ..Mutations::default() }));
}

#[test]
fn giving_work_to_a_forgotten_node_whose_old_tasks_still_live_is_noticed() {
    must_be_noticed("clearing off", with_core(Mutations { clearing_off: true, ..Mutations::default() }));
}

#[test]
fn not_flushing_appends_is_noticed() {
    must_be_noticed("fsync off", with_engine(Broken { fsync_off: true, ..Broken::default() }));
}

#[test]
fn answering_before_the_append_is_noticed() {
    must_be_noticed("reply before append", with_engine(Broken { reply_first: true, ..Broken::default() }));
}
