//! The reader's side: who printed what, the last lines, and what comes next.
//!
//! Plain blocking code without a thread of its own; the agent runs it beside its runtime. Both streams are merged by
//! the wall time of their records, so that a reader of both sees about what a terminal would have shown.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use super::{FORGOTTEN, Record, Stream, record_at};
use crate::supervisor::paths::Paths;

/// Bytes of one chunk, which a message to the scheduler can carry.
const CHUNK_MAX: u32 = 64 * 1024;

/// What a reader wants.
#[derive(Clone, Debug)]
pub struct LogQuery {
    /// The job.
    pub job_id: u64,
    /// First element.
    pub first_index: u32,
    /// Last element, inclusive.
    pub last_index: u32,
    /// `None`: every rank.
    pub rank: Option<u32>,
    /// Zero: the newest of each element and rank, also when a newer one begins while reading. [`LogQuery::EVERY_ATTEMPT`]:
    /// all of them.
    pub attempt: u32,
    /// `None`: both.
    pub stream: Option<Stream>,
    /// Only the last lines of each stream, as of now.
    pub tail_lines: Option<u64>,
    /// Only what was written at or after it. Zero: all.
    pub since_wall_ms: u64,
}

impl LogQuery {
    /// For `attempt`.
    pub const EVERY_ATTEMPT: u32 = u32::MAX;
}

/// Some bytes of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// Element.
    pub index: u32,
    /// Rank.
    pub rank: u32,
    /// Attempt.
    pub attempt: u32,
    /// Which output.
    pub stream: Stream,
    /// At most 64 KiB. Empty when only a drop is told.
    pub data: Vec<u8>,
    /// Bytes that were discarded before `data`.
    pub dropped_bytes: u64,
    /// When the first of them was read from the task.
    pub wall_ms: u64,
}

/// A position in a job's logs.
#[derive(Debug)]
pub struct LogReader {
    folder: PathBuf,
    query: LogQuery,
    newest: BTreeMap<(u32, u32), u32>,
    cursors: Vec<Cursor>,
    watch: OwnedFd,
    watches_job: bool,
}

/// A position in one stream.
#[derive(Debug)]
struct Cursor {
    stream: Stream,
    generation: u32,
    files: Option<(File, File)>,
    number: u64,
    /// Bytes of the record that were given out already; it may have grown since.
    consumed: u32,
}

impl LogReader {
    /// Opens a job's logs. A job that has not printed a byte is fine.
    ///
    /// # Errors
    /// When files are there and cannot be read, or inotify is exhausted.
    pub fn open(state: &Path, query: LogQuery) -> io::Result<Self> {
        let paths = Paths::new(state);
        let folder = paths.logs(query.job_id);
        let parent = paths.agent.join("logs");
        fs::create_dir_all(&parent)?;
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&watch, &parent, inotify::WatchFlags::CREATE)?;
        let cursors = Vec::new();
        let mut reader = Self { folder, query, newest: BTreeMap::new(), cursors, watch, watches_job: false };
        reader.watch_job();
        reader.find_files();
        if reader.query.attempt == 0 {
            reader.learn_attempts()?;
        }
        if let Some(lines) = reader.query.tail_lines {
            reader.seek_tail(lines)?;
        }
        Ok(reader)
    }

    /// The next bytes that are there; `None` when there are no more now.
    ///
    /// # Errors
    /// When a file cannot be read.
    #[expect(clippy::should_implement_trait, reason = "None is not the end: more may come, and a read may fail")]
    pub fn next(&mut self) -> io::Result<Option<LogChunk>> {
        let mut best = self.oldest()?;
        if best.is_none() && self.find_files() {
            best = self.oldest()?;
        }
        best.map(|(which, record)| self.take(which, &record)).transpose()
    }

    /// Waits until something may have been written, at most so long. False: nothing was.
    ///
    /// # Errors
    /// When polling fails.
    pub fn wait(&mut self, at_most: Duration) -> io::Result<bool> {
        self.wait_or(at_most, None)
    }

    /// As [`LogReader::wait`], and returns at once when `wake` becomes readable.
    ///
    /// # Errors
    /// When polling fails.
    pub fn wait_or(&mut self, at_most: Duration, wake: Option<BorrowedFd<'_>>) -> io::Result<bool> {
        let timeout = Timespec::try_from(at_most).map_err(io::Error::other)?;
        let watch = PollFd::new(&self.watch, PollFlags::IN);
        let mut fds = vec![watch];
        fds.extend(wake.map(|wake| PollFd::from_borrowed_fd(wake, PollFlags::IN)));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(fault) => return Err(fault.into()),
        }
        let ready = fds.first().is_some_and(|watch| !watch.revents().is_empty());
        if ready {
            let mut events = [0_u8; 4096];
            while rustix::io::read(&self.watch, &mut events[..]).is_ok_and(|length| length == events.len()) {}
        }
        Ok(self.watch_job() || ready)
    }

    /// Begins with the files that have come since the last look; false when none has.
    fn find_files(&mut self) -> bool {
        let before = self.cursors.len();
        for stream in Stream::ALL.into_iter().filter(|stream| self.query.stream.is_none_or(|only| only == *stream)) {
            for generation in stream.generations(&self.folder) {
                if !self.cursors.iter().any(|cursor| (cursor.stream, cursor.generation) == (stream, generation)) {
                    self.cursors.push(Cursor { stream, generation, files: None, number: 0, consumed: 0 });
                }
            }
        }
        self.cursors.len() > before
    }

    /// The cursor whose next record is the oldest.
    fn oldest(&mut self) -> io::Result<Option<(usize, Record)>> {
        let mut best: Option<(usize, Record)> = None;
        for which in 0..self.cursors.len() {
            if let Some(record) = self.peek(which)?
                && best.is_none_or(|(_, other)| record.wall_ms < other.wall_ms)
            {
                best = Some((which, record));
            }
        }
        Ok(best)
    }

    /// Watches the job's folder once it exists; true when that is new.
    fn watch_job(&mut self) -> bool {
        let wanted = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        if self.watches_job || inotify::add_watch(&self.watch, &self.folder, wanted).is_err() {
            return false;
        }
        self.watches_job = true;
        true
    }

    /// Finds the newest attempt of each selected task among what is there.
    fn learn_attempts(&mut self) -> io::Result<()> {
        for which in 0..self.cursors.len() {
            let mut number = 0;
            while let Some((index, _)) = self.cursors[which].open(&self.folder)? {
                let Some(record) = record_at(index, number)? else { break };
                if let Some(record) = record.filter(|record| self.selects(record)) {
                    self.learn(&record);
                }
                number += 1;
            }
        }
        Ok(())
    }

    fn learn(&mut self, record: &Record) {
        let newest = self.newest.entry((record.tag.index, record.tag.rank)).or_default();
        *newest = (*newest).max(record.tag.attempt);
    }

    fn selects(&self, record: &Record) -> bool {
        let (query, tag) = (&self.query, record.tag);
        (query.first_index..=query.last_index).contains(&tag.index)
            && query.rank.is_none_or(|rank| rank == tag.rank)
            && [0, LogQuery::EVERY_ATTEMPT, tag.attempt].contains(&query.attempt)
            && record.wall_ms >= query.since_wall_ms
            && record.flags & FORGOTTEN == 0
    }

    /// Moves a cursor to its next selected record with something unread.
    fn peek(&mut self, which: usize) -> io::Result<Option<Record>> {
        loop {
            let cursor = &mut self.cursors[which];
            let (number, consumed) = (cursor.number, cursor.consumed);
            let Some((index, _)) = cursor.open(&self.folder)? else { return Ok(None) };
            let Some(record) = record_at(index, number)? else { return Ok(None) };
            let is_last = record_at(index, number + 1)?.is_none();
            let Some(record) = record else {
                // Damaged, or caught in a rewrite: only the last one is ever rewritten.
                if is_last {
                    return Ok(None);
                }
                self.cursors[which].advance();
                continue;
            };
            let mut wanted = self.selects(&record);
            if wanted && self.query.attempt == 0 {
                self.learn(&record);
                wanted = self.newest.get(&(record.tag.index, record.tag.rank)) == Some(&record.tag.attempt);
            }
            let unread = consumed < record.length || (consumed == 0 && record.length == 0);
            if wanted && unread {
                return Ok(Some(record));
            }
            if is_last && record.length > 0 {
                return Ok(None);
            }
            // It may have grown between the two reads, and grows no more now that another follows.
            if let Some((index, _)) = &self.cursors[which].files
                && record_at(index, number)?.flatten().is_some_and(|again| wanted && again.length > consumed)
            {
                continue;
            }
            self.cursors[which].advance();
        }
    }

    fn take(&mut self, which: usize, record: &Record) -> io::Result<LogChunk> {
        let cursor = &mut self.cursors[which];
        let (stream, consumed) = (cursor.stream, cursor.consumed);
        let length = (record.length - consumed).min(CHUNK_MAX);
        let mut data = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        if let Some((_, file)) = cursor.open(&self.folder)? {
            file.read_exact_at(&mut data, record.offset + u64::from(consumed))?;
        }
        if record.length == 0 {
            cursor.advance();
        } else {
            cursor.consumed += length;
        }
        Ok(LogChunk {
            index: record.tag.index,
            rank: record.tag.rank,
            attempt: record.tag.attempt,
            stream,
            data,
            dropped_bytes: if consumed == 0 { record.dropped } else { 0 },
            wall_ms: record.wall_ms,
        })
    }

    /// Puts each cursor at the beginning of its last `lines` lines.
    fn seek_tail(&mut self, lines: u64) -> io::Result<()> {
        for which in 0..self.cursors.len() {
            let mut selected = Vec::new();
            while let Some(record) = self.peek(which)? {
                selected.push((self.cursors[which].number, record));
                self.cursors[which].consumed = record.length;
                if record.length == 0 {
                    self.cursors[which].advance();
                }
            }
            let Some((_, file)) = self.cursors[which].open(&self.folder)? else { continue };
            if let Some((number, consumed)) = tail_start(file, &selected, lines)? {
                self.cursors[which].number = number;
                self.cursors[which].consumed = consumed;
            }
        }
        Ok(())
    }
}

/// The record, and the byte in it, where the last `lines` lines of `selected` begin. `None`: after the last byte.
fn tail_start(file: &File, selected: &[(u64, Record)], lines: u64) -> io::Result<Option<(u64, u32)>> {
    if lines == 0 {
        return Ok(None);
    }
    let mut newlines = 0;
    let mut at_end = true;
    for (number, record) in selected.iter().rev() {
        let mut data = vec![0; usize::try_from(record.length).map_err(io::Error::other)?];
        file.read_exact_at(&mut data, record.offset)?;
        for (at, _) in data.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            // The newline that ends the very last line ends it, it does not begin another.
            let ends_all = at_end && at + 1 == data.len();
            newlines += u64::from(!ends_all);
            if newlines == lines && !ends_all {
                return Ok(Some((*number, u32::try_from(at + 1).map_err(io::Error::other)?)));
            }
        }
        at_end &= data.is_empty();
    }
    Ok(selected.first().map(|(number, _)| (*number, 0)))
}

impl Cursor {
    /// The index and the data, once both exist.
    fn open(&mut self, folder: &Path) -> io::Result<Option<&(File, File)>> {
        if self.files.is_none() {
            let open = |suffix| match File::open(self.stream.file(folder, self.generation, suffix)) {
                Ok(file) => Ok(Some(file)),
                Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(fault) => Err(fault),
            };
            self.files = open("idx")?.zip(open("log")?);
        }
        Ok(self.files.as_ref())
    }

    fn advance(&mut self) {
        self.number += 1;
        self.consumed = 0;
    }
}
