//! Who gets in, what is too large, and how refusals read.

use gangsaw_proto::jobs::v1 as jobs;
use gangsaw_scheduler::{Config, ServeError};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

use crate::common::{Scheduler, faults, reason, shell, submit, token};

/// Calls any path with an empty message, with or without a token.
async fn call(scheduler: &Scheduler, path: &str, token: Option<&str>) -> Code {
    let channel = Channel::from_shared(format!("http://{}", scheduler.address)).unwrap().connect().await.unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let mut request = tonic::Request::new(());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = PathAndQuery::try_from(path).unwrap();
    let called = grpc.server_streaming(request, path, codec).await;
    called.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rpc_but_health_needs_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let set = prost_types::FileDescriptorSet::decode(gangsaw_proto::DESCRIPTORS).unwrap();
    let mut paths = vec!["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned()];
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                paths.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    assert!(paths.len() >= 19);
    for path in &paths {
        assert_eq!(call(&scheduler, path, None).await, Code::Unauthenticated, "{path}");
        assert_eq!(call(&scheduler, path, Some("00")).await, Code::Unauthenticated, "{path}");
        let token = token(dir.path());
        assert_ne!(call(&scheduler, path, Some(&token)).await, Code::Unauthenticated, "{path}");
    }
    assert_eq!(call(&scheduler, "/gangsaw.jobs.v1.JobsService/NoSuch", None).await, Code::Unauthenticated);
    assert_eq!(call(&scheduler, "/grpc.health.v1.Health/Check", None).await, Code::Ok);
    scheduler.stop().await;
}

/// Returns status line and body of a plain GET.
pub(crate) async fn http(scheduler: &Scheduler, path: &str, token: Option<&str>) -> (String, String) {
    let mut stream = tokio::net::TcpStream::connect(scheduler.address).await.unwrap();
    let auth = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{auth}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_need_the_token_and_healthz_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    scheduler.clients.jobs.clone().submit(shell("k1", "true")).await.unwrap();
    assert_eq!(http(&scheduler, "/healthz", None).await.0, "HTTP/1.1 200 OK");
    assert_eq!(http(&scheduler, "/metrics", None).await.0, "HTTP/1.1 401 Unauthorized");
    assert_eq!(http(&scheduler, "/metrics", Some("nonsense")).await.0, "HTTP/1.1 401 Unauthorized");
    let (status, body) = http(&scheduler, "/metrics", Some(&token(dir.path()))).await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(body.contains("gangsaw_jobs{state=\"pending\"} 1"), "{body}");
    assert!(body.contains("gangsaw_submit_to_durable_seconds_count 1"), "{body}");
    assert!(body.contains("gangsaw_disk_full 0"), "{body}");
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_others_reach_is_refused_without_tls() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::new(dir.path().to_owned(), "0.0.0.0:0".parse().unwrap());
    let error = gangsaw_scheduler::serve(config, CancellationToken::new()).await.unwrap_err();
    assert_eq!((error.reason(), error.exit_code()), ("insecure-bind", 2));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_scheduler_on_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let config = Config::new(dir.path().to_owned(), "127.0.0.1:0".parse().unwrap());
    let error = gangsaw_scheduler::serve(config, CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, ServeError::Open(_)), "{error:?}");
    assert_eq!((error.reason(), error.exit_code()), ("store-in-use", 74));
    scheduler.clients.jobs.clone().submit(shell("k1", "true")).await.unwrap();
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_spec_is_refused_and_nothing_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut client = scheduler.clients.jobs.clone();
    let refused = client.submit(shell("k1", &"x".repeat(12 << 20))).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).0.as_str()), (Code::InvalidArgument, "submit-too-large"));
    let refused = client.submit(shell("k2", &"x".repeat(40 << 20))).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let all = jobs::ListJobsRequest { all: true, ..Default::default() };
    assert!(client.list_jobs(all).await.unwrap().into_inner().jobs.is_empty());
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_faults_of_a_submit_come_at_once_with_their_places() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let good = shell("k", "true").jobs.remove(0);
    let bad =
        jobs::JobSpec { name: "bell\u{7}".to_owned(), priority: Some(5_000), requeue_on: vec![900], ..good.clone() };
    let request = jobs::SubmitRequest { jobs: vec![good, bad], ..shell("k1", "true") };
    let refused = scheduler.clients.jobs.clone().submit(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let faults = faults(&refused);
    assert!(faults.len() >= 3, "{faults:?}");
    assert!(faults.iter().all(|fault| fault.job == 1 && !fault.message.is_empty()), "{faults:?}");
    let paths: Vec<_> = faults.iter().map(|fault| fault.path.as_str()).collect();
    assert!(paths.contains(&"name") && paths.contains(&"priority"), "{paths:?}");

    let missing = scheduler.clients.jobs.clone().submit(jobs::SubmitRequest::default()).await.unwrap_err();
    assert_eq!((missing.code(), reason(&missing).0.as_str()), (Code::InvalidArgument, "missing-field"));
    let select = Some(jobs::Selector { job_id: 77, elements: Vec::new() });
    let unknown = scheduler.clients.jobs.clone().cancel(jobs::CancelRequest { select }).await.unwrap_err();
    assert_eq!((unknown.code(), reason(&unknown).0.as_str()), (Code::NotFound, "unknown-job"));
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_jobs_and_tasks_have_no_gap_and_no_double() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut client = scheduler.clients.jobs.clone();
    for number in 0..25 {
        client.submit(shell(&format!("k{number}"), "true")).await.unwrap();
    }
    let mut ids = Vec::new();
    let mut page = String::new();
    loop {
        let request = jobs::ListJobsRequest { page_size: 7, page, all: true, ..Default::default() };
        let answer = client.list_jobs(request).await.unwrap().into_inner();
        ids.extend(answer.jobs.iter().map(|job| job.job_id));
        page = answer.next_page;
        if page.is_empty() {
            break;
        }
    }
    assert_eq!(ids, (1..=25).rev().collect::<Vec<_>>());
    let spec = jobs::JobSpec { array: Some(crate::common::array(49)), ..shell("", "true").jobs.remove(0) };
    client.submit(submit("array", spec)).await.unwrap();
    let (mut indices, mut page) = (Vec::new(), String::new());
    loop {
        let job = Some(jobs::Selector { job_id: 26, elements: Vec::new() });
        let answer = client.get_job(jobs::GetJobRequest { job, page_size: 20, page }).await.unwrap().into_inner();
        indices.extend(answer.tasks.iter().map(|task| task.index));
        page = answer.next_page;
        if page.is_empty() {
            break;
        }
    }
    assert_eq!(indices, (0..50).collect::<Vec<_>>());
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_queues_are_set_and_listed() {
    use gangsaw_proto::admin::v1 as admin;
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let mut client = scheduler.clients.admin.clone();
    let agent = scheduler.agent("n1").await;
    let cordon = admin::SetNodeRequest {
        name: "n1".to_owned(),
        mode: admin::NodeMode::Cordoned.into(),
        reason: "fan".to_owned(),
        evict_after: None,
    };
    client.set_node(cordon).await.unwrap();
    let nodes = client.list_nodes(admin::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    assert_eq!(
        (nodes[0].name.as_str(), nodes[0].mode(), nodes[0].reason.as_str()),
        ("n1", admin::NodeMode::Cordoned, "fan")
    );
    assert!(nodes[0].connected && nodes[0].last_heard_at.is_some());
    assert_eq!(nodes[0].milli_cpus_free, 4_000);
    scheduler.clients.jobs.clone().submit(shell("k1", "true")).await.unwrap();
    let job = crate::common::get(&scheduler.clients, 1).await.job.unwrap();
    assert_eq!(job.reasons[0].reason, "nodes-cordoned");

    let set = admin::SetQueueRequest { name: "small".to_owned(), running_max: Some(2), ..Default::default() };
    client.set_queue(set).await.unwrap();
    let queues = client.list_queues(admin::ListQueuesRequest {}).await.unwrap().into_inner().queues;
    let small = queues.iter().find(|queue| queue.name == "small").unwrap();
    assert_eq!((small.running_max, small.queued_max), (Some(2), None));
    let server = client.get_server(admin::GetServerRequest {}).await.unwrap().into_inner();
    assert!(server.last_seq > 0 && !server.disk_full && server.started_at.is_some());
    drop(agent);
    scheduler.stop().await;
}
