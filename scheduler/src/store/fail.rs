//! Fail points: a chosen append ends the process, as a power cut would.
//!
//! `GANGSAW_FAIL_AT=append:N:before|torn|after` counts appends from 1. It costs one comparison an append, and it is in
//! every build so that the executable people run is the one the kill tests kill. Nothing sets it but tests.

use std::path::Path;

/// Where in its append the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailMoment {
    /// Nothing was written.
    Before,
    /// The last transaction lies half in the write-ahead log.
    Torn,
    /// The batch is durable, and nobody was told.
    After,
}

/// One planned death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailAt {
    /// The append, counted from 1.
    pub append: u64,
    /// When in it.
    pub moment: FailMoment,
}

impl FailAt {
    /// Reads `append:N:before|torn|after`.
    #[must_use]
    pub fn parse(text: &str) -> Option<FailAt> {
        let mut words = text.split(':');
        let (kind, append, moment) = (words.next()?, words.next()?, words.next()?);
        let moment = match moment {
            "before" => FailMoment::Before,
            "torn" => FailMoment::Torn,
            "after" => FailMoment::After,
            _ => return None,
        };
        (kind == "append" && words.next().is_none()).then_some(())?;
        Some(FailAt { append: append.parse().ok()?, moment })
    }

    /// Ends the process if append number `append` is at the planned moment.
    pub(crate) fn strike(self, append: u64, moment: FailMoment, wal: &Path) {
        if self.append != append || self.moment != moment {
            return;
        }
        if moment == FailMoment::Torn {
            // Takes the end off the last transaction, as if the power had gone while it was written.
            let torn = std::fs::OpenOptions::new()
                .write(true)
                .open(wal)
                .and_then(|file| file.set_len(file.metadata()?.len().saturating_sub(100)));
            assert!(torn.is_ok(), "the write-ahead log cannot be torn: {torn:?}");
        }
        std::process::abort();
    }
}
