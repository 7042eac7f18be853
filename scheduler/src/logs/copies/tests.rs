//! Copies come back whole, are bounded, and go when they are old.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

fn chunk(index: u32, attempt: u32, data: &[u8]) -> LogChunk {
    LogChunk { index, attempt, stream: 1, data: data.to_vec(), ..LogChunk::default() }
}

fn read_all(path: &Path) -> io::Result<Vec<LogChunk>> {
    let mut chunks = Vec::new();
    read(path, |chunk| {
        chunks.push(chunk);
        true
    })?;
    Ok(chunks)
}

#[test]
fn a_copy_comes_back_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(&dir.path().join("7"), "node/1").unwrap();
    let written = [chunk(0, 1, b"hello\n"), chunk(3, 2, &[0, 255, 10]), chunk(0, 1, b"")];
    for each in &written {
        writer.push(each.clone()).unwrap();
    }
    assert!(files(dir.path(), JobId(7)).unwrap().is_empty(), "it has no name before it is whole");
    writer.finish().unwrap();
    let found = files(dir.path(), JobId(7)).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(read_all(&found[0]).unwrap(), written);
    assert!(files(dir.path(), JobId(8)).unwrap().is_empty());
}

#[test]
fn an_unfinished_copy_leaves_nothing_and_a_cut_one_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(&dir.path().join("7"), "n1").unwrap();
    writer.push(chunk(0, 1, b"half")).unwrap();
    drop(writer);
    assert_eq!(std::fs::read_dir(dir.path().join("7")).unwrap().count(), 0);

    let mut writer = Writer::create(&dir.path().join("7"), "n1").unwrap();
    writer.push(chunk(0, 1, &[9; 100_000])).unwrap();
    writer.finish().unwrap();
    let path = files(dir.path(), JobId(7)).unwrap().remove(0);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    assert!(read_all(&path).is_err());
}

#[test]
fn what_is_beyond_an_attempts_share_is_counted_and_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(&dir.path().join("7"), "n1").unwrap();
    writer.kept.insert((0, 0, 1, 1), ATTEMPT_BYTES_MAX);
    writer.push(chunk(0, 1, b"too much")).unwrap();
    writer.push(chunk(1, 1, b"fits")).unwrap();
    writer.finish().unwrap();
    let chunks = read_all(&files(dir.path(), JobId(7)).unwrap()[0]).unwrap();
    assert_eq!((chunks[0].data.len(), chunks[0].dropped_bytes), (0, 8));
    assert_eq!((chunks[1].data.as_slice(), chunks[1].dropped_bytes), (b"fits".as_slice(), 0));
}

#[test]
fn copies_older_than_thirty_days_are_deleted_with_their_folder() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(&dir.path().join("7"), "n1").unwrap();
    writer.push(chunk(0, 1, b"x")).unwrap();
    writer.finish().unwrap();
    retain(dir.path(), SystemTime::now()).unwrap();
    assert_eq!(files(dir.path(), JobId(7)).unwrap().len(), 1);
    let later = SystemTime::now() + AGE_MAX + Duration::from_secs(60);
    retain(dir.path(), later).unwrap();
    assert!(files(dir.path(), JobId(7)).unwrap().is_empty());
    retain(dir.path(), later).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
