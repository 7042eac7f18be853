//! Folders from the environment, devices, and what `result.json` says for each end.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

#[test]
fn folders_come_from_the_environment_or_lie_under_the_working_folder() {
    let none = dirs_from(|_| None);
    assert_eq!(none.output, Path::new("gangsaw-output"));
    assert_eq!(none.checkpoint, Path::new("gangsaw-output/checkpoints"));
    assert_eq!(none.resume_from, None);
    let all = dirs_from(|name| Some(format!("/dirs/{name}").into()));
    assert_eq!(all.output, Path::new("/dirs/GANGSAW_OUTPUT_DIR"));
    assert_eq!(all.checkpoint, Path::new("/dirs/GANGSAW_CHECKPOINT_DIR"));
    assert_eq!(all.resume_from.unwrap(), Path::new("/dirs/GANGSAW_RESUME_FROM"));
    let empty = dirs_from(|_| Some(PathBuf::new()));
    assert_eq!(empty, none);
}

#[test]
fn a_gpu_is_never_replaced_by_the_cpu() {
    assert!(open_device("cpu").unwrap().is_cpu());
    let error = open_device("cuda").unwrap_err();
    assert_eq!(error.to_string(), "this program was built without CUDA");
    assert_eq!((error.reason(), error.exit_code()), ("no-device", 78));
    assert_eq!(open_device("tpu").unwrap_err().exit_code(), 78);
}

#[test]
fn result_json_tells_every_end_apart() {
    let folder = tempfile::tempdir().unwrap();
    let written = |ended: Result<Summary, TrainError>, code: i32| {
        write_result(folder.path(), &ended, code).unwrap();
        let text = std::fs::read_to_string(folder.path().join("result.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let stopped = TrainError::Stopped { step: 7, checkpoint: Some("/c/step-0000000007".into()) };
    assert_eq!(
        written(Err(stopped), 143),
        json!({"schema_version": 1, "outcome": "stopped", "exit_code": 143, "step": 7,
            "checkpoint": "/c/step-0000000007"})
    );
    assert_eq!(
        written(Err(TrainError::Device("no".to_owned())), 78),
        json!({"schema_version": 1, "outcome": "failed", "exit_code": 78, "reason": "no-device", "message": "no"})
    );
    let config = TrainConfig::parse("mlp", r#"{"epochs": 1, "hidden": [4]}"#).unwrap();
    let output = folder.path().to_owned();
    let dirs = Dirs { checkpoint: output.join("checkpoints"), output, resume_from: None };
    let summary = run(&config, &dirs, "cpu", &AtomicBool::new(false)).unwrap();
    let result = written(Ok(summary), 0);
    assert_eq!((&result["outcome"], &result["exit_code"]), (&json!("finished"), &json!(0)));
    assert_eq!(result["test_total"], 359);
    assert_eq!(result["device"], "cpu");
}
