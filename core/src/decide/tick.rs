//! What time alone brings: gangs that were not ready in time, chunks that take longer than predicted, nodes that were silent for too long, old keys, old jobs.

use super::Decider;
use super::scratch::{Scratch, infra_exit};
use super::submit::KEY_KEPT;
use crate::apply::CHUNK_LATE_AFTER;
use crate::effect::Step;
use crate::event::{Event, NoticeChange, TokenEvent};
use crate::id::{JobId, LeaseId};
use crate::job::notice::{Notice, NoticeStanding};
use crate::job::record::Outcome;
use crate::node::Node;
use crate::state::State;
use crate::time::{Millis, Time};

/// An ended job stays in the state that long; the log and its archive keep it longer.
pub const JOB_KEPT: Millis = Millis::hours(24 * 30);

/// Ended jobs in the state; above it the oldest go first, for memory.
pub const JOBS_ENDED_MAX: usize = 50_000;

/// Jobs one Tick forgets: a batch must not grow with what piled up.
const FORGOTTEN_PER_TICK: usize = 1_000;

impl Decider<'_> {
    pub(super) fn tick(&self) -> Step {
        let mut scratch = Scratch::new(self);
        scratch.late_gangs();
        scratch.late_chunks();
        scratch.lost_leases();
        scratch.evictions();
        if self.state.keys.oldest().is_some_and(|used| used + KEY_KEPT <= self.now) {
            scratch.event(Event::KeysExpired(Time(self.now.0.saturating_sub(KEY_KEPT.0))));
        }
        if self.state.tokens.next_end().is_some_and(|end| end <= self.now) {
            scratch.event(Event::Token(TokenEvent::Expired { until: self.now }));
        }
        for job in self.old_jobs() {
            let notice = self.state.jobs.get(&job).and_then(|job| job.body.notice.as_deref());
            if let Some(Notice { tries, standing: NoticeStanding::Owed { .. }, .. }) = notice {
                let change = NoticeChange::GivenUp { why: "the job was forgotten first".to_owned() };
                scratch.event(Event::Notice { job, tries: *tries, change });
            }
            scratch.event(Event::JobForgotten(job));
        }
        scratch.step
    }

    fn old_jobs(&self) -> Vec<JobId> {
        let ended = &self.state.index.ended;
        let surplus = ended.len().saturating_sub(JOBS_ENDED_MAX);
        let old = ended.iter().enumerate().take(FORGOTTEN_PER_TICK);
        let old = old.take_while(|(at, (ended, _))| *at < surplus || *ended + JOB_KEPT <= self.now);
        old.map(|(_, (_, job))| *job).collect()
    }
}

impl Scratch<'_> {
    fn late_gangs(&mut self) {
        let decider = self.decider;
        let late = decider.state.index.preparing.iter().take_while(|(deadline, _, _)| *deadline <= decider.now);
        for (_, job, index) in late {
            let Some(gang) = self.gang(*job, *index).cloned() else {
                continue;
            };
            let leases: Vec<_> = gang.leases.iter().filter_map(|id| self.lease(*id).cloned()).collect();
            let unready: Vec<_> = leases.iter().filter(|lease| lease.port.is_none()).collect();
            let node = unready.first().and_then(|lease| decider.state.nodes.get(&lease.node));
            let name = node.map_or("?", |node| node.body.name.as_str());
            let detail = format!("node `{name}` was not ready in time");
            if gang.cancelled {
                self.stop_gang(*job, *index, Outcome::Cancelled, infra_exit(&detail));
                continue;
            }
            // Each node that was late failed to start the job, as one that refused to would have.
            unready.iter().for_each(|lease| self.exclude(lease, &detail));
            let late = unready.iter().map(|lease| lease.node).collect();
            self.stop_late_gang(*job, *index, infra_exit(&detail), late);
        }
    }

    /// Elements that wait behind one that runs longer than predicted come back, for there may be room elsewhere.
    fn late_chunks(&mut self) {
        let state = self.decider.state;
        let out = state.index.chunk_times.iter();
        let late = out.take_while(|(granted, _)| *granted + CHUNK_LATE_AFTER <= self.decider.now);
        let late = late.filter_map(|(_, lease)| state.leases.get(lease));
        let mut step = Step::default();
        self.decider.trim(late, &mut step);
        self.step.events.extend(step.events);
        self.step.effects.extend(step.effects);
    }

    /// What still runs on a node that has drained for as long as it was given is taken down.
    fn evictions(&mut self) {
        let decider = self.decider;
        let due = decider.state.index.evictions.iter().take_while(|(at, _)| *at <= decider.now);
        for node in due.filter_map(|(_, node)| decider.state.nodes.get(node)) {
            self.evict(node);
            self.event(Event::NodeEvicted(node.body.id));
        }
    }

    fn lost_leases(&mut self) {
        let decider = self.decider;
        for node in decider.state.index.silent.iter().filter_map(|node| decider.state.nodes.get(node)) {
            let detail = format!("node `{}` was not heard for longer than lost_after", node.body.name);
            for lease in &node.leases {
                if decider.state.lost_at(node, *lease).is_some_and(|at| at <= decider.now) {
                    self.lose(*lease, Outcome::Fenced, &detail, false);
                }
            }
        }
    }
}

impl State {
    /// Returns when a lease of a silent node is lost. `None`: the node is heard, or it was lost before.
    pub(crate) fn lost_at(&self, node: &Node, lease: LeaseId) -> Option<Time> {
        let lease = self.leases.get(&lease).filter(|lease| !lease.fenced)?;
        let job = self.jobs.get(&lease.job)?;
        Some(node.body.silent_since? + job.body.spec.lost_after)
    }

    /// Returns when time alone next changes something: feed `Tick`, and call `place`, at that time.
    pub fn next_wake(&self) -> Option<Time> {
        let index = &self.index;
        let silent = index.silent.iter().filter_map(|node| self.nodes.get(node));
        let lost = silent.flat_map(|node| node.leases.iter().filter_map(|lease| self.lost_at(node, *lease))).min();
        let wake = index.wakes.first().map(|(time, _)| *time);
        let chunk = index.chunk_times.first().map(|(granted, _)| *granted + CHUNK_LATE_AFTER);
        let gang = index.preparing.first().map(|(time, _, _)| *time);
        let key = self.keys.oldest().map(|used| used + KEY_KEPT);
        let kept = if index.ended.len() > JOBS_ENDED_MAX { Millis(0) } else { JOB_KEPT };
        let job = index.ended.first().map(|(ended, _)| *ended + kept);
        let eviction = index.evictions.first().map(|(at, _)| *at);
        let token = self.tokens.next_end();
        [lost, wake, chunk, gang, key, job, eviction, token].into_iter().flatten().min()
    }
}
