//! Records, meters, segments.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write as _;

use super::pump::{Logs, Meter, Place, Rates, Segment};
use super::*;

const TAG: Tag = Tag { index: 1, rank: 2, attempt: 3 };

fn records(folder: &Path) -> Vec<Record> {
    let index = File::open(Stream::Stdout.file(folder, 0, "idx")).unwrap();
    (0..).map_while(|number| record_at(&index, number).unwrap()).map(Option::unwrap).collect()
}

#[test]
fn record_survives_encoding_and_a_flipped_bit_is_seen() {
    let record = Record { tag: TAG, length: 4, offset: 5, dropped: 6, wall_ms: 7, flags: 1 };
    let mut bytes = record.encode();
    assert_eq!(Record::decode(&bytes), Some(record));
    for at in 0..RECORD {
        bytes[at] ^= 16;
        assert_eq!(Record::decode(&bytes), None, "byte {at}");
        bytes[at] ^= 16;
    }
}

#[test]
fn last_record_grows_for_one_task_for_a_short_time_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut segment = Segment::open(folder.path(), Stream::Stdout, 0).unwrap();
    segment.append(TAG, b"ab", 0, 1000).unwrap();
    segment.append(TAG, b"cd", 0, 1000 + pump::GROW_MS - 1).unwrap();
    segment.append(TAG, b"ef", 0, 1000 + pump::GROW_MS).unwrap();
    segment.append(Tag { index: 9, ..TAG }, b"gh", 0, 1100).unwrap();
    segment.append(TAG, b"ij", 0, 1100).unwrap();
    segment.append(TAG, b"kl", 5, 1100).unwrap();
    let seen: Vec<(u32, u64, u32, u64)> =
        records(folder.path()).iter().map(|r| (r.tag.index, r.offset, r.length, r.dropped)).collect();
    assert_eq!(seen, [(1, 0, 4, 0), (1, 4, 2, 0), (9, 6, 2, 0), (1, 8, 2, 0), (1, 10, 2, 5)]);
}

#[test]
fn reopened_segment_skips_bytes_without_a_record_and_half_a_record() {
    let folder = tempfile::tempdir().unwrap();
    Segment::open(folder.path(), Stream::Stdout, 0).unwrap().append(TAG, b"ab", 0, 1).unwrap();
    let append = |suffix, bytes: &[u8]| {
        let path = Stream::Stdout.file(folder.path(), 0, suffix);
        OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
    };
    append("log", b"lost");
    append("idx", &[0; RECORD / 2]);
    Segment::open(folder.path(), Stream::Stdout, 0).unwrap().append(TAG, b"cd", 0, 1).unwrap();
    let seen: Vec<(u64, u32)> = records(folder.path()).iter().map(|r| (r.offset, r.length)).collect();
    assert_eq!(seen, [(0, 2), (6, 2)]);
}

#[test]
fn meter_lets_a_second_through_then_the_rate_then_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_path_buf();
    let place = Place { job_id: 1, folder: &path, stream: Stream::Stdout, tag: TAG };
    let mut meter = Meter::new(Rates { bytes_per_second: 1000, attempt_bytes: 2000 }, 0);
    let mut logs = Logs::default();
    let mut write = |now_us: u64| logs.write(&place, &mut meter, now_us, now_us / 1000, &[b'x'; 800]);
    write(0);
    write(0);
    write(500_000);
    write(10_000_000);
    write(20_000_000);
    let seen: Vec<(u32, u64)> = records(folder.path()).iter().map(|r| (r.length, r.dropped)).collect();
    // 800 of the first second's 1,000; the other 200 in the same record; 500 for half a second after 600 dropped; then
    // what is left of the 2,000 less four records' own size.
    assert_eq!(seen, [(1000, 0), (500, 600), (500 - 4 * 48, 300)]);
    logs.finish(&place, &mut meter, 30_000);
    let last = records(folder.path()).pop().unwrap();
    assert_eq!((last.length, last.dropped), (0, 800 + 800 - (500 - 4 * 48)));
    assert_eq!(meter_total(folder.path()), 800 * 5);
}

/// Bytes kept and dropped together.
fn meter_total(folder: &Path) -> u64 {
    records(folder).iter().map(|record| u64::from(record.length) + record.dropped).sum()
}
