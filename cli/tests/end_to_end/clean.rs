//! `gangsaw clean`: what ended jobs left goes, and nothing else.

use serde_json::json;

use crate::cluster::{Cluster, err, out};

#[test]
fn clean_removes_what_ended_jobs_left_and_nothing_else() {
    let cluster = Cluster::up();
    let state = cluster.place.path().join("state");
    let attempts = state.join("agent").join("attempts");
    let write = "head -c 5000 /dev/zero > $GANGSAW_OUTPUT_DIR/result";
    let ended = cluster.submit(&["--", "sh", "-c", write]);
    cluster.until(ended, "COMPLETED");
    let running = cluster.submit(&["--", "sh", "-c", &format!("{write}; sleep 600")]);
    cluster.until_running(running);
    let unknown = attempts.join("987654");
    std::fs::create_dir_all(unknown.join("0.0-1")).unwrap();
    let other = attempts.join("notes");
    std::fs::create_dir(&other).unwrap();
    let state = state.to_str().unwrap();
    let clean = |args: &[&str]| cluster.run(&[&["clean", "--state", state, "--output", "json"], args].concat());
    let value = |args: &[&str]| serde_json::from_str::<serde_json::Value>(&out(&clean(args))).unwrap();

    assert_eq!(value(&[])["removed"], json!([]), "30 days are not over");
    let looked = value(&["--older-than", "0s", "--dry-run"]);
    let folder = attempts.join(ended.to_string());
    assert_eq!(looked["dry_run"], true);
    assert_eq!((&looked["removed"][0]["job_id"], looked["removed"].as_array().unwrap().len()), (&json!(ended), 1));
    assert!(looked["bytes"].as_u64().unwrap() >= 5000, "{looked}");
    assert!(folder.is_dir(), "a dry run removes nothing");

    let cleaned = clean(&["--older-than", "0s"]);
    assert_eq!(cleaned.status.code(), Some(0), "{}", err(&cleaned));
    assert!(err(&cleaned).contains("left alone: the scheduler does not know job 987654"), "{}", err(&cleaned));
    assert!(!folder.exists());
    assert!(unknown.is_dir() && other.is_dir() && attempts.join(running.to_string()).is_dir());
    assert_eq!(cluster.show(running)["state"], "RUNNING");
    assert_eq!(value(&["--older-than", "0s"])["removed"], json!([]), "a second time there is nothing");
    assert_eq!(cluster.show(ended)["state"], "COMPLETED", "the record stays");
    let bad = clean(&["--older-than", "soon"]);
    assert_eq!(bad.status.code(), Some(2), "{}", err(&bad));
    cluster.run(&["cancel", &running.to_string()]);
    cluster.until(running, "CANCELLED");
}
