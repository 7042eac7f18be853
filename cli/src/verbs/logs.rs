//! `gangsaw logs`: what a job's tasks printed, live while they run.

use gangsaw_proto::jobs::v1::{GetJobRequest, ReadLogsRequest, Stream};

use super::ps;
use crate::fail::Failure;
use crate::follow::{Named, follow};
use crate::selector::Selection;
use crate::session::Session;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// JOB, JOB[3], JOB[7-99:2] or JOB[3].1
    #[arg(value_name = "JOB")]
    job: Selection,
    /// Go on until the tasks have ended
    #[arg(long, short = 'f')]
    follow: bool,
    /// Only this rank
    #[arg(long, value_name = "RANK")]
    rank: Option<u32>,
    /// This attempt instead of the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// Only the last N lines of each stream
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
    /// Only what was written in the last, such as 10min, or after a time
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only this stream
    #[arg(long, value_name = "STREAM", value_parser = ["stdout", "stderr"])]
    stream: Option<String>,
}

/// Runs the verb.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<u8, Failure> {
    let since = args.since.as_deref().map(ps::since).transpose()?;
    let mut client = session.connect().await?;
    let rank = args.rank.or(args.job.rank);
    let look = GetJobRequest { job: Some(args.job.wire()), page_size: 2, page: String::new() };
    let found = client.jobs.get_job(look).await.map_err(|status| client.refused(&status))?.into_inner();
    let of_rank = |count: usize| if rank.is_some() { count.min(1) } else { count };
    let ranks = found.job.as_ref().map_or(1, |job| of_rank(job.replicas.max(1) as usize));
    let elements = found.job.as_ref().map_or(1, |job| job.element_count);
    let chosen = if args.job.elements.is_empty() { elements } else { crate::spec::units::count(&args.job.elements) };
    let stream = match args.stream.as_deref() {
        Some("stdout") => Stream::Stdout,
        Some(_) => Stream::Stderr,
        None => Stream::Unspecified,
    };
    let request = ReadLogsRequest {
        select: Some(args.job.wire()),
        rank,
        attempt: args.attempt.unwrap_or(0),
        stream: stream.into(),
        follow: args.follow,
        tail_lines: args.tail,
        since,
    };
    let named = if chosen > 1 || ranks > 1 { Named::Task } else { Named::Not };
    follow(&mut client, &request, named).await?;
    Ok(0)
}
