//! Every single flipped bit of a batch is noticed.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

fn batch() -> Vec<u8> {
    let mut bytes = Vec::new();
    push(&mut bytes, 41, 7, |out| out.extend_from_slice(b"first"));
    push(&mut bytes, 42, 7, |out| out.extend_from_slice(b""));
    push(&mut bytes, 43, 7, |out| out.extend_from_slice(b"third"));
    bytes
}

fn read(mut bytes: &[u8], first: u64, wall_ms: u64) -> Result<Vec<Vec<u8>>, FrameError> {
    (first..first + 3).map(|seq| pop(&mut bytes, seq, wall_ms).map(<[u8]>::to_vec)).collect()
}

#[test]
fn frames_come_back_as_they_went_in() {
    assert_eq!(read(&batch(), 41, 7).unwrap(), [b"first".to_vec(), Vec::new(), b"third".to_vec()]);
}

#[test]
fn every_flipped_bit_is_noticed() {
    for bit in 0..batch().len() * 8 {
        let mut bytes = batch();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bytes, 41, 7).is_err(), "bit {bit}");
    }
}

#[test]
fn a_frame_in_another_place_or_cut_off_is_refused() {
    assert_eq!(read(&batch(), 40, 7), Err(FrameError::Checksum));
    assert_eq!(read(&batch(), 41, 8), Err(FrameError::Checksum));
    let bytes = batch();
    assert_eq!(read(&bytes[..bytes.len() - 1], 41, 7), Err(FrameError::Short));
}
