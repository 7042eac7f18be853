//! Seeds that once found a fault, each named after it. The worlds have changed since; the seeds stay as a spread.

use gangsaw_sim::{Plan, run_and_explain};

fn holds(seed: u64) {
    let outcome = run_and_explain(&Plan::new(seed, 2_000));
    assert!(outcome.violation.is_none(), "{outcome}");
}

#[test]
fn reports_of_a_restarted_agent_whose_numbers_jump_are_taken() {
    holds(1);
}

#[test]
fn a_lease_without_a_word_is_not_granted_again_after_a_reboot() {
    holds(2);
}

#[test]
fn a_hello_that_misses_a_grant_under_way_does_not_return_its_elements() {
    holds(0);
}

#[test]
fn a_back_off_that_ended_wakes_the_engine_once() {
    holds(4);
}

#[test]
fn a_lease_that_died_with_an_earlier_supervisor_is_not_granted_again() {
    holds(323);
}

#[test]
fn a_key_that_expires_in_the_batch_of_its_repetition_keeps_its_answer() {
    holds(148);
}

#[test]
fn a_fenced_lease_counts_no_more_for_its_queue() {
    holds(158);
}

#[test]
fn a_supervisor_that_dies_twice_leaves_no_lease_uncleared() {
    holds(767);
}
