//! The grants this agent holds, kept in a file so that its next start can name what the supervisor still runs.
//!
//! Each grant is appended before the supervisor hears of it and struck out when the scheduler has all of it. A plain
//! write is enough: it must survive the agent, not the kernel, for a new boot ends every process anyway. The task
//! itself (command, environment) is left out: it was handed to the supervisor.
//!
//! Invariants: a torn end is cut off; a record is written where the last whole one ends, so that what a failed write left
//! is written over; after one that failed the file is behind and is rewritten as soon as that works; it is rewritten,
//! too, when most of it is struck out.
//! [`RESERVE`] bytes are allocated ahead, so that grants can still be noted on a full disk.
//!
//! Elsewhere: what the supervisor holds is in its own spool.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use gangsaw_proto::node::v1::{Grant, TaskSpec};
use prost::Message as _;

use crate::folder::is_full;

/// The file is rewritten when it is longer than this and at most a quarter of its records live.
const REWRITE_BYTES: usize = 256 * 1024;
/// Disk set aside, some thousand grants.
const RESERVE: u64 = 512 * 1024;

/// The file and what lives in it.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    bytes: usize,
    records: usize,
    /// It lacks a record.
    behind: bool,
    /// Grants that are not struck out, by lease id.
    pub(crate) grants: BTreeMap<u64, Grant>,
}

impl Journal {
    /// Reads the file. With `fresh` nothing of before counts.
    pub(crate) fn open(path: &Path, fresh: bool) -> io::Result<Journal> {
        let bytes = match fs::read(path) {
            Ok(_) if fresh => Vec::new(),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let (grants, whole) = decode(&bytes);
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        file.set_len(whole as u64)?;
        reserve(&file);
        let (path, records, behind) = (path.to_owned(), usize::MAX, false);
        let mut journal = Journal { path, file, bytes: whole, records, behind, grants };
        match journal.rewrite() {
            // The old file goes on as it is.
            Err(error) if is_full(&error) => Ok(journal),
            rewritten => rewritten.map(|()| journal),
        }
    }

    /// Appends a grant.
    pub(crate) fn add(&mut self, grant: &Grant) -> io::Result<()> {
        let lean = lean(grant);
        self.grants.insert(lean.lease_id, lean.clone());
        self.append(&lean)
    }

    /// Strikes a lease out.
    pub(crate) fn strike(&mut self, lease: u64) -> io::Result<()> {
        if self.grants.remove(&lease).is_none() {
            return Ok(());
        }
        self.append(&Grant { lease_id: lease, ..Grant::default() })?;
        if self.bytes > REWRITE_BYTES && self.records > 4 * self.grants.len() {
            return match self.rewrite() {
                Err(error) if is_full(&error) => Ok(()),
                rewritten => rewritten,
            };
        }
        Ok(())
    }

    /// Writes down what could not be written before, if there is anything.
    pub(crate) fn mend(&mut self) -> io::Result<()> {
        if self.behind { self.rewrite() } else { Ok(()) }
    }

    fn append(&mut self, record: &Grant) -> io::Result<()> {
        if self.behind {
            return self.rewrite();
        }
        let bytes = record.encode_length_delimited_to_vec();
        if let Err(error) = self.file.write_all_at(&bytes, self.bytes as u64) {
            // A part may have been written, and cannot always be cut.
            let _ = self.file.set_len(self.bytes as u64);
            self.behind = true;
            return Err(error);
        }
        self.bytes += bytes.len();
        self.records = self.records.saturating_add(1);
        Ok(())
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let bytes: Vec<u8> = self.grants.values().flat_map(|grant| grant.encode_length_delimited_to_vec()).collect();
        let new = self.path.with_extension("new");
        let write = || -> io::Result<File> {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(&bytes)?;
            fs::rename(&new, &self.path)?;
            Ok(file)
        };
        let file = write().inspect_err(|_| drop(fs::remove_file(&new)))?;
        reserve(&file);
        (self.file, self.bytes, self.records, self.behind) = (file, bytes.len(), self.grants.len(), false);
        Ok(())
    }
}

/// Reads the grants of a journal that somebody else may be writing. Nothing when there is none.
pub(crate) fn peek(path: &Path) -> io::Result<BTreeMap<u64, Grant>> {
    match fs::read(path) {
        Ok(bytes) => Ok(decode(&bytes).0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

/// The grants that are not struck out, up to a torn end, and where that is.
fn decode(all: &[u8]) -> (BTreeMap<u64, Grant>, usize) {
    let mut grants = BTreeMap::new();
    let (mut bytes, mut whole) = (all, 0);
    while let Ok(grant) = Grant::decode_length_delimited(&mut bytes) {
        whole = all.len() - bytes.len();
        if struck(&grant) {
            grants.remove(&grant.lease_id);
        } else {
            grants.insert(grant.lease_id, grant);
        }
    }
    (grants, whole)
}

/// Sets room aside, where the file system can.
fn reserve(file: &File) {
    let _ = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, RESERVE);
}

/// A record without an attempt strikes its lease out: attempts count from 1.
fn struck(record: &Grant) -> bool {
    record.attempt == 0
}

/// What of a grant is needed after the supervisor has it.
fn lean(grant: &Grant) -> Grant {
    let task = grant.task.as_ref().map(|task| TaskSpec {
        grace_ms: task.grace_ms,
        stop_after_ms: task.stop_after_ms,
        ..TaskSpec::default()
    });
    Grant { task, attempt: grant.attempt.max(1), ..grant.clone() }
}

#[cfg(test)]
mod tests {
    //! What is appended comes back, also after a torn end.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn grant(lease: u64) -> Grant {
        let env = [("A".to_owned(), "x".repeat(1000))].into();
        let task = TaskSpec { grace_ms: 7, env, ..TaskSpec::default() };
        Grant { lease_id: lease, attempt: 1, last_index: 3, task: Some(task), ..Grant::default() }
    }

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("gangsaw-journal-{}-{name}", std::process::id()))
    }

    #[test]
    fn grants_come_back_without_their_task_and_struck_ones_do_not() {
        let path = path("back");
        let mut journal = Journal::open(&path, false).unwrap();
        for lease in 1..=3 {
            journal.add(&grant(lease)).unwrap();
        }
        journal.strike(2).unwrap();
        drop(journal);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&[200, 3, 1, 1]).unwrap();
        let journal = Journal::open(&path, false).unwrap();
        assert_eq!(journal.grants.keys().copied().collect::<Vec<_>>(), [1, 3]);
        let task = journal.grants[&3].task.clone().unwrap();
        assert_eq!((task.grace_ms, task.env.len()), (7, 0));
        drop(journal);
        assert_eq!(Journal::open(&path, true).unwrap().grants.len(), 0);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_could_not_be_written_is_there_once_it_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grants");
        let mut journal = Journal::open(&path, false).unwrap();
        journal.add(&grant(1)).unwrap();
        journal.add(&grant(2)).unwrap();
        // A file that cannot be written stands for a disk that cannot.
        let well = std::mem::replace(&mut journal.file, File::open(&path).unwrap());
        fs::create_dir(path.with_extension("new")).unwrap();
        assert!(journal.add(&grant(3)).is_err() && journal.strike(1).is_err() && journal.mend().is_err());
        well.write_all_at(&[200, 3, 1, 1], journal.bytes as u64).unwrap();
        assert_eq!(peek(&path).unwrap().keys().copied().collect::<Vec<_>>(), [1, 2]);
        fs::remove_dir(path.with_extension("new")).unwrap();
        journal.mend().unwrap();
        assert_eq!(peek(&path).unwrap().keys().copied().collect::<Vec<_>>(), [2, 3]);
        journal.add(&grant(4)).unwrap();
        assert_eq!(peek(&path).unwrap().keys().copied().collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[test]
    fn file_stays_small_over_many_grants() {
        let path = path("small");
        let mut journal = Journal::open(&path, false).unwrap();
        for lease in 1..=50_000 {
            journal.add(&grant(lease)).unwrap();
            if lease > 10 {
                journal.strike(lease - 10).unwrap();
            }
        }
        assert!(fs::metadata(&path).unwrap().len() < 2 * REWRITE_BYTES as u64);
        let live: Vec<u64> = peek(&path).unwrap().keys().copied().collect();
        assert_eq!(live, (49_991..=50_000).collect::<Vec<_>>());
        fs::remove_file(&path).unwrap();
    }
}
