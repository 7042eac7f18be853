//! Tells a torn tail of SQLite's write-ahead log from damage in its middle.
//!
//! SQLite drops everything behind the first frame whose checksum fails, without a word. For a torn tail that is right:
//! the last transaction was never acknowledged. For a flipped bit further up it would lose acknowledged events. The two
//! are told apart by what follows: a transaction is written only after the one before it was synced, so frames of a
//! later transaction behind a bad frame prove that the bad one was once good.
//!
//! Invariants:
//! - The file is only read.
//! - A damaged last transaction cannot be told from a torn one, and is taken for torn.
//!
//! The format is SQLite's own, documented in its "WAL-mode File Format". Elsewhere: payload bits are `frame`'s.

use std::io::{self, Read};
use std::path::Path;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const MAGIC_LITTLE: u32 = 0x377f_0682;
const MAGIC_BIG: u32 = 0x377f_0683;

/// What a log looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Every frame is good, or what is bad was never acknowledged.
    Sound,
    /// Frame `frame`, counted from 1, was good once and is not now.
    Damaged {
        /// The damaged frame; 0 is the file's header.
        frame: u64,
    },
}

/// Reads the log at `path`; one that does not exist is sound.
pub(crate) fn inspect(path: &Path) -> io::Result<Tail> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Tail::Sound),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let mut reader = io::BufReader::with_capacity(1 << 20, file);
    let mut header = [0_u8; HEADER_BYTES];
    if length < HEADER_BYTES as u64 {
        return Ok(Tail::Sound);
    }
    reader.read_exact(&mut header)?;
    let magic = word(&header, 0, true);
    let page = word(&header, 8, true) as usize;
    let mut sum = Sum { big: magic == MAGIC_BIG, s0: 0, s1: 0 };
    sum.add(&header[..24]);
    let good =
        (magic == MAGIC_LITTLE || magic == MAGIC_BIG) && sum.is(&header[24..32]) && (512..=65536).contains(&page);
    if !good {
        // A header is one sector, synced before the second transaction: bad with little behind it is torn.
        return Ok(if length > 64 * 1024 { Tail::Damaged { frame: 0 } } else { Tail::Sound });
    }
    walk(&mut reader, &header[16..24], page, sum)
}

fn walk(reader: &mut impl Read, salts: &[u8], page: usize, mut sum: Sum) -> io::Result<Tail> {
    let mut frame = vec![0_u8; FRAME_HEADER_BYTES + page];
    let mut bad: Option<u64> = None;
    let mut commit_after_bad = false;
    for number in 1_u64.. {
        if !read_whole(reader, &mut frame)? {
            break;
        }
        let ours = &frame[8..16] == salts;
        if let Some(first_bad) = bad {
            if !ours {
                break; // Left over from before the log was last restarted.
            }
            if commit_after_bad {
                return Ok(Tail::Damaged { frame: first_bad });
            }
            commit_after_bad = word(&frame, 4, true) != 0;
            continue;
        }
        sum.add(&frame[..8]);
        sum.add(&frame[FRAME_HEADER_BYTES..]);
        if !ours || !sum.is(&frame[16..24]) {
            bad = Some(number);
            commit_after_bad = ours && word(&frame, 4, true) != 0;
        }
    }
    Ok(Tail::Sound)
}

/// SQLite's running checksum: two words over pairs of words.
#[derive(Clone, Copy)]
struct Sum {
    big: bool,
    s0: u32,
    s1: u32,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for at in (0..bytes.len()).step_by(8) {
            self.s0 = self.s0.wrapping_add(word(bytes, at, self.big)).wrapping_add(self.s1);
            self.s1 = self.s1.wrapping_add(word(bytes, at + 4, self.big)).wrapping_add(self.s0);
        }
    }

    fn is(&self, stored: &[u8]) -> bool {
        word(stored, 0, true) == self.s0 && word(stored, 4, true) == self.s1
    }
}

fn word(bytes: &[u8], at: usize, big: bool) -> u32 {
    let four = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    if big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
}

/// Fills `buffer`, or returns false at the end of the file.
fn read_whole(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
