//! Tokens of people, and what each of them may do: every RPC, for every role, on own jobs and on others'.

use std::collections::BTreeMap;

use gangsaw_proto::admin::v1 as admin;
use gangsaw_proto::jobs::v1 as jobs;
use prost::Message;
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

use crate::common::{Clients, PATIENCE, Scheduler, connect, reason, shell, token};

/// Makes a token of `name` and returns its secret.
async fn secret(scheduler: &Scheduler, name: &str, role: admin::Role, tenant: &str) -> String {
    create(scheduler, name, role, tenant).await.secret
}

async fn create(scheduler: &Scheduler, name: &str, role: admin::Role, tenant: &str) -> admin::CreateTokenResponse {
    let request = admin::CreateTokenRequest {
        name: name.to_owned(),
        role: role.into(),
        tenant: tenant.to_owned(),
        ..Default::default()
    };
    scheduler.clients.admin.clone().create_token(request).await.unwrap().into_inner()
}

async fn clients(scheduler: &Scheduler, name: &str, role: admin::Role, tenant: &str) -> Clients {
    connect(scheduler.address, &secret(scheduler, name, role, tenant).await).await
}

async fn submitted(clients: &Clients, key: &str) -> u64 {
    clients.jobs.clone().submit(shell(key, "true")).await.unwrap().into_inner().job_ids[0]
}

/// Whose job a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Own,
    Colleagues,
    OtherTenants,
}

const WHOSE: [Whose; 3] = [Whose::Own, Whose::Colleagues, Whose::OtherTenants];
const ROLES: [admin::Role; 4] =
    [admin::Role::Viewer, admin::Role::Submitter, admin::Role::Operator, admin::Role::Admin];

/// What may be done with a call, written down apart from the rules that are tested.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// Looks at a job: anybody within the tenant, operators everywhere.
    Looks,
    /// Changes a job: its submitter, operators everywhere.
    Changes,
    /// About no job: from this role on.
    From(admin::Role),
    /// Reads what belongs to no tenant and needs no more than a token.
    Anybody,
}

impl Expected {
    fn code(self, role: admin::Role, whose: Whose) -> Option<Code> {
        let operator = role >= admin::Role::Operator;
        match self {
            Expected::Anybody => None,
            Expected::From(least) => (role < least).then_some(Code::PermissionDenied),
            Expected::Looks => (whose == Whose::OtherTenants && !operator).then_some(Code::NotFound),
            Expected::Changes if role == admin::Role::Viewer => Some(Code::PermissionDenied),
            Expected::Changes if operator || whose == Whose::Own => None,
            Expected::Changes if whose == Whose::Colleagues => Some(Code::PermissionDenied),
            Expected::Changes => Some(Code::NotFound),
        }
    }
}

fn select(job_id: u64) -> Option<jobs::Selector> {
    Some(jobs::Selector { job_id, elements: Vec::new() })
}

/// Returns what is expected of an RPC and a message that makes sense for it. A new RPC has no line here, and fails.
fn expected(path: &str, job_id: u64, number: u64) -> Option<(Expected, Vec<u8>)> {
    use admin::Role::{Admin, Submitter};
    let held = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let submit = shell(&format!("walk-{number}"), "true").encode_to_vec();
    let update = jobs::UpdateRequest { job_id, priority: Some(3), time_limit: held, ..Default::default() };
    let node =
        admin::SetNodeRequest { name: "n1".to_owned(), mode: admin::NodeMode::Active.into(), ..Default::default() };
    let queue = admin::SetQueueRequest { name: "q".to_owned(), running_max: Some(9), ..Default::default() };
    let token =
        admin::CreateTokenRequest { name: "t".to_owned(), role: admin::Role::Viewer.into(), ..Default::default() };
    Some(match path {
        "jobs.v1.JobsService/Submit" => (Expected::From(Submitter), submit),
        "jobs.v1.JobsService/GetJob" => {
            (Expected::Looks, jobs::GetJobRequest { job: select(job_id), ..Default::default() }.encode_to_vec())
        }
        "jobs.v1.JobsService/ListJobs" => (Expected::Anybody, jobs::ListJobsRequest::default().encode_to_vec()),
        "jobs.v1.JobsService/Watch" => (Expected::Looks, jobs::WatchRequest { job_id, after_seq: 0 }.encode_to_vec()),
        "jobs.v1.JobsService/ReadLogs" => {
            (Expected::Looks, jobs::ReadLogsRequest { select: select(job_id), ..Default::default() }.encode_to_vec())
        }
        "jobs.v1.JobsService/Hold" => (Expected::Changes, jobs::HoldRequest { job_id }.encode_to_vec()),
        "jobs.v1.JobsService/Release" => (Expected::Changes, jobs::ReleaseRequest { job_id }.encode_to_vec()),
        "jobs.v1.JobsService/Update" => (Expected::Changes, update.encode_to_vec()),
        "jobs.v1.JobsService/Retry" => {
            (Expected::Changes, jobs::RetryRequest { select: select(job_id) }.encode_to_vec())
        }
        "jobs.v1.JobsService/Cancel" => {
            (Expected::Changes, jobs::CancelRequest { select: select(job_id) }.encode_to_vec())
        }
        "admin.v1.AdminService/ListNodes" | "admin.v1.AdminService/ListQueues" | "admin.v1.AdminService/GetServer" => {
            (Expected::Anybody, Vec::new())
        }
        "admin.v1.AdminService/SetNode" => (Expected::From(Admin), node.encode_to_vec()),
        "admin.v1.AdminService/ForgetNode" => (Expected::From(Admin), Vec::new()),
        "admin.v1.AdminService/SetQueue" => (Expected::From(Admin), queue.encode_to_vec()),
        "admin.v1.AdminService/ListTenants" => (Expected::From(admin::Role::Operator), Vec::new()),
        "admin.v1.AdminService/SetTenant" => (Expected::From(Admin), Vec::new()),
        "admin.v1.AdminService/CreateToken" => (Expected::From(Admin), token.encode_to_vec()),
        "admin.v1.AdminService/ListTokens" => (Expected::From(Admin), Vec::new()),
        "admin.v1.AdminService/RevokeToken" => (Expected::From(Admin), Vec::new()),
        "node.v1.NodeService/Attach" | "node.v1.NodeService/ServeLogs" => (Expected::From(Admin), Vec::new()),
        _ => return None,
    })
}

/// Every RPC there is, as `jobs.v1.JobsService/Submit`.
fn described() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(gangsaw_proto::DESCRIPTORS).unwrap();
    let mut paths = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let of = |method: &prost_types::MethodDescriptorProto| {
                format!("{}.{}/{}", file.package().trim_start_matches("gangsaw."), service.name(), method.name())
            };
            paths.extend(service.method.iter().map(of));
        }
    }
    assert!(paths.len() >= 21, "{paths:?}");
    paths
}

/// Passes bytes on as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
        prost::bytes::BufMut::put_slice(out, &item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn decode(&mut self, from: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<Vec<u8>>, tonic::Status> {
        use prost::bytes::Buf as _;
        let bytes = from.copy_to_bytes(from.remaining());
        Ok(Some(bytes.to_vec()))
    }
}

/// Calls a path and returns the status it came to, or the first message's arrival as OK.
async fn call(channel: &Channel, secret: Option<&str>, path: &str, message: Vec<u8>) -> Code {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let mut request = tonic::Request::new(message);
    if let Some(secret) = secret {
        request.metadata_mut().insert("authorization", format!("Bearer {secret}").parse().unwrap());
    }
    let path = PathAndQuery::try_from(format!("/gangsaw.{path}")).unwrap();
    let called = match grpc.server_streaming(request, path, Raw).await {
        Ok(response) => tokio::time::timeout(PATIENCE, response.into_inner().message()).await.unwrap().map(drop),
        Err(status) => Err(status),
    };
    called.map_or_else(|status| status.code(), |()| Code::Ok)
}

/// One job of each kind that a caller of a role may meet.
async fn jobs_of(scheduler: &Scheduler, own: &Clients, tag: &str) -> BTreeMap<Whose, u64> {
    let colleague = clients(scheduler, "carl", admin::Role::Submitter, "lab").await;
    let stranger = clients(scheduler, "eve", admin::Role::Submitter, "shop").await;
    BTreeMap::from([
        (Whose::Own, submitted(own, &format!("{tag}-own")).await),
        (Whose::Colleagues, submitted(&colleague, &format!("{tag}-colleague")).await),
        (Whose::OtherTenants, submitted(&stranger, &format!("{tag}-stranger")).await),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rpc_does_for_every_role_what_it_should_on_own_and_others_jobs() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let _agent = scheduler.agent("n1").await;
    let channel = Channel::from_shared(format!("http://{}", scheduler.address)).unwrap().connect().await.unwrap();
    let mut number = 0;
    for role in ROLES {
        // A viewer cannot submit: its own jobs are those that the same name submitted with another token.
        let secret = secret(&scheduler, "ada", role, "lab").await;
        let submitter = clients(&scheduler, "ada", admin::Role::Submitter, "lab").await;
        for path in described() {
            // A job of its own for each call: one is cancelled, another held.
            for (whose, job_id) in jobs_of(&scheduler, &submitter, &format!("{role:?}-{path}")).await {
                number += 1;
                let Some((expected, message)) = expected(&path, job_id, number) else {
                    panic!("{path} is new: say here who may call it");
                };
                if path.ends_with("/ReadLogs") && expected.code(role, whose).is_none() {
                    // Nothing was printed, so its stream ends without a message.
                    let came_to = call(&channel, Some(&secret), &path, message).await;
                    assert!(![Code::PermissionDenied, Code::NotFound, Code::Unauthenticated].contains(&came_to));
                    continue;
                }
                let came_to = call(&channel, Some(&secret), &path, message).await;
                match expected.code(role, whose) {
                    Some(code) => assert_eq!(came_to, code, "{path} as {role:?} on {whose:?}"),
                    None => {
                        let denied = [Code::PermissionDenied, Code::Unauthenticated, Code::Unimplemented];
                        let unknown = came_to == Code::NotFound && path.starts_with("jobs.");
                        assert!(!denied.contains(&came_to) && !unknown, "{path} as {role:?} on {whose:?}: {came_to:?}");
                    }
                }
            }
        }
    }
    assert_eq!(number, (ROLES.len() * WHOSE.len() * described().len()) as u64);
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_change_changes_nothing_and_lists_show_the_own_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let ada = clients(&scheduler, "ada", admin::Role::Submitter, "lab").await;
    let carl = clients(&scheduler, "carl", admin::Role::Submitter, "lab").await;
    let eve = clients(&scheduler, "eve", admin::Role::Submitter, "shop").await;
    let olga = clients(&scheduler, "olga", admin::Role::Operator, "ops").await;
    let job_id = submitted(&ada, "k").await;
    let cancel = || jobs::CancelRequest { select: select(job_id) };
    let denied = carl.jobs.clone().cancel(cancel()).await.unwrap_err();
    assert_eq!((denied.code(), reason(&denied).0.as_str()), (Code::PermissionDenied, "not-your-job"));
    assert_eq!(denied.message(), format!("job {job_id} was submitted by ada"));
    let unknown = eve.jobs.clone().cancel(cancel()).await.unwrap_err();
    assert_eq!((unknown.code(), reason(&unknown).0.as_str()), (Code::NotFound, "unknown-job"));

    let seen = crate::common::get(&carl, job_id).await.job.unwrap();
    assert_eq!((seen.state(), seen.tenant.as_str(), seen.user.as_str()), (jobs::State::Pending, "lab", "ada"));
    let all = || jobs::ListJobsRequest { all: true, ..Default::default() };
    let listed = |clients: &Clients| {
        let mut client = clients.jobs.clone();
        async move { client.list_jobs(all()).await.unwrap().into_inner().jobs.len() }
    };
    assert_eq!([listed(&carl).await, listed(&eve).await, listed(&olga).await], [1, 0, 1]);
    let queues = |clients: &Clients| {
        let mut client = clients.admin.clone();
        async move { client.list_queues(admin::ListQueuesRequest {}).await.unwrap().into_inner().queues.len() }
    };
    assert_eq!([queues(&carl).await, queues(&eve).await, queues(&olga).await], [1, 0, 1]);

    // The same key of another tenant is another key, and limits are the tenant's own.
    assert_ne!(submitted(&eve, "k").await, job_id);
    let full = admin::SetQueueRequest {
        name: "default".to_owned(),
        queued_max: Some(1),
        tenant: "lab".to_owned(),
        ..Default::default()
    };
    scheduler.clients.admin.clone().set_queue(full).await.unwrap();
    let refused = ada.jobs.clone().submit(shell("k2", "true")).await.unwrap_err();
    assert_eq!(reason(&refused).0, "queue-full");
    submitted(&eve, "k2").await;

    assert_eq!(olga.jobs.clone().cancel(cancel()).await.unwrap().into_inner().elements, 1);
    scheduler.stop().await;
    let by = cancelled_by(dir.path());
    assert_eq!(by, ["olga"], "the log says who did it, and the denied ones are not in it");
}

/// Returns who cancelled jobs, as the log has it.
fn cancelled_by(state: &std::path::Path) -> Vec<String> {
    use gangsaw_core::event::Event;
    let mut actors = Vec::new();
    let each = |record: gangsaw_core::event::Record| {
        if let Event::JobCancelled { by, .. } = record.event {
            actors.push(by.actor.to_string());
        }
    };
    gangsaw_scheduler::read_log(state, each).unwrap();
    actors
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lives_over_a_restart_and_ends_when_it_is_revoked_or_expires() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let made = create(&scheduler, "ada", admin::Role::Submitter, "").await;
    let row = made.token.clone().unwrap();
    assert_eq!((row.name.as_str(), row.tenant.as_str(), row.user.as_str()), ("ada", "default", "ada"));
    let short = admin::CreateTokenRequest {
        name: "bob".to_owned(),
        role: admin::Role::Viewer.into(),
        time_to_live: Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 }),
        ..Default::default()
    };
    let short = scheduler.clients.admin.clone().create_token(short).await.unwrap().into_inner();
    scheduler.stop().await;
    // The secret is nowhere on disk.
    for file in std::fs::read_dir(dir.path().join("scheduler")).unwrap().map(|file| file.unwrap().path()) {
        let secret = made.secret.rsplit('_').next().unwrap().as_bytes().to_vec();
        let found = file.is_file() && std::fs::read(&file).unwrap().windows(secret.len()).any(|part| part == secret);
        assert!(!found, "{}", file.display());
    }

    let scheduler = Scheduler::start(dir.path()).await;
    let ada = connect(scheduler.address, &made.secret).await;
    let job_id = submitted(&ada, "k").await;
    let watch = jobs::WatchRequest { job_id, after_seq: 0 };
    let mut watching = ada.jobs.clone().watch(watch).await.unwrap().into_inner();
    assert!(watching.message().await.unwrap().is_some());

    let mut root = scheduler.clients.admin.clone();
    let mut seen = usize::MAX;
    while seen > 1 {
        // The short one goes by itself.
        seen = root.list_tokens(admin::ListTokensRequest {}).await.unwrap().into_inner().tokens.len();
    }
    let bob = connect(scheduler.address, &short.secret).await;
    let gone = bob.jobs.clone().list_jobs(jobs::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!(gone.code(), Code::Unauthenticated);

    let revoke = admin::RevokeTokenRequest { token_id: row.token_id };
    root.revoke_token(revoke).await.unwrap();
    let refused = ada.jobs.clone().list_jobs(jobs::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).0.as_str()), (Code::Unauthenticated, "unauthenticated"));
    let ended = loop {
        match tokio::time::timeout(PATIENCE, watching.message()).await.expect("the stream goes on") {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended as if the job had"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unauthenticated, "what the token had opened ends with it");
    let again = root.revoke_token(revoke).await.unwrap_err();
    assert_eq!((again.code(), reason(&again).0.as_str()), (Code::NotFound, "unknown-token"));
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_run_as_the_tokens_user_whatever_a_submit_claims() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let request = admin::CreateTokenRequest {
        name: "nightly".to_owned(),
        role: admin::Role::Operator.into(),
        user: "builder".to_owned(),
        ..Default::default()
    };
    let made = scheduler.clients.admin.clone().create_token(request).await.unwrap().into_inner();
    let nightly = connect(scheduler.address, &made.secret).await;
    let claims = jobs::SubmitRequest { user: "root".to_owned(), ..shell("k", "true") };
    let job_id = nightly.jobs.clone().submit(claims).await.unwrap().into_inner().job_ids[0];
    assert_eq!(crate::common::get(&nightly, job_id).await.job.unwrap().user, "builder");
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denied_calls_are_counted_by_why() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(dir.path()).await;
    let channel = Channel::from_shared(format!("http://{}", scheduler.address)).unwrap().connect().await.unwrap();
    let viewer = secret(&scheduler, "vera", admin::Role::Viewer, "").await;
    let owner = token(dir.path());
    for _ in 0..3 {
        assert_eq!(call(&channel, None, "jobs.v1.JobsService/ListJobs", Vec::new()).await, Code::Unauthenticated);
    }
    assert_eq!(call(&channel, Some(&viewer), "jobs.v1.JobsService/Submit", Vec::new()).await, Code::PermissionDenied);
    assert_eq!(call(&channel, Some(&owner), "jobs.v1.JobsService/NoSuch", Vec::new()).await, Code::Unimplemented);
    let metrics = crate::door::http(&scheduler, "/metrics", Some(&viewer)).await.1;
    for (why, count) in [("unauthenticated", 3), ("role-too-small", 1), ("no-such-call", 1)] {
        let line = format!("gangsaw_denied_total{{reason=\"{why}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
    scheduler.stop().await;
}
