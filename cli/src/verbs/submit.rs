//! `gangsaw submit`: stores a job, or several together, and prints their numbers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gangsaw_proto::jobs::v1::{SubmitRequest, SubmitResponse};
use serde_json::json;

use crate::client::{Client, Patience};
use crate::fail::{BAD_INPUT, Failure, bad_input, submit_faults};
use crate::output::{colour_on_stderr, note, object};
use crate::session::Session;
use crate::spec::flags::JobFlags;
use crate::spec::{self, Loaded, Pieces, Rejected, render};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// A YAML, TOML or JSON spec, or a batch script with #GANGSAW lines
    #[arg(value_name = "SPEC")]
    spec: Option<PathBuf>,
    #[command(flatten)]
    flags: JobFlags,
    /// The command, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// A job that was stored.
pub(crate) struct Stored {
    pub(crate) job_ids: Vec<u64>,
    pub(crate) names: Vec<String>,
    /// What a sweep chose for each.
    pub(crate) chosen: Vec<serde_json::Value>,
    /// True when one element of one rank runs: its output needs no name.
    pub(crate) single: bool,
}

/// Runs the verb.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<u8, Failure> {
    let (loaded, single) = load(session, args)?;
    let mut client = session.connect().await?;
    let stored = store(&mut client, loaded, single).await?;
    let first = stored.job_ids.first().copied().unwrap_or_default();
    let named = stored.job_ids.iter().zip(&stored.names).zip(&stored.chosen);
    let jobs: Vec<_> =
        named.map(|((id, name), chosen)| json!({ "job_id": id, "name": name, "sweep": chosen })).collect();
    let value = json!({ "job_id": first, "job_ids": stored.job_ids, "jobs": jobs });
    object(session.format, value, || stored.job_ids.iter().map(|id| format!("{id}\n")).collect())?;
    if session.format.is_table() && std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        note(&match stored.job_ids.len() {
            1 => format!("submitted; see it with `gangsaw show {first}`"),
            count => format!("{count} jobs submitted; see them with `gangsaw ps --all`"),
        });
    }
    Ok(0)
}

/// Reads the spec and flags; every fault at once.
pub(crate) fn load(session: &Session, args: &Args) -> Result<(Loaded, bool), Failure> {
    if args.spec.is_none() && args.command.is_empty() {
        let hint = "give a spec file, or a command after `--`: gangsaw submit -- python train.py";
        return Err(bad_input("no-work", "nothing to run was given", hint));
    }
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let words: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let words: Vec<String> = std::iter::once("gangsaw".to_owned()).chain(words.into_iter().skip(1)).collect();
    let folder = spec::folder()?;
    let pieces = Pieces {
        file: args.spec.as_deref(),
        command: &args.command,
        flags: &args.flags,
        args: &words,
        environment: &environment,
        config: session.config.submit.clone(),
        folder: &folder,
    };
    let loaded = spec::load(&pieces).map_err(|rejected| shown(&rejected))?;
    let single = loaded.specs.len() == 1 && loaded.specs.iter().all(|spec| spec.array.is_none() && spec.replicas <= 1);
    Ok((loaded, single))
}

/// Sends the jobs; repeated with the same key while the scheduler restarts, so they are stored once.
pub(crate) async fn store(client: &mut Client, loaded: Loaded, single: bool) -> Result<Stored, Failure> {
    let names = loaded.specs.iter().map(|spec| spec.name.clone()).collect();
    let chosen = loaded.chosen.clone();
    let request =
        SubmitRequest { idempotency_key: uuid::Uuid::new_v4().to_string(), jobs: loaded.specs.clone(), user: user() };
    let mut patience = Patience::new();
    loop {
        match client.jobs.submit(request.clone()).await.map(tonic::Response::into_inner) {
            Ok(SubmitResponse { job_ids, .. }) => return Ok(Stored { job_ids, names, chosen, single }),
            Err(status) => {
                if let Some(faults) = submit_faults(&status) {
                    return Err(shown(&loaded.rejected(&faults)));
                }
                patience.wait(client, &status).await?;
            }
        }
    }
}

/// Faults as a failure.
fn shown(rejected: &Rejected) -> Failure {
    let text = render::render(&rejected.sources, &rejected.faults, colour_on_stderr());
    Failure::Rendered { text, exit: BAD_INPUT }
}

/// The operating system user's name.
pub(crate) fn user() -> String {
    gangsaw_scheduler::user_name(rustix::process::getuid().as_raw())
}
