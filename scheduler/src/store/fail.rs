//! Fail points: the process ends at a chosen step of the engine's way to a chosen append, as a power cut would.
//!
//! `GANGSAW_FAIL_AT=append:N:MOMENT` counts appends from 1; the moments are those of [`FailMoment`], in small letters. It costs one comparison an append, and it is in
//! every build so that the executable people run is the one the kill tests kill. Nothing sets it but tests.

use std::path::Path;

/// Where on its way the process ends. The order is the engine's: decide, place, append, perform, answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailMoment {
    /// Inputs were decided and folded in memory.
    Decided,
    /// Placement was decided, too.
    Placed,
    /// Nothing was written.
    Before,
    /// The last transaction lies half in the write-ahead log.
    Torn,
    /// The batch is durable, and nobody was told.
    After,
    /// Half of what follows from it left: grants, replies.
    Performing,
    /// All of it left, and nothing after it happened.
    Performed,
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
    /// Reads `append:N:MOMENT`.
    #[must_use]
    pub fn parse(text: &str) -> Option<FailAt> {
        let mut words = text.split(':');
        let (kind, append, moment) = (words.next()?, words.next()?, words.next()?);
        let moment = match moment {
            "decided" => FailMoment::Decided,
            "placed" => FailMoment::Placed,
            "before" => FailMoment::Before,
            "torn" => FailMoment::Torn,
            "after" => FailMoment::After,
            "performing" => FailMoment::Performing,
            "performed" => FailMoment::Performed,
            _ => return None,
        };
        (kind == "append" && words.next().is_none()).then_some(())?;
        Some(FailAt { append: append.parse().ok()?, moment })
    }

    /// Ends the process if the way to append number `append` is at the planned moment, which is none within the append.
    pub(crate) fn step(self, append: u64, moment: FailMoment) {
        if self.append == append && self.moment == moment {
            std::process::abort();
        }
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
