//! The quickstart: a trained model, and nothing left running, however it ends.

use std::io::{BufReader, Read as _};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::cluster::{Place, err, eventually, kill, out, processes_naming};

#[test]
fn quickstart_trains_tells_and_leaves_nothing_running() {
    let place = Place::new();
    let output = place.gangsaw(&["quickstart", "--seed", "3", "--output", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(processes_naming(place.path().to_str().unwrap()), [], "at once, not in a while");
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(
        names,
        [
            "schema_version",
            "job_id",
            "state",
            "device",
            "device_reason",
            "test_accuracy",
            "seed",
            "train_seconds",
            "submit_to_start_ms",
            "model_path",
            "log_path"
        ]
    );
    assert_eq!((&value["state"], &value["device"], &value["seed"]), (&"COMPLETED".into(), &"cpu".into(), &3.into()));
    assert!(value["test_accuracy"].as_f64().unwrap() >= 0.97, "{value}");
    assert!(value["submit_to_start_ms"].as_f64().unwrap() > 0.0);
    let log = std::fs::read_to_string(value["log_path"].as_str().unwrap()).unwrap();
    assert!(log.contains("epoch"), "{log}");
    let model = value["model_path"].as_str().unwrap();
    let eval = place.gangsaw(&["train", "--eval", model, "--output", "json"]).output().unwrap();
    let eval: Value = serde_json::from_slice(&eval.stdout).unwrap();
    assert_eq!(eval["test_accuracy"], value["test_accuracy"], "unrounded, and the same");
    assert!(err(&output).lines().any(|line| line.starts_with("epoch ")), "plain lines when piped: {}", err(&output));
}

#[test]
fn ctrl_c_ends_a_quickstart_and_all_of_it() {
    let place = Place::new();
    let mut run = place.gangsaw(&["quickstart"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut notes = BufReader::new(run.stderr.take().unwrap());
    until_training(&mut notes);
    kill(u64::from(run.id()), Signal::INT);
    let mut rest = String::new();
    notes.read_to_string(&mut rest).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130), "{rest}");
    assert_eq!(processes_naming(place.path().to_str().unwrap()), []);
}

#[test]
fn a_killed_quickstart_takes_all_of_it_along() {
    let place = Place::new();
    let mut run = place.gangsaw(&["quickstart"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    until_training(&mut BufReader::new(run.stderr.take().unwrap()));
    run.kill().unwrap();
    run.wait().unwrap();
    eventually("nothing is left", || processes_naming(place.path().to_str().unwrap()).is_empty().then_some(()));
}

/// Reads notes until the job runs.
fn until_training(notes: &mut impl std::io::BufRead) {
    let mut seen = String::new();
    while !seen.contains("RUNNING") {
        assert!(notes.read_line(&mut seen).unwrap() > 0, "it ended before the job ran: {seen}");
    }
}

#[test]
fn train_in_the_foreground_works_without_a_cluster() {
    let place = Place::new();
    let output = place.gangsaw(&["train", "mlp", "--seed", "3", "--epochs", "1"]).output().unwrap();
    assert!(output.status.success(), "{}", err(&output));
    assert!(place.path().join("mlp-1/model.safetensors").is_file());
    let output = place.gangsaw(&["train", "mlpp"]).output().unwrap();
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(2), ""));
}
