//! The floor: what no scheduler on this machine can beat.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long each loop of spawns runs.
const SPAWN_TIME: Duration = Duration::from_secs(2);
/// How many syncs the median is taken of.
const SYNCS: usize = 200;

/// Prints the floor of this machine, with files in `folder`.
pub(crate) fn print(folder: &Path) -> anyhow::Result<()> {
    println!("floor: fdatasync of 4 KiB   median {:>8.3} ms", fdatasync(folder)?.as_secs_f64() * 1e3);
    println!("floor: spawn + wait `true`  1 loop {:>8.0} /s", spawns_per_second(1)?);
    println!("floor: spawn + wait `true`  2 loops {:>7.0} /s", spawns_per_second(2)?);
    Ok(())
}

/// Returns the median time of an appended and synced 4 KiB.
pub(crate) fn fdatasync(folder: &Path) -> anyhow::Result<Duration> {
    let path = folder.join(format!("gangsaw-floor-{}", std::process::id()));
    let mut file = File::create(&path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let begin = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    std::fs::remove_file(&path)?;
    Ok(quantile(&mut times, 0.5))
}

/// Returns how many processes `loops` threads start and wait for in a second.
pub(crate) fn spawns_per_second(loops: usize) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let counts: Vec<std::io::Result<u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..loops).map(|_| scope.spawn(|| spawn_until(begin + SPAWN_TIME))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(0))).collect()
    });
    let total = counts.into_iter().sum::<std::io::Result<u64>>()?;
    Ok(total as f64 / begin.elapsed().as_secs_f64())
}

/// Starts and waits for `true` until `end`, and returns how often.
fn spawn_until(end: Instant) -> std::io::Result<u64> {
    let mut count = 0;
    while Instant::now() < end {
        Command::new("true").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        count += 1;
    }
    Ok(count)
}

/// Returns the value below which `share` of `times` lie. Sorts them.
pub(crate) fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    times.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}
