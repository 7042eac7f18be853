//! Any bytes as what a crash left of the scheduler's log, and as an archive of it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gangsaw_scheduler::fuzz::log_tail(bytes));
