//! Which elements start and which return.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use gangsaw_proto::supervisor::v1::{Run, run};

use super::*;

fn lease(first: u32, last: u32) -> Lease {
    let work = Some(run::Work::Shell("true".into()));
    let run = Run { first_index: first, last_index: last, work, ..Run::default() };
    Lease::new(Rc::new(Template::new(run, "tag").unwrap()), 0)
}

#[test]
fn cut_returns_only_what_has_not_started_and_not_returned_yet() {
    let mut lease = lease(10, 20);
    assert_eq!([lease.pop(), lease.pop()], [Some(10), Some(11)]);
    assert!(lease.cut_one(13) && lease.cut_one(18));
    assert!(!lease.cut_one(13) && !lease.cut_one(10) && !lease.cut_one(21));
    assert_eq!(lease.cut(17), [(17, 17), (19, 20)]);
    assert_eq!(lease.cut(0), [(12, 12), (14, 16)]);
    assert_eq!(lease.pop(), None);
    assert!(lease.is_over());
}

#[test]
fn last_index_of_all_is_an_element_like_any_other() {
    let mut lease = lease(u32::MAX - 1, u32::MAX);
    assert_eq!([lease.pop(), lease.pop(), lease.pop()], [Some(u32::MAX - 1), Some(u32::MAX), None]);
    let mut lease = self::lease(u32::MAX, u32::MAX);
    assert_eq!(lease.cut(0), [(u32::MAX, u32::MAX)]);
}

#[test]
fn skipped_elements_do_not_start() {
    let mut lease = lease(0, 3);
    assert!(lease.cut_one(0) && lease.cut_one(2));
    assert_eq!([lease.pop(), lease.pop(), lease.pop()], [Some(1), Some(3), None]);
}
