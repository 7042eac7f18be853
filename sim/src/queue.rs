//! What will happen, by time; what is due at the same time happens in the order it was planned.

use std::collections::BTreeMap;

/// A plan of happenings.
#[derive(Clone, Debug)]
pub(crate) struct Queue<T> {
    plan: BTreeMap<(u64, u64), T>,
    planned: u64,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self { plan: BTreeMap::new(), planned: 0 }
    }

    pub(crate) fn add(&mut self, at: u64, happening: T) {
        self.planned += 1;
        self.plan.insert((at, self.planned), happening);
    }

    /// Takes the next happening and its time.
    pub(crate) fn next(&mut self) -> Option<(u64, T)> {
        self.plan.pop_first().map(|((at, _), happening)| (at, happening))
    }
}
