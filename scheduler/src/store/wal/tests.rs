//! Real SQLite logs, copied while open, then damaged at every place.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

/// Returns the log of a database with `commits` transactions that were never moved into it.
fn log(commits: u32) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x)").unwrap();
    for n in 0..commits {
        db.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
    }
    std::fs::read(dir.path().join("db-wal")).unwrap()
}

fn inspect_bytes(bytes: &[u8]) -> Tail {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db-wal");
    std::fs::write(&path, bytes).unwrap();
    inspect(&path).unwrap()
}

const FRAME: usize = FRAME_HEADER_BYTES + 4096;

#[test]
fn an_undamaged_log_and_every_torn_one_are_sound() {
    let bytes = log(6);
    assert_eq!(inspect_bytes(&bytes), Tail::Sound);
    for length in (0..bytes.len()).step_by(997) {
        assert_eq!(inspect_bytes(&bytes[..length]), Tail::Sound, "cut at {length}");
    }
    assert_eq!(inspect(Path::new("/nonexistent/db-wal")).unwrap(), Tail::Sound);
}

#[test]
fn a_flipped_bit_before_the_last_transaction_is_damage() {
    let bytes = log(6);
    let frames = (bytes.len() - HEADER_BYTES) / FRAME;
    assert!(frames >= 7);
    for number in 1..frames - 1 {
        let mut flipped = bytes.clone();
        flipped[HEADER_BYTES + (number - 1) * FRAME + FRAME_HEADER_BYTES + 1234] ^= 4;
        assert_eq!(inspect_bytes(&flipped), Tail::Damaged { frame: number as u64 });
    }
}

#[test]
fn a_flipped_bit_in_the_last_transaction_passes_for_a_torn_one() {
    let mut bytes = log(6);
    let last = bytes.len() - 10;
    bytes[last] ^= 4;
    assert_eq!(inspect_bytes(&bytes), Tail::Sound);
}

#[test]
fn a_flipped_bit_in_the_header_of_a_long_log_is_damage() {
    let mut bytes = log(20);
    assert!(bytes.len() > 64 * 1024);
    bytes[17] ^= 1;
    assert_eq!(inspect_bytes(&bytes), Tail::Damaged { frame: 0 });
}
