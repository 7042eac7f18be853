//! The JSON that programs lean on.

use serde_json::{Value, json};

use crate::cluster::{Cluster, GANGSAW, Place, out};

/// The names of an object's fields, in order.
fn fields(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn ps_show_and_nodes_have_the_promised_fields() {
    let cluster = Cluster::up();
    let job = cluster.submit(&["--name", "shape", "--", "sh", "-c", "exit 3"]);
    cluster.until(job, "FAILED");
    let list = cluster.json(&["ps", "--all"]);
    assert_eq!(list["schema_version"], 1);
    let row = &list["jobs"][0];
    assert_eq!((&row["job_id"], &row["name"], &row["state"]), (&json!(job), &json!("shape"), &json!("FAILED")));
    let shown = cluster.show(job);
    assert_eq!(shown["schema_version"], 1);
    for field in ["job_id", "state", "device", "device_reason", "element_counts", "tasks", "next_page"] {
        assert!(fields(&shown).contains(&field), "{field} in {shown}");
    }
    let task = &shown["tasks"][0];
    for (field, value) in [
        ("index", json!(0)),
        ("rank", json!(0)),
        ("state", json!("FAILED")),
        ("attempt", json!(1)),
        ("exit_code", json!(3)),
        ("signal", json!(null)),
        ("outcome", json!("failed")),
    ] {
        assert_eq!(task[field], value, "{field}");
    }
    assert_eq!(shown["device"], "cpu");
    assert_eq!(shown["device_reason"]["code"], "only-choice");
    let nodes = cluster.json(&["nodes"]);
    assert_eq!(nodes["nodes"][0]["devices"], json!([]));
    let lines = cluster.run(&["ps", "--all", "--output", "jsonl"]);
    let line: Value = serde_json::from_str(out(&lines).lines().next().unwrap()).unwrap();
    assert_eq!((&line["schema_version"], &line["job_id"]), (&json!(1), &json!(job)));
}

#[test]
fn ps_filters_and_limits() {
    let cluster = Cluster::up();
    for name in ["a", "b", "a"] {
        let job = cluster.submit(&["--name", name, "--", "true"]);
        cluster.until(job, "COMPLETED");
    }
    let ids = |args: &[&str]| -> Vec<u64> {
        let args: Vec<&str> = ["ps"].iter().chain(args).copied().collect();
        cluster.json(&args)["jobs"].as_array().unwrap().iter().map(|job| job["job_id"].as_u64().unwrap()).collect()
    };
    assert_eq!(ids(&[]), Vec::<u64>::new());
    assert_eq!(ids(&["--all"]), [3, 2, 1], "newest first");
    assert_eq!(ids(&["--all", "--limit", "2"]), [3, 2]);
    assert_eq!(ids(&["--all", "--name", "a"]), [3, 1]);
    assert_eq!(ids(&["--state", "completed"]), [3, 2, 1]);
    assert_eq!(ids(&["--all", "--state", "FAILED"]), Vec::<u64>::new());
    assert_eq!(ids(&["--all", "--since", "1h"]), [3, 2, 1]);
}

#[test]
fn completions_name_the_verbs_for_each_shell() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = place.gangsaw(&["completions", shell]).output().unwrap();
        assert!(output.status.success());
        let text = out(&output);
        assert!(text.contains("quickstart") && text.contains("time-limit"), "{shell}");
    }
    let checked = std::process::Command::new("bash")
        .args(["-n", "-c"])
        .arg(out(&place.gangsaw(&["completions", "bash"]).output().unwrap()))
        .status();
    assert!(checked.unwrap().success());
}

#[test]
fn a_closed_reader_ends_the_command_quietly() {
    let place = Place::new();
    let script = format!("{GANGSAW} completions bash | head -c 1 > /dev/null; echo ${{PIPESTATUS[0]}}");
    let mut command = std::process::Command::new("bash");
    let output = command.args(["-c", &script]).env("HOME", place.path()).output().unwrap();
    assert!(["0\n", "141\n"].contains(&out(&output).as_str()), "{}", out(&output));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
