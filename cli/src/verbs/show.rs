//! `gangsaw show`: one job with its tasks.

use gangsaw_proto::jobs::v1::job_spec::Work;
use gangsaw_proto::jobs::v1::{GetJobRequest, GetJobResponse, JobSpec, Notice, Phases, Task};
use serde_json::{Value, json};

use super::ps;
use crate::fail::Failure;
use crate::output::{is_secret, object, table, trimmed};
use crate::selector::Selection;
use crate::session::Session;
use crate::spec::units::short_duration;
use crate::words;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// JOB, JOB[3], JOB[7-99:2] or JOB[3].1
    #[arg(value_name = "JOB")]
    job: Selection,
    /// Continue after an earlier page: its `next_page`
    #[arg(long, value_name = "NEXT_PAGE")]
    page: Option<String>,
}

/// Tasks a person sees before the rest is only counted.
const ROWS_MAX: usize = 25;
/// What a secret looks like.
const MASK: &str = "********";

/// Runs the verb.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<u8, Failure> {
    let mut client = session.connect().await?;
    let request =
        GetJobRequest { job: Some(args.job.wire()), page_size: 0, page: args.page.clone().unwrap_or_default() };
    let mut found = client.jobs.get_job(request).await.map_err(|status| client.refused(&status))?.into_inner();
    found.tasks.retain(|task| args.job.rank.is_none_or(|rank| rank == task.rank));
    object(session.format, value(&found), || text(&found))?;
    Ok(0)
}

/// The job as programs read it.
fn value(found: &GetJobResponse) -> Value {
    let job = found.job.clone().unwrap_or_default();
    let mut value = ps::job(&job);
    if let Value::Object(fields) = &mut value {
        fields.insert("spec".into(), found.spec.as_ref().map_or(Value::Null, spec));
        fields.insert("phases".into(), found.phases.as_ref().map_or(Value::Null, phases));
        fields.insert("notice".into(), found.notice.as_ref().map_or(Value::Null, notice));
        fields.insert("tasks".into(), found.tasks.iter().map(words::task).collect());
        fields.insert("next_page".into(), words::text_or_null(&found.next_page));
    }
    value
}

/// Durations of the first element's way, in microseconds.
pub(crate) fn phases(phases: &Phases) -> Value {
    json!({
        "durable_us": phases.durable_us,
        "placed_us": phases.placed_us,
        "spawned_us": phases.spawned_us,
        "ran_us": phases.ran_us,
        "recorded_us": phases.recorded_us,
    })
}

/// How far the notice of the job's end is.
fn notice(notice: &Notice) -> Value {
    json!({
        "standing": words::notice(notice.standing()),
        "tries": notice.tries,
        "detail": words::text_or_null(&notice.detail),
    })
}

/// What was asked for, with secrets masked.
fn spec(spec: &JobSpec) -> Value {
    let (run, recipe) = match &spec.work {
        Some(Work::Shell(shell)) => (shell.clone().into(), Value::Null),
        Some(Work::Argv(argv)) => (argv.args.clone().into(), Value::Null),
        Some(Work::Recipe(recipe)) => {
            let settings = serde_json::from_str(&recipe.settings_json).unwrap_or(Value::Null);
            (Value::Null, json!({ "name": recipe.name, "settings": settings }))
        }
        None => (Value::Null, Value::Null),
    };
    let demands: Vec<_> = spec
        .demands
        .iter()
        .map(|demand| {
            json!({
                "milli_cpus": demand.milli_cpus,
                "memory_bytes": demand.memory_bytes,
                "gpus": demand.gpus,
                "gpu_model": words::text_or_null(&demand.gpu_model),
                "gpu_memory_bytes": demand.gpu_memory_bytes,
            })
        })
        .collect();
    let seconds = |duration: Option<prost_types::Duration>| {
        duration.map(|duration| duration.seconds as f64 + f64::from(duration.nanos) / 1e9)
    };
    json!({
        "run": run,
        "recipe": recipe,
        "demands": demands,
        "env": masked(&spec.env),
        "exported_env": masked(&spec.exported_env),
        "workdir": words::text_or_null(&spec.workdir),
        "output_dir": words::text_or_null(&spec.output_dir),
        "time_limit_s": seconds(spec.time_limit),
        "grace_s": seconds(spec.grace),
        "notify": words::text_or_null(&spec.notify),
    })
}

/// An environment whose secrets are not shown.
fn masked(env: &std::collections::HashMap<String, String>) -> Value {
    let ordered: std::collections::BTreeMap<_, _> = env.iter().collect();
    let shown = |name: &String, value: &String| if is_secret(name) { MASK.into() } else { Value::from(value.clone()) };
    ordered
        .into_iter()
        .map(|(name, value)| (name.clone(), shown(name, value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// The job as people read it.
fn text(found: &GetJobResponse) -> String {
    let job = found.job.clone().unwrap_or_default();
    let mut lines = vec![
        ("job", format!("{} {}", job.job_id, job.name)),
        ("state", words::state(job.state()).to_owned()),
        ("command", job.command.clone()),
        ("queue", format!("{} (priority {}, {})", job.queue, job.priority, job.user)),
    ];
    if !job.labels.is_empty() {
        lines.push(("labels", words::labels(&job.labels)));
    }
    if !job.device.is_empty() {
        let why = job.device_reason.as_ref().map(|reason| format!(" ({}: {})", reason.code, reason.detail));
        lines.push(("device", format!("{}{}", job.device, why.unwrap_or_default())));
    }
    if job.element_count > 1 {
        let counts = job.element_counts.iter().map(|count| format!("{} {}", count.count, words::state(count.state())));
        lines.push(("elements", format!("{} ({})", job.element_count, counts.collect::<Vec<_>>().join(", "))));
    }
    if job.replicas > 1 {
        lines.push(("ranks", job.replicas.to_string()));
    }
    for reason in &job.reasons {
        lines.push(("waits", format!("{}: {}", reason.reason, reason.message)));
    }
    if let Some(spec) = &found.spec {
        let ordered: std::collections::BTreeMap<_, _> = spec.env.iter().collect();
        for (name, value) in ordered {
            lines.push(("env", format!("{name}={}", if is_secret(name) { MASK } else { value.as_str() })));
        }
    }
    if let Some(spec) = found.spec.as_ref().filter(|spec| !spec.notify.is_empty()) {
        let how = found.notice.as_ref().map(|notice| {
            let detail = if notice.detail.is_empty() { String::new() } else { format!(": {}", notice.detail) };
            let tries = if notice.tries == 1 { "1 try".to_owned() } else { format!("{} tries", notice.tries) };
            format!(" ({}, {tries}{detail})", words::notice(notice.standing()))
        });
        lines.push(("notify", format!("{}{}", spec.notify, how.unwrap_or_default())));
    }
    for (name, at) in [("submitted", job.submitted_at), ("started", job.started_at), ("ended", job.ended_at)] {
        if let Some(at) = at.and_then(words::instant) {
            lines.push((name, at.to_string()));
        }
    }
    let mut out: String =
        lines.iter().map(|(name, value)| format!("{name:<10} {}\n", crate::spec::read::harmless(value))).collect();
    out.push('\n');
    out.push_str(&trimmed(&rows(&found.tasks)));
    out.push('\n');
    if found.tasks.len() > ROWS_MAX || !found.next_page.is_empty() {
        out.push_str(&format!("… and more; name some with `gangsaw show '{}[0-99]'`\n", job.job_id));
    }
    out
}

/// A table of tasks.
fn rows(tasks: &[Task]) -> comfy_table::Table {
    let mut table = table(&["INDEX", "RANK", "STATE", "ATTEMPT", "NODE", "PID", "EXIT", "OUTCOME", "TIME", "DETAIL"]);
    for task in tasks.iter().take(ROWS_MAX) {
        let exit = match (task.exit_code, task.signal) {
            (Some(code), _) => code.to_string(),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => String::new(),
        };
        let until = task.ended_at.unwrap_or_else(words::now);
        table.add_row([
            task.index.to_string(),
            task.rank.to_string(),
            words::state(task.state()).to_owned(),
            task.attempt.to_string(),
            task.node.clone(),
            if task.pid == 0 { String::new() } else { task.pid.to_string() },
            exit,
            words::outcome(task.outcome()).unwrap_or_default().to_owned(),
            words::between(task.started_at, Some(until)).map(short_duration).unwrap_or_default(),
            crate::spec::read::harmless(&task.detail),
        ]);
    }
    table
}
