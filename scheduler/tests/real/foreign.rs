//! A node that speaks of what is another node's.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{Scheduler, ToNode, ended, get, shell, started, token, wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_about_another_nodes_lease_changes_nothing_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut holder = scheduler.agent("holder").await;
    let submitted = scheduler.clients.jobs.clone().submit(shell("k1", "true")).await.unwrap().into_inner();
    let job = submitted.job_ids[0];
    let grant = holder.grant().await;
    let mut liar = scheduler.agent("liar").await;
    let answers = liar.report(grant.lease_id, vec![started(0), ended(0, 0)]).await;
    let fenced = |message: &ToNode| matches!(message, ToNode::Revoke(revoke) if revoke.lease_id == grant.lease_id);
    assert!(answers.iter().any(fenced), "{answers:?}");
    assert_eq!(get(&scheduler.clients, job).await.tasks[0].exit_code, None, "nothing of it was believed");
    holder.run(&grant, 3).await;
    wait(&scheduler.clients, job).await;
    assert_eq!(get(&scheduler.clients, job).await.tasks[0].exit_code, Some(3), "the holder's word counts");
    let mut stream = tokio::net::TcpStream::connect(scheduler.address).await.unwrap();
    let token = token(dir.path());
    let request =
        format!("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("gangsaw_denied_total{reason=\"another-nodes-lease\"} 2"), "{answer}");
    scheduler.stop().await;
}
