//! What a kill, a full acknowledgement and a damaged byte leave behind.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use gangsaw_proto::supervisor::v1::{Returned, fact};

use super::*;

fn fact(index: u32) -> Fact {
    let returned = Returned { first_index: index, last_index: index };
    Fact { seq: 0, lease_id: 7, fact: Some(fact::Fact::Returned(returned)) }
}

fn seqs(facts: &[Fact]) -> Vec<u64> {
    facts.iter().map(|fact| fact.seq).collect()
}

fn last_file(folder: &Path) -> PathBuf {
    files(folder).unwrap().pop_last().unwrap().1
}

#[test]
fn facts_come_back_in_order_after_a_reopening_and_the_count_goes_on() {
    let state = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder(state.path())).unwrap();
    spool.append(&mut [fact(0), fact(1)]).unwrap();
    drop(spool);
    let mut spool = Spool::open(folder(state.path())).unwrap();
    spool.append(&mut [fact(2)]).unwrap();
    assert_eq!(seqs(&read(state.path(), 0).unwrap()), [1, 2, 3]);
    assert_eq!(seqs(&read(state.path(), 2).unwrap()), [3]);
    assert_eq!(seqs(&spool.replay(2, 1).unwrap()), [2]);
}

#[test]
fn torn_tail_is_cut_and_nothing_before_it_is_lost() {
    let state = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder(state.path())).unwrap();
    spool.append(&mut [fact(0), fact(1)]).unwrap();
    drop(spool);
    let path = last_file(&folder(state.path()));
    let whole = fs::metadata(&path).unwrap().len();
    for cut in 1..(whole / 2) {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(whole - cut).unwrap();
        let mut spool = Spool::open(folder(state.path())).unwrap();
        assert_eq!(spool.next_seq(), 2, "cut by {cut}");
        spool.append(&mut [fact(9)]).unwrap();
        assert_eq!(seqs(&read(state.path(), 0).unwrap()), [1, 2]);
    }
}

#[test]
fn flipped_bit_ends_the_reading_before_it() {
    let state = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder(state.path())).unwrap();
    spool.append(&mut [fact(0), fact(1)]).unwrap();
    let path = last_file(&folder(state.path()));
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(seqs(&read(state.path(), 0).unwrap()), [1]);
}

#[test]
fn facts_that_are_written_are_not_written_twice_when_the_next_file_cannot_be_made() {
    let state = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder(state.path())).unwrap();
    let elsewhere = state.path().join("elsewhere");
    fs::rename(folder(state.path()), &elsewhere).unwrap();
    let many: Vec<Fact> = (0..200).map(fact).collect();
    while spool.bytes <= ROTATE_BYTES {
        spool.append(&mut many.clone()).unwrap();
    }
    let next = spool.next_seq();
    spool.append(&mut [fact(0)]).unwrap();
    assert_eq!(spool.next_seq(), next + 1);
    fs::rename(&elsewhere, folder(state.path())).unwrap();
    spool.append(&mut [fact(1)]).unwrap();
    assert_eq!(files(&folder(state.path())).unwrap().len(), 2, "it was tried again");
    assert_eq!(seqs(&read(state.path(), 0).unwrap()), (1..=next + 1).collect::<Vec<_>>());
}

#[test]
fn acknowledged_files_go_and_the_count_survives_them() {
    let state = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder(state.path())).unwrap();
    for _ in 0..100 {
        spool.append(&mut (0..200).map(fact).collect::<Vec<_>>()).unwrap();
    }
    assert!(!spool.is_settled());
    spool.ack(20_000).unwrap();
    assert!(spool.is_settled());
    assert!(read(state.path(), 0).unwrap().is_empty());
    assert_eq!(files(&folder(state.path())).unwrap().len(), 1);
    drop(spool);
    assert_eq!(Spool::open(folder(state.path())).unwrap().next_seq(), 20_001);
}
