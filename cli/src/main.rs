//! The `gangsaw` executable.

fn main() {}
