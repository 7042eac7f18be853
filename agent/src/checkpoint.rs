//! Checkpoints on this node: finding the newest complete one, and keeping only the newest few.
//!
//! A task writes below `GANGSAW_CHECKPOINT_DIR`, one folder a checkpoint. A folder is complete when it holds
//! `manifest.json`, which is written last. The newest is the one whose manifest is: names are the task's own business.
//!
//! Invariants: nothing here follows a symbolic link; an unreadable folder is no checkpoint.
//!
//! Elsewhere: the directories are made by the supervisor (`STATE/agent/attempts/JOB/INDEX.RANK-ATTEMPT/checkpoints`);
//! what is in a checkpoint, and whether its checksums hold, is the trainer's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The file whose presence completes a checkpoint.
pub(crate) const MANIFEST: &str = "manifest.json";
/// Entries of one folder that are looked at; an honest task has a few.
const ENTRIES_MAX: usize = 4_096;

/// One rank's files in one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttemptDir {
    pub(crate) index: u32,
    pub(crate) rank: u32,
    pub(crate) attempt: u32,
    pub(crate) path: PathBuf,
}

/// Returns STATE/agent/attempts/JOB for the agent's folder.
pub(crate) fn job_dir(agent: &Path, job: u64) -> PathBuf {
    agent.join("attempts").join(job.to_string())
}

/// Returns the checkpoints folder of one attempt.
pub(crate) fn checkpoints_of(agent: &Path, job: u64, index: u32, rank: u32, attempt: u32) -> PathBuf {
    job_dir(agent, job).join(format!("{index}.{rank}-{attempt}")).join("checkpoints")
}

/// Returns the complete checkpoints in `folder`, newest first.
pub(crate) fn complete(folder: &Path) -> Vec<(SystemTime, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<(SystemTime, PathBuf)> = entries
        .take(ENTRIES_MAX)
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| {
            let manifest = fs::symlink_metadata(entry.path().join(MANIFEST)).ok().filter(fs::Metadata::is_file)?;
            Some((manifest.modified().ok()?, entry.path()))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found
}

/// Returns every attempt directory of a job.
pub(crate) fn attempts(agent: &Path, job: u64) -> Vec<AttemptDir> {
    let Ok(entries) = fs::read_dir(job_dir(agent, job)) else { return Vec::new() };
    entries.flatten().filter_map(|entry| parse(&entry.file_name().to_string_lossy(), entry.path())).collect()
}

fn parse(name: &str, path: PathBuf) -> Option<AttemptDir> {
    let (task, attempt) = name.split_once('-')?;
    let (index, rank) = task.split_once('.')?;
    Some(AttemptDir { index: index.parse().ok()?, rank: rank.parse().ok()?, attempt: attempt.parse().ok()?, path })
}

/// Returns the newest complete checkpoint that an attempt of `index` before `attempt` left here, of any rank.
pub(crate) fn resume_from(agent: &Path, job: u64, index: u32, attempt: u32) -> Option<PathBuf> {
    let earlier = attempts(agent, job).into_iter().filter(|dir| dir.index == index && dir.attempt < attempt);
    earlier.flat_map(|dir| complete(&dir.path.join("checkpoints"))).max().map(|(_, path)| path)
}

#[cfg(test)]
pub(crate) mod tests {
    //! Complete or not, newest or not.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::Duration;

    use super::*;

    /// Makes a checkpoint whose manifest is `age` seconds old.
    pub(crate) fn make(folder: &Path, name: &str, age: Option<u64>) {
        let path = folder.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("weights"), "w").unwrap();
        if let Some(age) = age {
            let file = fs::File::create(path.join(MANIFEST)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
    }

    #[test]
    fn newest_complete_checkpoint_of_an_earlier_attempt_is_found() {
        let agent = std::env::temp_dir().join(format!("gangsaw-checkpoint-{}", std::process::id()));
        let folder = |rank, attempt| checkpoints_of(&agent, 7, 3, rank, attempt);
        make(&folder(0, 1), "step-1", Some(50));
        make(&folder(0, 1), "step-2", Some(20));
        make(&folder(1, 2), "step-3", Some(30));
        make(&folder(0, 2), "step-4", None);
        make(&folder(0, 3), "step-5", Some(1));
        make(&checkpoints_of(&agent, 7, 4, 0, 1), "step-6", Some(1));
        let found = |attempt| resume_from(&agent, 7, 3, attempt);
        assert_eq!(found(1), None);
        assert_eq!(found(3), Some(folder(0, 1).join("step-2")));
        assert_eq!(found(4), Some(folder(0, 3).join("step-5")));
        assert_eq!(resume_from(&agent, 8, 3, 9), None);
        fs::remove_dir_all(&agent).unwrap();
    }
}
