//! `gangsaw wait`: returns when jobs have ended, with their exit code.

use serde_json::json;

use crate::ending;
use crate::fail::Failure;
use crate::output::{list, note, table};
use crate::selector::Selection;
use crate::session::Session;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// JOB, JOB[3], JOB[7-99:2] or JOB[3].1; several are allowed
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<Selection>,
}

/// Runs the verb.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<u8, Failure> {
    let mut client = session.connect().await?;
    let mut ended = Vec::new();
    let mut highest = 0;
    for select in &args.jobs {
        let ending = ending::wait(&mut client, select, |_| ()).await?;
        highest = highest.max(ending.code);
        ended.push(json!({ "job_id": select.job_id, "exit_code": ending.code, "note": ending.note }));
        if let Some(why) = ending.note {
            note(&why);
        }
    }
    if !session.format.is_table() {
        list(session.format, "jobs", ended, || table(&[]))?;
    }
    Ok(highest)
}
