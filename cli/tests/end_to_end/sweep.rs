//! Sweeps: one job for each combination, stored all or none.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cluster::{Cluster, err, out};

/// The numbers of the stored jobs.
fn ids(stored: &Value) -> Vec<u64> {
    stored["job_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

#[test]
fn a_sweep_runs_a_job_of_each_combination() {
    let cluster = Cluster::up();
    let stored = cluster.json(&[
        "submit",
        "--name",
        "grid",
        "--sweep",
        "lr=1e-4,1e-3",
        "--sweep",
        "opt=sgd,adam",
        "--",
        "sh",
        "-c",
        "echo {lr} $GANGSAW_SWEEP_OPT",
    ]);
    assert_eq!(stored["jobs"][1], json!({ "job_id": 2, "name": "grid", "sweep": { "lr": 0.0001, "opt": "adam" } }));
    let ids: Vec<String> = ids(&stored).iter().map(u64::to_string).collect();
    assert_eq!(ids.len(), 4);
    let waited = cluster.run(&[&["wait"], &*ids.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    assert_eq!(waited.status.code(), Some(0), "{}", err(&waited));
    let printed: Vec<String> = ids.iter().map(|id| out(&cluster.run(&["logs", id]))).collect();
    assert_eq!(printed, ["1e-4 sgd\n", "1e-4 adam\n", "1e-3 sgd\n", "1e-3 adam\n"]);
    let listed = cluster.json(&["ps", "--all", "--name", "grid"]);
    let labels: BTreeMap<u64, Value> = listed["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| (job["job_id"].as_u64().unwrap(), job["labels"].clone()))
        .collect();
    assert_eq!(labels[&3], json!({ "lr": "1e-3", "opt": "sgd" }));
    let table = out(&cluster.run(&["ps", "--all"]));
    assert!(table.lines().next().unwrap().contains("LABELS"), "{table}");
    assert!(table.contains("lr=1e-3 opt=sgd"), "people see which is which: {table}");
}

#[test]
fn a_recipe_is_trained_with_each_value_of_a_setting() {
    let cluster = Cluster::up();
    let spec = cluster.place.file("mlp.yaml", "recipe: {name: mlp, hidden: [16]}\n");
    let stored = cluster.json(&["submit", spec.to_str().unwrap(), "--sweep", "epochs=1,2"]);
    let epochs: Vec<Value> = ids(&stored)
        .into_iter()
        .map(|id| cluster.until(id, "COMPLETED")["spec"]["recipe"]["settings"]["epochs"].clone())
        .collect();
    assert_eq!(epochs, [1, 2]);
    let trained = |job: u64| {
        let log = out(&cluster.run(&["logs", &job.to_string()]));
        log.lines().filter(|line| line.contains("epoch")).count()
    };
    assert!(trained(1) >= 1 && trained(2) > trained(1), "one epoch and two were really trained");
}

#[test]
fn a_sweep_is_stored_whole_or_not_at_all() {
    let cluster = Cluster::up();
    let refused = cluster.run(&["submit", "--sweep", "n=0,999", "--gpus", "{n}", "--", "true"]);
    assert_eq!((refused.status.code(), out(&refused).as_str()), (Some(2), ""));
    let told = err(&refused);
    assert!(told.starts_with("error[never-fits]: "), "{told}");
    let (line, carets) = (told.lines().nth(3).unwrap(), told.lines().nth(4).unwrap());
    let at = carets.find('^').unwrap();
    assert_eq!(line.get(at..at + carets.trim_end().len() - at), Some("999"), "the caret is at the value:\n{told}");
    let refused = cluster.run(&["submit", "--sweep", "lr=1,1", "--", "true"]);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(cluster.json(&["ps", "--all"])["jobs"], json!([]), "nothing is stored");
}

#[test]
fn run_shows_every_job_of_a_sweep_and_ends_with_the_highest_code() {
    let cluster = Cluster::up();
    let ran = cluster.run(&["run", "--sweep", "code=0,4,3", "--", "sh", "-c", "echo {code}; exit {code}"]);
    assert_eq!(ran.status.code(), Some(4));
    assert_eq!(out(&ran), "1[0].0: 0\n2[0].0: 4\n3[0].0: 3\n");
}
