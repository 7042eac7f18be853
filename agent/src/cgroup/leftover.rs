//! Cleans slot folders whose supervisor is dead.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::slot::kill_each;

/// How long [`empty`] tries.
const PATIENCE: Duration = Duration::from_secs(3);

/// The slot folders below one of our folders.
pub(crate) fn slots(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let is_slot = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("slot-"));
    entries.filter_map(Result::ok).map(|entry| entry.path()).filter(is_slot).collect()
}

/// Kills what is in the slots of `folder` and returns how many processes it found. The folder's name is checked: a
/// damaged list must not make us empty somebody else's cgroup.
pub(crate) fn kill(folder: &Path) -> usize {
    if !folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("gangsaw-")) {
        return 0;
    }
    let mut found = 0;
    for slot in slots(folder) {
        found += fs::read_to_string(slot.join("cgroup.procs")).map_or(0, |pids| pids.lines().count());
        if slot.join("cgroup.kill").exists() {
            let _ = fs::write(slot.join("cgroup.kill"), "1");
        }
        kill_each(&slot);
    }
    found
}

/// Kills until the slots of `folder` are empty, at most for some seconds; a slot that is not is refused when it is
/// opened.
pub(crate) fn empty(folder: &Path) {
    let started = Instant::now();
    while kill(folder) > 0 && started.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes the slots of `folder` and the folder. What is still populated after some seconds stays.
pub(crate) fn remove(folder: &Path) {
    let started = Instant::now();
    while !try_remove(folder) && started.elapsed() < PATIENCE {
        // A removed slot counts as a child of its folder until the kernel has let go of it, some milliseconds later.
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn try_remove(folder: &Path) -> bool {
    for slot in slots(folder) {
        let _ = fs::remove_dir(slot);
    }
    !matches!(fs::remove_dir(folder), Err(fault) if fault.kind() == std::io::ErrorKind::ResourceBusy)
}
