//! jobs.v1: submit, look, change, watch, read.

use gangsaw_core::effect::{Reply, SubmitFault};
use gangsaw_core::id::{IdempotencyKey, QueueName};
use gangsaw_core::input::{Input, Submit};
use gangsaw_core::job::spec::JobSpec;
use gangsaw_core::time::Millis;
use gangsaw_proto::jobs::v1 as wire;
use gangsaw_proto::jobs::v1::jobs_service_server::JobsService;
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::ask::{self, astray, invalid};
use super::caller::{Person, person};
use super::errors::Refusal;
use super::list;
use super::watch::{self, WatchStream};
use crate::engine::Engine;
use crate::logs::{Logs, ReadStream};
use crate::wire::spec;

/// Largest Submit, as it travels: above it lies data that belongs in a file.
const SUBMIT_BYTES_MAX: usize = 8 << 20;
/// Jobs of one Submit.
const SUBMIT_JOBS_MAX: usize = 1_024;

/// The service.
#[derive(Clone)]
pub(crate) struct Jobs {
    pub(crate) engine: Engine,
    pub(crate) logs: Logs,
    pub(crate) stop: tokio_util::sync::CancellationToken,
}

impl Jobs {
    async fn ask(&self, person: &Person, input: Input) -> Result<Reply, Status> {
        Ok(self.engine.ask(person.request(input)?).await?)
    }
}

/// Checks every job and returns all specs, or every fault of every job.
fn parse(jobs: Vec<wire::JobSpec>) -> Result<Vec<JobSpec>, Refusal> {
    let mut specs = Vec::with_capacity(jobs.len());
    let mut faults = Vec::new();
    for (position, job) in (0_u32..).zip(jobs) {
        match JobSpec::try_from(spec::draft(job)) {
            Ok(spec) => specs.push(spec),
            Err(found) => faults.extend(found.0.into_iter().map(|fault| SubmitFault { job: position, fault })),
        }
    }
    if faults.is_empty() { Ok(specs) } else { Err(faults.into()) }
}

/// Checks a whole Submit.
fn submit(person: &Person, request: wire::SubmitRequest) -> Result<Submit, Refusal> {
    let bytes = request.encoded_len();
    if bytes > SUBMIT_BYTES_MAX {
        let message = format!("the submit has {bytes} bytes, and {SUBMIT_BYTES_MAX} are allowed");
        let hint = "put data into files and give the job their names";
        return Err(Refusal::new(Code::InvalidArgument, "submit-too-large", message, hint));
    }
    if request.jobs.is_empty() {
        return Err(Refusal::missing("jobs"));
    }
    if request.jobs.len() > SUBMIT_JOBS_MAX {
        let message = format!("the submit has {} jobs, and {SUBMIT_JOBS_MAX} are allowed", request.jobs.len());
        return Err(Refusal::new(Code::InvalidArgument, "too-many-jobs", message, "use an array, or several submits"));
    }
    if request.idempotency_key.is_empty() {
        return Err(Refusal::missing("idempotency_key"));
    }
    let key = IdempotencyKey::new(&request.idempotency_key)
        .map_err(|error| invalid("bad-key", format!("the idempotency key {error}")))?;
    let user = person.runs_as(request.user);
    let jobs = parse(request.jobs)?;
    Ok(Submit { key, user, jobs })
}

#[tonic::async_trait]
impl JobsService for Jobs {
    type WatchStream = WatchStream;
    type ReadLogsStream = ReadStream;

    async fn submit(&self, request: Request<wire::SubmitRequest>) -> Result<Response<wire::SubmitResponse>, Status> {
        let person = person(&request)?;
        let submit = submit(&person, request.into_inner())?;
        let reply = self.ask(&person, Input::Submit(submit)).await?;
        let Reply::Submitted { jobs, repeated } = reply else { return Err(astray()) };
        let job_ids = jobs.into_iter().map(|job| job.0).collect();
        Ok(Response::new(wire::SubmitResponse { job_ids, repeated }))
    }

    async fn get_job(&self, request: Request<wire::GetJobRequest>) -> Result<Response<wire::GetJobResponse>, Status> {
        let person = person(&request)?;
        Ok(Response::new(list::get(&self.engine, person, request.into_inner()).await?))
    }

    async fn list_jobs(
        &self,
        request: Request<wire::ListJobsRequest>,
    ) -> Result<Response<wire::ListJobsResponse>, Status> {
        let person = person(&request)?;
        Ok(Response::new(list::list(&self.engine, person, request.into_inner()).await?))
    }

    async fn cancel(&self, request: Request<wire::CancelRequest>) -> Result<Response<wire::CancelResponse>, Status> {
        let person = person(&request)?;
        let (job, elements) = ask::selector(request.into_inner().select)?;
        let Reply::Cancelled { elements } = self.ask(&person, Input::Cancel { job, elements }).await? else {
            return Err(astray());
        };
        Ok(Response::new(wire::CancelResponse { elements }))
    }

    async fn hold(&self, request: Request<wire::HoldRequest>) -> Result<Response<wire::HoldResponse>, Status> {
        let person = person(&request)?;
        let job = ask::job_id(request.into_inner().job_id)?;
        let Reply::Done = self.ask(&person, Input::Hold { job }).await? else { return Err(astray()) };
        Ok(Response::new(wire::HoldResponse {}))
    }

    async fn release(&self, request: Request<wire::ReleaseRequest>) -> Result<Response<wire::ReleaseResponse>, Status> {
        let person = person(&request)?;
        let job = ask::job_id(request.into_inner().job_id)?;
        let Reply::Done = self.ask(&person, Input::Release { job }).await? else { return Err(astray()) };
        Ok(Response::new(wire::ReleaseResponse {}))
    }

    async fn retry(&self, request: Request<wire::RetryRequest>) -> Result<Response<wire::RetryResponse>, Status> {
        let person = person(&request)?;
        let (job, elements) = ask::selector(request.into_inner().select)?;
        let Reply::Retried { elements } = self.ask(&person, Input::Retry { job, elements }).await? else {
            return Err(astray());
        };
        Ok(Response::new(wire::RetryResponse { elements }))
    }

    async fn update(&self, request: Request<wire::UpdateRequest>) -> Result<Response<wire::UpdateResponse>, Status> {
        let person = person(&request)?;
        let request = request.into_inner();
        let bad_queue = |error| invalid("bad-name", format!("the queue's name {error}"));
        let queue = request.queue.as_deref().map(QueueName::new).transpose().map_err(bad_queue)?;
        let time_limit = request.time_limit.as_ref().map(time_limit).transpose()?;
        let job = ask::job_id(request.job_id)?;
        let Reply::Done =
            self.ask(&person, Input::Update { job, priority: request.priority, queue, time_limit }).await?
        else {
            return Err(astray());
        };
        Ok(Response::new(wire::UpdateResponse {}))
    }

    async fn watch(&self, request: Request<wire::WatchRequest>) -> Result<Response<WatchStream>, Status> {
        let person = person(&request)?;
        let stream = watch::open(&self.engine, person, request.into_inner(), self.stop.clone()).await?;
        Ok(Response::new(stream))
    }

    async fn read_logs(&self, request: Request<wire::ReadLogsRequest>) -> Result<Response<ReadStream>, Status> {
        let person = person(&request)?;
        Ok(Response::new(self.logs.read(person, request.into_inner(), self.stop.clone()).await?))
    }
}

fn time_limit(limit: &prost_types::Duration) -> Result<Millis, Refusal> {
    match u64::try_from(spec::ms(limit)) {
        Ok(ms) if ms > 0 => Ok(Millis(ms)),
        _ => Err(invalid("bad-time-limit", "the time limit must be above zero")),
    }
}
