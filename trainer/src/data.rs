//! Labelled images, where they come from and how they are split.
//!
//! A [`Dataset`] is bytes: one per pixel, one per label. Rows are numbered once and for
//! all in file order; shuffles, shifts and dropout refer to these numbers. The test set
//! is rows with index mod 5 = 4, or a folder's own test files. It is never trained on
//! and never decides when to stop.
//!
//! A bad file is an error that names the file, the offset and what was expected there.
//!
//! Elsewhere: batches are made in `batch`.

mod idx;
mod packed;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::DataSource;
use crate::durable::hex;

/// The digits as they are in this program; see `data/README.md`.
const DIGITS: &[u8] = include_bytes!("../data/digits.bin");

/// One row in this many is for the test, counted from the end of each group.
const TEST_EVERY: u32 = 5;

/// One training row in this many is for validation, where validation is asked for.
const VALIDATION_EVERY: usize = 10;

/// Files above this are refused: they are read whole.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Labelled images of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dataset {
    /// Pixel rows of an image.
    pub(crate) height: usize,
    /// Pixel columns of an image.
    pub(crate) width: usize,
    /// Labels are below this.
    pub(crate) classes: usize,
    /// The largest value a pixel can have; it becomes 1.0.
    pub(crate) white: u8,
    /// All pixels, image after image, row after row.
    pub(crate) pixels: Vec<u8>,
    /// One label an image.
    pub(crate) labels: Vec<u8>,
    /// Numbers of the training rows.
    pub(crate) train: Vec<u32>,
    /// Numbers of the test rows.
    pub(crate) test: Vec<u32>,
}

/// Why data could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read at all.
    #[error("{}: {error}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{}: at byte {offset}: expected {expected}, found {found}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// Where, in the file's bytes (after decompression).
        offset: usize,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl Dataset {
    /// Reads what `source` names.
    pub(crate) fn load(source: &DataSource) -> Result<Dataset, DataError> {
        match source {
            DataSource::Digits => packed::read(Path::new("digits.bin"), DIGITS),
            DataSource::Packed(path) => packed::read(path, &read_file(path)?),
            DataSource::Idx(folder) => idx::read_folder(folder),
        }
    }

    /// Splits rows by number: index mod 5 = 4 is the test set.
    fn split_by_index(mut self) -> Dataset {
        let count = u32::try_from(self.labels.len()).unwrap_or(u32::MAX);
        let is_test = |row: &u32| row % TEST_EVERY == TEST_EVERY - 1;
        (self.test, self.train) = (0..count).partition(is_test);
        self
    }

    /// Takes every tenth training row out for validation; returns (train, validation).
    pub(crate) fn validation_split(&self) -> (Vec<u32>, Vec<u32>) {
        let numbered = self.train.iter().copied().enumerate();
        let is_validation = |(i, _): &(usize, u32)| i % VALIDATION_EVERY == VALIDATION_EVERY - 1;
        let (validation, train): (Vec<_>, Vec<_>) = numbered.partition(is_validation);
        let rows = |list: Vec<(usize, u32)>| list.into_iter().map(|(_, row)| row).collect();
        (rows(train), rows(validation))
    }

    /// Hashes everything that training and testing depend on.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hasher = Sha256::new();
        let sizes = [self.height, self.width, self.classes, self.labels.len(), self.train.len()];
        for size in sizes {
            hasher.update((size as u64).to_le_bytes());
        }
        hasher.update([self.white]);
        hasher.update(&self.labels);
        hasher.update(&self.pixels);
        for row in &self.test {
            hasher.update(row.to_le_bytes());
        }
        hex(&hasher.finalize())
    }

    /// The pixels of one row.
    pub(crate) fn image(&self, row: u32) -> &[u8] {
        let size = self.height * self.width;
        &self.pixels[row as usize * size..][..size]
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
    let failed = |error| DataError::Io { file: path.to_owned(), error };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(DataError::Format {
            file: path.to_owned(),
            offset: 0,
            expected: format!("a file of at most {FILE_BYTES_MAX} bytes"),
            found: format!("{bytes} bytes"),
        });
    }
    std::fs::read(path).map_err(failed)
}

/// A file's bytes being read from the front; every refusal knows where it is.
struct Cursor<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    fn new(file: &'a Path, bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { file, bytes, offset: 0 }
    }

    fn refuse<T>(&self, offset: usize, expected: String, found: String) -> Result<T, DataError> {
        Err(DataError::Format { file: self.file.to_owned(), offset, expected, found })
    }

    /// Takes the next `count` bytes; `what` names them in a refusal.
    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], DataError> {
        let left = self.bytes.len() - self.offset;
        if count > left {
            let expected = format!("{count} bytes of {what}");
            return self.refuse(self.offset, expected, format!("the end after {left} bytes"));
        }
        let taken = &self.bytes[self.offset..self.offset + count];
        self.offset += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], DataError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    /// Refuses bytes after the end.
    fn end(&self) -> Result<(), DataError> {
        match self.bytes.len() - self.offset {
            0 => Ok(()),
            more => self.refuse(self.offset, "the end of the file".into(), format!("{more} more bytes")),
        }
    }

    /// Refuses the first of `labels` (which began at `start`) that is not below `classes`.
    fn check_labels(&self, labels: &[u8], start: usize, classes: usize) -> Result<(), DataError> {
        match labels.iter().position(|label| usize::from(*label) >= classes) {
            Some(i) => {
                let expected = format!("a label below {classes}");
                self.refuse(start + i, expected, labels[i].to_string())
            }
            None => Ok(()),
        }
    }
}
