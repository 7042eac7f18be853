//! Batches repeat, cover everything once, and shift as they say.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::config::DataSource;

#[test]
fn an_epochs_order_is_a_permutation_that_depends_on_seed_and_epoch() {
    let rows: Vec<u32> = (0..500).map(|i| i * 3).collect();
    let one = order(Random::new(1), 0, &rows);
    let mut sorted = one.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, rows);
    assert_eq!(order(Random::new(1), 0, &rows), one);
    assert_ne!(order(Random::new(1), 1, &rows), one);
    assert_ne!(order(Random::new(2), 0, &rows), one);
    let unmoved = one.iter().zip(&rows).filter(|(a, b)| a == b).count();
    assert!(unmoved < 15, "{unmoved} of 500 rows did not move");
}

#[test]
fn batches_cover_every_row_once_and_the_last_is_short() {
    let ranges: Vec<_> = (0..4).map(|i| positions(10, 3, i)).collect();
    assert_eq!(ranges, [0..3, 3..6, 6..9, 9..10]);
}

#[test]
fn an_unshifted_batch_is_the_data_scaled_to_one() {
    let data = Dataset::load(&DataSource::Digits).unwrap();
    let batch = make(&data, &[3, 1796], None, DType::F32, &Device::Cpu).unwrap();
    assert_eq!(batch.images.dims(), [2, 8, 8, 1]);
    let values = batch.images.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let want = data.image(3).iter().chain(data.image(1796)).map(|p| f32::from(*p) / 16.0);
    assert!(values.iter().copied().eq(want));
    let labels = batch.labels.to_vec1::<u32>().unwrap();
    assert_eq!(labels, [u32::from(data.labels[3]), u32::from(data.labels[1796])]);
}

#[test]
fn a_shift_moves_the_image_and_brings_zeros_in() {
    let data = Dataset::load(&DataSource::Digits).unwrap();
    let mut out = vec![0.0; 64];
    fill(&data, data.image(0), &mut out, 1, -2);
    let pixel = |y: usize, x: usize| f32::from(data.image(0)[y * 8 + x]) / 16.0;
    for y in 0..8 {
        for x in 0..8 {
            let want = if y >= 1 && x + 2 < 8 { pixel(y - 1, x + 2) } else { 0.0 };
            assert_eq!(out[y * 8 + x], want, "at {y}, {x}");
        }
    }
}

#[test]
fn all_shifts_occur_equally_often_and_depend_on_the_epoch() {
    let augment = |epoch| Augment { random: Random::new(5), epoch, shift: 1 };
    let mut counts = [0; 9];
    for row in 0..9_000 {
        let (down, right) = augment(0).offsets(row);
        counts[((down + 1) * 3 + right + 1) as usize] += 1;
    }
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    let moved = (0..100).filter(|row| augment(0).offsets(*row) != augment(1).offsets(*row)).count();
    assert!(moved > 70, "only {moved} of 100 rows move differently in the next epoch");
}
