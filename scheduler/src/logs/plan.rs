//! Where the output of a job's tasks is: which attempt is the newest, and on which node.
//!
//! The engine is asked a page at a time, and neighbours that are alike become one run: a million finished tasks of one
//! node are one.

use gangsaw_core::id::{Index, JobId, Rank};
use gangsaw_core::ranges::RangeSet;

use super::Logs;
use crate::engine::View;
use crate::rpc::errors::Refusal;
use crate::wire::terms::is_ended;

/// Tasks of one page.
const TASKS_PAGE: usize = 1_000;

/// Neighbouring tasks whose newest attempt is the same one's on the same node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: Index,
    pub(super) last: Index,
    pub(super) rank: Rank,
    pub(super) attempt: u32,
    pub(super) node: String,
}

/// Where the selected tasks' newest attempts are, and whether all have ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) runs: Vec<Run>,
    pub(super) ended: bool,
}

impl Plan {
    /// Returns how many nodes hold something of it.
    pub(super) fn nodes(&self) -> usize {
        let names: std::collections::BTreeSet<&str> = self.runs.iter().map(|run| run.node.as_str()).collect();
        names.iter().filter(|name| !name.is_empty()).count()
    }
}

impl Logs {
    /// Asks the engine where the selected tasks are, a page at a time.
    pub(super) async fn plan(&self, job: JobId, elements: Option<&RangeSet>) -> Result<Plan, Refusal> {
        let mut plan = Plan { runs: Vec::new(), ended: true };
        let mut from = Some((0, 0));
        while let Some(at) = from {
            let elements = elements.cloned();
            let page = self.engine.read(move |view| page(view, job, elements.as_ref(), at)).await?;
            let (runs, ended, next) = page;
            plan.ended &= ended;
            from = next;
            for run in runs {
                match plan.runs.last_mut() {
                    Some(before) if continues(before, &run) => before.last = run.last,
                    Some(_) | None => plan.runs.push(run),
                }
            }
        }
        Ok(plan)
    }
}

fn continues(before: &Run, run: &Run) -> bool {
    before.last.wrapping_add(1) == run.first && *before == Run { first: before.first, last: before.last, ..run.clone() }
}

type Page = (Vec<Run>, bool, Option<(Index, Rank)>);

fn page(view: &View<'_>, job: JobId, elements: Option<&RangeSet>, from: (Index, Rank)) -> Page {
    let page = view.state.tasks(job, elements, from, TASKS_PAGE);
    let mut runs: Vec<Run> = Vec::new();
    let mut ended = true;
    for task in &page.tasks {
        ended &= is_ended(task.state);
        let node = task.node.and_then(|node| view.state.node(node)).map(|node| node.body.name.to_string());
        let (attempt, node) = (task.attempt, node.unwrap_or_default());
        let run = Run { first: task.index, last: task.index, rank: task.rank, attempt, node };
        match runs.last_mut() {
            Some(before) if continues(before, &run) => before.last = run.last,
            Some(_) | None => runs.push(run),
        }
    }
    (runs, ended, page.next)
}
