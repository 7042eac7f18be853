//! `gangsaw quickstart`: from nothing to a trained model, through the real scheduler, agent and supervisor.
//!
//! Everything happens in a folder of its own on a free loopback port, and nothing is left running afterwards: the
//! cluster is a `gangsaw up` that is stopped at the end, and that stops by itself when this process dies. What stays is
//! the folder with the model, the log and the record; the last few are kept.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gangsaw_proto::jobs::v1::job_spec::Work;
use gangsaw_proto::jobs::v1::{Demand, GetJobRequest, GetJobResponse, JobSpec, ReadLogsRequest, Recipe, SubmitRequest};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use self::watch::Watcher;
use super::{submit, up};
use crate::client::{Client, state_home};
use crate::ending;
use crate::fail::{Failure, SOFTWARE, bad_input, failure};
use crate::output::{Format, note, object};
use crate::part::{Part, Running, start, stop_child, until_gone};
use crate::selector::Selection;
use crate::spec::units::short_duration;
use crate::words;

mod folder;
mod watch;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The run's seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// The cluster ends its tasks and itself within so much.
const STOP_MAX: Duration = Duration::from_secs(10);
/// What is left after that gets a moment before it is killed.
const LEFT_MAX: Duration = Duration::from_secs(2);

/// What a finished run is told by.
struct Outcome {
    job: GetJobResponse,
    result: Value,
    /// From sending the job to its number, less the scheduler's own share.
    submit: Duration,
    exit: u8,
}

/// Runs the verb.
pub(crate) async fn run(format: Format, args: &Args) -> Result<u8, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let home = state_home().ok_or_else(|| bad_input("no-home", "HOME is not set", "set XDG_STATE_HOME or HOME"))?;
    let run = folder::make(&home.join("quickstart"))?;
    note("starting scheduler and agent");
    let starting = start(cluster(&run));
    tokio::pin!(starting);
    let (mut cluster, interrupted) = tokio::select! {
        cluster = &mut starting => (cluster?, false),
        // A cluster that is just coming up is stopped as any other, not dropped half made.
        _ = interrupt.recv() => (starting.await?, true),
        _ = terminate.recv() => (starting.await?, true),
    };
    if interrupted {
        stop(&mut cluster, &run).await?;
        return Ok(ending::CANCELLED);
    }
    let outcome = tokio::select! {
        outcome = train(&cluster, &run, args.seed) => Some(outcome),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    stop(&mut cluster, &run).await?;
    let Some(outcome) = outcome else {
        note(&format!("stopped; what there is lies in {}", run.display()));
        return Ok(ending::CANCELLED);
    };
    let outcome = outcome?;
    let value = summary(&outcome, &run, args.seed);
    object(format, value.clone(), || told(&outcome, &value))?;
    Ok(outcome.exit)
}

/// The cluster as one part, with state and credentials in the run's folder.
fn cluster(run: &Path) -> Part {
    let args = ["--state".into(), run.join("state").into(), "--listen".into(), "127.0.0.1:0".into()];
    let log = std::env::var_os("GANGSAW_LOG").unwrap_or_else(|| "warn".into());
    let env = [("XDG_STATE_HOME".into(), run.into()), ("GANGSAW_LOG".into(), log)];
    Part { verb: "up", args: args.into(), env: env.into(), grace: STOP_MAX }
}

/// Stops the cluster and makes sure that nothing of it is left.
async fn stop(cluster: &mut Running, run: &Path) -> Result<(), Failure> {
    let stopped = stop_child(&mut cluster.child, STOP_MAX).await;
    until_gone(run, LEFT_MAX).await;
    folder::trim(run);
    stopped.map(|_| ())
}

/// Submits the job and follows it to its end.
async fn train(cluster: &Running, run: &Path, seed: u64) -> Result<Outcome, Failure> {
    let server = up::text(&cluster.ready, "server");
    let mut client = Client::connect(&server, Some(token(run, &server)?)).await?;
    let (job_id, round_trip) = send(&mut client, run, seed).await?;
    let select = Selection { job_id, elements: Vec::new(), rank: None };
    let log = run.join("log.txt");
    let (mut reader, mut watcher) = (client.clone(), client.clone());
    let mut shown = Watcher::new();
    let (copied, ended) = tokio::join!(
        copy_log(&mut reader, &select, &log),
        ending::wait(&mut watcher, &select, |change| shown.saw(change)),
    );
    shown.done();
    let exit = ended?.code;
    copied?;
    let request = GetJobRequest { job: Some(select.wire()), page_size: 1, page: String::new() };
    let job = client.jobs.get_job(request).await.map_err(|status| client.refused(&status))?.into_inner();
    let output = job.tasks.first().map(|task| PathBuf::from(&task.output_dir)).unwrap_or_default();
    let result = std::fs::read_to_string(output.join("result.json")).ok();
    let result = result.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
    if exit != 0 {
        let detail = job.tasks.first().map(|task| task.detail.clone()).unwrap_or_default();
        let state = job.job.as_ref().map_or("lost", |job| words::state(job.state()));
        let sentence = format!("the job is {state} (exit {exit}) {detail}");
        return Err(failure("quickstart-failed", sentence, format!("its log is {}", log.display()), exit));
    }
    let durable = Duration::from_micros(job.phases.unwrap_or_default().durable_us);
    Ok(Outcome { job, result, submit: round_trip.saturating_sub(durable), exit })
}

/// Sends the job; returns its number and how long that took.
async fn send(client: &mut Client, run: &Path, seed: u64) -> Result<(u64, Duration), Failure> {
    let spec = JobSpec {
        name: "quickstart".into(),
        work: Some(Work::Recipe(Recipe { name: "cnn".into(), settings_json: json!({ "seed": seed }).to_string() })),
        demands: vec![Demand { gpus: 1, ..Demand::default() }, Demand::default()],
        output_dir: run.join("output").display().to_string(),
        workdir: run.display().to_string(),
        ..JobSpec::default()
    };
    let key = uuid::Uuid::new_v4().to_string();
    let request = SubmitRequest { idempotency_key: key, jobs: vec![spec], user: submit::user() };
    let sent = Instant::now();
    let answer = client.jobs.submit(request).await.map_err(|status| client.refused(&status))?.into_inner();
    let job_id = answer.job_ids.first().copied();
    let job_id = job_id.ok_or_else(|| failure("scheduler-failed", "the job has no number", "", SOFTWARE))?;
    Ok((job_id, sent.elapsed()))
}

/// The token the cluster made for itself.
fn token(run: &Path, server: &str) -> Result<String, Failure> {
    let file = run.join("gangsaw").join("credentials").join(crate::client::authority(server));
    let found = std::fs::read_to_string(&file);
    Ok(found
        .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", file.display())))?
        .trim()
        .to_owned())
}

/// Copies what the task prints into a plain file, while it runs.
async fn copy_log(client: &mut Client, select: &Selection, log: &Path) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut file = std::fs::File::create(log)?;
    let request = ReadLogsRequest { select: Some(select.wire()), follow: true, ..ReadLogsRequest::default() };
    let mut stream = client.jobs.read_logs(request).await.map_err(|status| client.refused(&status))?.into_inner();
    while let Some(chunk) = stream.message().await.map_err(|status| client.refused(&status))? {
        file.write_all(&chunk.data)?;
    }
    Ok(file.sync_all()?)
}

/// The one object of `--output json`.
fn summary(outcome: &Outcome, run: &Path, seed: u64) -> Value {
    let job = outcome.job.job.clone().unwrap_or_default();
    let phases = outcome.job.phases.unwrap_or_default();
    let to_start = outcome.submit.as_micros() as u64 + phases.durable_us + phases.placed_us + phases.spawned_us;
    json!({
        "job_id": job.job_id,
        "state": words::state(job.state()),
        "device": job.device,
        "device_reason": words::device_reason(job.device_reason.as_ref()),
        "test_accuracy": outcome.result.get("test_accuracy"),
        "seed": seed,
        "train_seconds": outcome.result.get("train_seconds"),
        "submit_to_start_ms": to_start as f64 / 1000.0,
        "model_path": outcome.result.get("model_path"),
        "log_path": run.join("log.txt").display().to_string(),
    })
}

/// The summary as people read it.
fn told(outcome: &Outcome, value: &Value) -> String {
    let phases = outcome.job.phases.unwrap_or_default();
    let ms = |micros: u64| short_duration(Duration::from_micros(micros));
    let field = |name: &str| value.get(name).map(Value::to_string).unwrap_or_default().trim_matches('"').to_owned();
    let reason = outcome.job.job.as_ref().and_then(|job| job.device_reason.as_ref());
    let why = reason.map(|reason| format!("{}: {}", reason.code, reason.detail)).unwrap_or_default();
    format!(
        "\n{}  job {} on {} ({why})\n\ntest accuracy  {}\nphases         submit {}, durable {}, placed {}, spawned {}, trained {}, recorded {}\nmodel          {}\nlog            {}\nagain          gangsaw train --eval {}\n",
        field("state"),
        field("job_id"),
        field("device"),
        field("test_accuracy"),
        short_duration(outcome.submit),
        ms(phases.durable_us),
        ms(phases.placed_us),
        ms(phases.spawned_us),
        ms(phases.ran_us),
        ms(phases.recorded_us),
        field("model_path"),
        field("log_path"),
        field("model_path"),
    )
}
