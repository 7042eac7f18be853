//! More than fits on one page, and the tables people read.

use std::collections::BTreeSet;

use expect_test::expect;

use crate::cluster::{Cluster, out};

#[test]
fn ps_goes_on_beyond_its_first_page() {
    let cluster = Cluster::scheduler();
    let values: Vec<String> = (0..1024).map(|n| n.to_string()).collect();
    let sweep = format!("n={}", values.join(","));
    let stored = cluster.json(&["submit", "--hold", "--sweep", &sweep, "--", "true"]);
    assert_eq!(stored["job_ids"].as_array().unwrap().len(), 1024);
    cluster.submit(&["--hold", "--queue", "other", "--", "true"]);
    let ids = |args: &[&str]| -> Vec<u64> {
        let listed = cluster.json(&[&["ps"], args].concat());
        listed["jobs"].as_array().unwrap().iter().map(|job| job["job_id"].as_u64().unwrap()).collect()
    };
    assert_eq!(ids(&[]), (1..=1025).rev().collect::<Vec<u64>>(), "each once, newest first");
    assert_eq!(ids(&["--limit", "1010"]), (16..=1025).rev().collect::<Vec<u64>>());
    assert_eq!(ids(&["--queue", "default"]).len(), 1024);
    let lines = out(&cluster.run(&["ps", "--output", "jsonl"]));
    assert_eq!(lines.lines().count(), 1025);
    assert_eq!(out(&cluster.run(&["ps"])).lines().count(), 1026, "a header, and a line each");
}

#[test]
fn show_goes_on_beyond_a_thousand_tasks() {
    let cluster = Cluster::scheduler();
    let job = cluster.submit(&["--hold", "--array", "0-2499", "--", "true"]).to_string();
    let mut pages = vec![cluster.json(&["show", &job])];
    while let Some(next) = pages[pages.len() - 1]["next_page"].as_str() {
        let next = next.to_owned();
        pages.push(cluster.json(&["show", &job, "--page", &next]));
    }
    let sizes: Vec<usize> = pages.iter().map(|page| page["tasks"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1000, 1000, 500]);
    let indices: BTreeSet<u64> = pages
        .iter()
        .flat_map(|page| page["tasks"].as_array().unwrap())
        .map(|task| task["index"].as_u64().unwrap())
        .collect();
    assert_eq!(indices, (0..2500).collect(), "each once");
    let text = out(&cluster.run(&["show", &job]));
    assert_eq!(text.lines().filter(|line| line.contains("HELD")).count(), 2 + 25, "state, counts, tasks:\n{text}");
    assert!(text.ends_with(&format!("… and more; name some with `gangsaw show '{job}[0-99]'`\n")), "{text}");
}

#[test]
fn tables_are_aligned_and_have_no_colour_when_piped() {
    let cluster = Cluster::scheduler();
    cluster.submit(&["--hold", "--name", "short", "--array", "0-9", "--", "true"]);
    cluster.submit(&["--hold", "--name", "a longer name", "--queue", "batch", "--label", "team=a", "--", "true"]);
    let user = cluster.json(&["ps"])["jobs"][0]["user"].as_str().unwrap().to_owned();
    // Whoever runs the tests has a name of some length: columns are compared, not blanks.
    let text = |args: &[&str]| {
        let text = out(&cluster.run(args));
        assert!(!text.contains('\u{1b}'), "{text:?}");
        let cells = |line: &str| {
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join(" | ")
        };
        text.lines().map(cells).collect::<Vec<_>>().join("\n").replace(&user, "USER")
    };
    let ps = out(&cluster.run(&["ps"]));
    let states: Vec<_> = ps.lines().map(|line| line.find("STATE").or(line.find("HELD"))).collect();
    assert!(states.windows(2).all(|pair| pair[0].is_some() && pair[0] == pair[1]), "aligned:\n{ps}");
    expect![[r#"
        JOB | NAME | LABELS | STATE | QUEUE | USER | DEVICE | ELEMENTS | TIME | WHY
        2 | a longer name | team=a | HELD | batch | USER | held by its owner
        1 | short | HELD | default | USER | 0/10 | held by its owner"#]]
    .assert_eq(&text(&["ps"]));
    let shown = text(&["show", "1[3-4]"]);
    let shown: Vec<&str> = shown.lines().filter(|line| !line.starts_with("submitted")).collect();
    expect![[r#"
        job | 1 short
        state | HELD
        command | true
        queue | default (priority 0, USER)
        elements | 10 (10 HELD)
        waits | held: held by its owner

        INDEX | RANK | STATE | ATTEMPT | NODE | PID | EXIT | OUTCOME | TIME | DETAIL
        3 | 0 | HELD | 0
        4 | 0 | HELD | 0"#]]
    .assert_eq(&shown.join("\n"));
    expect![[r#"
        QUEUE | RUNNING | QUEUED | GPUS
        batch | 0 | 1 | 0
        default | 0 | 10 | 0"#]]
    .assert_eq(&text(&["queue"]));
}
