//! A name that programs make and nobody shares: held in place where it is short or a UUID, for there is one in every
//! job and in every used key.
//!
//! Invariant: a text has one form here, so equal texts are equal names; what is shown is the text as it came.

use std::fmt;
use std::sync::Arc;

/// Longest text held in place, which makes it as large as a UUID with its tag and padding would be.
const IN_PLACE_MAX: usize = 22;
/// Where a UUID has its hyphens.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
/// A UUID's digits and hyphens.
const UUID_CHARS: usize = 36;

/// The text of a name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Compact {
    Short {
        bytes: [u8; IN_PLACE_MAX],
        len: u8,
    },
    /// Written with hyphens and small letters.
    Uuid([u8; 16]),
    Long(Arc<str>),
}

impl From<Arc<str>> for Compact {
    fn from(text: Arc<str>) -> Self {
        if let Some(uuid) = uuid(text.as_bytes()) {
            return Compact::Uuid(uuid);
        }
        let mut bytes = [0; IN_PLACE_MAX];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(text.as_bytes());
                Compact::Short { bytes, len }
            }
            (None, _) | (_, Err(_)) => Compact::Long(text),
        }
    }
}

/// Reads a UUID as it is usually written.
fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != UUID_CHARS || HYPHENS.iter().any(|at| text[*at] != b'-') {
        return None;
    }
    let mut digits = text.iter().enumerate().filter(|(at, _)| !HYPHENS.contains(at)).map(|(_, digit)| digit);
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        *byte = (value(*digits.next()?)? << 4) | value(*digits.next()?)?;
    }
    Some(bytes)
}

fn value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Compact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // It was a text before.
            Compact::Short { bytes, len } => {
                f.pad(std::str::from_utf8(&bytes[..usize::from(*len)]).unwrap_or_default())
            }
            Compact::Uuid(bytes) => {
                for (at, byte) in bytes.iter().enumerate() {
                    let hyphen = if [4, 6, 8, 10].contains(&at) { "-" } else { "" };
                    write!(f, "{hyphen}{byte:02x}")?;
                }
                Ok(())
            }
            Compact::Long(text) => f.pad(text),
        }
    }
}

impl fmt::Debug for Compact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

#[cfg(test)]
mod tests {
    //! Every text comes out as it went in.

    use super::*;

    #[test]
    fn a_name_is_shown_as_it_came_however_it_is_held() {
        let uuid = "00f1e2d3-0a1b-4c2d-8e3f-a0b1c2d3e4f5";
        let texts = [
            "k",
            "19ab12cd345-1f4",
            "exactly-22-characters.",
            "twenty-three-characters",
            uuid,
            "00F1E2D3-0A1B-4C2D-8E3F-A0B1C2D3E4F5",
            "00f1e2d3-0a1b-4c2d-8e3f-a0b1c2d3e4fg",
            "häßlich",
            "00f1e2d30a1b-4c2d-8e3f-a0b1-c2d3e4f5",
        ];
        for text in texts {
            assert_eq!(Compact::from(Arc::<str>::from(text)).to_string(), text);
        }
        assert!(matches!(Compact::from(Arc::<str>::from(uuid)), Compact::Uuid(_)));
        assert!(matches!(Compact::from(Arc::<str>::from(texts[2])), Compact::Short { .. }));
        assert_eq!(size_of::<Compact>(), 24);
    }
}
