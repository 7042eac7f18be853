//! How a job ended, as an exit code: `run` and `wait` end as the job did.
//!
//! A command's own code; 128 + signal; 124 time limit; 125 ended without a code; 130 cancelled. Of a gang's ranks the
//! first to fail speaks, of an array's elements the highest code.

use std::collections::BTreeMap;

use gangsaw_proto::jobs::v1::{GetJobRequest, Job, State, Task, WatchRequest, WatchResponse};

use crate::client::{Client, Patience};
use crate::fail::{Failure, bad_input};
use crate::selector::Selection;
use crate::words::{self, is_terminal};

/// The time limit ended it.
const TIME_LIMIT: u8 = 124;
/// It ended without a code: out of memory, the node failed, it never started.
pub(crate) const NO_CODE: u8 = 125;
/// Somebody cancelled it.
pub(crate) const CANCELLED: u8 = 130;

/// How a selection ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) code: u8,
    /// Why, when the code alone does not say it.
    pub(crate) note: Option<String>,
}

/// The ending of the selected tasks of `job`, all of which have ended.
fn ending(job: &Job, tasks: &[Task]) -> Ending {
    let never = job.reasons.iter().find(|reason| reason.reason == "dependency-failed");
    if let Some(never) = never
        && tasks.iter().all(|task| task.attempt == 0)
    {
        return Ending {
            code: NO_CODE,
            note: Some(format!("error[{}]: job {} never started: {}", never.reason, job.job_id, never.message)),
        };
    }
    let code = code(tasks);
    let speaks = tasks.iter().filter(|task| task_code(task) == code && code != 0);
    let note = speaks.min_by_key(|task| (task.index, task.rank)).and_then(|task| note(job.job_id, task));
    Ending { code, note }
}

/// Why a task ended, unless it ended by itself with a code or somebody cancelled it.
fn note(job_id: u64, task: &Task) -> Option<String> {
    let told = match task.state() {
        State::Failed if task.exit_code.is_some() => return None,
        State::Failed if !task.detail.is_empty() => task.detail.clone(),
        State::Failed => format!("ended by signal {}", task.signal?),
        State::Timeout | State::OutOfMemory | State::NodeFail => task.detail.clone(),
        State::Unspecified
        | State::Pending
        | State::Held
        | State::Starting
        | State::Running
        | State::Completing
        | State::Completed
        | State::Cancelled => return None,
    };
    let state = words::state(task.state());
    let reason = state.to_lowercase().replace('_', "-");
    let told = crate::spec::read::harmless(&told);
    Some(format!("error[{reason}]: job {job_id}[{}].{} is {state}: {told}", task.index, task.rank))
}

/// The exit code of the selected tasks, all of which have ended.
fn code(tasks: &[Task]) -> u8 {
    let mut elements: BTreeMap<u32, Vec<&Task>> = BTreeMap::new();
    for task in tasks {
        elements.entry(task.index).or_default().push(task);
    }
    elements.values().map(|ranks| element_code(ranks)).max().unwrap_or(0)
}

/// The exit code of one element: of its ranks, the first to fail.
fn element_code(ranks: &[&Task]) -> u8 {
    let failed = ranks.iter().filter(|task| task_code(task) != 0);
    let by_end = |task: &&&Task| task.ended_at.map_or((i64::MAX, 0), |at| (at.seconds, at.nanos));
    failed.min_by_key(by_end).map_or(0, |task| task_code(task))
}

/// The exit code of one task.
fn task_code(task: &Task) -> u8 {
    match task.state() {
        State::Completed => 0,
        State::Timeout => TIME_LIMIT,
        State::OutOfMemory | State::NodeFail => NO_CODE,
        State::Cancelled => CANCELLED,
        State::Failed => own_code(task),
        State::Unspecified | State::Pending | State::Held | State::Starting | State::Running | State::Completing => {
            NO_CODE
        }
    }
}

/// The command's own code, or 128 + the signal that ended it.
fn own_code(task: &Task) -> u8 {
    match (task.exit_code, task.signal) {
        (Some(code), _) if code != 0 => (code & 0xff).try_into().unwrap_or(NO_CODE),
        (_, Some(signal)) => (128 + (signal & 0x7f)).try_into().unwrap_or(NO_CODE),
        (_, None) => NO_CODE,
    }
}

/// Watches a job until the selection has ended, through restarts of the scheduler.
pub(crate) async fn wait(
    client: &mut Client,
    select: &Selection,
    mut seen: impl FnMut(&WatchResponse),
) -> Result<Ending, Failure> {
    let mut patience = Patience::new();
    let mut after_seq = 0;
    loop {
        let request = WatchRequest { job_id: select.job_id, after_seq };
        let mut stream = match client.jobs.watch(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                patience.wait(client, &status).await?;
                continue;
            }
        };
        loop {
            match stream.message().await {
                Ok(Some(change)) => {
                    patience.answered();
                    after_seq = change.seq.max(after_seq);
                    seen(&change);
                    if let Some(job) = &change.job
                        && let Some(ending) = ended(client, select, job).await?
                    {
                        return Ok(ending);
                    }
                }
                Ok(None) => {
                    after_seq = 0;
                    patience.wait(client, &tonic::Status::unavailable("the stream ended early")).await?;
                    break;
                }
                Err(status) => {
                    patience.wait(client, &status).await?;
                    break;
                }
            }
        }
    }
}

/// The selection's ending, once all of it has ended.
async fn ended(client: &mut Client, select: &Selection, job: &Job) -> Result<Option<Ending>, Failure> {
    let whole = select.elements.is_empty() && select.rank.is_none();
    if whole && !is_terminal(job.state()) {
        return Ok(None);
    }
    if whole && job.state() == State::Completed {
        return Ok(Some(Ending::default()));
    }
    let tasks = tasks(client, select, usize::MAX).await?;
    if tasks.is_empty() {
        let sentence = format!("job {} has no such part", select.job_id);
        return Err(bad_input("unknown-element", sentence, format!("see `gangsaw show {}`", select.job_id)));
    }
    let all = tasks.iter().all(|task| is_terminal(task.state()));
    Ok(all.then(|| ending(job, &tasks)))
}

/// The selected tasks, page after page, at most `limit`.
pub(crate) async fn tasks(client: &mut Client, select: &Selection, limit: usize) -> Result<Vec<Task>, Failure> {
    let mut found: Vec<Task> = Vec::new();
    let mut page = String::new();
    let mut patience = Patience::new();
    loop {
        let request = GetJobRequest { job: Some(select.wire()), page_size: 0, page: page.clone() };
        let answer = match client.jobs.get_job(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                patience.wait(client, &status).await?;
                continue;
            }
        };
        patience.answered();
        found.extend(answer.tasks.into_iter().filter(|task| select.rank.is_none_or(|rank| rank == task.rank)));
        page = answer.next_page;
        if page.is_empty() || found.len() >= limit {
            found.truncate(limit);
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(index: u32, rank: u32, state: State, exit_code: Option<i32>, signal: Option<i32>, ended: i64) -> Task {
        let ended_at = Some(prost_types::Timestamp { seconds: ended, nanos: 0 });
        Task { index, rank, state: state.into(), exit_code, signal, ended_at, attempt: 1, ..Task::default() }
    }

    #[test]
    fn each_way_to_end_has_its_code() {
        let one = |state, exit_code, signal| code(&[task(0, 0, state, exit_code, signal, 1)]);
        assert_eq!(one(State::Completed, Some(0), None), 0);
        assert_eq!(one(State::Failed, Some(3), None), 3);
        assert_eq!(one(State::Failed, None, Some(9)), 137);
        assert_eq!(one(State::Failed, None, None), 125);
        assert_eq!(one(State::Timeout, None, Some(15)), 124);
        assert_eq!(one(State::OutOfMemory, None, Some(9)), 125);
        assert_eq!(one(State::NodeFail, None, None), 125);
        assert_eq!(one(State::Cancelled, None, Some(15)), 130);
    }

    #[test]
    fn the_first_rank_to_fail_speaks_for_its_gang() {
        let gang = [
            task(0, 0, State::Failed, None, Some(15), 9),
            task(0, 1, State::Failed, Some(7), None, 8),
            task(0, 2, State::Completed, Some(0), None, 1),
        ];
        assert_eq!(code(&gang), 7);
    }

    #[test]
    fn the_highest_code_speaks_for_an_array() {
        let array = [
            task(0, 0, State::Failed, Some(3), None, 1),
            task(1, 0, State::Failed, Some(5), None, 2),
            task(2, 0, State::Completed, Some(0), None, 3),
        ];
        assert_eq!(code(&array), 5);
    }
}
