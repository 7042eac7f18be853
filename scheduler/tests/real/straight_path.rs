//! A job through the real engine, the real store and real RPC, with an agent that speaks node.v1.

use crate::common::{Agent, Scheduler, array, ended, get, reason, shell, started, submit, wait};
use gangsaw_proto::jobs::v1 as jobs;
use gangsaw_proto::node::v1 as node;
use gangsaw_proto::node::v1::attach_request::Message as ToScheduler;
use gangsaw_proto::node::v1::attach_response::Message as ToNode;
use gangsaw_proto::node::v1::fact::Fact as Kind;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_from_submit_to_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut agent = scheduler.agent("n1").await;
    let reply = scheduler.clients.jobs.clone().submit(shell("k1", "exit 3")).await.unwrap().into_inner();
    assert_eq!((reply.job_ids.as_slice(), reply.repeated), ([1].as_slice(), false));

    let grant = agent.grant().await;
    assert_eq!((grant.job_id, grant.first_index, grant.last_index, grant.attempt), (1, 0, 0, 1));
    assert_eq!(grant.task.as_ref().unwrap().user, "ada");
    let watching = tokio::spawn({
        let clients = scheduler.clients.clone();
        async move { wait(&clients, 1).await }
    });
    agent.report(grant.lease_id, vec![started(0)]).await;
    assert_eq!(get(&scheduler.clients, 1).await.tasks[0].pid, 4_242);
    agent.report(grant.lease_id, vec![ended(0, 3)]).await;
    let seen = watching.await.unwrap();
    assert_eq!((seen.state(), seen.exit_code), (jobs::State::Failed, Some(3)));

    let answer = get(&scheduler.clients, 1).await;
    let task = &answer.tasks[0];
    assert_eq!((task.state(), task.exit_code, task.node.as_str()), (jobs::State::Failed, Some(3), "n1"));
    assert_eq!((task.outcome(), task.attempt, task.output_dir.as_str()), (jobs::Outcome::Failed, 1, "/attempts/0"));
    let phases = answer.phases.unwrap();
    assert!(phases.durable_us > 0 && phases.durable_us < 1_000_000, "{phases:?}");
    assert_eq!((phases.spawned_us, phases.ran_us), (800, 1_500));
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut agent = scheduler.agent("n1").await;
    scheduler.clients.jobs.clone().submit(shell("k1", "true")).await.unwrap();
    let grant = agent.grant().await;
    agent.run(&grant, 0).await;
    let spec = jobs::JobSpec {
        work: Some(jobs::job_spec::Work::Shell("true".to_owned())),
        array: Some(array(999_999)),
        hold: true,
        ..Default::default()
    };
    scheduler.clients.jobs.clone().submit(submit("k2", spec)).await.unwrap();
    let before = (get(&scheduler.clients, 1).await, get(&scheduler.clients, 2).await);
    scheduler.stop().await;

    let scheduler = Scheduler::start(dir.path()).await;
    let after = (get(&scheduler.clients, 1).await, get(&scheduler.clients, 2).await);
    assert_eq!(after.0.job.unwrap().state(), jobs::State::Completed);
    assert_eq!(after.1.job.unwrap().element_counts, before.1.job.unwrap().element_counts);
    assert_eq!((after.1.tasks.len(), after.1.next_page.is_empty()), (1_000, false));
    let again = scheduler.clients.jobs.clone().submit(shell("k1", "true")).await.unwrap().into_inner();
    assert_eq!((again.job_ids.as_slice(), again.repeated), ([1].as_slice(), true));
    let other = scheduler.clients.jobs.clone().submit(shell("k1", "false")).await.unwrap_err();
    assert_eq!(other.code(), tonic::Code::AlreadyExists);
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_redials_gets_what_it_is_owed() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut agent = scheduler.agent("n1").await;
    scheduler.clients.jobs.clone().submit(shell("k1", "true")).await.unwrap();
    let lost = agent.grant().await;
    drop(agent);
    let mut agent = scheduler.agent("n1").await;
    assert_eq!(agent.grant().await.lease_id, lost.lease_id, "the grant that was lost comes again");
    agent.report(lost.lease_id, vec![started(0)]).await;

    let held =
        node::HeldLease { lease_id: lost.lease_id, phase: node::held_lease::Phase::Running.into(), last_index: 0 };
    let mut second = crate::common::Agent::attach(&scheduler.clients, "n1", vec![held]).await;
    assert!(agent.try_next().await.is_none(), "the older session of the node ended");
    scheduler.clients.jobs.clone().cancel(jobs::CancelRequest { select: select(1) }).await.unwrap();
    loop {
        match second.next().await {
            ToNode::Revoke(revoke) => {
                assert_eq!(revoke.lease_id, lost.lease_id);
                break;
            }
            ToNode::ReportAck(_) => {}
            other => panic!("not a revoke: {other:?}"),
        }
    }
    let revoked =
        Kind::Ended(node::Ended { signal: Some(15), cause: node::ended::Cause::Revoked.into(), ..Default::default() });
    second.report(lost.lease_id, vec![revoked]).await;
    assert_eq!(wait(&scheduler.clients, 1).await.state(), jobs::State::Cancelled);

    let newer = Agent::attach_late(&scheduler.clients, "n1", 2_000).await.unwrap();
    let late = Agent::attach_late(&scheduler.clients, "n1", 1_000).await.err().unwrap();
    assert_eq!(crate::common::reason(&late).0, "late-hello", "a stream that was given up does not speak for the node");
    drop(newer);
    let other = crate::common::Agent::try_attach(&scheduler.clients, "n1", "another-uuid", Vec::new()).await;
    assert!(other.is_err(), "another agent under the same name is refused");
    scheduler.stop().await;
}

fn select(job_id: u64) -> Option<jobs::Selector> {
    Some(jobs::Selector { job_id, elements: Vec::new() })
}

/// Ends every element of an array well; returns how often each was granted, and the widest grant.
pub(crate) async fn finish_array(agent: &mut Agent, elements: usize) -> (Vec<u32>, u32) {
    let mut seen = vec![0_u32; elements];
    let mut grants = std::collections::VecDeque::new();
    let mut largest = 0;
    while seen.contains(&0) {
        let grant = match grants.pop_front() {
            Some(grant) => grant,
            None => loop {
                match agent.next().await {
                    ToNode::Grant(grant) => break grant,
                    ToNode::ReportAck(_) => {}
                    other => panic!("{other:?}"),
                }
            },
        };
        let (first_index, last_index) = (grant.first_index, grant.last_index);
        largest = largest.max(last_index - first_index + 1);
        seen[first_index as usize..=last_index as usize].iter_mut().for_each(|count| *count += 1);
        let run = Kind::Succeeded(node::Succeeded { first_index, last_index, mean_us: 500 });
        for message in agent.report(grant.lease_id, vec![run]).await {
            if let ToNode::Grant(grant) = message {
                grants.push_back(grant);
            }
        }
    }
    (seen, largest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_array_runs_in_chunks_and_each_index_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut agent = scheduler.agent("n1").await;
    let spec = jobs::JobSpec {
        work: Some(jobs::job_spec::Work::Shell("true".to_owned())),
        array: Some(array(9_999)),
        ..Default::default()
    };
    scheduler.clients.jobs.clone().submit(submit("k1", spec)).await.unwrap();
    let (seen, largest) = finish_array(&mut agent, 10_000).await;
    let job = wait(&scheduler.clients, 1).await;
    assert_eq!(job.state(), jobs::State::Completed);
    assert_eq!(job.element_counts, [jobs::StateCount { state: jobs::State::Completed.into(), count: 10_000 }]);
    assert!(seen.iter().all(|count| *count == 1));
    assert!(largest >= 64, "chunks grow: {largest}");
    scheduler.stop().await;

    let mut records = Vec::new();
    gangsaw_scheduler::read_log(dir.path(), |record| records.push(record)).unwrap();
    assert!(records.iter().zip(1..).all(|(record, seq)| record.seq == seq), "the log has no gap");
    let different = gangsaw_core::place::replay(gangsaw_core::state::State::new(), &records);
    assert_eq!(different, [], "every recorded round is decided again as it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_finished_tasks_take_little_disk() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut agent = scheduler.agent("n1").await;
    let spec = jobs::JobSpec { array: Some(array(999_999)), ..shell("", "true").jobs.remove(0) };
    scheduler.clients.jobs.clone().submit(submit("k1", spec)).await.unwrap();
    finish_array(&mut agent, 1_000_000).await;
    assert_eq!(wait(&scheduler.clients, 1).await.state(), jobs::State::Completed);
    scheduler.stop().await;
    let folder = std::fs::read_dir(dir.path().join("scheduler")).unwrap();
    let bytes: u64 = folder.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    println!("a million finished tasks: {bytes} bytes of database and log");
    assert!(bytes < 30 << 20, "{bytes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_reaches_a_watcher_and_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut agent = scheduler.agent("n1").await;
    scheduler.clients.jobs.clone().submit(shell("k1", "train")).await.unwrap();
    let grant = agent.grant().await;
    agent.report(grant.lease_id, vec![started(0)]).await;
    let request = jobs::WatchRequest { job_id: 1, after_seq: 0 };
    let mut stream = scheduler.clients.jobs.clone().watch(request).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().job.unwrap().state(), jobs::State::Running);
    let json = br#"{"step": 10, "total": 100, "metrics": {"loss": 0.25}}"#.to_vec();
    let tasks = vec![node::TaskProgress { lease_id: grant.lease_id, index: 0, rank: 0, json }];
    agent.send(ToScheduler::Progress(node::ProgressBatch { tasks })).await;
    let message = stream.message().await.unwrap().unwrap();
    assert!(message.job.is_none(), "only progress");
    let progress = message.tasks[0].progress.clone().unwrap();
    assert_eq!((progress.step, progress.total, progress.metrics["loss"]), (Some(10), Some(100), 0.25));
    let future = jobs::WatchRequest { job_id: 1, after_seq: 1 << 40 };
    let refused = scheduler.clients.jobs.clone().watch(future).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).0.as_str()), (tonic::Code::OutOfRange, "future-sequence"));
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_is_answered_and_a_lasting_difference_asks_for_a_hello() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut agent = scheduler.agent("n1").await;
    let beat = |sent_ms, lease_count| {
        ToScheduler::Heartbeat(node::Heartbeat { sent_ms, lease_count, lease_hash: u64::from(lease_count) })
    };
    agent.send(beat(1, 0)).await;
    assert!(matches!(agent.next().await, ToNode::HeartbeatAck(ack) if ack.sent_ms == 1));
    agent.send(beat(2, 1)).await;
    assert!(
        matches!(agent.next().await, ToNode::HeartbeatAck(ack) if ack.sent_ms == 2),
        "once may be a report on its way"
    );
    agent.send(beat(3, 1)).await;
    assert!(matches!(agent.next().await, ToNode::HeartbeatAck(ack) if ack.sent_ms == 3));
    assert!(matches!(agent.next().await, ToNode::Reconcile(_)));
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_follows_its_submit_within_milliseconds() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut agent = scheduler.agent("n1").await;
    let (mut to_grant, mut to_end) = (Vec::new(), Vec::new());
    for number in 0..100 {
        let begun = std::time::Instant::now();
        let key = format!("k{number}");
        let mut client = scheduler.clients.jobs.clone();
        let reply = client.submit(shell(&key, "true"));
        let (reply, grant) = tokio::join!(reply, agent.grant());
        let job_id = reply.unwrap().into_inner().job_ids[0];
        to_grant.push(begun.elapsed());
        let watching = tokio::spawn({
            let clients = scheduler.clients.clone();
            async move { wait(&clients, job_id).await }
        });
        agent.run(&grant, 0).await;
        watching.await.unwrap();
        to_end.push(begun.elapsed());
    }
    to_grant.sort_unstable();
    to_end.sort_unstable();
    println!("submit → grant p50 {:?} p99 {:?}; submit → seen done p50 {:?}", to_grant[50], to_grant[99], to_end[50]);
    // Far above what an idle machine takes, far below any timer: nothing on the path polls.
    assert!(to_grant[50] < std::time::Duration::from_millis(100), "{:?}", to_grant[50]);
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_from_the_middle_of_a_chunk_share_appends() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut agent = scheduler.agent("n1").await;
    let spec = jobs::JobSpec { array: Some(array(9_999)), ..shell("", "true").jobs.remove(0) };
    scheduler.clients.jobs.clone().submit(submit("k1", spec)).await.unwrap();
    let grant = loop {
        match agent.next().await {
            ToNode::Grant(grant) if grant.last_index - grant.first_index >= 200 => break grant,
            ToNode::Grant(grant) => {
                let (first_index, last_index) = (grant.first_index, grant.last_index);
                let run = Kind::Succeeded(node::Succeeded { first_index, last_index, mean_us: 500 });
                agent.say(grant.lease_id, vec![run]).await;
            }
            ToNode::ReportAck(_) => {}
            other => panic!("{other:?}"),
        }
    };
    let appended = || std::fs::metadata(dir.path().join("scheduler/gangsaw.db-wal")).unwrap().len();
    let before = appended();
    let mut last = 0;
    for index in grant.first_index..grant.first_index + 200 {
        let run = Kind::Succeeded(node::Succeeded { first_index: index, last_index: index, mean_us: 500 });
        last = agent.say(grant.lease_id, vec![run]).await;
    }
    while !matches!(agent.next().await, ToNode::ReportAck(ack) if ack.seq >= last) {}
    let bytes = appended() - before;
    // Each append of its own would write two pages at least.
    assert!(bytes < 200 * 2 * 4_096, "{bytes} bytes for 200 reports");
    scheduler.stop().await;
}
