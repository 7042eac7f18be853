//! Cluster time: the only clock that decisions know, and they get it as an argument.
//!
//! It counts milliseconds from the cluster's first start, goes on over restarts and downtime, and never goes back.
//! What it is made of (last event, downtime, BOOTTIME) is the engine's business; wall time is for people only.

use std::fmt;
use std::ops::Add;

/// A moment in cluster time, in milliseconds since the cluster's first start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

/// A span of time in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Time {
    /// The first moment.
    pub const ZERO: Time = Time(0);

    /// Returns the span since `earlier`, zero if that lies ahead.
    pub fn since(self, earlier: Time) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

impl Millis {
    /// Returns `seconds` as milliseconds, at most what fits.
    pub const fn seconds(seconds: u64) -> Millis {
        Millis(seconds.saturating_mul(1_000))
    }

    /// Returns `minutes` as milliseconds, at most what fits.
    pub const fn minutes(minutes: u64) -> Millis {
        Millis::seconds(minutes.saturating_mul(60))
    }

    /// Returns `hours` as milliseconds, at most what fits.
    pub const fn hours(hours: u64) -> Millis {
        Millis::minutes(hours.saturating_mul(60))
    }
}

impl Add<Millis> for Time {
    type Output = Time;

    fn add(self, span: Millis) -> Time {
        Time(self.0.saturating_add(span.0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1_000, self.0 % 1_000)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms % 3_600_000 == 0 && ms > 0 => write!(f, "{} h", ms / 3_600_000),
            ms if ms % 60_000 == 0 && ms > 0 => write!(f, "{} min", ms / 60_000),
            ms if ms % 1_000 == 0 => write!(f, "{} s", ms / 1_000),
            ms => write!(f, "{ms} ms"),
        }
    }
}
