//! `gangsaw clean`: removes what jobs that ended long ago left on this machine.
//!
//! That is the attempt folders below the state folder: outputs nobody moved elsewhere, and checkpoints. A folder goes
//! only when the scheduler says that its job has ended, and long enough ago; what it does not know is left alone and
//! told. Logs and the record have limits of their own and are not touched.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gangsaw_proto::jobs::v1::{GetJobRequest, Selector};
use serde_json::json;

use super::up;
use crate::client::Client;
use crate::fail::{Failure, bad_input};
use crate::output::{note, object};
use crate::session::Session;
use crate::spec::units;
use crate::words;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The state folder of this machine's agent
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Only of jobs that ended so long ago
    #[arg(long, value_name = "TIME", default_value = "30d")]
    older_than: String,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// What goes.
struct Removed {
    job_id: u64,
    path: PathBuf,
    bytes: u64,
}

/// Runs the verb.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<u8, Failure> {
    let age = units::duration(&args.older_than)
        .map_err(|misread| bad_input("bad-value", format!("`--older-than`: {}", misread.message), misread.hint))?;
    let attempts = up::folder(args.state.as_deref())?.join("agent").join("attempts");
    let mut folders: Vec<(u64, PathBuf)> = match std::fs::read_dir(&attempts) {
        Ok(entries) => entries
            .flatten()
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    folders.sort();
    let mut client = session.connect().await?;
    let mut removed = Vec::new();
    for (job_id, path) in folders {
        if !ended_before(&mut client, job_id, age).await? {
            continue;
        }
        let bytes = disk_use(&path);
        if !args.dry_run {
            std::fs::remove_dir_all(&path)?;
        }
        removed.push(Removed { job_id, path, bytes });
    }
    tell(session, args.dry_run, &removed)?;
    Ok(0)
}

/// True when the scheduler knows the job and says that it ended so long ago.
async fn ended_before(client: &mut Client, job_id: u64, age: Duration) -> Result<bool, Failure> {
    let select = Selector { job_id, elements: Vec::new() };
    let request = GetJobRequest { job: Some(select), page_size: 1, page: String::new() };
    let job = match client.jobs.get_job(request).await {
        Ok(answer) => answer.into_inner().job.unwrap_or_default(),
        Err(status) if status.code() == tonic::Code::NotFound => {
            note(&format!("left alone: the scheduler does not know job {job_id}"));
            return Ok(false);
        }
        Err(status) => return Err(client.refused(&status)),
    };
    let since_end = words::between(job.ended_at, Some(words::now()));
    Ok(words::is_terminal(job.state()) && since_end.is_some_and(|since| since >= age))
}

/// Bytes of a folder.
fn disk_use(path: &Path) -> u64 {
    let Ok(found) = std::fs::symlink_metadata(path) else { return 0 };
    if !found.is_dir() {
        return found.len();
    }
    std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| disk_use(&entry.path())).sum()
}

/// Says what went.
fn tell(session: &Session, dry_run: bool, removed: &[Removed]) -> Result<(), Failure> {
    let bytes: u64 = removed.iter().map(|one| one.bytes).sum();
    let list: Vec<_> = removed
        .iter()
        .map(|one| json!({ "job_id": one.job_id, "path": one.path.display().to_string(), "bytes": one.bytes }))
        .collect();
    object(session.format, json!({ "dry_run": dry_run, "removed": list, "bytes": bytes }), || {
        let mut out: String =
            removed.iter().map(|one| format!("{}  {}\n", words::bytes(one.bytes), one.path.display())).collect();
        let done = if dry_run { "would be freed" } else { "freed" };
        out.push_str(&format!("{} {done}\n", words::bytes(bytes)));
        out
    })
}
