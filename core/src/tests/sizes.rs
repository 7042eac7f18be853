//! What a queued job weighs: a hundred thousand of them take a hundred megabytes at most, all structures together.

use crate::job::body::{Job, JobBody};
use crate::keys::UsedKey;
use crate::ranges::RangeSet;
use crate::state::index::{Entry, Place};

#[test]
fn a_job_and_what_goes_with_it_stay_small() {
    let sizes = [
        ("job", size_of::<Job>(), 440),
        ("its durable part", size_of::<JobBody>(), 288),
        ("what the indices hold for it", size_of::<Entry>(), 96),
        ("its place in a line", size_of::<Place>(), 16),
        ("its elements", size_of::<RangeSet>(), 24),
        ("its idempotency key", size_of::<UsedKey>(), 64),
    ];
    for (what, size, most) in sizes {
        assert!(
            size <= most,
            "{what}: {size} bytes, and {most} are allowed; what is rare goes behind `Rare` or a `Box`"
        );
        println!("{what}: {size}");
    }
}
