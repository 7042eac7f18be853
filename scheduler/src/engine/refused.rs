//! Keeps the inputs whose decision panicked, in a bounded file, so that they can be looked at.

use std::any::Any;
use std::io::Write;
use std::path::PathBuf;

use gangsaw_core::input::Request;

/// Largest file of refused inputs; what comes later is only counted.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Longest text of one input.
const INPUT_BYTES_MAX: usize = 64 << 10;

/// The file, and how many inputs were refused since the start.
#[derive(Debug)]
pub(super) struct Refused {
    path: PathBuf,
    pub(super) count: u64,
}

impl Refused {
    pub(super) fn new(path: PathBuf) -> Refused {
        Refused { path, count: 0 }
    }

    /// Counts an input and writes it down while there is room.
    pub(super) fn keep(&mut self, request: Option<&Request>, why: &str) {
        self.count += 1;
        let mut text = format!("{why}\n{request:?}\n\n");
        if text.len() > INPUT_BYTES_MAX {
            let end = text.floor_char_boundary(INPUT_BYTES_MAX);
            text.truncate(end);
        }
        let kept = std::fs::OpenOptions::new().create(true).append(true).open(&self.path).and_then(|mut file| {
            if file.metadata()?.len() + text.len() as u64 > FILE_BYTES_MAX {
                return Ok(());
            }
            file.write_all(text.as_bytes())
        });
        tracing::error!(why, kept = kept.is_ok(), "a decision panicked and its input was refused");
    }
}

/// Returns what a panic said.
pub(super) fn text(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().map(|said| (*said).to_owned());
    said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".to_owned())
}
