//! The small things that every service copies: ids, selectors, pages.

use std::sync::atomic::{AtomicU64, Ordering};

use gangsaw_core::id::{Index, JobId, Rank, RequestId};
use gangsaw_core::ranges::RangeSet;
use gangsaw_proto::jobs::v1 as wire;
use tonic::{Code, Status};

use super::errors::Refusal;
use crate::clock::wall_ms;

/// Members one selector may name one by one (by a step); plain ranges cost nothing and are not counted.
const STEPPED_MAX: u64 = 1_000_000;

/// Returns a request's number: unique in this process, and told apart from other processes' by the wall time.
pub(crate) fn request_id() -> Result<RequestId, Refusal> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let text = format!("{:x}-{:x}", wall_ms(), NEXT.fetch_add(1, Ordering::Relaxed));
    RequestId::new(&text).map_err(|error| invalid("bad-name", format!("the request's number {error}")))
}

pub(crate) fn invalid(reason: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidArgument, reason, message, "")
}

/// Returns the refusal of a job nobody knows.
pub(crate) fn unknown_job(job: u64) -> Refusal {
    Refusal::new(Code::NotFound, "unknown-job", format!("there is no job {job}"), "see `gangsaw ps --all`")
}

/// Returns the status of an answer that does not belong to the question, which the core never gives.
pub(crate) fn astray() -> Status {
    Refusal::invariant().into()
}

/// Reads a selector: the job, and its elements if any are named.
pub(crate) fn selector(select: Option<wire::Selector>) -> Result<(JobId, Option<RangeSet>), Refusal> {
    let select = select.ok_or_else(|| Refusal::missing("select"))?;
    let elements = (!select.elements.is_empty()).then(|| elements(&select.elements)).transpose()?;
    Ok((job_id(select.job_id)?, elements))
}

pub(crate) fn job_id(id: u64) -> Result<JobId, Refusal> {
    if id == 0 { Err(Refusal::missing("job_id")) } else { Ok(JobId(id)) }
}

fn elements(ranges: &[wire::IndexRange]) -> Result<RangeSet, Refusal> {
    let mut set = RangeSet::new();
    let mut stepped = 0;
    for range in ranges {
        if range.first > range.last {
            return Err(invalid("bad-range", format!("the range {}-{} runs downwards", range.first, range.last)));
        }
        if range.step <= 1 {
            set.insert(range.first, range.last);
            continue;
        }
        stepped += u64::from((range.last - range.first) / range.step) + 1;
        if stepped > STEPPED_MAX {
            return Err(invalid("too-many-elements", format!("a step may name {STEPPED_MAX} elements at most")));
        }
        for index in (range.first..=range.last).step_by(range.step as usize) {
            set.insert(index, index);
        }
    }
    Ok(set)
}

/// Returns how many a page has, between 1 and 1,000.
pub(crate) fn page_size(asked: u32, default: usize) -> usize {
    if asked == 0 { default } else { (asked as usize).min(1_000) }
}

/// Reads a page token of tasks: `INDEX.RANK`, or nothing for the beginning.
pub(crate) fn task_page(page: &str) -> Result<(Index, Rank), Refusal> {
    if page.is_empty() {
        return Ok((0, 0));
    }
    let read = || {
        let (index, rank) = page.split_once('.')?;
        Some((index.parse().ok()?, rank.parse().ok()?))
    };
    read().ok_or_else(|| invalid("bad-page", "the page is none that a call before returned"))
}

/// Writes a page token of tasks.
pub(crate) fn task_token(next: Option<(Index, Rank)>) -> String {
    next.map(|(index, rank)| format!("{index}.{rank}")).unwrap_or_default()
}
