//! The datagrams, the metrics lines, and that nobody listening stops nothing.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

fn step(step: u32) -> Progress {
    Progress::Step { step, steps: 9, epoch: 1, epochs: 3, loss: 0.5, lr: 0.25, samples_per_second: 100.0 }
}

fn epoch() -> Progress {
    Progress::Epoch {
        epoch: 1,
        epochs: 3,
        step: 3,
        steps: 9,
        loss: 0.75,
        test_accuracy: 0.875,
        validation_accuracy: None,
        samples_per_second: 100.0,
    }
}

#[test]
fn a_receiver_gets_one_json_object_a_message() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("progress");
    let receiver = UnixDatagram::bind(&path).unwrap();
    receiver.set_nonblocking(true).unwrap();
    let mut sender = Sender::new(path).unwrap();
    let next = || {
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        let size = receiver.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..size].to_vec()).unwrap())
    };
    sender.send(&step(1));
    let want = r#"{"step":1,"total":9,"epoch":1,"metrics":{"loss":0.5,"lr":0.25,"samples_per_second":100.0}}"#;
    assert_eq!(next().unwrap(), want);
    sender.send(&epoch());
    let want = r#"{"step":3,"total":9,"epoch":1,"metrics":{"epoch_loss":0.75,"test_accuracy":0.875}}"#;
    assert_eq!(next().unwrap(), want);
    sender.send(&Progress::Checkpoint { step: 3, path: "/c/step-3".into() });
    assert_eq!(next().unwrap(), r#"{"step":3,"checkpoint":"/c/step-3"}"#);
    // The last step goes out although the interval has hardly passed.
    sender.send(&step(9));
    assert!(next().unwrap().contains(r#""step":9"#));
    assert_eq!(next(), None);
}

#[test]
fn a_full_or_missing_receiver_loses_messages_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("progress");
    let mut sender = Sender::new(path.clone()).unwrap();
    sender.send(&epoch());
    let receiver = UnixDatagram::bind(&path).unwrap();
    for _ in 0..20_000 {
        sender.send(&epoch());
    }
    receiver.set_nonblocking(true).unwrap();
    let mut received = 0;
    while receiver.recv(&mut [0; 64]).is_ok() {
        received += 1;
    }
    assert!((1..20_000).contains(&received), "{received} messages");
    sender.send(&epoch());
    assert!(receiver.recv(&mut [0; 64]).is_ok());
}

#[test]
fn the_metrics_file_has_a_line_a_step_and_a_line_an_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let mut metrics = Metrics::create(folder.path()).unwrap();
    metrics.write(&step(1)).unwrap();
    metrics.write(&Progress::Note("unseen".into())).unwrap();
    metrics.write(&epoch()).unwrap();
    let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    assert_eq!(
        text,
        r#"{"kind":"step","step":1,"epoch":1,"loss":0.5,"lr":0.25,"samples_per_second":100.0}
{"kind":"epoch","step":3,"epoch":1,"loss":0.75,"test_accuracy":0.875,"samples_per_second":100.0}
"#
    );
}

#[test]
fn people_read_epochs_not_steps() {
    assert_eq!(line(&step(1)), None);
    assert_eq!(line(&epoch()).unwrap(), "epoch 1/3  loss 0.7500  test accuracy 0.8750  100 samples/s");
}
