//! The folders of an attempt: STATE/agent/attempts/JOB/INDEX.RANK-ATTEMPT/{output,checkpoints,notice}.
//!
//! They exist before exec. One that is still as it was made when the task ended is not kept: within a lease it is
//! renamed to be the next task's, so that 100,000 tasks that write nothing cost one rename each and leave nothing.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};

use super::spawn::Ids;

/// The folders one task gets.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    /// The attempt's own folder.
    pub(super) root: PathBuf,
    /// GANGSAW_OUTPUT_DIR.
    pub(super) output: String,
    /// GANGSAW_CHECKPOINT_DIR.
    pub(super) checkpoints: String,
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
        Self { output: fill(output, "output"), checkpoints: fill(checkpoints, "checkpoints"), root }
    }

    /// GANGSAW_NOTICE: written before SIGTERM.
    pub(super) fn notice(&self) -> String {
        self.root.join("notice").to_string_lossy().into_owned()
    }

    /// Makes them, out of `spare` if that can be.
    pub(super) fn make(&self, spare: Option<PathBuf>, ids: Option<&Ids>) -> io::Result<()> {
        if let Some(spare) = spare {
            if fs::rename(&spare, &self.root).is_ok() {
                return Ok(());
            }
            discard(&spare);
        }
        let mut folder = fs::DirBuilder::new();
        folder.mode(0o755).recursive(true);
        for path in [self.root.clone(), self.root.join("output"), self.root.join("checkpoints")] {
            folder.create(&path)?;
            if let Some(ids) = ids {
                chown(&path, Some(ids.uid), Some(ids.gid))?;
            }
        }
        Ok(())
    }

    /// Whether nothing was added to them.
    pub(super) fn is_untouched(&self) -> bool {
        let count = |folder: PathBuf| fs::read_dir(folder).map_or(usize::MAX, Iterator::count);
        count(self.root.join("output")) == 0
            && count(self.root.join("checkpoints")) == 0
            && count(self.root.clone()) == 2
    }
}

/// Removes an untouched attempt folder.
pub(super) fn discard(root: &Path) {
    for path in [root.join("output"), root.join("checkpoints"), root.to_path_buf()] {
        let _ = fs::remove_dir(path);
    }
    // The job's folder goes with its last attempt.
    if let Some(job) = root.parent() {
        let _ = fs::remove_dir(job);
    }
}
