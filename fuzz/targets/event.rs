//! Any bytes as a stored event: what can be read is written and read again, and is the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gangsaw_scheduler::fuzz::event(bytes));
