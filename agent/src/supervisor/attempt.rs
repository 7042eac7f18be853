//! The folders of an attempt: STATE/agent/attempts/JOB/INDEX.RANK-ATTEMPT/{output,checkpoints,notice}.
//!
//! They exist before exec. One that is still as it was made when the task ended is not kept: within a lease it is
//! renamed to be the next task's, so that 100,000 tasks that write nothing cost one rename each and leave nothing.
//!
//! "As it was made" is told by times of change: they are set to a moment before the task begins, and whatever is added
//! or taken away moves them. Three looks, where listing three folders would be fifteen system calls.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::spawn::Ids;

/// More than any file system's step of time.
const BACKDATED: Duration = Duration::from_secs(3);

/// The folders one task gets.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    /// The attempt's own folder.
    pub(super) root: PathBuf,
    /// GANGSAW_OUTPUT_DIR.
    pub(super) output: String,
    /// GANGSAW_CHECKPOINT_DIR.
    pub(super) checkpoints: String,
    /// When the folders changed last, as far as we know: set by [`Folders::make`].
    made: Option<SystemTime>,
}

/// An untouched attempt folder.
#[derive(Debug)]
pub(super) struct Spare {
    root: PathBuf,
    made: SystemTime,
}

impl Folders {
    /// Names them; nothing is made. `output` and `checkpoints` are the user's patterns, empty for our own.
    pub(super) fn name(job: &Path, index: u32, rank: u32, attempt: u32, output: &str, checkpoints: &str) -> Self {
        let root = job.join(format!("{index}.{rank}-{attempt}"));
        let fill = |pattern: &str, own: &str| {
            if pattern.is_empty() {
                return root.join(own).to_string_lossy().into_owned();
            }
            let numbers = [("{index}", index), ("{rank}", rank), ("{attempt}", attempt)];
            numbers.iter().fold(pattern.to_owned(), |path, (name, number)| path.replace(name, &number.to_string()))
        };
        Self { output: fill(output, "output"), checkpoints: fill(checkpoints, "checkpoints"), root, made: None }
    }

    /// GANGSAW_NOTICE: written before SIGTERM.
    pub(super) fn notice(&self) -> String {
        self.root.join("notice").to_string_lossy().into_owned()
    }

    /// Makes them, out of `spare` if that can be.
    pub(super) fn make(&mut self, spare: Option<Spare>, ids: Option<&Ids>) -> io::Result<()> {
        if let Some(spare) = spare {
            if fs::rename(&spare.root, &self.root).is_ok() {
                self.made = Some(spare.made);
                return Ok(());
            }
            spare.discard();
        }
        let mut folder = fs::DirBuilder::new();
        folder.mode(0o755).recursive(true);
        for path in folders(&self.root) {
            folder.create(&path)?;
            if let Some(ids) = ids {
                chown(&path, Some(ids.uid), Some(ids.gid))?;
            }
        }
        // Without it (a file system that keeps no times) every folder counts as touched and stays.
        self.made = backdate(&self.root).ok();
        Ok(())
    }

    /// Returns them for another task if nothing was added to them.
    pub(super) fn untouched(&self) -> Option<Spare> {
        let made = self.made?;
        let changed = |path: PathBuf| fs::symlink_metadata(path).and_then(|entry| entry.modified());
        let same = folders(&self.root).into_iter().all(|path| changed(path).is_ok_and(|at| at == made));
        same.then(|| Spare { root: self.root.clone(), made })
    }
}

/// The folders of an attempt, in the order they are made.
fn folders(root: &Path) -> [PathBuf; 3] {
    [root.to_path_buf(), root.join("output"), root.join("checkpoints")]
}

/// Sets the times of new folders to a moment that no change of now can have. Returns it as the file system keeps it.
fn backdate(root: &Path) -> io::Result<SystemTime> {
    let before = SystemTime::now() - BACKDATED;
    let mut made = None;
    for path in folders(root) {
        let folder = File::open(path)?;
        folder.set_modified(before)?;
        made = Some(folder.metadata()?.modified()?);
    }
    made.ok_or_else(|| io::ErrorKind::NotFound.into())
}

impl Spare {
    /// Removes it.
    pub(super) fn discard(self) {
        for path in folders(&self.root).iter().rev() {
            let _ = fs::remove_dir(path);
        }
        // The job's folder goes with its last attempt.
        if let Some(job) = self.root.parent() {
            let _ = fs::remove_dir(job);
        }
    }
}
