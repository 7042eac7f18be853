//! Any text as a spec file: YAML, TOML, JSON or a batch script, as the first byte says. Nothing may panic, and each
//! fault can be shown in its place.
//!
//! The parser is the executable's own and in no library: `spec` here is a link to it.
#![no_main]

#[expect(dead_code, reason = "the flags' half is not reached from a file")]
mod spec;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir_in("/dev/shm").expect("a folder in memory"));

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, text)) = bytes.split_first() else { return };
    let name = ["spec.yaml", "spec.toml", "spec.json", "spec.sh"][usize::from(*kind % 4)];
    let file = FOLDER.path().join(name);
    std::fs::write(&file, text).expect("space in memory");
    let environment = BTreeMap::from([("PATH".to_owned(), "/usr/bin".to_owned())]);
    let loaded = spec::load(&spec::Pieces {
        file: Some(&file),
        command: &[],
        flags: &spec::flags::JobFlags::default(),
        args: &[],
        environment: &environment,
        config: None,
        folder: Path::new("/"),
    });
    match loaded {
        Ok(loaded) => assert!(!loaded.specs.is_empty(), "no job and no fault"),
        Err(rejected) => {
            assert!(!rejected.faults.is_empty(), "rejected for no reason");
            spec::render::render(&rejected.sources, &rejected.faults, false);
        }
    }
});
