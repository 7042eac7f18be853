//! The task as a process: environment, signals, kill -9, exit codes.
//!
//! The children are this very test program, started again with a variable set; the
//! test that is then the only one to run is [`child`].

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const SETTINGS: &str = "GANGSAW_TEST_SETTINGS";
const DEVICE: &str = "GANGSAW_TEST_DEVICE";

/// Not a test of its own: the body of a child process.
#[test]
fn child() {
    if let Ok(settings) = std::env::var(SETTINGS) {
        let device = std::env::var(DEVICE).unwrap();
        std::process::exit(gangsaw_trainer::run_from_env("cnn", &settings, &device));
    }
}

/// Long enough to be interrupted: the data is small, the epochs are many.
const LONG: &str = r#"{"epochs": 200, "channels": [4, 6], "hidden": [12], "checkpoint_every": 40}"#;

struct Task {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Task {
    fn start(settings: &str, device: &str, output: &Path, resume_from: Option<&Path>) -> Task {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["child", "--exact", "--nocapture", "--test-threads=1"]);
        command.env(SETTINGS, settings).env(DEVICE, device);
        command.env("RAYON_NUM_THREADS", "1").env("GANGSAW_OUTPUT_DIR", output);
        command.env("GANGSAW_CHECKPOINT_DIR", output.join("checkpoints"));
        command.env("GANGSAW_PROGRESS", output.with_extension("progress")).env_remove("GANGSAW_RESUME_FROM");
        if let Some(path) = resume_from {
            command.env("GANGSAW_RESUME_FROM", path);
        }
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Task { process, output }
    }

    /// Reads lines until one contains `text`.
    fn wait_for(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "it ended before {text:?}");
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Returns the exit code (none after kill -9), standard output and standard error.
    fn end(mut self) -> (Option<i32>, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        self.output.read_to_string(&mut out).unwrap();
        self.process.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (self.process.wait().unwrap().code(), out, err)
    }
}

fn result(output: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(output.join("result.json")).unwrap()).unwrap()
}

#[test]
fn sigterm_writes_a_checkpoint_and_exits_143_and_the_rest_gives_the_same_model() {
    let root = tempfile::tempdir().unwrap();
    let folder = |name: &str| root.path().join(name);
    let (code, ..) = Task::start(LONG, "cpu", &folder("whole"), None).end();
    assert_eq!(code, Some(0));
    let mut first = Task::start(LONG, "cpu", &folder("first"), None);
    first.wait_for("epoch 2/200");
    first.signal(Signal::TERM);
    let (code, _, err) = first.end();
    assert_eq!(code, Some(143), "{err}");
    let stopped = result(&folder("first"));
    assert_eq!((&stopped["outcome"], &stopped["exit_code"]), (&"stopped".into(), &143.into()));
    let checkpoint = stopped["checkpoint"].as_str().unwrap();
    assert!(Path::new(checkpoint).join("manifest.json").exists());
    let (code, out, _) = Task::start(LONG, "cpu", &folder("second"), Some(Path::new(checkpoint))).end();
    assert_eq!(code, Some(0));
    assert!(out.contains(&format!("resumed at step {}", stopped["step"])), "{out}");
    let model = |name: &str| std::fs::read(folder(name).join("model.safetensors")).unwrap();
    assert_eq!(model("second"), model("whole"));
    assert_eq!(result(&folder("second"))["test_accuracy"], result(&folder("whole"))["test_accuracy"]);
}

#[test]
fn a_run_killed_hard_again_and_again_ends_in_the_same_model() {
    let root = tempfile::tempdir().unwrap();
    let folder = |name: &str| root.path().join(name);
    let (code, ..) = Task::start(LONG, "cpu", &folder("whole"), None).end();
    assert_eq!(code, Some(0));
    let (attempts, resume) = (folder("attempts"), folder("attempts/checkpoints"));
    for epoch in [3, 11, 30] {
        let mut task = Task::start(LONG, "cpu", &attempts, Some(&resume));
        task.wait_for(&format!("epoch {epoch}/200"));
        task.signal(Signal::KILL);
        assert_eq!(task.end().0, None);
    }
    let (code, out, _) = Task::start(LONG, "cpu", &attempts, Some(&resume)).end();
    assert_eq!(code, Some(0));
    assert!(out.contains("resumed at step"), "{out}");
    let model = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert_eq!(model(&attempts), model(&folder("whole")));
}

#[test]
fn a_stop_asks_to_be_started_again_where_the_settings_say_so_and_sigint_exits_130() {
    let root = tempfile::tempdir().unwrap();
    let requeue = LONG.replace('{', r#"{"requeue_on_stop": true, "#);
    for (name, settings, signal, want) in
        [("term", requeue.as_str(), Signal::TERM, 75), ("int", LONG, Signal::INT, 130)]
    {
        let mut task = Task::start(settings, "cpu", &root.path().join(name), None);
        task.wait_for("epoch 1/200");
        task.signal(signal);
        let (code, _, err) = task.end();
        assert_eq!(code, Some(want), "{err}");
        assert!(err.contains("error[stopped]: stopped as asked after step "), "{err}");
        assert_eq!(result(&root.path().join(name))["exit_code"], want);
    }
}

#[test]
fn every_refusal_has_its_exit_code_its_word_and_a_result_file() {
    let root = tempfile::tempdir().unwrap();
    let missing = r#"{"data": {"idx": "/nowhere"}}"#;
    let cases = [
        (r#"{"epoch": 3, "lr": -1}"#, "cpu", 2, "bad-settings", "lr: expected a number"),
        (r#"{"channels": [4, 4, 4, 4]}"#, "cpu", 2, "bad-settings", "channels: 4 blocks"),
        (missing, "cpu", 65, "bad-data", "/nowhere/train-images-idx3-ubyte"),
        ("{}", "cuda", 78, "no-device", "built without CUDA"),
    ];
    for (settings, device, code, reason, words) in cases {
        let (got, _, err) = Task::start(settings, device, root.path(), None).end();
        assert_eq!(got, Some(code), "{settings}: {err}");
        assert!(err.contains(&format!("error[{reason}]: ")) && err.contains(words), "{err}");
        let result = result(root.path());
        assert_eq!((&result["outcome"], &result["reason"]), (&"failed".into(), &reason.into()));
        assert!(!root.path().join("model.safetensors").exists());
    }
}

#[test]
fn a_checkpoint_of_other_settings_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut first = Task::start(LONG, "cpu", &root.path().join("first"), None);
    first.wait_for("epoch 1/200");
    first.signal(Signal::TERM);
    first.end();
    let other = LONG.replace(r#""hidden": [12]"#, r#""hidden": [12], "lr": 0.001"#);
    let from = root.path().join("first/checkpoints");
    let (code, _, err) = Task::start(&other, "cpu", &root.path().join("second"), Some(&from)).end();
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("cannot be resumed: lr was 0.004 and is 0.001"), "{err}");
}

#[test]
fn progress_arrives_at_the_socket_up_to_the_last_step() {
    let root = tempfile::tempdir().unwrap();
    let output = root.path().join("run");
    let socket = UnixDatagram::bind(output.with_extension("progress")).unwrap();
    // Read while it runs: a kernel may queue as few as ten datagrams.
    let reader = std::thread::spawn(move || {
        let (mut messages, mut buffer) = (Vec::<Value>::new(), [0; 4096]);
        loop {
            match socket.recv(&mut buffer).unwrap() {
                0 => return messages,
                size => messages.push(serde_json::from_slice(&buffer[..size]).unwrap()),
            }
        }
    });
    let settings = r#"{"epochs": 3, "channels": [4], "hidden": [8], "checkpoint_every": 50}"#;
    let (code, out, _) = Task::start(settings, "cpu", &output, None).end();
    assert_eq!(code, Some(0), "{out}");
    let end = UnixDatagram::unbound().unwrap();
    end.send_to(&[], output.with_extension("progress")).unwrap();
    let messages = reader.join().unwrap();
    assert_eq!(messages[0], serde_json::json!({"step": 0, "total": 69}));
    let ended = |epoch: u64| {
        let accuracy = |m: &&Value| m["epoch"] == epoch && m["metrics"]["test_accuracy"].is_f64();
        messages.iter().filter(accuracy).count()
    };
    assert_eq!([ended(1), ended(2), ended(3)], [1, 1, 1]);
    let checkpoint = messages.iter().find(|m| m["checkpoint"].is_string()).unwrap();
    assert_eq!(checkpoint["step"], 50);
    let last_step = |m: &Value| m["step"] == 69 && m["metrics"]["loss"].is_f64();
    assert!(messages.iter().any(last_step), "{messages:?}");
}
