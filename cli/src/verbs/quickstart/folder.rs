//! The folders quickstarts leave behind: one a run, the last few are kept.

use std::path::{Path, PathBuf};

use crate::fail::Failure;
use crate::part::processes_of;

/// Runs whose folders are kept, the present one included.
const KEPT: usize = 5;

/// Makes this run's folder and removes the oldest ones that nobody uses.
pub(crate) fn make(parent: &Path) -> Result<PathBuf, Failure> {
    std::fs::create_dir_all(parent)?;
    let name = format!("{}-{}", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S"), std::process::id());
    let mut earlier: Vec<PathBuf> = std::fs::read_dir(parent)?.flatten().map(|entry| entry.path()).collect();
    earlier.sort();
    let surplus = (earlier.len() + 1).saturating_sub(KEPT);
    for old in earlier.into_iter().take(surplus).filter(|old| old.is_dir() && processes_of(old).is_empty()) {
        // A folder that cannot be removed now is tried again by the next run.
        let _ = std::fs::remove_dir_all(old);
    }
    let run = std::path::absolute(parent.join(name))?;
    std::fs::create_dir(&run)?;
    Ok(run)
}

/// Removes what only a running cluster needs: the disk reserve, and a token nobody can use any more.
pub(crate) fn trim(run: &Path) {
    let _ = std::fs::remove_file(run.join("state").join("ballast"));
    let _ = std::fs::remove_dir_all(run.join("gangsaw"));
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn only_the_last_few_runs_are_kept() {
        let parent = tempfile::tempdir().unwrap();
        for old in 0..8 {
            std::fs::create_dir(parent.path().join(format!("20200101T00000{old}-1"))).unwrap();
        }
        let run = make(parent.path()).unwrap_or_else(|failure| panic!("{}", failure.text()));
        let left = std::fs::read_dir(parent.path()).unwrap().count();
        assert_eq!(left, KEPT);
        assert!(run.is_dir());
        assert!(!parent.path().join("20200101T000003-1").exists());
        assert!(parent.path().join("20200101T000004-1").exists());
    }
}
