//! What is archived comes back, and only old archives go.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

fn batch(first_seq: u64, last_seq: u64) -> Archived {
    Archived { first_seq, last_seq, wall_ms: first_seq * 10, frames: vec![first_seq.to_le_bytes()[0]; 100] }
}

#[test]
fn archived_batches_come_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path()).unwrap();
    writer.push(&batch(1, 4)).unwrap();
    writer.push(&batch(5, 5)).unwrap();
    writer.finish().unwrap();
    let path = dir.path().join("1-5.zst");
    assert_eq!(list(dir.path()).unwrap(), [(1, 5, path.clone())]);
    assert_eq!(read(&path).unwrap(), [batch(1, 4), batch(5, 5)]);
}

#[test]
fn a_cut_archive_is_an_error_and_an_empty_one_no_file() {
    let dir = tempfile::tempdir().unwrap();
    Writer::create(dir.path()).unwrap().finish().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let mut writer = Writer::create(dir.path()).unwrap();
    writer.push(&batch(1, 4)).unwrap();
    writer.finish().unwrap();
    let path = dir.path().join("1-4.zst");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(read(&path).is_err());
}

#[test]
fn archives_older_than_ninety_days_are_deleted() {
    let dir = tempfile::tempdir().unwrap();
    for first in [1, 3] {
        let mut writer = Writer::create(dir.path()).unwrap();
        writer.push(&batch(first, first + 1)).unwrap();
        writer.finish().unwrap();
    }
    let now = SystemTime::now();
    assert_eq!(retain(dir.path(), now).unwrap(), 0);
    assert_eq!(retain(dir.path(), now + AGE_MAX + Duration::from_secs(60)).unwrap(), 2);
}
