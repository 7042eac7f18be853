//! A fleet at the door at once: few attach, some wait, the others come again when they are told; people are answered.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::Code;

use crate::common::{Agent, Clients, PATIENCE, Scheduler, connect, shell, token};

/// Nodes that come at once, on as many connections of a hundred streams as they need.
const FLEET: usize = 400;
const ON_ONE_CONNECTION: usize = 50;

/// Attaches as an agent does. Returns the session, and how often it was sent away.
async fn come(clients: Clients, number: usize) -> (Agent, usize) {
    for sent_away in 0.. {
        let name = format!("n{number}");
        match Agent::try_attach(&clients, &name, &format!("uuid-{name}"), Vec::new()).await {
            Ok(agent) => return (agent, sent_away),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                let after = status.metadata().get("retry-after-ms").unwrap().to_str().unwrap();
                let after = Duration::from_millis(after.parse().unwrap());
                assert!((Duration::from_millis(499)..=Duration::from_secs(20)).contains(&after), "{after:?}");
                // What is told is what an agent does: nothing is waited for here.
                tokio::time::sleep(after).await;
            }
        }
    }
    unreachable!("it comes until it is in")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_at_once_is_let_in_little_by_little_and_a_submit_is_answered_meanwhile() {
    let state = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start_with(state.path(), |config| config.attaching_max = 1).await;
    let mut connections = Vec::new();
    for _ in 0..FLEET / ON_ONE_CONNECTION {
        connections.push(connect(scheduler.address, &token(state.path())).await);
    }
    let mut fleet = JoinSet::new();
    for number in 0..FLEET {
        fleet.spawn(come(connections[number % connections.len()].clone(), number));
    }
    let begin = Instant::now();
    let mut agents = Vec::new();
    let mut submits = 0;
    let mut clients = scheduler.clients.clone();
    while agents.len() < FLEET {
        tokio::select! {
            came = fleet.join_next() => agents.push(came.unwrap().unwrap()),
            answered = clients.jobs.submit(shell(&format!("k{submits}"), "true")), if submits < 20 => {
                answered.unwrap();
                submits += 1;
            }
        }
        assert!(begin.elapsed() < PATIENCE, "{} of {FLEET} are in", agents.len());
    }
    let sent_away: usize = agents.iter().map(|(_, times)| times).sum();
    assert!(sent_away > 0, "all of {FLEET} were let in at once");
    assert!(submits > 0, "no submit was answered while the fleet came");
    drop((agents, connections));
    scheduler.stop().await;
}
