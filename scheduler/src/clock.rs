//! Cluster time: milliseconds that never run backwards, over restart, reboot and suspend.
//!
//! It is the time of the last durable event, plus how long the wall clock says nobody led (clamped, for a wall clock
//! can say anything), plus BOOTTIME since this process took the lead. BOOTTIME goes on in suspend; `Instant` does not.
//!
//! Elsewhere: what time means for a decision is `gangsaw_core`'s.

use std::time::{SystemTime, UNIX_EPOCH};

/// Longest downtime that is believed: 30 days. A wall clock that jumped by years must not expire everything.
const DOWNTIME_MS_MAX: u64 = 30 * 24 * 3600 * 1000;

/// The clock of one scheduler process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Cluster time when this process took the lead.
    base_ms: u64,
    /// BOOTTIME at that moment, in nanoseconds.
    boot_ns: u64,
}

impl Clock {
    /// Continues after an event at `last_ms` that became durable when the wall clock read `last_wall_ms`.
    pub(crate) fn resume(last_ms: u64, last_wall_ms: u64) -> Clock {
        Clock::resume_at(last_ms, last_wall_ms, wall_ms(), boot_ns())
    }

    fn resume_at(last_ms: u64, last_wall_ms: u64, wall_ms: u64, boot_ns: u64) -> Clock {
        let downtime = if last_wall_ms == 0 { 0 } else { wall_ms.saturating_sub(last_wall_ms).min(DOWNTIME_MS_MAX) };
        Clock { base_ms: last_ms + downtime, boot_ns }
    }

    /// Returns cluster time in ms.
    pub(crate) fn now_ms(&self) -> u64 {
        self.base_ms + (boot_ns() - self.boot_ns) / 1_000_000
    }
}

/// Returns the wall clock in ms since 1970, for people only.
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Returns BOOTTIME in nanoseconds.
pub(crate) fn boot_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    //! Restarts under wall clocks that lie.

    use super::*;

    #[test]
    fn time_goes_on_by_the_downtime_and_never_back() {
        assert_eq!(Clock::resume_at(500, 1_000, 4_000, 0).base_ms, 3_500);
        assert_eq!(Clock::resume_at(500, 4_000, 1_000, 0).base_ms, 500, "the wall clock went back");
        assert_eq!(Clock::resume_at(500, 1_000, 1_000 + 20 * DOWNTIME_MS_MAX, 0).base_ms, 500 + DOWNTIME_MS_MAX);
        assert_eq!(Clock::resume_at(0, 0, 1_700_000_000_000, 0).base_ms, 0, "an empty store has no downtime");
    }

    #[test]
    fn now_does_not_run_backwards() {
        let clock = Clock::resume(7, 0);
        let (a, b) = (clock.now_ms(), clock.now_ms());
        assert!(a >= 7 && b >= a);
    }
}
