//! Randomness without state: Philox4x32-10, a counter in and four words out.
//!
//! The generator is the counter-based one of Salmon, Moraes, Dror and Shaw, "Parallel
//! Random Numbers: As Easy as 1, 2, 3" (SC 2011). The key is the seed; the counter says
//! what the number is for: (purpose, step or epoch, sample, element). So every initial
//! weight, shuffle, shift and dropout decision is a pure function of its place, nothing
//! about randomness is checkpointed, and a resumed run draws what it would have drawn.
//!
//! Invariant: nothing else in this crate makes random numbers. In particular candle's
//! `rand` and `randn` are never called (they cannot be seeded on the CPU); a test reads
//! the sources for it.

#[cfg(test)]
mod tests;

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: u32 = 10;

/// Returns the four words of `counter` under `key`.
#[must_use]
pub fn philox(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let (mut k, mut c) = (key, counter);
    for _ in 0..ROUNDS {
        let left = u64::from(MULTIPLIER[0]) * u64::from(c[0]);
        let right = u64::from(MULTIPLIER[1]) * u64::from(c[2]);
        c = [(right >> 32) as u32 ^ c[1] ^ k[0], right as u32, (left >> 32) as u32 ^ c[3] ^ k[1], left as u32];
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
    }
    c
}

/// What a random number is for; numbers for different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Initial values of parameter tensor `n`.
    Init(u16),
    /// The order of the samples in an epoch.
    Order,
    /// How far a sample is shifted.
    Shift,
    /// Which elements of layer `n`'s output are dropped.
    Dropout(u16),
}

impl Purpose {
    /// The counter's first word: the purpose's own number, and which tensor or layer.
    fn word(self) -> u32 {
        let (number, index) = match self {
            Purpose::Init(tensor) => (1, tensor),
            Purpose::Order => (2, 0),
            Purpose::Shift => (3, 0),
            Purpose::Dropout(layer) => (4, layer),
        };
        number << 16 | u32::from(index)
    }
}

/// The numbers of one seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Random {
    key: [u32; 2],
}

impl Random {
    /// The numbers that belong to `seed`.
    pub(crate) fn new(seed: u64) -> Random {
        Random { key: [seed as u32, (seed >> 32) as u32] }
    }

    /// Four words for elements `4 × block .. 4 × block + 4` of a sample.
    pub(crate) fn words(self, purpose: Purpose, step: u32, sample: u32, block: u32) -> [u32; 4] {
        philox(self.key, [purpose.word(), step, sample, block])
    }
}

/// Maps a word to 0..1 (1 excluded), in steps of 2^-24, exactly representable in f32.
pub(crate) fn unit(word: u32) -> f64 {
    f64::from(word >> 8) / f64::from(1_u32 << 24)
}
