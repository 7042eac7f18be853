//! How events lie in a batch: each behind its length and a checksum of its own.
//!
//! SQLite does not notice a flipped bit in a payload, so we do: the checksum covers the event, its sequence number and
//! the wall time of its row. A frame that was moved to another place fails like one that was changed.
//!
//! Layout of one frame, little-endian: `u32` length, `u32` CRC-32, payload (a `gangsaw.log.v1.Record`).
//!
//! Elsewhere: what a payload means is `codec`; rows and files of frames are `sqlite` and `archive`.

/// Longest payload a frame may announce: far above the largest event, far below what hurts to allocate.
const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// Why a frame cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The batch ends inside a frame.
    #[error("the batch ends inside the event")]
    Short,
    /// Length, payload or place were changed.
    #[error("the event's checksum does not match")]
    Checksum,
}

fn checksum(seq: u64, wall_ms: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&seq.to_le_bytes());
    hasher.update(&wall_ms.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// Appends one frame to `out`; `write` appends the payload.
pub(crate) fn push(out: &mut Vec<u8>, seq: u64, wall_ms: u64, write: impl FnOnce(&mut Vec<u8>)) {
    let head = out.len();
    out.extend_from_slice(&[0; 8]);
    write(out);
    let length = u32::try_from(out.len() - head - 8).unwrap_or(u32::MAX);
    let crc = checksum(seq, wall_ms, &out[head + 8..]);
    out[head..head + 4].copy_from_slice(&length.to_le_bytes());
    out[head + 4..head + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Takes the first frame off `bytes` and returns its payload.
pub(crate) fn pop<'a>(bytes: &mut &'a [u8], seq: u64, wall_ms: u64) -> Result<&'a [u8], FrameError> {
    let (head, rest) = bytes.split_first_chunk::<8>().ok_or(FrameError::Short)?;
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > PAYLOAD_BYTES_MAX {
        return Err(FrameError::Checksum);
    }
    let payload = rest.get(..length).ok_or(FrameError::Short)?;
    if checksum(seq, wall_ms, payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(FrameError::Checksum);
    }
    *bytes = &rest[length..];
    Ok(payload)
}

#[cfg(test)]
mod tests;
