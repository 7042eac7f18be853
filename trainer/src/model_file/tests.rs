//! A model file alone is enough, and what is no model file is refused with the reason.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::AtomicBool;

use super::*;
use crate::train::{Dirs, train};

/// Trains for two epochs and returns the folder with the model.
fn trained() -> (tempfile::TempDir, crate::train::Summary) {
    let folder = tempfile::tempdir().unwrap();
    let config = TrainConfig::parse("mlp", r#"{"epochs": 2, "hidden": [16], "seed": 3}"#).unwrap();
    let output = folder.path().to_owned();
    let dirs = Dirs { checkpoint: output.join("checkpoints"), output, resume_from: None };
    let summary = train(&config, &dirs, &Device::Cpu, |_| (), &AtomicBool::new(false)).unwrap();
    (folder, summary)
}

#[test]
fn the_file_moved_alone_gives_the_same_accuracy_again() {
    let (_folder, summary) = trained();
    let other = tempfile::tempdir().unwrap();
    let path = other.path().join("renamed.safetensors");
    std::fs::copy(&summary.model_path, &path).unwrap();
    let eval = evaluate(&path).unwrap();
    assert_eq!(eval.test_accuracy.to_bits(), summary.test_accuracy.to_bits());
    assert_eq!((eval.test_correct, eval.test_total), (summary.test_correct, 359));
    assert_eq!(eval.model.config.seed, 3);
    assert_eq!(eval.model.steps, summary.steps);
    let beside = std::fs::read(summary.model_path.with_file_name("model.json")).unwrap();
    assert_eq!(serde_json::from_slice::<ModelInfo>(&beside).unwrap(), eval.model);
}

#[test]
fn equal_runs_give_equal_files() {
    let (first, second) = (trained(), trained());
    let read = |summary: &crate::train::Summary| std::fs::read(&summary.model_path).unwrap();
    assert_eq!(read(&first.1), read(&second.1));
}

#[test]
fn what_is_no_model_is_refused_with_the_reason() {
    let (folder, summary) = trained();
    let refusal = |bytes: &[u8]| {
        let path = folder.path().join("bad");
        std::fs::write(&path, bytes).unwrap();
        let error = evaluate(&path).unwrap_err();
        assert_eq!((error.reason(), error.exit_code()), ("bad-model", 65));
        error.to_string().split_once("bad: ").unwrap().1.to_owned()
    };
    let whole = std::fs::read(&summary.model_path).unwrap();
    assert!(refusal(b"").starts_with("not a safetensors file: "));
    assert!(refusal(&whole[..whole.len() - 9]).starts_with("not a safetensors file: "));
    let foreign = safetensors::serialize(Vec::<(String, safetensors::tensor::TensorView)>::new(), None);
    assert_eq!(refusal(&foreign.unwrap()), "a safetensors file, but not a model of Gangsaw");
    let replace = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = whole.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let newer = replace(r#"\"format_version\":1"#, r#"\"format_version\":9"#);
    assert_eq!(refusal(&newer), "its format is version 9, this program reads 1");
    let print = crate::data::Dataset::load(&crate::config::DataSource::Digits).unwrap().fingerprint();
    let other = replace(&print, &"0".repeat(64));
    assert_eq!(refusal(&other), "the data it was trained on has changed since");
    let renamed = replace("dense0.bias", "dense9.bias");
    assert_eq!(refusal(&renamed), "dense0.bias is missing");
    let gone = evaluate(&folder.path().join("gone")).unwrap_err();
    assert_eq!(gone.reason(), "io");
}
