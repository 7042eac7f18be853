//! A burst beyond the bound: who waits, who is sent away, and that all come in.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicUsize, Ordering};

use gangsaw_core::access::Reach;
use gangsaw_core::id::{Actor, NodeName, RequestId, Tenant};
use gangsaw_core::input::{Input, NodeHello, Request};
use gangsaw_core::resources::Inventory;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::*;
use crate::engine::{Engine, for_tests};
use crate::wire::view::Volatile;

fn after_ms(status: &Status) -> u64 {
    assert_eq!(status.code(), Code::ResourceExhausted);
    status.metadata().get(RETRY_AFTER).unwrap().to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn those_beyond_the_bound_wait_or_are_sent_away_to_moments_of_their_own() {
    let bounds = Bounds { attaching: 2, waiting: 1, wait: Duration::from_secs(2) };
    let admission = Admission::new(bounds, Arc::default());
    let held = [admission.enter().await.unwrap(), admission.enter().await.unwrap()];
    let waiting = tokio::spawn({
        let admission = admission.clone();
        async move { admission.enter().await.map(drop) }
    });
    tokio::task::yield_now().await;
    let begin = Instant::now();
    let mut moments = Vec::new();
    for _ in 0..1_000 {
        let after = after_ms(&admission.enter().await.unwrap_err());
        moments.push(begin.elapsed() + Duration::from_millis(after));
    }
    let (first, last) = (moments[0], moments[999]);
    assert!(first >= AGAIN_MIN - Duration::from_millis(1), "{first:?}");
    let span = last.saturating_sub(first);
    assert!(span >= Duration::from_millis(990), "a thousand come again over a second, and these over {span:?}");
    drop(held);
    waiting.await.unwrap().unwrap();
    let _held = [admission.enter().await.unwrap(), admission.enter().await.unwrap()];
    // Nobody lets go: the wait ends before the agent's own patience does.
    let begin = Instant::now();
    after_ms(&admission.enter().await.unwrap_err());
    assert!(begin.elapsed() >= bounds.wait);
}

fn request(number: usize) -> Request {
    let name = NodeName::new(&format!("n{number}")).unwrap();
    let hello = NodeHello {
        name,
        uuid: format!("u{number}"),
        boot_id: "b".to_owned(),
        agent_version: String::new(),
        inventory: Inventory::default(),
        leases: Vec::new(),
    };
    Request {
        actor: Actor::new("node").unwrap(),
        tenant: Tenant::default(),
        reach: Reach::Own,
        request_id: RequestId::new("r").unwrap(),
        input: Input::NodeHello(hello),
    }
}

/// Attaches as an agent does, coming again when it is told. Returns how often it was sent away.
async fn attach(engine: Engine, admission: Admission, number: usize, inside: Arc<AtomicUsize>) -> usize {
    let mut sent_away = 0;
    loop {
        match admission.enter().await {
            Ok(_permit) => {
                let before = inside.fetch_add(1, Ordering::SeqCst);
                assert!(before < admission.bounds.attaching, "{before} are attaching already");
                let (out, _messages) = mpsc::channel(8);
                let session = number as u64 + 1;
                engine.hello(request(number), (session, out), Volatile::default(), None).await.unwrap();
                inside.fetch_sub(1, Ordering::SeqCst);
                return sent_away;
            }
            Err(status) => {
                sent_away += 1;
                tokio::time::sleep(Duration::from_millis(after_ms(&status))).await;
            }
        }
    }
}

#[tokio::test]
async fn a_fleet_at_once_all_comes_in_and_others_are_answered_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let engine = for_tests(folder.path());
    let bounds = Bounds { attaching: 4, waiting: 8, wait: Duration::from_secs(5) };
    let admission = Admission::new(bounds, Arc::default());
    let inside = Arc::new(AtomicUsize::new(0));
    let mut fleet = JoinSet::new();
    for number in 0..200 {
        fleet.spawn(attach(engine.clone(), admission.clone(), number, Arc::clone(&inside)));
    }
    // Those who are in or wait: 12 of 200. Somebody else's question passes them all.
    let nodes = engine.read(|view| view.state.node_count()).await.unwrap();
    assert!(nodes < 200, "{nodes} nodes were there before the question was answered");
    let mut sent_away = 0;
    while let Some(times) = fleet.join_next().await {
        sent_away += times.unwrap();
    }
    assert!(sent_away >= 100, "{sent_away} were sent away");
    assert_eq!(engine.read(|view| view.state.node_count()).await.unwrap(), 200);
    assert_eq!(admission.attaching.available_permits(), bounds.attaching);
    engine.stop();
}
