//! How fast training goes now: samples over the last moment, not since the start.

use std::time::{Duration, Instant};

/// The rate is measured anew after this long; shorter windows jump about.
const WINDOW: Duration = Duration::from_millis(250);

/// Counts samples over windows of time.
#[derive(Debug)]
pub(super) struct Meter {
    since: Instant,
    samples: usize,
    rate: f64,
}

impl Meter {
    pub(super) fn new() -> Meter {
        Meter { since: Instant::now(), samples: 0, rate: 0.0 }
    }

    /// Adds what was just trained on and returns the samples per second.
    pub(super) fn add(&mut self, samples: usize) -> f64 {
        self.samples += samples;
        let elapsed = self.since.elapsed();
        if elapsed >= WINDOW || self.rate == 0.0 {
            self.rate = self.samples as f64 / elapsed.as_secs_f64().max(1e-9);
        }
        if elapsed >= WINDOW {
            (self.since, self.samples) = (Instant::now(), 0);
        }
        self.rate
    }

    /// The samples per second as of the last call of `add`.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }
}
