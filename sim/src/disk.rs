//! The scheduler's disk: a log of batches, each all or nothing, and at most one snapshot.
//!
//! It can be full, fail once, tear the batch that a crash interrupts, and (only when a test breaks it) forget batches
//! that were never flushed. What a real store does about bytes and checksums is the scheduler's business; here a torn
//! batch is a prefix of its records behind a mark, and loading must not see it.

use gangsaw_core::event::Record;
use gangsaw_core::input::Input;

/// What a crash in the middle of an append leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CrashPoint {
    /// Nothing of the batch.
    Before,
    /// A part of the batch, which is worth nothing.
    Torn,
    /// All of the batch, and nobody was told.
    After,
}

/// Records in the order they were appended, and how a batch of them stands.
#[derive(Clone, Debug)]
struct Batch {
    records: Vec<Record>,
    torn: bool,
    flushed: bool,
}

/// The disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    snapshot: Vec<Record>,
    batches: Vec<Batch>,
    pub(crate) full: bool,
    /// The next append fails with an input/output error.
    pub(crate) fails_next: bool,
}

/// The disk refused an append; the process must end and load again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskError;

impl Disk {
    /// Appends a batch. `flush` is what fsync does.
    pub(crate) fn append(&mut self, records: &[Record], flush: bool) -> Result<(), DiskError> {
        if std::mem::take(&mut self.fails_next) {
            return Err(DiskError);
        }
        self.batches.retain(|batch| !batch.torn);
        self.batches.push(Batch { records: records.to_vec(), torn: false, flushed: flush });
        if flush {
            self.batches.iter_mut().for_each(|batch| batch.flushed = true);
        }
        Ok(())
    }

    /// Leaves what a crash at `point` of an append leaves. Says whether the batch is on disk.
    pub(crate) fn interrupt(&mut self, records: &[Record], point: CrashPoint) -> bool {
        match point {
            CrashPoint::Before => false,
            CrashPoint::Torn => {
                let half = records[..records.len() / 2].to_vec();
                self.batches.push(Batch { records: half, torn: true, flushed: true });
                false
            }
            CrashPoint::After => {
                self.batches.push(Batch { records: records.to_vec(), torn: false, flushed: true });
                true
            }
        }
    }

    /// Takes the machine's power: what was never flushed is gone.
    pub(crate) fn lose_power(&mut self) {
        self.batches.retain(|batch| batch.flushed);
    }

    /// Replaces everything up to now by a snapshot.
    pub(crate) fn compact(&mut self, snapshot: Vec<Record>) {
        self.snapshot = snapshot;
        self.batches.clear();
    }

    /// Yields the snapshot's records.
    pub(crate) fn snapshot(&self) -> &[Record] {
        &self.snapshot
    }

    /// Yields the records after the snapshot; torn batches are not seen.
    pub(crate) fn tail(&self) -> impl Iterator<Item = &Record> {
        self.batches.iter().filter(|batch| !batch.torn).flat_map(|batch| &batch.records)
    }
}

/// Says whether an input needs room on disk that is not given back by other inputs.
pub(crate) fn grows_state(input: &Input) -> bool {
    match input {
        Input::Submit(_)
        | Input::Retry { .. }
        | Input::SetQueue { .. }
        | Input::SetTenant { .. }
        | Input::CreateToken(_) => true,
        Input::Cancel { .. }
        | Input::Hold { .. }
        | Input::Release { .. }
        | Input::Update { .. }
        | Input::NodeHello(_)
        | Input::NodeSilent { .. }
        | Input::NodeReport { .. }
        | Input::NodeInventory { .. }
        | Input::SetNode { .. }
        | Input::ForgetNode { .. }
        | Input::RevokeToken { .. }
        | Input::Tick => false,
    }
}
