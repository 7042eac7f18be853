//! The `gangsaw` executable.
#![expect(dead_code, reason = "wip")]
mod spec;
fn main() {}
