//! Parts of what tasks wrote: the end of it, what is new, one rank's.

use crate::cluster::{Cluster, err, eventually, out};

#[test]
fn tail_gives_the_last_lines_of_each_stream() {
    let cluster = Cluster::up();
    let script = "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done; printf 'no end'";
    let job = cluster.submit(&["--", "sh", "-c", script]);
    cluster.until(job, "COMPLETED");
    let id = job.to_string();
    let tail = |args: &[&str]| {
        let output = cluster.run(&[&["logs", &id], args].concat());
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        (out(&output), err(&output))
    };
    assert_eq!(tail(&["--tail", "2"]), ("out 5\nno end".into(), "err 4\nerr 5\n".into()));
    assert_eq!(tail(&["--tail", "1", "--stream", "stderr"]), (String::new(), "err 5\n".into()));
    assert_eq!(tail(&["--tail", "0"]), (String::new(), String::new()));
    let all = "out 1\nout 2\nout 3\nout 4\nout 5\nno end";
    assert_eq!(tail(&["--tail", "1000", "--stream", "stdout"]), (all.into(), String::new()));
}

#[test]
fn since_gives_what_was_written_after_a_time() {
    let cluster = Cluster::up();
    let gate = cluster.place.path().join("gate");
    let script = format!("echo early; until [ -e {} ]; do sleep 0.02; done; echo late", gate.display());
    let job = cluster.submit(&["--", "sh", "-c", &script]);
    let id = job.to_string();
    eventually("the first line", || (out(&cluster.run(&["logs", &id])) == "early\n").then_some(()));
    // At once, so that both lines may share a time: nothing written later is lost.
    let between = jiff::Timestamp::now().to_string();
    cluster.place.file("gate", "");
    cluster.until(job, "COMPLETED");
    let since = |time: &str| out(&cluster.run(&["logs", &id, "--since", time]));
    assert!(since(&between).ends_with("late\n"), "{}", since(&between));
    assert_eq!(since("1h"), "early\nlate\n");
    eventually("a time after both", || since(&jiff::Timestamp::now().to_string()).is_empty().then_some(()));
    assert_eq!(cluster.run(&["logs", &id, "--since", "yesterday"]).status.code(), Some(2));
}

#[test]
fn rank_gives_one_rank_of_a_gang() {
    let cluster = Cluster::up();
    let job = cluster.submit(&[
        "--replicas",
        "2",
        "--cpus",
        "0.1",
        "--rendezvous",
        "per-process",
        "--",
        "sh",
        "-c",
        "echo rank $RANK of $WORLD_SIZE",
    ]);
    cluster.until(job, "COMPLETED");
    let id = job.to_string();
    assert_eq!(out(&cluster.run(&["logs", &id, "--rank", "1"])), "rank 1 of 2\n");
    assert_eq!(out(&cluster.run(&["logs", &format!("{id}[0].0")])), "rank 0 of 2\n");
    let both = out(&cluster.run(&["logs", &id]));
    let mut both: Vec<&str> = both.lines().collect();
    both.sort_unstable();
    assert_eq!(both, ["[0].0: rank 0 of 2", "[0].1: rank 1 of 2"]);
    assert_eq!(out(&cluster.run(&["logs", &id, "--rank", "7"])), "", "there is no such rank");
}
