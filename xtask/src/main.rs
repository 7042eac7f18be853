//! Habits.

fn main() {}
