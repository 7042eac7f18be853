//! Files of every released format version still load.
//!
//! `formats/vN` holds a model and a checkpoint as version N wrote them, of the `mlp`
//! recipe on the digits with a hidden layer of 8. A new version adds a folder and a
//! test; the old ones stay.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use gangsaw_trainer::{Device, Dirs, Progress, TrainConfig, evaluate, train};

/// Test rows by which another kind of processor may differ: its sums round differently.
const ROWS_APART_MAX: usize = 3;

fn stored(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name)
}

#[test]
fn a_model_of_version_1_evaluates_to_the_accuracy_it_states() {
    let eval = evaluate(&stored("v1/model.safetensors")).unwrap();
    assert_eq!((eval.test_total, eval.model.steps), (359, 138));
    assert!(eval.model.test_accuracy > 0.8, "{}", eval.model.test_accuracy);
    let apart = eval.test_correct.abs_diff(eval.model.test_correct);
    assert!(apart <= ROWS_APART_MAX, "{} and {}", eval.test_correct, eval.model.test_correct);
}

#[test]
fn a_checkpoint_of_version_1_is_resumed_to_the_model_of_version_1() {
    let checkpoint = stored("v1/step-0000000100");
    let manifest = std::fs::read_to_string(checkpoint.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let config = TrainConfig::parse("mlp", &manifest["config"].to_string()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().to_owned();
    let dirs = Dirs { checkpoint: output.join("new"), output, resume_from: Some(checkpoint) };
    let mut first_step = None;
    let progress = |event: Progress| {
        if let Progress::Step { step, .. } = event {
            first_step.get_or_insert(step);
        }
    };
    let summary = train(&config, &dirs, &Device::Cpu, progress, &AtomicBool::new(false)).unwrap();
    assert_eq!((first_step, summary.resumed_from_step), (Some(101), Some(100)));
    let old = evaluate(&stored("v1/model.safetensors")).unwrap();
    let apart = summary.test_correct.abs_diff(old.test_correct);
    assert!(apart <= ROWS_APART_MAX, "{} and {}", summary.test_correct, old.test_correct);
}
