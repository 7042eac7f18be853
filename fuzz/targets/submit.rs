//! Any bytes as the message of a submit: decoded, parsed by the core, written and read again.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gangsaw_scheduler::fuzz::submit(bytes));
