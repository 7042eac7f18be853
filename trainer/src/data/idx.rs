//! IDX files, the format of MNIST and Fashion-MNIST: bytes, plain or gzipped.
//!
//! A file is two zero bytes, an element type (8: unsigned bytes), the number of
//! dimensions, each dimension as a big-endian u32, then the elements. Images have three
//! dimensions (count, height, width), labels one. The format was published by LeCun,
//! Cortes and Burges with "The MNIST Database of Handwritten Digits".

use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Cursor, DataError, Dataset, FILE_BYTES_MAX, read_file};

/// Element type 8: unsigned byte.
const UNSIGNED_BYTE: u8 = 8;

/// Reads `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`
/// and `t10k-labels-idx1-ubyte`, each plain or with `.gz`, from one folder.
pub(super) fn read_folder(folder: &Path) -> Result<Dataset, DataError> {
    let (mut pixels, mut labels, shape) = read_pair(folder, "train", None)?;
    let trained = labels.len();
    let (more_pixels, more_labels, _) = read_pair(folder, "t10k", Some(shape))?;
    pixels.extend(more_pixels);
    labels.extend(more_labels);
    let classes = labels.iter().max().map_or(1, |label| usize::from(*label) + 1);
    let rows = |range: std::ops::Range<usize>| range.filter_map(|i| u32::try_from(i).ok()).collect();
    Ok(Dataset {
        height: shape[0],
        width: shape[1],
        classes,
        white: u8::MAX,
        train: rows(0..trained),
        test: rows(trained..labels.len()),
        pixels,
        labels,
    })
}

type Pair = (Vec<u8>, Vec<u8>, [usize; 2]);

fn read_pair(folder: &Path, name: &str, shape: Option<[usize; 2]>) -> Result<Pair, DataError> {
    let (file, bytes) = open(folder, &format!("{name}-images-idx3-ubyte"))?;
    let mut cursor = Cursor::new(&file, &bytes);
    let [count, height, width] = header::<3>(&mut cursor, "images (count, height, width)")?;
    if let Some([tall, wide]) = shape.filter(|shape| *shape != [height, width]) {
        let expected = format!("{tall} × {wide} pixels, as in the training images");
        return cursor.refuse(8, expected, format!("{height} × {width}"));
    }
    let size = count.saturating_mul(height).saturating_mul(width);
    let pixels = cursor.take(size, "pixels")?.to_vec();
    cursor.end()?;
    let (file, bytes) = open(folder, &format!("{name}-labels-idx1-ubyte"))?;
    let mut cursor = Cursor::new(&file, &bytes);
    let [labelled] = header::<1>(&mut cursor, "labels (count)")?;
    if labelled != count {
        return cursor.refuse(4, format!("{count} labels, as there are images"), labelled.to_string());
    }
    let labels = cursor.take(count, "labels")?.to_vec();
    cursor.end()?;
    Ok((pixels, labels, [height, width]))
}

/// Reads the header of `N` dimensions, none of them zero.
fn header<const N: usize>(cursor: &mut Cursor<'_>, what: &str) -> Result<[usize; N], DataError> {
    let mark: [u8; 4] = cursor.array("the IDX mark")?;
    let dimensions = u8::try_from(N).unwrap_or(u8::MAX);
    let wanted = [0, 0, UNSIGNED_BYTE, dimensions];
    if mark != wanted {
        let expected = format!("the IDX mark {wanted:02x?} for {what} of unsigned bytes");
        return cursor.refuse(0, expected, format!("{mark:02x?}"));
    }
    let mut sizes = [0; N];
    for size in &mut sizes {
        *size = u32::from_be_bytes(cursor.array("a dimension")?) as usize;
        if *size == 0 {
            return cursor.refuse(cursor.offset - 4, "a dimension above 0".into(), "0".into());
        }
    }
    Ok(sizes)
}

/// Reads `name` or `name.gz`, whichever is there; the plain one first.
fn open(folder: &Path, name: &str) -> Result<(PathBuf, Vec<u8>), DataError> {
    let plain = folder.join(name);
    if plain.exists() {
        let bytes = read_file(&plain)?;
        return Ok((plain, bytes));
    }
    let gzipped = folder.join(format!("{name}.gz"));
    if !gzipped.exists() {
        // Names the plain file: that is the one the user is most likely to look for.
        return read_file(&plain).map(|bytes| (plain, bytes));
    }
    let packed = read_file(&gzipped)?;
    let mut bytes = Vec::new();
    let mut decoder = flate2::read::MultiGzDecoder::new(packed.as_slice()).take(FILE_BYTES_MAX);
    match decoder.read_to_end(&mut bytes) {
        Ok(_) => Ok((gzipped, bytes)),
        Err(error) => Err(DataError::Format {
            file: gzipped,
            offset: bytes.len(),
            expected: "a whole gzip stream".to_owned(),
            found: error.to_string(),
        }),
    }
}
