//! What tasks print, and how it is read back.

use std::fs;
use std::time::{Duration, Instant};

use gangsaw_agent::supervisor::logs::{LogQuery, LogReader, Stream, forget, forget_attempts};
use gangsaw_proto::supervisor::v1::{ArrayBounds, Run, command::Command};

use crate::node::{Node, all_of, bytes, command, eventually, folder_bytes, is_root, lacking, shell, text};

pub(crate) const TESTS: &[crate::Test] = &[
    ("flood_of_a_gigabyte_is_cut_with_a_mark", flood_of_a_gigabyte_is_cut_with_a_mark),
    ("fast_writer_is_held_to_the_rate", fast_writer_is_held_to_the_rate),
    ("binary_output_comes_back_byte_for_byte", binary_output_comes_back_byte_for_byte),
    ("line_of_many_megabytes_costs_no_memory", line_of_many_megabytes_costs_no_memory),
    ("readers_choose_element_stream_attempt_tail_and_time", readers_choose_element_stream_attempt_tail_and_time),
    ("follower_sees_lines_as_they_come", follower_sees_lines_as_they_come),
    ("forgotten_attempts_are_gone_and_others_stay", forgotten_attempts_are_gone_and_others_stay),
    ("full_disk_cuts_the_log_and_tasks_go_on", full_disk_cuts_the_log_and_tasks_go_on),
];

fn flood_of_a_gigabyte_is_cut_with_a_mark() {
    const GIB: u64 = 1 << 30;
    let cap = 4 << 20;
    let mut node = Node::with(&["--log-cap", &cap.to_string()]);
    let since = Instant::now();
    node.send(Command::Run(shell(1, "head -c 1073741824 /dev/zero; echo end >&2")));
    node.over(1, 1);
    println!("1 GiB in {:?}, resident {} bytes", since.elapsed(), node.rss_bytes());
    assert!(node.rss_bytes() <= 4 << 20);
    assert!(folder_bytes(&node.state.join("agent/logs")) <= cap + (64 << 10));
    let chunks = node.read_logs(LogQuery { stream: Some(Stream::Stdout), ..all_of(1001) });
    let kept: u64 = chunks.iter().map(|chunk| chunk.data.len() as u64).sum();
    let dropped: u64 = chunks.iter().map(|chunk| chunk.dropped_bytes).sum();
    assert_eq!(kept + dropped, GIB, "every byte is kept or counted");
    assert!(kept > cap - (64 << 10) && kept <= cap);
}

fn fast_writer_is_held_to_the_rate() {
    let mut node = Node::with(&["--log-rate", "1048576"]);
    node.send(Command::Run(shell(1, "head -c 20M /dev/zero; sleep 0.5; echo after")));
    node.over(1, 1);
    let chunks = node.read_logs(all_of(1001));
    let kept: usize = chunks.iter().map(|chunk| chunk.data.len()).sum();
    assert!((1 << 20..4 << 20).contains(&kept), "{kept}");
    assert!(bytes(&chunks).ends_with(b"after\n"), "there is room again after a pause");
    let dropped: u64 = chunks.iter().map(|chunk| chunk.dropped_bytes).sum();
    assert_eq!(kept as u64 + dropped, (20 << 20) + 6);
}

fn binary_output_comes_back_byte_for_byte() {
    let mut node = Node::new();
    let blob: Vec<u8> = (0..300_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let file = node.folder.path().join("blob");
    fs::write(&file, &blob).unwrap();
    node.send(Command::Run(shell(1, &format!("cat {0}; cat {0} >&2", file.display()))));
    node.over(1, 1);
    for stream in Stream::ALL {
        let chunks = node.read_logs(LogQuery { stream: Some(stream), ..all_of(1001) });
        assert!(
            chunks
                .iter()
                .all(|chunk| chunk.stream == stream && chunk.data.len() <= 64 << 10 && chunk.dropped_bytes == 0)
        );
        assert!(bytes(&chunks) == blob);
    }
}

fn line_of_many_megabytes_costs_no_memory() {
    let mut node = Node::new();
    node.send(Command::Run(shell(1, "head -c 6M /dev/zero | tr '\\0' x; echo; echo last")));
    node.over(1, 1);
    assert!(node.rss_bytes() <= 4 << 20);
    let chunks = node.read_logs(LogQuery { tail_lines: Some(1), ..all_of(1001) });
    assert_eq!(text(&chunks), "last\n");
    let chunks = node.read_logs(LogQuery { tail_lines: Some(2), ..all_of(1001) });
    assert_eq!(bytes(&chunks).len(), (6 << 20) + 1 + 5);
}

fn readers_choose_element_stream_attempt_tail_and_time() {
    let mut node = Node::new();
    let array = Some(ArrayBounds { count: 3, min: 0, max: 2 });
    let script = "for line in 1 2 3; do echo $GANGSAW_ARRAY_INDEX.$GANGSAW_ATTEMPT.$line; done; echo err$GANGSAW_ARRAY_INDEX >&2";
    let run = Run { last_index: 2, slots: 1, array, ..shell(1, script) };
    node.send(Command::Run(run.clone()));
    node.over(1, 3);
    node.send(Command::Run(Run { lease_id: 2, job_id: 1001, first_index: 1, last_index: 1, attempt: 2, ..run }));
    node.over(2, 1);
    let read = |query: LogQuery| text(&node.read_logs(query));
    let stdout = LogQuery { stream: Some(Stream::Stdout), ..all_of(1001) };
    assert_eq!(
        read(stdout.clone()),
        "0.1.1\n0.1.2\n0.1.3\n2.1.1\n2.1.2\n2.1.3\n1.2.1\n1.2.2\n1.2.3\n",
        "newest attempts"
    );
    let one = LogQuery { first_index: 1, last_index: 1, ..stdout.clone() };
    assert_eq!(read(LogQuery { attempt: 1, ..one.clone() }), "1.1.1\n1.1.2\n1.1.3\n");
    assert_eq!(read(LogQuery { attempt: LogQuery::EVERY_ATTEMPT, ..one.clone() }).lines().count(), 6);
    assert_eq!(read(LogQuery { tail_lines: Some(2), ..one.clone() }), "1.2.2\n1.2.3\n");
    assert_eq!(read(LogQuery { tail_lines: Some(4), ..stdout.clone() }), "2.1.3\n1.2.1\n1.2.2\n1.2.3\n");
    assert_eq!(read(LogQuery { tail_lines: Some(0), ..stdout.clone() }), "");
    assert_eq!(read(LogQuery { tail_lines: Some(99), ..one.clone() }), "1.2.1\n1.2.2\n1.2.3\n");
    assert_eq!(read(LogQuery { rank: Some(1), ..stdout.clone() }), "");
    assert_eq!(read(LogQuery { stream: Some(Stream::Stderr), first_index: 2, ..all_of(1001) }), "err2\n");
    let newest = node.read_logs(one.clone())[0].wall_ms;
    assert_eq!(read(LogQuery { since_wall_ms: newest, ..one.clone() }), "1.2.1\n1.2.2\n1.2.3\n");
    assert_eq!(read(LogQuery { since_wall_ms: newest + 10_000, ..one }), "");
    assert_eq!(read(all_of(999)), "");
}

fn follower_sees_lines_as_they_come() {
    let mut node = Node::new();
    let mut reader = LogReader::open(&node.state, all_of(1001)).unwrap();
    assert!(reader.next().unwrap().is_none());
    let go = node.folder.path().join("go");
    let script = format!("echo one; until test -e {}; do sleep 0.01; done; echo two; echo three >&2", go.display());
    node.send(Command::Run(shell(1, &script)));
    let mut seen = String::new();
    let mut read_until = |wanted: &str, seen: &mut String| {
        eventually("the line arrives", || {
            while let Some(chunk) = reader.next().unwrap() {
                *seen += std::str::from_utf8(&chunk.data).unwrap();
            }
            seen.contains(wanted) || {
                reader.wait(Duration::from_millis(200)).unwrap();
                false
            }
        });
    };
    read_until("one\n", &mut seen);
    fs::write(go, "").unwrap();
    read_until("two\n", &mut seen);
    read_until("three\n", &mut seen);
    node.over(1, 1);
    assert_eq!(seen.len(), "one\ntwo\nthree\n".len());
}

fn forgotten_attempts_are_gone_and_others_stay() {
    let mut node = Node::new();
    let run =
        Run { last_index: 1, slots: 1, ..shell(1, "head -c 1000000 /dev/zero; echo; echo end of $GANGSAW_ATTEMPT") };
    node.send(Command::Run(run));
    node.over(1, 2);
    let logs = node.state.join("agent/logs/1001");
    let before = folder_bytes(&logs);
    forget_attempts(&node.state, 1001, 0, 0, 1).unwrap();
    let read = |index| node.read_logs(LogQuery { first_index: index, last_index: index, ..all_of(1001) });
    assert!(read(0).is_empty());
    assert_eq!(bytes(&read(1)).len(), 1_000_000 + 1 + 9);
    println!("{before} bytes on disk, {} after half was forgotten", folder_bytes(&logs));
    forget_attempts(&node.state, 1001, 1, 1, 0).unwrap();
    assert!(read(1).is_empty());
    forget(&node.state, 1001).unwrap();
    assert!(!logs.exists());
    forget(&node.state, 1001).unwrap();
}

fn full_disk_cuts_the_log_and_tasks_go_on() {
    if !is_root() {
        return lacking("root, to mount a small file system");
    }
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    let tmpfs =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(&state).status();
    if !tmpfs.is_ok_and(|status| status.success()) {
        return lacking("the right to mount a tmpfs");
    }
    let mounted = Mounted(state.clone());
    let mut node = Node::at(folder, state, &[]);
    node.send(Command::Run(shell(1, "head -c 6M /dev/zero; echo still here >&2; exit 3")));
    assert_eq!(node.ended(1, 0).exit_code, Some(3));
    let chunks = node.read_logs(all_of(1001));
    let kept: u64 = chunks.iter().map(|chunk| chunk.data.len() as u64).sum();
    let dropped: u64 = chunks.iter().map(|chunk| chunk.dropped_bytes).sum();
    println!("kept {kept}, dropped {dropped}");
    assert!(kept > 0 && kept < 3 << 20);
    node.send(Command::Run(Run { workdir: "/".into(), ..command(2, &["true"]) }));
    node.over(2, 1);
    drop(node);
    drop(mounted);
}

/// Unmounts, whatever the test came to.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
