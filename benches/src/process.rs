//! What a process costs, read from outside: `/proc` and the file system.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

/// Clock ticks of a second in `/proc/PID/stat`, on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Returns a process's resident memory in KiB.
pub(crate) fn memory_kib(pid: u32) -> anyhow::Result<u64> {
    status_kib(pid, "VmRSS:")
}

/// Returns the most resident memory a process had so far, in KiB.
pub(crate) fn peak_kib(pid: u32) -> anyhow::Result<u64> {
    status_kib(pid, "VmHWM:")
}

fn status_kib(pid: u32, key: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

/// Returns the processor time of a process, user and system, of all its threads that are and were.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    times(pid, 11)
}

/// Returns the processor time of all children of this process that have ended.
pub(crate) fn children_cpu() -> anyhow::Result<Duration> {
    times(std::process::id(), 13)
}

/// Returns the sum of two fields of `/proc/PID/stat`, user and system, counted from the one after the name.
fn times(pid: u32, user: usize) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything; the third field follows the last one.
    let (_, after) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks = |at: usize| after.split_whitespace().nth(at).and_then(|field| field.parse::<f64>().ok());
    let (user, system) = (ticks(user).context("no user time")?, ticks(user + 1).context("no system time")?);
    Ok(Duration::from_secs_f64((user + system) / TICKS_PER_SECOND))
}

/// Returns the bytes that a folder's files, or a file, take on disk; nothing there takes none.
pub(crate) fn disk_bytes(path: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    if !metadata.is_dir() {
        return Ok(metadata.blocks() * 512);
    }
    let mut total = 0;
    for entry in std::fs::read_dir(path)? {
        total += disk_bytes(&entry?.path())?;
    }
    Ok(total)
}
