//! The engine beside its ordinary path: a decision that panics, an inbox that is full, a folder that is in the way.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use gangsaw_core::access::Reach;
use gangsaw_core::effect::Step;
use gangsaw_core::id::{Actor, JobId, RequestId, Tenant};
use gangsaw_core::input::Input;
use gangsaw_core::state::State;
use gangsaw_core::time::Time;
use tonic::Code;

use super::*;
use crate::store::SqliteStore;

fn parts(folder: &Path) -> Parts {
    let (store, loaded) = SqliteStore::open(folder, None).unwrap();
    let disk = DiskGuard::open(folder).unwrap();
    Parts {
        store: Box::new(store),
        loaded,
        disk,
        metrics: Arc::default(),
        refused_inputs: folder.join("refused-inputs"),
    }
}

pub(super) fn started(folder: &Path) -> Engine {
    Engine::start(parts(folder)).unwrap().0
}

fn asking(input: Input) -> Request {
    let (actor, tenant, request_id) = (Actor::new("ada").unwrap(), Tenant::default(), RequestId::new("r1").unwrap());
    Request { actor, tenant, reach: Reach::Tenant, request_id, input }
}

/// Panics for job 666 and decides everything else.
fn panicking(state: &State, now: Time, request: &Request) -> Step {
    assert!(!matches!(request.input, Input::Hold { job: JobId(666) }), "no such number");
    gangsaw_core::decide::decide(state, now, request)
}

#[tokio::test]
async fn an_input_whose_decision_panics_is_refused_kept_and_counted_and_the_engine_lives() {
    let dir = tempfile::tempdir().unwrap();
    let parts = parts(dir.path());
    let metrics = Arc::clone(&parts.metrics);
    let (engine, ended) = Engine::start_with(parts, panicking).unwrap();
    let hold = |job| engine.ask(asking(Input::Hold { job: JobId(job) }));
    let refusal = hold(666).await.unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_ref()), (Code::Internal, "invariant"));
    let kept = std::fs::read_to_string(dir.path().join("refused-inputs")).unwrap();
    assert!(kept.contains("no such number") && kept.contains("Hold { job: JobId(666) }"), "{kept}");
    assert_eq!(hold(7).await.unwrap_err().reason, "unknown-job", "the engine goes on");
    assert_eq!(engine.read(|view| view.troubles()).await.unwrap(), (false, 1));
    assert!(metrics.render().contains("gangsaw_inputs_refused_total{reason=\"invariant\"} 1"));
    for _ in 0..100 {
        hold(666).await.unwrap_err();
    }
    assert_eq!(engine.read(|view| view.troubles().1).await.unwrap(), 101);
    engine.stop();
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_full_inbox_is_refused_at_once_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, ended) = Engine::start(parts(dir.path())).unwrap();
    let (hold, held) = std::sync::mpsc::channel::<()>();
    // The engine stands still in this read until the sender is dropped.
    let standing = engine.clone();
    let read = tokio::spawn(async move { standing.read(move |_| held.recv().is_err()).await });
    let mut refused = None;
    for _ in 0..=2 * INBOX_LIMIT {
        if let Err(refusal) = engine.send(Message::Read(Box::new(|_| {}))) {
            refused = Some(refusal);
            break;
        }
        tokio::task::yield_now().await;
    }
    let refusal = refused.unwrap();
    assert_eq!((refusal.code, refusal.reason.as_ref()), (Code::ResourceExhausted, "busy"));
    assert!(!refusal.hint.is_empty());
    drop(hold);
    assert!(read.await.unwrap().unwrap());
    engine.stop();
    ended.await.unwrap().unwrap();
    let gone = engine.ask(asking(Input::Tick)).await.unwrap_err();
    assert_eq!((gone.code, gone.reason.as_ref()), (Code::Unavailable, "stopping"));
}

#[tokio::test]
async fn every_message_of_a_burst_larger_than_a_batch_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, ended) = Engine::start(parts(dir.path())).unwrap();
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let standing = engine.clone();
    let read = tokio::spawn(async move { standing.read(move |_| held.recv().is_err()).await });
    tokio::task::yield_now().await;
    let burst: Vec<_> = (0..5_000)
        .map(|_| {
            let engine = engine.clone();
            tokio::spawn(async move { engine.ask(asking(Input::Hold { job: JobId(1) })).await })
        })
        .collect();
    tokio::task::yield_now().await;
    drop(hold);
    for each in burst {
        let answer = tokio::time::timeout(std::time::Duration::from_secs(20), each).await.unwrap().unwrap();
        assert_eq!(answer.unwrap_err().reason, "unknown-job");
    }
    assert!(read.await.unwrap().unwrap());
    engine.stop();
    ended.await.unwrap().unwrap();
}
