//! Any bytes as the files that tasks' output is kept in, and any question about them.
//!
//! Records whose first byte is odd get the checksum they lack, or nothing behind it would be reached.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use gangsaw_agent::supervisor::logs::{LogQuery, LogReader, Stream};
use libfuzzer_sys::fuzz_target;

/// Size of an index record, and of what its checksum covers.
const RECORD: usize = 48;
const COVERED: usize = 44;
/// Chunks after which a reader is taken to be endless.
const CHUNKS_MAX: usize = 100_000;

static STATE: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir_in("/dev/shm").expect("a folder in memory"));

fuzz_target!(|bytes: &[u8]| {
    let Some((question, rest)) = bytes.split_at_checked(4) else { return };
    let folder = STATE.path().join("agent/logs/1");
    fs::create_dir_all(&folder).expect("space in memory");
    let half = rest.len() / 2;
    for (stem, part) in [("out", &rest[..half]), ("err", &rest[half..])] {
        let index: Vec<u8> = part.chunks(RECORD).flat_map(whole).collect();
        fs::write(folder.join(format!("{stem}.idx")), index).expect("space in memory");
        fs::write(folder.join(format!("{stem}.log")), part).expect("space in memory");
    }
    let query = LogQuery {
        job_id: 1,
        first_index: 0,
        last_index: if question[0] & 1 == 0 { u32::MAX } else { u32::from(question[1]) },
        rank: (question[0] & 2 != 0).then_some(0),
        attempt: if question[0] & 4 == 0 { 0 } else { LogQuery::EVERY_ATTEMPT },
        stream: (question[0] & 8 != 0).then_some(Stream::Stdout),
        tail_lines: (question[0] & 16 != 0).then_some(u64::from(question[2])),
        since_wall_ms: u64::from(question[3]),
    };
    let Ok(mut reader) = LogReader::open(STATE.path(), query) else { return };
    let mut chunks = 0;
    while let Ok(Some(chunk)) = reader.next() {
        assert!(chunk.data.len() <= 64 * 1024, "a chunk of {} bytes", chunk.data.len());
        chunks += 1;
        assert!(chunks < CHUNKS_MAX, "{CHUNKS_MAX} chunks out of {} bytes", rest.len());
    }
});

/// Gives a record the checksum it lacks.
fn whole(record: &[u8]) -> Vec<u8> {
    let mut record = record.to_vec();
    if record.len() == RECORD && record[0] & 1 == 1 {
        let crc = crc32fast::hash(&record[..COVERED]);
        record[COVERED..].copy_from_slice(&crc.to_le_bytes());
    }
    record
}
