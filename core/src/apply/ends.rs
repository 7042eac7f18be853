//! How elements end, and what the end of a job's last element means for others.

use crate::id::{Index, JobId, NodeId};
use crate::job::body::{Job, Standing};
use crate::job::record::{ElementRecord, EndState, EndedRange, Outcome, RecordStatus};
use crate::job::spec::DependencyKind;
use crate::state::State;
use crate::time::Time;

/// A job with so few elements keeps a record of each, so that people see pid, node and times of every task.
pub(crate) const RECORDS_OF_ALL_MAX: u64 = 1_000;

/// Records of ended elements a larger job keeps; further ones end in ranges, without pid and times.
pub(crate) const RECORDS_ENDED_MAX: usize = 10_000;

impl EndedRange {
    /// Returns the range, without its end, of elements that were cancelled before they ran.
    pub(super) fn never_ran(last: Index) -> Self {
        let state = EndState::Cancelled;
        Self { last, node: None, attempt: 0, state, outcome: None, exit_code: None, signal: None }
    }

    /// Returns the range of elements that completed in their first attempt.
    pub(super) fn completed(last: Index, node: NodeId) -> Self {
        let outcome = Some(Outcome::Ok);
        let state = EndState::Completed;
        Self { last, node: Some(node), attempt: 1, state, outcome, exit_code: Some(0), signal: None }
    }

    fn like(&self, other: &EndedRange) -> bool {
        EndedRange { last: other.last, ..*self } == *other
    }
}

impl Job {
    /// Returns how many elements have ended.
    pub(crate) fn ended_count(&self) -> u64 {
        self.ended_counts.values().sum()
    }

    /// Returns the ended range that holds `index`, with its first index.
    pub fn ended_range(&self, index: Index) -> Option<(Index, EndedRange)> {
        let (first, range) = self.body.ended.range(..=index).next_back()?;
        (index <= range.last).then_some((*first, *range))
    }

    pub(super) fn count_end(&mut self, state: EndState, count: u64) {
        *self.ended_counts.entry(state).or_default() += count;
    }

    pub(super) fn uncount_end(&mut self, state: EndState, count: u64) {
        if let Some(left) = self.ended_counts.get_mut(&state) {
            *left -= count;
            if *left == 0 {
                self.ended_counts.remove(&state);
            }
        }
    }

    /// Ends `first..=range.last` alike; neighbours that ended alike become one range.
    pub(super) fn end_range(&mut self, first: Index, range: EndedRange) {
        self.count_end(range.state, u64::from(range.last - first) + 1);
        if let Some(code) = range.exit_code {
            self.body.exit_code = self.body.exit_code.max(Some(code));
        }
        let (mut low, mut merged) = (first, range);
        if let Some((before, left)) = self.body.ended.range(..first).next_back()
            && left.last.checked_add(1) == Some(first)
            && left.like(&range)
        {
            low = *before;
        }
        if let Some(next) = range.last.checked_add(1)
            && let Some(right) = self.body.ended.get(&next)
            && right.like(&range)
        {
            merged.last = right.last;
            self.body.ended.remove(&next);
        }
        self.body.ended.insert(low, merged);
    }

    /// Takes `first..=last` out of the ended ranges and yields what was there.
    pub(super) fn unend(&mut self, first: Index, last: Index) -> Vec<(Index, EndedRange)> {
        let start = self.ended_range(first).map_or(first, |(start, _)| start);
        let hit: Vec<_> = self.body.ended.range(start..=last).map(|(a, b)| (*a, *b)).collect();
        let mut out = Vec::new();
        for (low, range) in hit {
            self.body.ended.remove(&low);
            if low < first {
                self.body.ended.insert(low, EndedRange { last: first - 1, ..range });
            }
            if range.last > last {
                self.body.ended.insert(last + 1, range);
            }
            let part = (low.max(first), EndedRange { last: range.last.min(last), ..range });
            self.uncount_end(range.state, u64::from(part.1.last - part.0) + 1);
            out.push(part);
        }
        out
    }

    /// Ends an element that has a record, keeping the record if there is room for it.
    pub(super) fn end_record(&mut self, at: Time, index: Index, mut record: ElementRecord, state: EndState) {
        if let Some(exit) = record.last.as_ref().map(|last| &last.exit) {
            self.body.exit_code = self.body.exit_code.max(exit.exit_code);
        }
        let few = self.body.spec.element_count() <= RECORDS_OF_ALL_MAX;
        if few || self.body.records.len() < RECORDS_ENDED_MAX {
            record.status = RecordStatus::Ended { state, at };
            self.body.records.insert(index, record);
            self.count_end(state, 1);
            return;
        }
        let last = record.last.as_ref();
        let range = EndedRange {
            last: index,
            node: last.and_then(|last| last.tasks.first()).map(|task| task.node),
            attempt: record.attempts,
            state,
            outcome: last.map(|last| last.outcome),
            exit_code: last.and_then(|last| last.exit.exit_code),
            signal: last.and_then(|last| last.exit.signal),
        };
        self.end_range(index, range);
    }

    /// Says what a dependency on this job has come to.
    pub(crate) fn standing(&self, kind: DependencyKind) -> Standing {
        if self.body.ended_at.is_none() {
            return Standing::Open;
        }
        let ok = self.ended_counts.keys().all(|state| *state == EndState::Completed);
        match (kind, ok) {
            (DependencyKind::Any, _) | (DependencyKind::Ok, true) | (DependencyKind::Failed, false) => Standing::Met,
            (DependencyKind::Ok, false) | (DependencyKind::Failed, true) => Standing::Failed,
        }
    }
}

impl State {
    /// Notes the end of a job whose last element ended, and tells the jobs that depend on it.
    pub(super) fn settle_job(&mut self, at: Time, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        if job.body.ended_at.is_some() || job.ended_count() < job.body.spec.element_count() {
            return;
        }
        job.body.ended_at = Some(at);
        let awaited: Vec<JobId> = job.body.after.iter().map(|after| after.job).collect();
        self.index.ended.insert((at, id));
        self.index.doomed.remove(&id);
        self.owe_notice(at, id);
        for on in awaited {
            self.watch_no_more(on, id);
        }
        for dependent in self.index.dependents.remove(&id).unwrap_or_default() {
            self.settle_dependent(id, dependent);
        }
    }

    fn settle_dependent(&mut self, on: JobId, dependent: JobId) {
        let Some(ended) = self.jobs.get(&on) else {
            return;
        };
        let met = |kind| ended.standing(kind);
        let kinds = [DependencyKind::Ok, DependencyKind::Any, DependencyKind::Failed];
        let standings = kinds.map(|kind| (kind, met(kind)));
        let Some(job) = self.jobs.get_mut(&dependent) else {
            return;
        };
        for after in job.body.after.iter_mut().filter(|after| after.job == on && after.standing == Standing::Open) {
            let found = standings.iter().find(|(kind, _)| *kind == after.kind);
            after.standing = found.map_or(Standing::Open, |(_, standing)| *standing);
        }
        self.watch_dependencies(dependent);
        self.reindex(dependent, false);
    }

    /// Takes a job that ended, waiting or not, out of the list of those that wait for `on`.
    fn watch_no_more(&mut self, on: JobId, id: JobId) {
        if let Some(dependents) = self.index.dependents.get_mut(&on) {
            dependents.remove(&id);
            if dependents.is_empty() {
                self.index.dependents.remove(&on);
            }
        }
    }

    /// Puts a job where its dependencies will find it: doomed, waiting for others, or nowhere.
    pub(super) fn watch_dependencies(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        if job.body.ended_at.is_some() {
            return;
        }
        let failed = job.body.after.iter().any(|after| after.standing == Standing::Failed);
        if failed {
            self.index.doomed.insert(id);
        } else {
            self.index.doomed.remove(&id);
        }
        for after in job.body.after.iter().filter(|after| after.standing == Standing::Open) {
            self.index.dependents.entry(after.job).or_default().insert(id);
        }
    }
}
