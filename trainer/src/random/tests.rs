//! Philox against the published vectors, and no other source of randomness.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

/// The three philox4x32-10 lines of `kat_vectors` in Random123 1.14.
#[test]
fn the_known_answers_of_random123_come_out() {
    let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
    let cases = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (pi, [0xa409_3822, 0x299f_31d0], [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
    ];
    for (counter, key, want) in cases {
        assert_eq!(philox(key, counter), want, "counter {counter:x?} key {key:x?}");
    }
}

#[test]
fn purposes_steps_samples_and_seeds_all_change_the_numbers() {
    let one = Random::new(7);
    let words = [
        one.words(Purpose::Order, 1, 2, 3),
        one.words(Purpose::Shift, 1, 2, 3),
        one.words(Purpose::Init(0), 1, 2, 3),
        one.words(Purpose::Init(1), 1, 2, 3),
        one.words(Purpose::Dropout(0), 1, 2, 3),
        one.words(Purpose::Order, 2, 2, 3),
        one.words(Purpose::Order, 1, 3, 3),
        one.words(Purpose::Order, 1, 2, 4),
        Random::new(8).words(Purpose::Order, 1, 2, 3),
        Random::new(7 | 1 << 32).words(Purpose::Order, 1, 2, 3),
    ];
    for (i, a) in words.iter().enumerate() {
        for b in &words[i + 1..] {
            assert_ne!(a, b);
        }
    }
    assert_eq!(words[0], Random::new(7).words(Purpose::Order, 1, 2, 3));
}

#[test]
fn units_fill_zero_to_one_evenly() {
    let random = Random::new(1);
    let mut counts = [0_u32; 10];
    for block in 0..25_000 {
        for word in random.words(Purpose::Init(0), 0, 0, block) {
            counts[(unit(word) * 10.0) as usize] += 1;
        }
    }
    assert!(unit(u32::MAX) < 1.0);
    for count in counts {
        assert!((9_600..10_400).contains(&count), "{counts:?}");
    }
}

#[test]
fn no_source_file_calls_another_generator() {
    let forbidden = [
        "rand(",
        "randn(",
        "rand_like(",
        "randn_like(",
        "rand_f64(",
        "randn_f64(",
        "set_seed(",
        "rand::",
        "thread_rng",
        "candle_nn",
    ];
    let mut pending = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut files = 0;
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        } else if !path.ends_with("random/tests.rs") {
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            for word in forbidden {
                assert!(!text.contains(word), "{} calls {word}", path.display());
            }
        }
    }
    assert!(files > 10, "only {files} sources were read");
}
