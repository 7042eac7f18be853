//! Numbers.

fn main() {}
