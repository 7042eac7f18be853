//! What tasks print: one segment file and one index for each (job, stream), under STATE/agent/logs/JOB.
//!
//! `out.log` and `err.log` hold bytes as they came, the tasks of a job mixed; `out.idx` and `err.idx` hold records of
//! [`RECORD`] bytes that say whose they are. Nothing exists before the first byte. The supervisor is the only writer
//! and appends data before the record that names it, so a reader never sees a record without its bytes; bytes that no
//! record names, after a kill between the two, are skipped for ever. The last record grows in place while one task
//! goes on printing, at most for [`pump::GROW_MS`], so that a slow writer costs no record per line.
//! A supervisor that another version's stands beside writes files of its own, `out-N.log`; readers merge them.
//!
//! Elsewhere: rates, caps and writing are [`pump`]; queries, tails and following are [`reader`].

pub(crate) mod pump;
mod reader;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

pub use reader::{LogChunk, LogQuery, LogReader};

use super::paths::Paths;

/// Size of an index record.
const RECORD: usize = 48;
/// The record's bytes were given back to the file system.
const FORGOTTEN: u32 = 1;

/// Which output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    fn stem(self) -> &'static str {
        match self {
            Self::Stdout => "out",
            Self::Stderr => "err",
        }
    }

    /// The file of one generation of supervisors.
    fn file(self, folder: &Path, generation: u32, suffix: &str) -> PathBuf {
        let stem = self.stem();
        match generation {
            0 => folder.join(format!("{stem}.{suffix}")),
            later => folder.join(format!("{stem}-{later}.{suffix}")),
        }
    }

    /// The generations that have written this stream of a job.
    fn generations(self, folder: &Path) -> Vec<u32> {
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name());
        let number = |name: std::ffi::OsString| {
            let rest = name.to_str()?.strip_prefix(self.stem())?.strip_suffix(".idx")?;
            if rest.is_empty() { Some(0) } else { rest.strip_prefix('-')?.parse().ok() }
        };
        let mut found: Vec<u32> = names.filter_map(number).collect();
        found.sort_unstable();
        found
    }
}

/// Who printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    /// Element.
    pub(crate) index: u32,
    /// Rank.
    pub(crate) rank: u32,
    /// Attempt.
    pub(crate) attempt: u32,
}

/// One entry of an index: whose bytes lie where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) tag: Tag,
    pub(crate) length: u32,
    pub(crate) offset: u64,
    /// Bytes that were discarded before these.
    pub(crate) dropped: u64,
    pub(crate) wall_ms: u64,
    pub(crate) flags: u32,
}

impl Record {
    fn encode(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        let fields = [self.tag.index, self.tag.rank, self.tag.attempt, self.length];
        for (to, field) in bytes[..16].chunks_exact_mut(4).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        for (to, field) in bytes[16..40].chunks_exact_mut(8).zip([self.offset, self.dropped, self.wall_ms]) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        bytes[40..44].copy_from_slice(&self.flags.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..44]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` when damaged, or caught while it was rewritten.
    fn decode(bytes: &[u8; RECORD]) -> Option<Self> {
        let short = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let long = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        if short(44)? != crc32fast::hash(&bytes[..44]) {
            return None;
        }
        Some(Self {
            tag: Tag { index: short(0)?, rank: short(4)?, attempt: short(8)? },
            length: short(12)?,
            offset: long(16)?,
            dropped: long(24)?,
            wall_ms: long(32)?,
            flags: short(40)?,
        })
    }
}

/// Reads record `number`; `None` past the end, `Some(None)` when it is damaged.
fn record_at(index: &File, number: u64) -> io::Result<Option<Option<Record>>> {
    let mut bytes = [0; RECORD];
    match index.read_exact_at(&mut bytes, number * RECORD as u64) {
        Ok(()) => Ok(Some(Record::decode(&bytes))),
        Err(fault) if fault.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Drops a job's logs: every attempt of it was copied, or nobody wants them.
///
/// # Errors
/// When the folder is there and cannot be removed.
pub fn forget(state: &Path, job_id: u64) -> io::Result<()> {
    match fs::remove_dir_all(Paths::new(state).logs(job_id)) {
        Err(fault) if fault.kind() != io::ErrorKind::NotFound => Err(fault),
        _ => Ok(()),
    }
}

/// Gives the bytes of ended attempts back to the file system, while the job goes on: holes in the segments, flags in
/// the indices. Readers skip them from then on. `attempt` zero: all of these elements, none of which runs here now.
///
/// # Errors
/// When a file cannot be read or written. A file system without holes keeps the bytes until [`forget`].
pub fn forget_attempts(state: &Path, job_id: u64, first_index: u32, last_index: u32, attempt: u32) -> io::Result<()> {
    let folder = Paths::new(state).logs(job_id);
    let written = |stream: Stream| stream.generations(&folder).into_iter().map(move |number| (stream, number));
    for (stream, generation) in Stream::ALL.into_iter().flat_map(written) {
        let open = |suffix| OpenOptions::new().read(true).write(true).open(stream.file(&folder, generation, suffix));
        let (index, data) = match (open("idx"), open("log")) {
            (Ok(index), Ok(data)) => (index, data),
            (Err(fault), _) | (_, Err(fault)) if fault.kind() == io::ErrorKind::NotFound => continue,
            (Err(fault), _) | (_, Err(fault)) => return Err(fault),
        };
        let mut number = 0;
        while let Some(record) = record_at(&index, number)? {
            let selected = |record: &Record| {
                (first_index..=last_index).contains(&record.tag.index) && [0, record.tag.attempt].contains(&attempt)
            };
            if let Some(mut record) = record.filter(selected) {
                record.flags |= FORGOTTEN;
                index.write_all_at(&record.encode(), number * RECORD as u64)?;
                let hole = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                if record.length > 0 {
                    let _ = rustix::fs::fallocate(&data, hole, record.offset, u64::from(record.length));
                }
            }
            number += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
