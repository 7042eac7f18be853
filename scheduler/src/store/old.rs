//! The rows of a job that is about to leave the state.

use gangsaw_core::id::JobId;
use gangsaw_core::state::State;
use gangsaw_proto::jobs::v1 as wire;
use prost::Message;

use super::rows::{OldJobRow, Row};
use crate::wire::view::{self, Now};

/// Tasks that are rendered at once.
const PAGE: usize = 1_000;
/// Runs of alike tasks that are kept of one job; tasks beyond them are in the archived log only.
const RUNS_MAX: usize = 10_000;

/// Renders a job and its tasks, neighbours that look alike as one row.
pub(crate) fn rows(state: &State, job_id: JobId, now: Now) -> Vec<Row> {
    let Some(held) = state.job(job_id) else { return Vec::new() };
    let job = view::job(state, held, now);
    let mut rows = vec![Row::OldJob(OldJobRow {
        job_id: job_id.0,
        job: job.encode_to_vec(),
        spec: view::shown_spec(held).encode_to_vec(),
    })];
    let mut run: Option<(wire::Task, u32)> = None;
    let mut from = Some((0, 0));
    while let Some(at) = from.filter(|_| rows.len() < RUNS_MAX) {
        let (tasks, next) = view::tasks(state, job_id, None, (at, PAGE), None, now);
        from = next;
        for task in tasks {
            match &mut run {
                Some((first, last)) if continues(first, *last, &task) => *last = task.index,
                _ => rows.extend(run.replace((task.clone(), task.index)).map(|run| row(job_id, &run))),
            }
        }
    }
    rows.extend(run.map(|run| row(job_id, &run)));
    rows
}

fn continues(first: &wire::Task, last: u32, task: &wire::Task) -> bool {
    task.rank == first.rank
        && task.index == last.wrapping_add(1)
        && *task == wire::Task { index: task.index, ..first.clone() }
}

fn row(job_id: JobId, (task, last): &(wire::Task, u32)) -> Row {
    Row::OldTasks { job_id: job_id.0, first: task.index, last: *last, rank: task.rank, task: task.encode_to_vec() }
}
