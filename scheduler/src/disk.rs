//! Keeps the scheduler alive on a full disk: a ballast file, and a look at the free space before each batch.
//!
//! While space is low, inputs that grow state are refused before they are decided, and everything that ends work goes
//! on. If even that does not fit, the ballast is given up to make room. When space comes back, so does the ballast,
//! and only then is the disk called healthy again: recovery needs nobody.
//!
//! Invariants:
//! - The ballast holds real blocks, never a hole.
//! - The disk is called healthy only while the ballast is whole.
//!
//! Elsewhere: which inputs grow state is the engine's question; retrying the append is the engine's, too.

use std::io;
use std::path::{Path, PathBuf};

/// Largest ballast: enough for many thousand batches of completions.
const BALLAST_BYTES_MAX: u64 = 64 << 20;
/// Share of the file system that the ballast takes at most.
const BALLAST_SHARE: u64 = 8;
/// Space below which growth is refused, at most: room for a log segment and a checkpoint.
const LOW_BYTES_MAX: u64 = 16 << 20;
/// Share of the file system below which growth is refused.
const LOW_SHARE: u64 = 16;

/// Watches the file system that holds a state folder.
#[derive(Debug)]
pub(crate) struct DiskGuard {
    folder: PathBuf,
    ballast: PathBuf,
    ballast_bytes: u64,
    low_bytes: u64,
    full: bool,
}

impl DiskGuard {
    /// Sizes the ballast for the file system of `folder` and lays it down if there is room.
    ///
    /// # Errors
    /// The file system cannot be asked.
    pub(crate) fn open(folder: &Path) -> io::Result<DiskGuard> {
        let (total, _) = space(folder)?;
        let mut guard = DiskGuard {
            folder: folder.to_owned(),
            ballast: folder.join("ballast"),
            ballast_bytes: (total / BALLAST_SHARE).min(BALLAST_BYTES_MAX),
            low_bytes: (total / LOW_SHARE).min(LOW_BYTES_MAX),
            full: true,
        };
        guard.full = !guard.lay_down()?;
        Ok(guard)
    }

    /// Returns whether inputs that grow state must be refused now.
    ///
    /// # Errors
    /// The file system cannot be asked.
    pub(crate) fn check(&mut self) -> io::Result<bool> {
        let (_, available) = space(&self.folder)?;
        if self.full {
            // Twice the low mark beside a whole ballast, or the first new batch would tip it over again.
            self.full = available < 2 * self.low_bytes || !self.lay_down()?;
        } else if available < self.low_bytes {
            self.full = true;
        }
        Ok(self.full)
    }

    /// Gives up the ballast so that a completion fits. Returns false if there was none left to give.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub(crate) fn release(&mut self) -> io::Result<bool> {
        self.full = true;
        match std::fs::remove_file(&self.ballast) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the ballast whole if that leaves more than the low mark free, and returns whether it is.
    fn lay_down(&self) -> io::Result<bool> {
        use rustix::fs::{FallocateFlags, fallocate};
        let held = match std::fs::metadata(&self.ballast) {
            Ok(meta) => allocated(&meta),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        if held >= self.ballast_bytes {
            return Ok(true);
        }
        let (_, available) = space(&self.folder)?;
        if available < (self.ballast_bytes - held) + self.low_bytes {
            return Ok(false);
        }
        let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&self.ballast)?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.ballast_bytes) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOSPC) => Ok(false),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => fill(file, self.ballast_bytes),
            Err(error) => Err(error.into()),
        }
    }
}

fn allocated(meta: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    meta.len().min(meta.blocks() * 512)
}

/// Writes the ballast out, where the file system cannot allocate without.
fn fill(mut file: std::fs::File, bytes: u64) -> io::Result<bool> {
    use std::io::{Read, Write};
    // Not zeros: a compressing file system would store those in nothing.
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(1 << 20);
    for _ in 0..(1 << 17) {
        word = word.wrapping_mul(0x2545_f491_4f6c_dd1d).rotate_left(29) ^ 0x5851_f42d_4c95_7f2d;
        block.extend_from_slice(&word.to_le_bytes());
    }
    let mut left = bytes;
    while left > 0 {
        let mut piece = block.as_slice().take(left);
        match io::copy(&mut piece, &mut file) {
            Ok(written) => left -= written,
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    file.flush()?;
    Ok(true)
}

/// Returns the file system's size and what is available to us, in bytes.
fn space(folder: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

#[cfg(test)]
mod tests;
