//! Our packed image format: small enough to be part of the program.
//!
//! All numbers are little-endian. Pixels are packed without gaps in `bits` bits each,
//! the first pixel in the lowest bits of the first byte; the last byte's unused bits
//! are zero.
//!
//! | offset | bytes | meaning                                        |
//! |--------|-------|------------------------------------------------|
//! | 0      | 8     | `GSIMG`, two zero bytes, format version 1      |
//! | 8      | 4     | number of images                               |
//! | 12     | 2     | height                                         |
//! | 14     | 2     | width                                          |
//! | 16     | 2     | number of classes, at most 256                 |
//! | 18     | 1     | the largest pixel value                        |
//! | 19     | 1     | bits per pixel, 1 to 8                         |
//! | 20     | 4     | CRC-32 (IEEE) of everything else in the file   |
//! | 24     | n     | one label an image                             |
//! | 24 + n |       | the pixels, image after image, row after row   |

use std::path::Path;

use super::{Cursor, DataError, Dataset};

const MAGIC: [u8; 8] = *b"GSIMG\0\0\x01";

/// Reads a packed file's bytes; `file` is its name in errors.
pub(super) fn read(file: &Path, bytes: &[u8]) -> Result<Dataset, DataError> {
    let mut cursor = Cursor::new(file, bytes);
    let magic: [u8; 8] = cursor.array("the format's mark")?;
    if magic != MAGIC {
        let expected = format!("the mark {:?}", MAGIC.escape_ascii().to_string());
        return cursor.refuse(0, expected, format!("{:?}", magic.escape_ascii().to_string()));
    }
    let count = u32::from_le_bytes(cursor.array("the number of images")?) as usize;
    let height = usize::from(u16::from_le_bytes(cursor.array("the height")?));
    let width = usize::from(u16::from_le_bytes(cursor.array("the width")?));
    let classes = usize::from(u16::from_le_bytes(cursor.array("the number of classes")?));
    let [white, bits] = cursor.array("pixel range and bits")?;
    let crc = u32::from_le_bytes(cursor.array("the checksum")?);
    check_header(&cursor, [count, height, width, classes], white, bits)?;
    let body = cursor.offset;
    let found = checksum(bytes);
    let labels = cursor.take(count, "labels")?;
    let pixels = count * height * width;
    let packed_at = cursor.offset;
    let packed = cursor.take((pixels * usize::from(bits)).div_ceil(8), "pixels")?;
    cursor.end()?;
    if found != crc {
        return cursor.refuse(20, format!("the checksum {found:08x} of the rest"), format!("{crc:08x}"));
    }
    cursor.check_labels(labels, body, classes)?;
    let pixels = unpack(packed, pixels, bits);
    if let Some(i) = pixels.iter().position(|pixel| *pixel > white) {
        let at = packed_at + i * usize::from(bits) / 8;
        return cursor.refuse(at, format!("a pixel of at most {white}"), pixels[i].to_string());
    }
    let labels = labels.to_vec();
    let (train, test) = (Vec::new(), Vec::new());
    let set = Dataset { height, width, classes, white, pixels, labels, train, test };
    Ok(set.split_by_index())
}

/// The checksum of all bytes but its own four.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..20]);
    hasher.update(&bytes[24..]);
    hasher.finalize()
}

fn check_header(cursor: &Cursor<'_>, sizes: [usize; 4], white: u8, bits: u8) -> Result<(), DataError> {
    let names = ["number of images", "height", "width", "number of classes"];
    for (i, (size, name)) in sizes.into_iter().zip(names).enumerate() {
        if size == 0 {
            return cursor.refuse([8, 12, 14, 16][i], format!("a {name} above 0"), "0".into());
        }
    }
    if sizes[3] > 256 {
        return cursor.refuse(16, "at most 256 classes".into(), sizes[3].to_string());
    }
    if white == 0 {
        return cursor.refuse(18, "a largest pixel value above 0".into(), "0".into());
    }
    if !(1..=8).contains(&bits) {
        return cursor.refuse(19, "1 to 8 bits per pixel".into(), bits.to_string());
    }
    Ok(())
}

fn unpack(packed: &[u8], count: usize, bits: u8) -> Vec<u8> {
    let mask = (1_u32 << bits) - 1;
    let (mut held, mut held_bits) = (0_u32, 0_u8);
    let mut bytes = packed.iter();
    let mut next = || {
        if held_bits < bits {
            held |= u32::from(*bytes.next().unwrap_or(&0)) << held_bits;
            held_bits += 8;
        }
        let value = held & mask;
        held >>= bits;
        held_bits -= bits;
        value as u8
    };
    (0..count).map(|_| next()).collect()
}
