//! Old events, moved out of the database into compressed files `archive/FIRST-LAST.zst`.
//!
//! A file is a run of batches. Each batch is `u64` first sequence, `u64` last, `u64` wall time in ms, `u32` length and
//! its frames, little-endian, compressed as one stream that ends with a zero where the next batch would begin: sequences
//! start at 1, and a cut file would otherwise pass for a short one. The frames keep their own checksums.
//!
//! Invariants:
//! - A file has its final name only after it and its name are synced; only then are the rows it holds deleted.
//! - Names tell the whole range, so which rows are safe to delete is read from the folder alone.
//!
//! Elsewhere: when to archive is `keeper`.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Age after which an archive is deleted.
const AGE_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// Bytes of archives that are kept, whatever their age.
const BYTES_MAX: u64 = 20 << 30;
/// Longest batch a reader accepts; a batch is bounded by the engine far below it.
const BATCH_BYTES_MAX: u32 = 1 << 30;
/// Compression level: most of the gain, at a speed that never holds anybody up.
const LEVEL: i32 = 3;

/// One batch as an archive holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Archived {
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) wall_ms: u64,
    pub(crate) frames: Vec<u8>,
}

/// A file that is being written.
pub(crate) struct Writer {
    folder: PathBuf,
    fresh: PathBuf,
    stream: zstd::Encoder<'static, io::BufWriter<std::fs::File>>,
    range: Option<(u64, u64)>,
}

impl Writer {
    /// Begins a file in `folder`, which is made if need be.
    pub(crate) fn create(folder: &Path) -> io::Result<Writer> {
        std::fs::create_dir_all(folder)?;
        let fresh = folder.join("unfinished");
        let file = io::BufWriter::new(std::fs::File::create(&fresh)?);
        Ok(Writer { folder: folder.to_owned(), fresh, stream: encoder(file)?, range: None })
    }

    /// Appends one batch.
    pub(crate) fn push(&mut self, batch: &Archived) -> io::Result<()> {
        push(&mut self.stream, batch)?;
        self.range = Some((self.range.map_or(batch.first_seq, |(first, _)| first), batch.last_seq));
        Ok(())
    }

    /// Syncs the file and gives it its name. Without a batch there is no file.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.stream.write_all(&0_u64.to_le_bytes())?;
        let file = self.stream.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        let Some((first, last)) = self.range else {
            return std::fs::remove_file(&self.fresh);
        };
        file.sync_all()?;
        std::fs::rename(&self.fresh, self.folder.join(format!("{first}-{last}.zst")))?;
        std::fs::File::open(&self.folder)?.sync_all()
    }
}

/// With a checksum of everything: that of a frame does not cover the numbers before it.
fn encoder<W: Write>(to: W) -> io::Result<zstd::Encoder<'static, W>> {
    let mut stream = zstd::Encoder::new(to, LEVEL)?;
    stream.include_checksum(true)?;
    Ok(stream)
}

fn push(stream: &mut impl Write, batch: &Archived) -> io::Result<()> {
    stream.write_all(&batch.first_seq.to_le_bytes())?;
    stream.write_all(&batch.last_seq.to_le_bytes())?;
    stream.write_all(&batch.wall_ms.to_le_bytes())?;
    stream.write_all(&u32::try_from(batch.frames.len()).unwrap_or(u32::MAX).to_le_bytes())?;
    stream.write_all(&batch.frames)
}

/// Returns what a file of these batches would hold.
pub(crate) fn pack(batches: &[Archived]) -> io::Result<Vec<u8>> {
    let mut stream = encoder(Vec::new())?;
    for batch in batches {
        push(&mut stream, batch)?;
    }
    stream.write_all(&0_u64.to_le_bytes())?;
    stream.finish()
}

/// Returns the finished archives of `folder` by first sequence.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<(u64, u64, PathBuf)>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some((first, last)) = entry.file_name().to_str().and_then(range) {
            found.push((first, last, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn range(name: &str) -> Option<(u64, u64)> {
    let (first, last) = name.strip_suffix(".zst")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Reads an archive from its beginning.
///
/// # Errors
/// The file cannot be read or decompressed; its frames are not checked here.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Archived>> {
    unpack(std::fs::File::open(path)?)
}

/// Reads what a file would hold.
pub(crate) fn unpack(from: impl Read) -> io::Result<Vec<Archived>> {
    let mut stream = zstd::Decoder::new(from)?;
    let mut batches = Vec::new();
    loop {
        let mut head = [0_u8; 28];
        stream.read_exact(&mut head[..8])?;
        if head[..8] == [0; 8] {
            // The checksum is looked at when the end is read.
            return match stream.read(&mut head)? {
                0 => Ok(batches),
                _ => Err(io::Error::new(io::ErrorKind::InvalidData, "something follows the last batch")),
            };
        }
        stream.read_exact(&mut head[8..])?;
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&head[at..at + 8]);
            u64::from_le_bytes(eight)
        };
        let length = u32::from_le_bytes([head[24], head[25], head[26], head[27]]);
        if length > BATCH_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a batch announces an impossible length"));
        }
        let mut frames = Vec::new();
        (&mut stream).take(u64::from(length)).read_to_end(&mut frames)?;
        if frames.len() != length as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        batches.push(Archived { first_seq: number(0), last_seq: number(8), wall_ms: number(16), frames });
    }
}

/// Deletes archives that are too old or too many, oldest first, and returns how many.
pub(crate) fn retain(folder: &Path, now: SystemTime) -> io::Result<usize> {
    let mut files = Vec::new();
    for (_, _, path) in list(folder)? {
        let meta = std::fs::metadata(&path)?;
        files.push((path, meta.len(), meta.modified()?));
    }
    let mut bytes: u64 = files.iter().map(|(_, length, _)| length).sum();
    let mut deleted = 0;
    for (path, length, modified) in files {
        let old = now.duration_since(modified).is_ok_and(|age| age > AGE_MAX);
        if !old && bytes <= BYTES_MAX {
            break;
        }
        std::fs::remove_file(path)?;
        bytes -= length;
        deleted += 1;
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests;
