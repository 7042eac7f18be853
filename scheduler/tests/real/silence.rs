//! A node that holds its stream open and says nothing any more.
//!
//! The time to live of a small fleet is thirty seconds, and this test waits for it.

use std::time::Duration;

use gangsaw_proto::jobs::v1 as jobs;
use gangsaw_proto::node::v1 as node;
use gangsaw_proto::node::v1::attach_request::Message as ToScheduler;
use gangsaw_proto::node::v1::attach_response::Message as ToNode;

use crate::common::{Agent, Scheduler, get, shell, started, wait};

/// Well within a node's time to live.
const BEAT: Duration = Duration::from_secs(3);
/// Longer than a time to live and a back-off.
const PATIENCE: Duration = Duration::from_secs(90);

/// Waits for a grant, and goes on saying that the node is there.
async fn grant_between_heartbeats(agent: &mut Agent) -> node::Grant {
    let beat = ToScheduler::Heartbeat(node::Heartbeat { sent_ms: 1, ..Default::default() });
    let waiting = async {
        loop {
            match tokio::time::timeout(BEAT, agent.next()).await {
                Ok(ToNode::Grant(grant)) => return grant,
                Ok(ToNode::HeartbeatAck(_)) => {}
                Ok(other) => panic!("not a grant: {other:?}"),
                Err(_) => agent.send(beat.clone()).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("no second attempt")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_loses_its_task_to_another_and_is_fenced_when_it_speaks() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut mute = scheduler.agent("mute").await;
    let mut request = shell("k1", "true");
    request.jobs[0].lost_after = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    scheduler.clients.jobs.clone().submit(request).await.unwrap();
    let lost = mute.grant().await;
    mute.report(lost.lease_id, vec![started(0)]).await;

    let mut other = scheduler.agent("other").await;
    let second = grant_between_heartbeats(&mut other).await;
    assert_eq!((lost.attempt, second.attempt), (1, 2));
    let mut admin = scheduler.clients.admin.clone();
    let nodes = admin.list_nodes(gangsaw_proto::admin::v1::ListNodesRequest::default()).await;
    let nodes = nodes.unwrap().into_inner().nodes;
    let connected: Vec<(&str, bool)> = nodes.iter().map(|node| (node.name.as_str(), node.connected)).collect();
    assert_eq!(connected, [("mute", false), ("other", true)]);

    // On the stream it never closed, the silent node says that its task did well.
    mute.say(lost.lease_id, vec![crate::common::ended(0, 0)]).await;
    let fenced = loop {
        match mute.try_next().await {
            Some(ToNode::Revoke(revoke)) => break revoke.reason(),
            Some(_) => {}
            // Its session was ended with its silence: it says Hello again, with the lease it believes in.
            None => {
                let phase = node::held_lease::Phase::Running.into();
                let held = node::HeldLease { lease_id: lost.lease_id, phase, last_index: 0 };
                mute = Agent::attach(&scheduler.clients, "mute", vec![held]).await;
            }
        }
    };
    assert_eq!(fenced, node::revoke::Reason::Fenced);
    assert_eq!(get(&scheduler.clients, 1).await.tasks[0].attempt, 2, "the record is the second attempt's");
    other.run(&second, 4).await;
    assert_eq!(wait(&scheduler.clients, 1).await.state(), jobs::State::Failed);
    let task = get(&scheduler.clients, 1).await.tasks[0].clone();
    assert_eq!((task.attempt, task.exit_code), (2, Some(4)));
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_of_a_far_version_is_refused_by_name_and_a_neighbour_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let refused = Agent::attach_as(&scheduler.clients, "n1", "0.9.0").await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert_eq!(crate::common::reason(&refused).0, "version-skew");
    assert!(refused.message().contains("0.9.0") && refused.message().contains(env!("CARGO_PKG_VERSION")), "{refused}");
    Agent::attach_as(&scheduler.clients, "n1", "0.2.0").await.unwrap();
    scheduler.stop().await;
}
