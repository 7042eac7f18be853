//! What happened, as a hash always and as text when somebody wants to read it.
//!
//! A run is made twice when it fails: the first time only numbers are hashed, the second time, with the same seed, the
//! lines are written. That keeps hundreds of seeds cheap and shows at the same time that a seed is a whole run.

use std::collections::VecDeque;

/// How much of a line is kept.
const LINE_CHARS: usize = 600;

/// The trace of one run.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    hash: u64,
    tail_lines: usize,
    tail: VecDeque<String>,
}

impl Trace {
    pub(crate) fn new(tail_lines: usize) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, tail_lines, tail: VecDeque::new() }
    }

    /// Adds what happened at `now`: a word and its numbers.
    pub(crate) fn note(&mut self, now: u64, what: &str, numbers: &[u64]) {
        self.add(now);
        for byte in what.bytes() {
            self.add(u64::from(byte));
        }
        for number in numbers {
            self.add(*number);
        }
        if self.tail_lines > 0 {
            self.line(now, &format!("{what} {numbers:?}"));
        }
    }

    /// Adds a line that is not a part of the hash.
    pub(crate) fn line(&mut self, now: u64, line: &str) {
        if self.tail.len() >= self.tail_lines {
            self.tail.pop_front();
        }
        let line: String = line.chars().take(LINE_CHARS).collect();
        self.tail.push_back(format!("{:>9}.{:03}s {line}", now / 1_000, now % 1_000));
    }

    fn add(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }
}
