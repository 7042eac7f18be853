//! Giving disk space back: old checkpoints, logs that the scheduler has, folders in which nothing is.
//!
//! Results (`output`) are never touched, nor is anything of an element that a lease of the journal covers: it may be
//! running. Of every other element the newest complete checkpoints are kept, of all its attempts together, because a
//! retry resumes from the newest.
//!
//! Invariants: safe beside a running agent and supervisor; what cannot be removed is left and counted by nobody.
//!
//! Elsewhere: what a checkpoint is is `checkpoint`; a log's bytes go as soon as the scheduler says `copied`
//! (`session::logs`), here only the emptied files do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use gangsaw_proto::node::v1::Grant;

use crate::checkpoint::{self, AttemptDir};
use crate::journal;
use crate::supervisor::logs::{self, LogQuery, LogReader};

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Newest complete checkpoints of each element.
    pub checkpoints: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self { checkpoints: 3 }
    }
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Checkpoints, unfinished ones included.
    pub checkpoints: u64,
    /// Jobs whose logs the scheduler had copied.
    pub logs: u64,
    /// Folders in which nothing was.
    pub folders: u64,
    /// Bytes of the removed checkpoints.
    pub bytes: u64,
}

/// Removes what is not kept from an agent's state folder.
///
/// # Errors
/// When the journal or a folder of the agent is there and cannot be read.
pub fn clean(state_dir: &Path, keep: &Retention) -> io::Result<Cleaned> {
    let agent = state_dir.join("agent");
    let grants = journal::peek(&agent.join("grants"))?;
    let mut cleaned = Cleaned::default();
    for job in jobs(&agent.join("attempts"))? {
        clean_checkpoints(&agent, job, &grants, keep, &mut cleaned);
    }
    for job in jobs(&agent.join("logs"))? {
        if !grants.values().any(|grant| grant.job_id == job) && is_copied(state_dir, job)? {
            logs::forget(state_dir, job)?;
            cleaned.logs += 1;
        }
    }
    Ok(cleaned)
}

/// The jobs that have a folder here.
fn jobs(folder: &Path) -> io::Result<Vec<u64>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn clean_checkpoints(agent: &Path, job: u64, grants: &BTreeMap<u64, Grant>, keep: &Retention, cleaned: &mut Cleaned) {
    let live = |index: u32| {
        grants.values().any(|grant| grant.job_id == job && (grant.first_index..=grant.last_index).contains(&index))
    };
    let attempts = checkpoint::attempts(agent, job);
    let indices: BTreeSet<u32> = attempts.iter().map(|dir| dir.index).filter(|index| !live(*index)).collect();
    for index in indices {
        let dirs: Vec<&AttemptDir> = attempts.iter().filter(|dir| dir.index == index).collect();
        let mut complete: Vec<(SystemTime, PathBuf)> =
            dirs.iter().flat_map(|dir| checkpoint::complete(&dir.path.join("checkpoints"))).collect();
        complete.sort_by(|a, b| b.cmp(a));
        let kept: BTreeSet<&PathBuf> = complete.iter().take(keep.checkpoints).map(|(_, path)| path).collect();
        for dir in dirs {
            let checkpoints = dir.path.join("checkpoints");
            for path in folders_in(&checkpoints).into_iter().filter(|path| !kept.contains(path)) {
                let bytes = size(&path);
                if fs::remove_dir_all(&path).is_ok() {
                    cleaned.checkpoints += 1;
                    cleaned.bytes += bytes;
                }
            }
            // A folder with something in it stays.
            for folder in [checkpoints, dir.path.join("output"), dir.path.clone()] {
                cleaned.folders += u64::from(fs::remove_dir(folder).is_ok());
            }
        }
    }
    cleaned.folders += u64::from(fs::remove_dir(checkpoint::job_dir(agent, job)).is_ok());
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

/// Bytes of the files in a folder, without following links.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().filter_map(|entry| {
        let meta = entry.metadata().ok()?;
        Some(if meta.is_dir() { size(&entry.path()) } else { meta.len() })
    });
    sizes.sum()
}

/// Whether nothing of a job's logs is left to read: every attempt's bytes were dropped after they were copied.
fn is_copied(state: &Path, job_id: u64) -> io::Result<bool> {
    let query = LogQuery {
        job_id,
        first_index: 0,
        last_index: u32::MAX,
        rank: None,
        attempt: u32::MAX,
        stream: None,
        tail_lines: None,
        since_wall_ms: 0,
    };
    Ok(LogReader::open(state, query)?.next()?.is_none())
}

#[cfg(test)]
mod tests {
    //! What stays and what goes.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::checkpoint::tests::make;
    use crate::journal::Journal;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            folders_in(folder).iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn newest_checkpoints_results_and_live_elements_stay() {
        let state = std::env::temp_dir().join(format!("gangsaw-clean-{}", std::process::id()));
        let agent = state.join("agent");
        let folder = |index, attempt| checkpoint::checkpoints_of(&agent, 7, index, 0, attempt);
        for age in 1..=3 {
            make(&folder(0, 1), &format!("step-{}", 10 - age), Some(age * 100));
            make(&folder(0, 2), &format!("step-{}", 20 - age), Some(age * 10));
            make(&folder(1, 1), &format!("step-{}", 10 - age), Some(age * 100));
        }
        make(&folder(0, 2), "step-99", None);
        let output = folder(0, 1).parent().unwrap().join("output");
        fs::create_dir_all(&output).unwrap();
        fs::write(output.join("model"), "m").unwrap();
        let live = Grant { lease_id: 3, job_id: 7, first_index: 1, last_index: 4, attempt: 2, ..Grant::default() };
        Journal::open(&agent.join("grants"), false).unwrap().add(&live).unwrap();
        make(&checkpoint::checkpoints_of(&agent, 8, 0, 0, 1), "torn", None);

        let cleaned = clean(&state, &Retention::default()).unwrap();
        assert_eq!((cleaned.checkpoints, cleaned.bytes), (5, 5));
        assert_eq!(names(&folder(0, 2)), ["step-17", "step-18", "step-19"]);
        assert!(!folder(0, 1).exists() && output.join("model").exists());
        assert_eq!(names(&folder(1, 1)).len(), 3, "a lease covers it");
        assert!(!checkpoint::job_dir(&agent, 8).exists());
        assert_eq!(clean(&state, &Retention::default()).unwrap(), Cleaned::default());
        fs::remove_dir_all(&state).unwrap();
    }
}
