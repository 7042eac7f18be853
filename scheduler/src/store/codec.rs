//! Core events and their stored records, both ways, over every variant.
//!
//! Invariant: `decode(encode(event)) == event` for every event the core can make; a property test shows it. A new
//! variant or field of the core breaks the build here.
//!
//! Elsewhere: `write` turns an event into its message, `read` does the reverse; `body` and `lease` hold the parts of
//! snapshots; checksums around the bytes are `frame`'s.

mod body;
mod join;
mod lease;
mod part;
mod read;
mod write;

use gangsaw_core::event::Event;
use gangsaw_core::time::Time;
use gangsaw_proto::log::v1 as log;
use prost::Message;

use crate::wire::{Malformed, need};

/// Appends the record of `event` to `out`.
pub(crate) fn encode(at: Time, event: &Event, out: &mut Vec<u8>) {
    let record = log::Record { at_ms: at.0, event: Some(write::event(event)) };
    out.reserve(record.encoded_len());
    // A vector grows, so encoding into it cannot fail.
    let _ = record.encode(out);
}

/// Reads a record.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Time, Event), Malformed> {
    let record = log::Record::decode(bytes).map_err(|_| Malformed("bytes"))?;
    Ok((Time(record.at_ms), read::event(need(record.event, "event")?)?))
}

#[cfg(test)]
mod tests;
