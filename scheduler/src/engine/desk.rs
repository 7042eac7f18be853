//! What the engine knows and no event says: heartbeats, progress, who watches. Lost at restart, and decides nothing but
//! silence, which becomes an input first.

use std::collections::BTreeMap;
use std::sync::Arc;

use gangsaw_core::event::Event;
use gangsaw_core::id::{Index, JobId, NodeId};
use gangsaw_core::input::NodeHello;
use gangsaw_core::join::JoinEvent;
use gangsaw_core::liveness::{Liveness, lease_ttl};
use gangsaw_core::ranges::RangeSet;
use gangsaw_core::state::State;
use gangsaw_core::time::{Millis, Time};
use gangsaw_proto::jobs::v1 as wire;
use tokio::sync::watch;

use super::phases::PhaseBook;
use super::session::{Sessions, TaskProgress};
use super::watch::{Seen, Watches};
use crate::clock::boot_ns;
use crate::store::contract::History;
use crate::wire::terms::is_ended;
use crate::wire::view::{self, Now, ProgressMap, Volatile};

/// Time between two turns that no wait explains: the longest wait is a second.
const STOOD_STILL: Millis = Millis::seconds(5);
/// Jobs whose tasks' progress is remembered; the oldest is dropped for a new one.
const PROGRESS_JOBS_MAX: usize = 1_024;
/// Tasks of one job whose progress is remembered.
const PROGRESS_TASKS_MAX: usize = 1_024;
/// Tasks in one picture of a watched job.
const WATCHED_TASKS_MAX: usize = 64;
/// Pairs of job and node whose logs wait to be copied; beyond it the oldest stay on their nodes only.
const UNCOPIED_MAX: usize = 65_536;

/// How long a copy that failed waits for its next try.
const COPY_AGAIN_NS: u64 = 30_000_000_000;

/// Elements that ended on a node and whose output was not copied yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Uncopied {
    pub(crate) elements: RangeSet,
    /// BOOTTIME in ns of the first of them.
    pub(crate) since_ns: u64,
    /// BOOTTIME in ns before which it is not tried again.
    pub(crate) not_before_ns: u64,
}

/// The volatile side of the engine.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    pub(super) sessions: Sessions,
    pub(super) liveness: Liveness,
    pub(super) phases: PhaseBook,
    pub(super) watches: Watches,
    progress: BTreeMap<JobId, ProgressMap>,
    nodes: BTreeMap<NodeId, Volatile>,
    uncopied: BTreeMap<(JobId, NodeId), Uncopied>,
    pub(super) disk_full: bool,
    pub(super) refused_inputs: u64,
}

impl Desk {
    /// Returns the desk of an engine that starts: every connected node gets a full time to live.
    pub(super) fn starting(state: &State, now: Time) -> Desk {
        let connected = state.nodes().filter(|node| node.connected()).map(|node| node.body.id);
        let mut desk = Desk { liveness: Liveness::starting(now, connected), ..Desk::default() };
        // What was not copied before the restart is not known: nodes answer for what they still have.
        for job in state.jobs() {
            let ranges = job.body.ended.iter().filter_map(|(first, range)| Some((range.node?, (*first, range.last))));
            let records = job.body.records.iter().flat_map(|(index, record)| {
                let tasks = record.last.iter().flat_map(|ended| &ended.tasks);
                tasks.map(|task| (task.node, (*index, *index)))
            });
            for (node, range) in ranges.chain(records) {
                desk.ended_on(job.body.id, node, range, boot_ns());
            }
        }
        desk
    }

    /// Returns how long a node may be silent now.
    pub(super) fn ttl(state: &State) -> Millis {
        lease_ttl(state.node_count())
    }

    /// Gives every node a full time to live if the engine itself stood still between two turns (it was stopped, or the
    /// disk stalled): what nodes said meanwhile was not heard, and that is no silence of theirs.
    pub(super) fn after_gap(&mut self, state: &State, before: Time, now: Time) {
        if now.since(before) >= STOOD_STILL {
            tracing::warn!(ms = now.since(before).0, "the engine stood still");
            let connected = state.nodes().filter(|node| node.connected()).map(|node| node.body.id);
            self.liveness = Liveness::starting(now, connected);
        }
    }

    /// Notes that a node was heard.
    pub(super) fn heard(&mut self, node: NodeId, now: Now) {
        self.liveness.heard(node, now.time);
        self.nodes.entry(node).or_default().heard_wall_ms = Some(now.wall_ms);
    }

    /// Says whether a Hello comes from a stream the agent has given up for a newer one.
    pub(super) fn is_late(&self, state: &State, hello: &NodeHello, said: &Volatile) -> bool {
        let known = state.node_id(&hello.name).and_then(|node| Some((state.node(node)?, self.nodes.get(&node)?)));
        known.is_some_and(|(node, newest)| {
            node.body.uuid == hello.uuid
                && node.body.boot_id == hello.boot_id
                && 0 < said.hello_ms
                && said.hello_ms < newest.hello_ms
        })
    }

    /// Notes a Hello that was taken.
    pub(super) fn hello(&mut self, node: NodeId, volatile: Volatile) {
        self.nodes.entry(node).or_default().hello_ms = volatile.hello_ms;
        self.devices(node, volatile);
    }

    /// Notes what a node says of its devices.
    pub(super) fn devices(&mut self, node: NodeId, volatile: Volatile) {
        self.nodes.entry(node).or_default().devices = volatile.devices;
    }

    /// Notes what a task said of itself, if its node holds its lease.
    pub(super) fn progress(&mut self, state: &State, node: NodeId, said: TaskProgress) {
        let Some(lease) = state.lease(said.lease).filter(|lease| lease.node == node && !lease.fenced) else { return };
        let tasks = self.progress.entry(lease.job).or_default();
        if tasks.len() < PROGRESS_TASKS_MAX || tasks.contains_key(&(said.index, said.rank)) {
            tasks.insert((said.index, said.rank), said.progress);
        }
        self.watches.touch_progress(lease.job);
        while self.progress.len() > PROGRESS_JOBS_MAX {
            self.progress.pop_first();
        }
    }

    /// Notes what an event that is about to be folded means for watchers and logs.
    pub(super) fn before(&mut self, state: &State, event: &Event, now_ns: u64) {
        match *event {
            Event::ElementsSucceeded { lease, job, first, last, .. } => {
                if let Some(lease) = state.lease(lease) {
                    self.ended_on(job, lease.node, (first, last), now_ns);
                }
            }
            Event::AttemptEnded { lease, job, index, .. } => {
                let gang = state.gang(job, index).map(|gang| gang.leases.clone());
                for lease in gang.unwrap_or_else(|| vec![lease]) {
                    if let Some(lease) = state.lease(lease) {
                        self.ended_on(job, lease.node, (index, index), now_ns);
                    }
                }
            }
            Event::JobForgotten(job) => {
                self.progress.remove(&job);
            }
            // Whoever is connected under the name has another certificate now, or is somebody else.
            Event::Join(JoinEvent::Joined { ref name, .. }) => {
                if let Some(node) = state.node_id(name) {
                    self.sessions.end(node);
                }
            }
            Event::NodeForgotten { node, .. } => {
                self.nodes.remove(&node);
                self.liveness.forget(node);
            }
            Event::JobsSubmitted { .. }
            | Event::KeysExpired(_)
            | Event::JobCancelled { .. }
            | Event::JobHeld { .. }
            | Event::JobReleased { .. }
            | Event::ElementsRetried { .. }
            | Event::JobUpdated { .. }
            | Event::NodeRegistered { .. }
            | Event::NodeReturned { .. }
            | Event::NodeInventoryChanged { .. }
            | Event::NodeSilenced(_)
            | Event::NodeModeSet { .. }
            | Event::NodeEvicted(_)
            | Event::NodeClearing { .. }
            | Event::QueueSet { .. }
            | Event::TenantSet { .. }
            | Event::Join(_)
            | Event::RoundDecided { .. }
            | Event::ChunkLeased { .. }
            | Event::GangLeased { .. }
            | Event::LeasePrepared { .. }
            | Event::GangStarted { .. }
            | Event::TaskStarted { .. }
            | Event::RankEnded { .. }
            | Event::GangStopping { .. }
            | Event::ElementsReturned { .. }
            | Event::LeaseTrimmed { .. }
            | Event::LeasePreempted { .. }
            | Event::LeaseFenced { .. }
            | Event::FenceConfirmed { .. }
            | Event::NodeExcluded { .. }
            | Event::Notice { .. }
            | Event::ReportTaken { .. }
            | Event::Token(_)
            | Event::ClusterRestored { .. }
            | Event::Restored(_) => {}
        }
    }

    fn ended_on(&mut self, job: JobId, node: NodeId, (first, last): (Index, Index), now_ns: u64) {
        let waiting =
            self.uncopied.entry((job, node)).or_insert_with(|| Uncopied { since_ns: now_ns, ..Uncopied::default() });
        waiting.elements.insert(first, last);
        while self.uncopied.len() > UNCOPIED_MAX {
            self.uncopied.pop_first();
        }
    }
}

/// What a read may look at, between two batches.
pub(crate) struct View<'a> {
    pub(crate) state: &'a State,
    pub(crate) now: Now,
    /// Sequence of the last durable event.
    pub(crate) last_seq: u64,
    pub(crate) history: &'a dyn History,
    pub(super) desk: &'a mut Desk,
}

impl View<'_> {
    /// Returns a job's summary.
    pub(crate) fn job(&self, job: JobId) -> Option<wire::Job> {
        self.state.job(job).map(|job| view::job(self.state, job, self.now))
    }

    /// Returns what a job's tasks last said of themselves.
    pub(crate) fn progress(&self, job: JobId) -> Option<&ProgressMap> {
        self.desk.progress.get(&job)
    }

    /// Returns a job's phases if they were measured.
    pub(crate) fn phases(&self, job: JobId) -> Option<wire::Phases> {
        self.desk.phases.phases(job)
    }

    /// Returns what a node said that decides nothing.
    pub(crate) fn volatile(&self, node: NodeId) -> Volatile {
        self.desk.nodes.get(&node).cloned().unwrap_or_default()
    }

    /// Watches a job from its present picture on.
    pub(crate) fn watch(&mut self, job: JobId) -> watch::Receiver<Arc<Seen>> {
        let seen = picture(self.state, self.desk, job, self.now, self.last_seq);
        self.desk.watches.subscribe(job, seen)
    }

    /// Returns whether growth is refused for lack of disk, and how many inputs were refused for a panic.
    pub(crate) fn troubles(&self) -> (bool, u64) {
        (self.desk.disk_full, self.desk.refused_inputs)
    }

    /// Returns how many jobs are watched.
    pub(crate) fn watched(&self) -> usize {
        self.desk.watches.len()
    }

    /// Takes the logs that are worth copying now: of jobs that ended, or that have waited for `company_ns`.
    /// Only of nodes that `answers` names.
    pub(crate) fn take_uncopied(
        &mut self,
        (now_ns, company_ns): (u64, u64),
        answers: impl Fn(&str) -> bool,
    ) -> Vec<(JobId, NodeId, RangeSet)> {
        let answers = |node| self.state.node(node).is_none_or(|node| answers(node.body.name.as_str()));
        let ended = |job: &JobId| self.state.job_state(*job).is_none_or(is_ended);
        let due: Vec<(JobId, NodeId)> = self
            .desk
            .uncopied
            .iter()
            .filter(|(_, waiting)| waiting.not_before_ns <= now_ns)
            .filter(|((job, _), waiting)| waiting.since_ns + company_ns < now_ns || ended(job))
            .filter(|((_, node), _)| answers(*node))
            .map(|(key, _)| *key)
            .collect();
        due.into_iter()
            .filter_map(|key| self.desk.uncopied.remove(&key).map(|waiting| (key.0, key.1, waiting.elements)))
            .collect()
    }

    /// Puts logs back that could not be copied.
    pub(crate) fn return_uncopied(&mut self, job: JobId, node: NodeId, elements: &RangeSet, now_ns: u64) {
        for range in elements.iter() {
            self.desk.ended_on(job, node, (range.first, range.last), now_ns);
        }
        if let Some(waiting) = self.desk.uncopied.get_mut(&(job, node)) {
            waiting.not_before_ns = now_ns + COPY_AGAIN_NS;
        }
    }
}

/// Renders a watched job.
pub(super) fn picture(state: &State, desk: &Desk, job: JobId, now: Now, seq: u64) -> Seen {
    let Some(held) = state.job(job) else { return Seen { seq, job: None, tasks: Vec::new(), ended: true } };
    let progress = desk.progress.get(&job);
    let mut tasks = Vec::new();
    for (index, rank) in progress.iter().flat_map(|map| map.keys()).rev().take(WATCHED_TASKS_MAX) {
        let page = state.tasks(job, Some(&RangeSet::range(*index, *index)), (*index, *rank), 1);
        tasks.extend(page.tasks.iter().map(|each| view::task(state, each, progress, now)));
    }
    tasks.sort_by_key(|task| (task.index, task.rank));
    Seen { seq, job: Some(view::job(state, held, now)), tasks, ended: has_ended(state, job) }
}

/// Says whether a job has ended, or is gone.
pub(super) fn has_ended(state: &State, job: JobId) -> bool {
    state.job_state(job).is_none_or(is_ended)
}

#[cfg(test)]
mod tests {
    //! Silence is the node's, or the engine's own.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use gangsaw_core::apply::apply;
    use gangsaw_core::id::NodeName;
    use gangsaw_core::resources::Inventory;

    use super::*;

    #[test]
    fn an_engine_that_stood_still_does_not_take_its_own_silence_for_its_nodes() {
        let mut state = State::new();
        let node = NodeId(1);
        let registered = Event::NodeRegistered {
            node,
            name: NodeName::new("n1").unwrap(),
            uuid: "u".into(),
            boot_id: "b".into(),
            agent_version: String::new(),
            inventory: Inventory::default(),
        };
        apply(&mut state, Time(0), &registered);
        let mut desk = Desk::starting(&state, Time(0));
        let (ttl, minute) = (Desk::ttl(&state), Time(60_000));
        desk.after_gap(&state, Time(59_000), minute);
        assert_eq!(desk.liveness.overdue(minute, ttl), [node], "a second between turns is none: the node was silent");
        desk.after_gap(&state, Time(1_000), minute);
        assert_eq!(desk.liveness.overdue(minute, ttl), [], "the engine was stopped for a minute");
        assert_eq!(desk.liveness.overdue(minute + ttl, ttl), [node]);
    }
}
