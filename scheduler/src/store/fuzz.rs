//! Doors for the fuzz targets; they exist only in a build for fuzzing.

use gangsaw_core::job::spec::JobSpec;
use gangsaw_proto::jobs::v1 as jobs;
use prost::Message as _;

use super::{archive, codec, frame, wal};
use crate::wire::spec;

/// A submit's message as anybody may send it: parsed, and if it is good, written and read again.
pub fn submit(bytes: &[u8]) {
    let Ok(request) = jobs::SubmitRequest::decode(bytes) else { return };
    for job in request.jobs {
        let Ok(parsed) = JobSpec::try_from(spec::draft(job)) else { continue };
        let again = spec::from_message(spec::message(&parsed));
        assert!(again.as_ref() == Ok(&parsed), "{parsed:?} came back as {again:?}");
    }
}

/// A stored event: what can be read is the same when it is written and read again.
pub fn event(bytes: &[u8]) {
    let Ok((at, event)) = codec::decode(bytes) else { return };
    let mut written = Vec::new();
    codec::encode(at, &event, &mut written);
    let again = codec::decode(&written);
    assert!(again.as_ref() == Ok(&(at, event.clone())), "{event:?} came back as {again:?}");
}

/// What a crash left: SQLite's write-ahead log, an archive, and the frames of a batch.
pub fn log_tail(bytes: &[u8]) {
    let file = std::env::temp_dir().join(format!("gangsaw-fuzz-{}", std::process::id()));
    if std::fs::write(&file, bytes).is_ok() {
        let _ = wal::inspect(&file);
    }
    let _ = archive::unpack(bytes);
    let mut rest = bytes;
    let mut seq = 1;
    while frame::pop(&mut rest, seq, 0).is_ok() {
        seq += 1;
    }
}
