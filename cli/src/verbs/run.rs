//! `gangsaw run`: submits a job, shows what it prints, and ends as it ends.
//!
//! The task's stdout and stderr stay apart. Ctrl-C cancels the job and goes on showing it until it has ended; a second
//! Ctrl-C only stops watching.

use gangsaw_proto::jobs::v1::{CancelRequest, ReadLogsRequest};

use super::submit;
use crate::client::Client;
use crate::ending;
use crate::fail::Failure;
use crate::follow::{Named, follow};
use crate::output::note;
use crate::selector::Selection;
use crate::session::Session;

/// Runs the verb.
pub(crate) async fn run(session: &Session, args: &submit::Args) -> Result<u8, Failure> {
    let (loaded, single) = submit::load(session, args)?;
    let mut client = session.connect().await?;
    let stored = submit::store(&mut client, loaded, single).await?;
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        for id in &stored.job_ids {
            note(&format!("job {id} submitted"));
        }
    }
    let watched = watch_all(client.clone(), &stored);
    tokio::pin!(watched);
    tokio::select! {
        code = &mut watched => return code,
        interrupt = tokio::signal::ctrl_c() => interrupt?,
    }
    note("cancelling; press Ctrl-C again to stop watching");
    for id in &stored.job_ids {
        cancel(&mut client, *id).await?;
    }
    tokio::select! {
        code = &mut watched => code,
        interrupt = tokio::signal::ctrl_c() => {
            interrupt?;
            note("detached; the job is being cancelled");
            Ok(ending::CANCELLED)
        }
    }
}

/// Shows every job to its end, one after the other, and returns the highest code.
async fn watch_all(client: Client, stored: &submit::Stored) -> Result<u8, Failure> {
    let mut highest = 0;
    for id in &stored.job_ids {
        let select = Selection { job_id: *id, elements: Vec::new(), rank: None };
        let named = match (stored.single, stored.job_ids.len()) {
            (true, _) => Named::Not,
            (false, 1) => Named::Task,
            (false, _) => Named::Job(*id),
        };
        let request = ReadLogsRequest { select: Some(select.wire()), follow: true, ..ReadLogsRequest::default() };
        let (mut reader, mut watcher) = (client.clone(), client.clone());
        let (shown, ended) =
            tokio::join!(follow(&mut reader, &request, named), ending::wait(&mut watcher, &select, |_| ()));
        let ended = ended?;
        // Output that could not be shown changes nothing about how the job ended.
        if let Err(failure @ (Failure::Plain(_) | Failure::Rendered { .. })) = shown {
            note(failure.text().trim_end());
        }
        if let Some(why) = ended.note {
            note(&why);
        }
        highest = highest.max(ended.code);
    }
    Ok(highest)
}

/// Cancels one job.
async fn cancel(client: &mut Client, job_id: u64) -> Result<(), Failure> {
    let select = Selection { job_id, elements: Vec::new(), rank: None };
    let request = CancelRequest { select: Some(select.wire()) };
    client.jobs.cancel(request).await.map_err(|status| client.refused(&status))?;
    Ok(())
}
