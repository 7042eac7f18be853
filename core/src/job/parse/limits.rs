//! The limits of a job, each with its reason.

use std::ops::RangeInclusive;

use crate::time::Millis;

/// Elements of an array: above it, indices stop being something a person can look at, and records of a bad run would
/// fill the memory.
pub const ARRAY_ELEMENTS_MAX: u64 = 10_000_000;

/// Ranges of an array after steps are resolved: a queued job costs this many entries at most.
pub const ARRAY_RANGES_MAX: u64 = 10_000;

/// Ranks of an element: a gang is granted in one event.
pub const REPLICAS_MAX: u32 = 4_096;

/// Alternatives of a demand: each is tried in each round.
pub const DEMANDS_MAX: usize = 8;

/// GPUs of one rank: no machine has more.
pub const GPUS_MAX: u32 = 1_024;

/// CPUs of one rank in 1/1000: no machine has a million cores.
pub const MILLI_CPUS_MAX: u64 = 1_000_000_000;

/// Memory of one rank: no machine has a pebibyte.
pub const MEMORY_BYTES_MAX: u64 = 1 << 50;

/// Labels of a job: they are for people.
pub const LABELS_MAX: usize = 64;

/// Bytes of a label's key or value.
pub const LABEL_BYTES_MAX: usize = 256;

/// Bytes of a command line: what `execve` takes for one string on Linux.
pub const COMMAND_BYTES_MAX: usize = 128 * 1024;

/// Bytes of a recipe's settings.
pub const SETTINGS_BYTES_MAX: usize = 64 * 1024;

/// Names in an environment.
pub const ENV_NAMES_MAX: usize = 1_024;

/// Bytes of an environment: with the command line it must stay far below `execve`'s limit of 2 MiB.
pub const ENV_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a path: Linux's PATH_MAX.
pub const PATH_BYTES_MAX: usize = 4_096;

/// Bytes of a URL: servers take no longer ones.
pub const URL_BYTES_MAX: usize = 2_048;

/// Dependencies of a job: all are looked at when one ends.
pub const AFTER_MAX: usize = 256;

/// Retries of a class with a limit: each is in the log.
pub const RETRIES_MAX: u32 = 1_000;

/// Back-off never grows beyond it.
pub const BACKOFF_MAX: Millis = Millis::minutes(10);

/// Back-off before the second attempt unless the job says otherwise.
pub const BACKOFF_DEFAULT: Millis = Millis::seconds(1);

/// Priorities: each point is worth a minute of waiting, so 1,000 points are 17 hours.
pub const PRIORITIES: RangeInclusive<i32> = -1_000..=1_000;

/// Between SIGTERM and SIGKILL unless the job says otherwise.
pub const GRACE_DEFAULT: Millis = Millis::seconds(10);

/// A cancelled task must not hold its devices longer.
pub const GRACE_MAX: Millis = Millis::hours(1);

/// Silence of a node after which a new attempt may be placed, unless the job says otherwise.
pub const LOST_AFTER_DEFAULT: Millis = Millis::minutes(10);

/// Below it, a slow disk would look like a lost node.
pub const LOST_AFTER_MIN: Millis = Millis::seconds(1);

/// Above it, nobody waits for the answer.
pub const LOST_AFTER_MAX: Millis = Millis::hours(24 * 30);

/// Below it, one slow heartbeat would stop the task.
pub const STOP_AFTER_MIN: Millis = Millis(100);

/// Longer than any machine runs.
pub const TIME_LIMIT_MAX: Millis = Millis::hours(24 * 3_650);
