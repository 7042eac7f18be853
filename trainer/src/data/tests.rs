//! What is in the program, what is read from files, and how bad files are refused.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write;

use super::*;
use crate::durable::sha256_hex;

#[test]
fn the_embedded_digits_are_the_published_ones() {
    let data = Dataset::load(&DataSource::Digits).unwrap();
    assert_eq!((data.height, data.width, data.classes, data.white), (8, 8, 10, 16));
    assert_eq!((data.labels.len(), data.train.len(), data.test.len()), (1797, 1438, 359));
    let bytes = [data.labels.as_slice(), data.pixels.as_slice()].concat();
    let readme = include_str!("../../data/README.md");
    assert!(readme.contains(&sha256_hex(&bytes)), "the README's checksum is of other data");
    assert_eq!(data.image(0)[..8], [0, 0, 5, 13, 9, 1, 0, 0]);
    assert_eq!(data.pixels.iter().max(), Some(&16));
}

#[test]
fn test_rows_are_those_with_index_mod_5_equal_to_4() {
    let data = Dataset::load(&DataSource::Digits).unwrap();
    assert!(data.test.iter().all(|row| row % 5 == 4));
    assert!(data.train.iter().all(|row| row % 5 != 4));
    let (train, validation) = data.validation_split();
    assert_eq!((train.len(), validation.len()), (1295, 143));
    let mut all = [train, validation].concat();
    all.sort_unstable();
    assert_eq!(all, data.train);
}

#[test]
fn a_fingerprint_sees_one_changed_pixel_label_and_split() {
    let data = Dataset::load(&DataSource::Digits).unwrap();
    let mut prints = vec![data.fingerprint()];
    let mut changed = data.clone();
    changed.pixels[5000] ^= 1;
    prints.push(changed.fingerprint());
    let mut changed = data.clone();
    changed.labels[7] = 0;
    prints.push(changed.fingerprint());
    let mut changed = data.clone();
    changed.train.pop();
    prints.push(changed.fingerprint());
    prints.sort_unstable();
    prints.dedup();
    assert_eq!(prints.len(), 4);
}

fn refusal(bytes: &[u8]) -> String {
    packed::read(Path::new("some.bin"), bytes).unwrap_err().to_string()
}

fn changed(at: usize, to: u8) -> Vec<u8> {
    let mut bytes = DIGITS.to_vec();
    bytes[at] = to;
    bytes
}

/// A packed file with a right checksum over whatever is in it.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = packed::checksum(&bytes);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn a_bad_packed_file_is_refused_with_file_offset_and_expectation() {
    let cases = [
        (
            DIGITS[..5].to_vec(),
            "some.bin: at byte 0: expected 8 bytes of the format's mark, found the end after 5 bytes",
        ),
        (
            changed(0, b'X'),
            r#"some.bin: at byte 0: expected the mark "GSIMG\\x00\\x00\\x01", found "XSIMG\\x00\\x00\\x01""#,
        ),
        (
            changed(7, 2),
            r#"some.bin: at byte 0: expected the mark "GSIMG\\x00\\x00\\x01", found "GSIMG\\x00\\x00\\x02""#,
        ),
        (changed(12, 0), "some.bin: at byte 12: expected a height above 0, found 0"),
        (changed(19, 9), "some.bin: at byte 19: expected 1 to 8 bits per pixel, found 9"),
        (
            DIGITS[..73_000].to_vec(),
            "some.bin: at byte 1821: expected 71880 bytes of pixels, found the end after 71179 bytes",
        ),
        ([DIGITS, b"!!"].concat(), "some.bin: at byte 73701: expected the end of the file, found 2 more bytes"),
        (sealed(changed(24 + 3, 10)), "some.bin: at byte 27: expected a label below 10, found 10"),
        (sealed(changed(1821, 0xff)), "some.bin: at byte 1821: expected a pixel of at most 16, found 31"),
    ];
    for (bytes, want) in cases {
        assert_eq!(refusal(&bytes), want);
    }
    let flipped = refusal(&changed(40_000, DIGITS[40_000] ^ 4));
    assert!(flipped.starts_with("some.bin: at byte 20: expected the checksum "), "{flipped}");
}

#[test]
fn no_truncation_and_no_flipped_byte_of_a_packed_file_panics() {
    for end in (0..DIGITS.len()).step_by(997).chain(0..40) {
        assert!(packed::read(Path::new("x"), &DIGITS[..end]).is_err(), "{end} bytes were accepted");
    }
    for at in (0..DIGITS.len()).step_by(101).chain(0..64) {
        let read = packed::read(Path::new("x"), &changed(at, DIGITS[at] ^ 0x80));
        assert!(read.is_err(), "a flipped bit in byte {at} was accepted");
    }
}

/// An IDX file of unsigned bytes.
fn idx_file(dims: &[u32], body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|dim| bytes.extend(dim.to_be_bytes()));
    bytes.extend(body);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A folder with three training and two test images of 2 × 3 pixels, half of it gzipped.
fn idx_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let pixels: Vec<u8> = (0..18).collect();
    write("train-images-idx3-ubyte", &idx_file(&[3, 2, 3], &pixels));
    write("train-labels-idx1-ubyte.gz", &gzip(&idx_file(&[3], &[0, 2, 1])));
    write("t10k-images-idx3-ubyte.gz", &gzip(&idx_file(&[2, 2, 3], &pixels[..12])));
    write("t10k-labels-idx1-ubyte", &idx_file(&[2], &[1, 1]));
    folder
}

#[test]
fn an_idx_folder_is_read_plain_and_gzipped_with_its_own_test_set() {
    let folder = idx_folder();
    let data = Dataset::load(&DataSource::Idx(folder.path().to_owned())).unwrap();
    assert_eq!((data.height, data.width, data.classes, data.white), (2, 3, 3, 255));
    assert_eq!(data.labels, [0, 2, 1, 1, 1]);
    assert_eq!((data.train.as_slice(), data.test.as_slice()), ([0, 1, 2].as_slice(), [3, 4].as_slice()));
    assert_eq!(data.image(1), [6, 7, 8, 9, 10, 11]);
    assert_eq!(data.image(3), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_bad_idx_file_is_refused_with_file_offset_and_expectation() {
    let replaced = |name: &str, bytes: &[u8]| {
        let folder = idx_folder();
        std::fs::write(folder.path().join(name), bytes).unwrap();
        let error = Dataset::load(&DataSource::Idx(folder.path().to_owned())).unwrap_err().to_string();
        error.replace(&format!("{}/", folder.path().display()), "")
    };
    let images = "train-images-idx3-ubyte";
    assert_eq!(
        replaced(images, &idx_file(&[3, 2, 3], &[0; 17])),
        "train-images-idx3-ubyte: at byte 16: expected 18 bytes of pixels, found the end after 17 bytes"
    );
    assert_eq!(
        replaced(images, &idx_file(&[3], &[0; 3])),
        "train-images-idx3-ubyte: at byte 0: expected the IDX mark [00, 00, 08, 03] for images (count, height, width) of unsigned bytes, found [00, 00, 08, 01]"
    );
    assert_eq!(
        replaced("t10k-labels-idx1-ubyte", &idx_file(&[3], &[0; 3])),
        "t10k-labels-idx1-ubyte: at byte 4: expected 2 labels, as there are images, found 3"
    );
    assert_eq!(
        replaced("t10k-images-idx3-ubyte", &idx_file(&[2, 3, 2], &[0; 12])),
        "t10k-images-idx3-ubyte: at byte 8: expected 2 × 3 pixels, as in the training images, found 3 × 2"
    );
    let torn = &gzip(&idx_file(&[3], &[0, 2, 1]))[..20];
    let error = replaced("train-labels-idx1-ubyte.gz", torn);
    assert!(error.contains("expected a whole gzip stream"), "{error}");
    let huge = idx_file(&[u32::MAX, u32::MAX, u32::MAX], &[]);
    assert!(replaced(images, &huge).contains("found the end after 0 bytes"));
}

#[test]
fn a_missing_folder_is_named() {
    let error = Dataset::load(&DataSource::Idx("/nowhere/at/all".into())).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/at/all/train-images-idx3-ubyte: "), "{error}");
}

#[test]
fn fashion_mnist_of_debian_is_read() {
    let folder = Path::new("/usr/share/datasets/fashion-mnist");
    if !folder.exists() {
        let missing = "dataset-fashion-mnist is not installed (Debian: apt-get install dataset-fashion-mnist)";
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{missing}");
        println!("{missing}: not tested");
        return;
    }
    let data = Dataset::load(&DataSource::Idx(folder.to_owned())).unwrap();
    assert_eq!((data.height, data.width, data.classes), (28, 28, 10));
    assert_eq!((data.train.len(), data.test.len()), (60_000, 10_000));
    assert_eq!(data.labels[..5], [9, 0, 0, 3, 0]);
}
