//! Batches: batch i of an epoch is a pure function of (seed, epoch, i).
//!
//! The order of an epoch sorts the rows by a random 64-bit key; equal keys fall back to
//! the row number. A training image may be shifted by a few pixels, zeros coming in from
//! the border; how far follows from (seed, epoch, row). There is no state to restore.

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use crate::data::Dataset;
use crate::random::{Purpose, Random};

/// Samples on a device, ready for a network.
pub(crate) struct Batch {
    /// \[samples, height, width, 1\], 0 to 1.
    pub(crate) images: Tensor,
    /// \[samples\], u32.
    pub(crate) labels: Tensor,
    /// The data set's row number of each sample.
    pub(crate) rows: Arc<[u32]>,
}

/// Returns the training rows in the order of `epoch`.
pub(crate) fn order(random: Random, epoch: u32, rows: &[u32]) -> Vec<u32> {
    let key = |row: u32| {
        let words = random.words(Purpose::Order, epoch, row, 0);
        (u64::from(words[0]) << 32 | u64::from(words[1]), row)
    };
    let mut keyed: Vec<(u64, u32)> = rows.iter().map(|row| key(*row)).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, row)| row).collect()
}

/// Returns the positions of batch `i` in an order of `rows` rows; the last may be short.
pub(crate) fn positions(rows: usize, batch: u32, i: u32) -> Range<usize> {
    let first = i as usize * batch as usize;
    first.min(rows)..(first + batch as usize).min(rows)
}

/// How training images are changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Augment {
    /// The run's numbers.
    pub(crate) random: Random,
    /// The pass over the data.
    pub(crate) epoch: u32,
    /// Shifts go up to this many pixels in each direction.
    pub(crate) shift: u32,
}

impl Augment {
    /// Returns how far a row's image moves down and right.
    fn offsets(self, row: u32) -> (isize, isize) {
        let words = self.random.words(Purpose::Shift, self.epoch, row, 0);
        let span = 2 * u64::from(self.shift) + 1;
        // Multiply and shift: maps a word to 0..span.
        let offset = |word: u32| ((u64::from(word) * span) >> 32) as isize - self.shift as isize;
        (offset(words[0]), offset(words[1]))
    }
}

/// Makes a batch of `rows`; `augment` is absent when evaluating.
pub(crate) fn make(
    data: &Dataset,
    rows: &[u32],
    augment: Option<Augment>,
    dtype: DType,
    device: &Device,
) -> Result<Batch> {
    let (height, width) = (data.height, data.width);
    let mut images = vec![0.0_f32; rows.len() * height * width];
    for (row, out) in rows.iter().zip(images.chunks_exact_mut(height * width)) {
        let (down, right) = match augment {
            Some(augment) if augment.shift > 0 => augment.offsets(*row),
            Some(_) | None => (0, 0),
        };
        fill(data, data.image(*row), out, down, right);
    }
    let labels = rows.iter().map(|row| u32::from(data.labels[*row as usize])).collect();
    Ok(Batch {
        images: Tensor::from_vec(images, (rows.len(), height, width, 1), device)?.to_dtype(dtype)?,
        labels: Tensor::from_vec::<_, u32>(labels, rows.len(), device)?,
        rows: rows.into(),
    })
}

/// Writes one image, moved; `out` is all zeros before.
fn fill(data: &Dataset, image: &[u8], out: &mut [f32], down: isize, right: isize) {
    let scale = 1.0 / f32::from(data.white);
    for (y, line) in out.chunks_exact_mut(data.width).enumerate() {
        let Some(from) = y.checked_add_signed(-down).filter(|y| *y < data.height) else {
            continue;
        };
        let image = &image[from * data.width..][..data.width];
        for (x, out) in line.iter_mut().enumerate() {
            if let Some(pixel) = x.checked_add_signed(-right).and_then(|x| image.get(x)) {
                *out = f32::from(*pixel) * scale;
            }
        }
    }
}
