//! The writer's side: rates, caps, segments.
//!
//! A task may write [`Rates::bytes_per_second`] (with one second's worth at once) and [`Rates::attempt_bytes`] in all;
//! beyond that its bytes are read, so that it never blocks, and discarded, and the next record says how many. A full
//! disk counts the same way: the log is cut with a mark and the task goes on.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{RECORD, Record, Stream, Tag};

/// How long the last record may grow.
pub(super) const GROW_MS: u64 = 100;
/// Bytes one record may name.
const RECORD_DATA_MAX: u32 = 1 << 20;

/// Bounds on what one attempt may log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Sustained, both streams together.
    pub(crate) bytes_per_second: u64,
    /// In all, both streams and their index records together.
    pub(crate) attempt_bytes: u64,
}

impl Default for Rates {
    fn default() -> Self {
        Self { bytes_per_second: 8 << 20, attempt_bytes: 256 << 20 }
    }
}

/// A task that prints more than it may is kept in this many pieces a second, with a mark for what lies between them:
/// otherwise each read from its pipe would leave a few bytes and a mark.
const PIECES_PER_SECOND: u64 = 64;

/// What one attempt has logged so far.
#[derive(Debug)]
pub(crate) struct Meter {
    rates: Rates,
    tokens: u64,
    refilled_us: u64,
    left: u64,
    /// The allowance ran out, and has not grown to a readable piece since.
    dry: bool,
    /// Discarded since the last record, for each stream.
    dropped: [u64; 2],
}

impl Meter {
    /// A full second's allowance to begin with.
    pub(crate) fn new(rates: Rates, now_us: u64) -> Self {
        Self {
            rates,
            tokens: rates.bytes_per_second,
            refilled_us: now_us,
            left: rates.attempt_bytes,
            dry: false,
            dropped: [0; 2],
        }
    }

    /// How many of `length` bytes may be kept now.
    fn admit(&mut self, now_us: u64, length: usize) -> usize {
        let since = now_us.saturating_sub(self.refilled_us).min(1_000_000);
        let refill = self.rates.bytes_per_second * since / 1_000_000;
        if refill > 0 {
            self.tokens = (self.tokens + refill).min(self.rates.bytes_per_second);
            self.refilled_us = now_us;
        }
        if self.dry && self.tokens < (self.rates.bytes_per_second / PIECES_PER_SECOND).max(1) {
            return 0;
        }
        let room = self.tokens.min(self.left.saturating_sub(RECORD as u64));
        let admitted = usize::try_from(room).unwrap_or(usize::MAX).min(length);
        self.dry = admitted < length;
        self.tokens -= admitted as u64;
        if admitted > 0 {
            self.left -= (admitted + RECORD) as u64;
        }
        admitted
    }
}

/// The open logs of the jobs that run here.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    generation: u32,
    open: BTreeMap<(u64, Stream), Segment>,
}

impl Logs {
    /// The logs that the supervisor of this generation writes.
    pub(crate) fn new(generation: u32) -> Self {
        Self { generation, open: BTreeMap::new() }
    }

    /// Keeps what the meter lets through of `bytes`, and counts the rest. A fault of the disk is a drop, never an error.
    pub(crate) fn write(&mut self, at: &Place<'_>, meter: &mut Meter, now_us: u64, wall_ms: u64, bytes: &[u8]) {
        let slot = at.stream as usize;
        let admitted = meter.admit(now_us, bytes.len());
        let (kept, cut) = bytes.split_at(admitted);
        if !kept.is_empty() {
            match self.segment(at).and_then(|segment| segment.append(at.tag, kept, meter.dropped[slot], wall_ms)) {
                Ok(()) => meter.dropped[slot] = 0,
                Err(_) => meter.dropped[slot] += kept.len() as u64,
            }
        }
        meter.dropped[slot] += cut.len() as u64;
    }

    /// Leaves a mark for what was discarded last, at the end of an attempt.
    pub(crate) fn finish(&mut self, at: &Place<'_>, meter: &mut Meter, wall_ms: u64) {
        let dropped = std::mem::take(&mut meter.dropped[at.stream as usize]);
        if dropped > 0 {
            let _ = self.segment(at).and_then(|segment| segment.append(at.tag, &[], dropped, wall_ms));
        }
    }

    /// Closes a job's files: its last lease here has ended.
    pub(crate) fn close(&mut self, job_id: u64) {
        for stream in Stream::ALL {
            self.open.remove(&(job_id, stream));
        }
    }

    fn segment(&mut self, at: &Place<'_>) -> io::Result<&mut Segment> {
        use std::collections::btree_map::Entry;
        match self.open.entry((at.job_id, at.stream)) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(Segment::open(at.folder, at.stream, self.generation)?)),
        }
    }
}

/// Where bytes go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) job_id: u64,
    /// STATE/agent/logs/JOB.
    pub(crate) folder: &'a PathBuf,
    pub(crate) stream: Stream,
    pub(crate) tag: Tag,
}

/// One segment file with its index.
#[derive(Debug)]
pub(crate) struct Segment {
    data: File,
    index: File,
    offset: u64,
    records: u64,
    last: Option<Record>,
}

impl Segment {
    pub(super) fn open(folder: &Path, stream: Stream, generation: u32) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let open = |suffix| {
            let file = stream.file(folder, generation, suffix);
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file)
        };
        let (mut data, mut index): (File, File) = (open("log")?, open("idx")?);
        let offset = data.seek(SeekFrom::End(0))?;
        let records = index.seek(SeekFrom::End(0))? / RECORD as u64;
        Ok(Self { data, index, offset, records, last: None })
    }

    /// Appends bytes, then the record that names them.
    pub(super) fn append(&mut self, tag: Tag, bytes: &[u8], dropped: u64, wall_ms: u64) -> io::Result<()> {
        self.data.write_all_at(bytes, self.offset)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let grows = self.last.filter(|last| {
            last.tag == tag
                && dropped == 0
                && wall_ms.saturating_sub(last.wall_ms) < GROW_MS
                && last.length + length <= RECORD_DATA_MAX
        });
        let (number, record) = match grows {
            Some(last) => (self.records - 1, Record { length: last.length + length, ..last }),
            None => (self.records, Record { tag, length, offset: self.offset, dropped, wall_ms, flags: 0 }),
        };
        self.index.write_all_at(&record.encode(), number * RECORD as u64)?;
        self.records = number + 1;
        self.offset += u64::from(length);
        self.last = Some(record);
        Ok(())
    }
}
