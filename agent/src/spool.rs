//! The spool: facts about ended tasks, on disk before anybody hears of them.
//!
//! A folder of files `FIRST.spool`, named by the first sequence they may hold; each is a row of records
//! `length u32, crc32 u32, prost Fact`, little endian. Only the supervisor writes, with one `write` for a batch, and it
//! never fsyncs: the page cache outlives a killed supervisor, and a power cut ends the tasks themselves, which the
//! scheduler learns from the new boot id. A torn record at the end of a file is what a kill in the middle of a write
//! leaves; it was never reported, and reading stops before it.
//!
//! Invariants: sequences start at 1, rise by one and never restart within a folder, also when every fact was
//! acknowledged (the newest file's name keeps the count). [`RESERVE`] bytes are allocated ahead, so that exits can
//! still be kept on a full disk.
//!
//! Elsewhere: the supervisor appends (`supervisor::report`); an agent that finds no supervisor calls [`read`].

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use gangsaw_proto::supervisor::v1::Fact;
use prost::Message as _;

/// Disk set aside in a new file, about 20,000 facts.
const RESERVE: u64 = 1 << 20;
/// A file larger than this is followed by a new one at the next append.
const ROTATE_BYTES: u64 = 4 << 20;
/// Read from a file at a time.
const READ_BYTES: usize = 64 << 10;
/// No fact is larger; a greater length in a file is damage.
const FACT_MAX: usize = 1 << 20;

/// The folder of the spool in an agent's state folder.
pub(crate) fn folder(state: &Path) -> PathBuf {
    state.join("agent").join("spool")
}

/// Reads every fact above `after_seq` in order, without a supervisor.
///
/// # Errors
/// When the folder or a file in it cannot be read. A missing folder is no error, nor is a torn tail.
pub fn read(state: &Path, after_seq: u64) -> io::Result<Vec<Fact>> {
    let mut facts = Vec::new();
    for (_, path) in files(&folder(state))? {
        read_file(&path, |fact| {
            if fact.seq > after_seq {
                facts.push(fact);
            }
            true
        })?;
    }
    Ok(facts)
}

/// The writer's side.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    /// Full files by the sequence that follows their last.
    full: BTreeMap<u64, PathBuf>,
    file: File,
    first: u64,
    bytes: u64,
    next: u64,
    acked: u64,
}

impl Spool {
    /// Opens the folder, or makes it, cuts a torn tail and finds the next sequence.
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut there = files(&folder)?;
        let (first, path) = there.pop_last().unwrap_or_else(|| (1, folder.join(name(1))));
        let ends = there.keys().skip(1).copied().chain([first]).collect::<Vec<_>>();
        let full = ends.into_iter().zip(there.into_values()).collect();
        let mut next = first;
        let bytes = if path.exists() { whole_bytes(&path, &mut next)? } else { 0 };
        let file = open_file(&path)?;
        file.set_len(bytes)?;
        reserve(&file);
        Ok(Self { folder, full, file, first, bytes, next, acked: 0 })
    }

    /// The sequence the next fact gets.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next
    }

    /// Numbers the facts and appends them with one write. On an error none of them counts as written.
    pub(crate) fn append(&mut self, facts: &mut [Fact]) -> io::Result<()> {
        let mut block = Vec::with_capacity(facts.len() * 64);
        for (seq, fact) in (self.next..).zip(facts.iter_mut()) {
            fact.seq = seq;
            let body = fact.encode_to_vec();
            block.extend_from_slice(&u32::try_from(body.len()).map_err(io::Error::other)?.to_le_bytes());
            block.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
            block.extend_from_slice(&body);
        }
        if let Err(fault) = self.file.write_all_at(&block, self.bytes) {
            // A part may have been written, and cannot always be cut: a later append writes over it.
            let _ = self.file.set_len(self.bytes);
            return Err(fault);
        }
        self.bytes += block.len() as u64;
        self.next += facts.len() as u64;
        if self.bytes > ROTATE_BYTES {
            // They are written, so this is no failure of theirs; it is tried again with the next ones.
            let _ = self.rotate();
        }
        Ok(())
    }

    /// Forgets facts up to `seq`: files that hold nothing newer are deleted, the newest is replaced by an empty one
    /// once it has some size.
    pub(crate) fn ack(&mut self, seq: u64) -> io::Result<()> {
        self.acked = self.acked.max(seq.min(self.next - 1));
        if self.acked + 1 == self.next && self.bytes > RESERVE / 4 {
            self.rotate()?;
        }
        while let Some(oldest) = self.full.first_entry().filter(|oldest| *oldest.key() <= self.acked + 1) {
            match fs::remove_file(oldest.get()) {
                Err(fault) if fault.kind() != io::ErrorKind::NotFound => return Err(fault),
                _ => oldest.remove(),
            };
            // On a full disk the newest file may have found no room to set aside; now there is some.
            reserve(&self.file);
        }
        Ok(())
    }

    /// Whether every fact was acknowledged.
    pub(crate) fn is_settled(&self) -> bool {
        self.acked + 1 == self.next
    }

    /// Reads facts from `from` on, at most `count` of them.
    pub(crate) fn replay(&self, from: u64, count: usize) -> io::Result<Vec<Fact>> {
        let mut facts = Vec::new();
        let files = files(&self.folder)?;
        let start = files.range(..=from).next_back().map_or(0, |(first, _)| *first);
        for path in files.range(start..).map(|(_, path)| path) {
            read_file(path, |fact| {
                if fact.seq >= from {
                    facts.push(fact);
                }
                facts.len() < count
            })?;
            if facts.len() >= count {
                break;
            }
        }
        Ok(facts)
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.first == self.next {
            return Ok(());
        }
        let file = open_file(&self.folder.join(name(self.next)))?;
        reserve(&file);
        self.full.insert(self.next, self.folder.join(name(self.first)));
        self.file = file;
        self.first = self.next;
        self.bytes = 0;
        Ok(())
    }
}

fn name(first: u64) -> String {
    format!("{first:020}.spool")
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Allocates ahead. A file system that cannot is fine: then a full disk delays reports, it does not lose them.
fn reserve(file: &File) {
    let _ = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, RESERVE);
}

fn files(folder: &Path) -> io::Result<BTreeMap<u64, PathBuf>> {
    let mut found = BTreeMap::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(fault) => return Err(fault),
    };
    for entry in entries {
        let path = entry?.path();
        let first = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".spool"));
        if let Some(Ok(first)) = first.map(str::parse) {
            found.insert(first, path);
        }
    }
    Ok(found)
}

/// Hands each whole record to `take`, until it wants no more, and returns how many bytes of the file were whole
/// records up to there. Damage ends the reading like the end of the file. It never holds more than one record.
fn read_file(path: &Path, mut take: impl FnMut(Fact) -> bool) -> io::Result<u64> {
    let mut file = BufReader::with_capacity(READ_BYTES, File::open(path)?);
    let mut at = 0;
    let mut body = Vec::new();
    loop {
        let mut head = [0; 8];
        if !fill(&mut file, &mut head)? {
            return Ok(at);
        }
        let [l0, l1, l2, l3, crc @ ..] = head;
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        if length == 0 || length > FACT_MAX {
            return Ok(at);
        }
        body.resize(length, 0);
        if !fill(&mut file, &mut body)? || crc32fast::hash(&body) != u32::from_le_bytes(crc) {
            return Ok(at);
        }
        let Ok(fact) = Fact::decode(body.as_slice()) else { return Ok(at) };
        at += 8 + length as u64;
        if !take(fact) {
            return Ok(at);
        }
    }
}

/// How many bytes of the file are whole records; moves `next` past the last of them.
fn whole_bytes(path: &Path, next: &mut u64) -> io::Result<u64> {
    read_file(path, |fact| {
        *next = (*next).max(fact.seq + 1);
        true
    })
}

/// Fills the buffer; false when the file ends before.
fn fill(file: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(fault) if fault.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(fault) => Err(fault),
    }
}

#[cfg(test)]
mod tests;
