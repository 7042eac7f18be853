//! What can be tested without forking a test runner that has threads; the rest is in `tests/supervisor.rs`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write as _;

use super::*;

#[test]
fn status_pipe_tells_open_closed_and_failed_apart() {
    let (status, tell) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
    assert_eq!(way(&status), Way::Open);
    let mut tell = std::fs::File::from(tell);
    tell.write_all(&[Step::Workdir as u8, 2, 0, 0, 0]).unwrap();
    assert_eq!(way(&status), Way::Failed(Step::Workdir, libc::ENOENT));
    drop(tell);
    assert_eq!(way(&status), Way::Closed);
}

#[test]
fn vectors_for_exec_end_with_a_null() {
    let strings = CStrings::new(vec![c"a".into(), c"b".into()]);
    assert_eq!(strings.pointers.len(), 3);
    assert!(strings.pointers.last().unwrap().is_null());
}
