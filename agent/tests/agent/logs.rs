//! Questions about logs.

use gangsaw_proto::node::v1::{ServeLogsResponse, attach_request};

use crate::Test;
use crate::node::{Node, grant, wait_for};
use crate::scheduler::Got;

pub(crate) const TESTS: &[Test] = &[
    ("log_stream_names_its_node_and_answers_with_both_outputs", log_stream_answers_with_both_outputs),
    ("follower_gets_lines_as_they_come_and_the_rest_when_cancelled", follower_gets_lines_as_they_come),
    ("last_lines_and_one_stream_are_answered_alone", last_lines_and_one_stream),
    ("copied_logs_are_dropped", copied_logs_are_dropped),
    ("question_is_answered_in_as_many_pieces_as_are_allowed", answered_in_as_many_pieces_as_allowed),
    ("reader_that_stops_reading_stops_neither_heartbeats_nor_tasks", reader_that_stops_reading_stops_nothing),
];

/// Every attempt, as the scheduler asks when it copies.
const ALL: u32 = u32::MAX;

fn question(id: u64, job: u64) -> ServeLogsResponse {
    ServeLogsResponse { query_id: id, job_id: job, ..ServeLogsResponse::default() }
}

/// The text of the whole answer, by stream.
pub(crate) fn answer(node: &Node, id: u64) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        let piece = node.scheduler.piece(id);
        if piece.end {
            assert_eq!(piece.error, "");
            return (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap());
        }
        assert!(piece.wall_ms > 0 && piece.attempt > 0);
        if piece.stream == 1 { out.extend(piece.data) } else { err.extend(piece.data) }
    }
}

fn log_stream_answers_with_both_outputs() {
    let (node, _) = Node::start(&[]);
    node.scheduler.until("the log stream's name", |got| match got {
        Got::Logs(first) => {
            assert_eq!((first.node_name.as_str(), first.query_id), ("node-of-the-test", 0));
            Some(())
        }
        _ => None,
    });
    node.grant(1, "echo out; echo err >&2; exit 1");
    node.ended(1);
    node.scheduler.ask(question(5, 1));
    assert_eq!(answer(&node, 5), ("out\n".to_owned(), "err\n".to_owned()));
    node.scheduler.ask(question(6, 12345));
    assert_eq!(answer(&node, 6), (String::new(), String::new()), "a job without output has none");
    let mut second = grant(2, "echo again; exit 1");
    (second.job_id, second.attempt) = (1, 2);
    node.say_grant(second);
    node.ended(2);
    node.scheduler.ask(question(7, 1));
    assert_eq!(answer(&node, 7).0, "again\n", "the newest attempt");
    node.scheduler.ask(ServeLogsResponse { attempt: ALL, ..question(8, 1) });
    assert_eq!(answer(&node, 8), ("out\nagain\n".to_owned(), "err\n".to_owned()));
}

fn follower_gets_lines_as_they_come() {
    let (node, _) = Node::start(&[]);
    let (go, stop) = (node.path("go"), node.path("stop"));
    let wait = |path: &std::path::Path| format!("while ! test -e {}; do sleep 0.02; done", path.display());
    node.grant(1, &format!("echo one; {}; echo two; {}; echo three", wait(&go), wait(&stop)));
    node.started(1);
    node.scheduler.ask(ServeLogsResponse { follow: true, ..question(5, 1) });
    assert_eq!(node.scheduler.piece(5).data, b"one\n");
    std::fs::write(go, "").unwrap();
    assert_eq!(node.scheduler.piece(5).data, b"two\n");
    std::fs::write(stop, "").unwrap();
    node.succeeded(1);
    node.scheduler.ask(ServeLogsResponse { cancel: true, ..question(5, 1) });
    assert_eq!(answer(&node, 5).0, "three\n");
}

fn last_lines_and_one_stream() {
    let (node, _) = Node::start(&[]);
    node.grant(1, "for i in 1 2 3 4 5; do echo $i; echo e$i >&2; done; exit 1");
    node.ended(1);
    node.scheduler.ask(ServeLogsResponse { tail_lines: Some(2), ..question(5, 1) });
    assert_eq!(answer(&node, 5), ("4\n5\n".to_owned(), "e4\ne5\n".to_owned()));
    node.scheduler.ask(ServeLogsResponse { stream: 2, tail_lines: Some(1), ..question(6, 1) });
    assert_eq!(answer(&node, 6), (String::new(), "e5\n".to_owned()));
}

fn copied_logs_are_dropped() {
    let (node, _) = Node::start(&[]);
    node.grant(1, "echo gone; exit 1");
    node.ended(1);
    node.scheduler.ask(question(5, 1));
    assert_eq!(answer(&node, 5).0, "gone\n");
    node.scheduler.ask(ServeLogsResponse { query_id: 0, copied: true, ..question(0, 1) });
    let mut id = 5;
    wait_for("the drop", || {
        id += 1;
        node.scheduler.ask(ServeLogsResponse { attempt: ALL, ..question(id, 1) });
        answer(&node, id).0.is_empty()
    });
}

fn answered_in_as_many_pieces_as_allowed() {
    let (node, _) = Node::start(&[]);
    // 1 MiB: 16 pieces, or more.
    node.grant(1, "head -c 1048576 /dev/zero; exit 1");
    node.ended(1);
    let more = |id, pieces| ServeLogsResponse { query_id: id, pieces: Some(pieces), ..ServeLogsResponse::default() };
    node.scheduler.ask(ServeLogsResponse { pieces: Some(2), ..question(5, 1) });
    let mut bytes = node.scheduler.piece(5).data.len() + node.scheduler.piece(5).data.len();
    // Whatever else the first had to say would have come before the end of the second and the third.
    for id in [6, 7] {
        node.scheduler.ask(question(id, 1));
        assert_eq!(answer(&node, id).0.len(), 1 << 20, "one who may not send holds up nobody else");
    }
    assert!(!node.scheduler.has_piece(5), "a third piece, and two were allowed");
    node.scheduler.ask(more(5, 1));
    bytes += node.scheduler.piece(5).data.len();
    assert!(bytes < 1 << 20, "{bytes} bytes in three pieces");
    node.scheduler.ask(more(5, 1000));
    bytes += answer(&node, 5).0.len();
    assert_eq!(bytes, 1 << 20, "each byte once");
    node.scheduler.ask(ServeLogsResponse { pieces: Some(1), follow: true, ..question(8, 1) });
    node.scheduler.piece(8);
    node.scheduler.ask(ServeLogsResponse { query_id: 8, abandon: true, ..ServeLogsResponse::default() });
    assert!(node.scheduler.piece(8).end, "nobody waits, so nothing more is read");
}

/// More than any window or socket on the way holds.
fn reader_that_stops_reading_stops_nothing() {
    const BYTES: usize = 7_500_000;
    let (node, _) = Node::start(&[]);
    node.grant(1, &format!("head -c {BYTES} /dev/zero; exit 1"));
    node.ended(1);
    node.scheduler.reads_logs(false);
    for id in 5..9 {
        node.scheduler.ask(question(id, 1));
    }
    // As many heartbeats as fill every window, were they to travel with the logs.
    for _ in 0..5 {
        node.scheduler.until("a heartbeat", |got| match got {
            Got::Message(attach_request::Message::Heartbeat(_)) => Some(()),
            _ => None,
        });
    }
    node.grant(2, "exit 2");
    assert_eq!(node.ended(2).exit_code, Some(2));
    node.scheduler.reads_logs(true);
    for id in 5..9 {
        assert_eq!(answer(&node, id).0.len(), BYTES, "nothing was lost meanwhile");
    }
}
