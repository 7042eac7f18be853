//! Placement: which elements start where, now.
//!
//! `solve` is pure, over the indices that `apply` keeps, and integers only. A round is recorded as RoundDecided,
//! followed by what it decided, so that restart uses the recorded decisions and [`replay`] computes them again.
//!
//! Order: priority, which ages a point a minute; then who came first. Fit: the tightest node that has room, so that
//! whole nodes and GPUs stay free. The first job in order that finds no room keeps what is free for it (as much as it
//! could use), and later jobs start in what is left.
//!
//! Elsewhere: why a job waits is `state::wait`; whether it could ever run is asked at submission.

pub(crate) mod free;
pub(crate) mod gang;
mod pick;
mod reserve;
pub(crate) mod solve;

use std::hash::{Hash, Hasher};

use crate::apply::apply;
use crate::effect::{Effect, Step};
use crate::event::{By, Event, GangPart, Record};
use crate::grant;
use crate::hash::Fnv;
use crate::id::{Actor, JobId, LeaseId, NodeId, RequestId};
use crate::job::body::{CancelCause, DeviceChoice, Standing};
use crate::job::spec::DependencyKind;
use crate::lease::RankHold;
use crate::state::State;
use crate::time::{Millis, Time};

/// Version of what `solve` decides, in every RoundDecided.
pub const POLICY_VERSION: u32 = 1;

/// Decisions of a round: a batch must stay small enough to be one append.
pub const DECISIONS_MAX: usize = 4_096;

/// All nodes of a gang must be prepared by then.
pub const GANG_PREPARES_WITHIN: Millis = Millis::seconds(60);

/// Something a round decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Decision {
    /// Lease elements of one rank to a node.
    Chunk {
        job: JobId,
        first: u32,
        last: u32,
        attempt: u32,
        node: NodeId,
        slots: u32,
        alternative: u32,
        hold: RankHold,
        device: DeviceChoice,
    },
    /// Lease an element of several ranks to its nodes.
    Gang {
        job: JobId,
        index: u32,
        attempt: u32,
        alternative: u32,
        parts: Vec<(NodeId, Vec<RankHold>)>,
        device: DeviceChoice,
    },
    /// Ask the unstarted elements of a lease back for a job that is ahead.
    Trim { lease: LeaseId, job: JobId },
}

/// Runs a placement round: leases what fits now, and cancels jobs whose dependencies cannot be met. Empty if nothing
/// is to be done. A round to which time alone brought jobs is recorded even if it placed none of them, so that time
/// goes on in the state and [`State::next_wake`] lies ahead.
pub fn place(state: &State, now: Time) -> Step {
    let round = solve::solve(state, now, false);
    let mut step = Step::default();
    let woken = state.index.wakes.first().is_some_and(|(at, _)| *at <= now);
    if woken || !round.decisions.is_empty() {
        let events = events_of(state, now, &round.decisions);
        step.effects = effects_of(state, now, &events);
        step.events.push(Event::RoundDecided {
            round: state.counters.round + 1,
            now,
            policy_version: POLICY_VERSION,
            decision_hash: digest(&round.decisions),
            decisions: u32::try_from(events.len()).unwrap_or(u32::MAX),
            more: round.more,
        });
        step.events.extend(events);
    }
    step.events.extend(dependency_cancels(state));
    step
}

fn events_of(state: &State, now: Time, decisions: &[Decision]) -> Vec<Event> {
    let mut next = state.counters.lease;
    let mut id = || {
        next += 1;
        LeaseId(next - 1)
    };
    let event = |decision: &Decision| match decision.clone() {
        Decision::Chunk { job, first, last, attempt, node, slots, alternative, hold, device } => {
            let lease = id();
            Event::ChunkLeased { lease, job, first, last, attempt, node, slots, alternative, hold, device }
        }
        Decision::Gang { job, index, attempt, alternative, parts, device } => {
            let parts = parts.into_iter().map(|(node, ranks)| GangPart { lease: id(), node, ranks }).collect();
            let deadline = now + GANG_PREPARES_WITHIN;
            Event::GangLeased { job, index, attempt, alternative, parts, deadline, device }
        }
        Decision::Trim { lease, job } => Event::LeaseTrimmed { lease, job },
    };
    decisions.iter().map(event).collect()
}

/// Returns the grants and trims of a round. Leases are built as `apply` will build them.
fn effects_of(state: &State, now: Time, events: &[Event]) -> Vec<Effect> {
    let mut effects = Vec::new();
    for event in events {
        if let Event::LeaseTrimmed { lease, .. } = event {
            let node = state.leases.get(lease).map(|lease| lease.node);
            effects.extend(node.map(|node| Effect::Trim { node, lease: *lease }));
        }
        let leases = state.leases_of(now, event);
        effects.extend(leases.iter().filter_map(|lease| grant::grant(state, lease)));
    }
    effects
}

/// Returns the cancels of every job with a dependency that cannot be met, and of those that depend on them in turn.
fn dependency_cancels(state: &State) -> Vec<Event> {
    let mut doomed: Vec<(JobId, JobId)> = Vec::new();
    for job in state.index.doomed.iter().filter_map(|id| state.jobs.get(id)) {
        let failed = job.body.after.iter().find(|after| after.standing == Standing::Failed);
        doomed.extend(failed.map(|after| (job.body.id, after.job)));
    }
    let mut seen: std::collections::BTreeSet<JobId> = doomed.iter().map(|(job, _)| *job).collect();
    let mut events = Vec::new();
    while let Some((id, on)) = doomed.pop() {
        let Some(job) = state.jobs.get(&id).filter(|job| job.body.ended_at.is_none()) else {
            continue;
        };
        let mut elements = job.body.pending.clone();
        job.waiting.iter().for_each(|(_, index)| elements.insert(*index, *index));
        let by = By { actor: Actor::scheduler(), request_id: RequestId::internal() };
        if !elements.is_empty() {
            events.push(Event::JobCancelled { by, job: id, elements, cause: CancelCause::DependencyFailed { on } });
        }
        if job.active > 0 {
            continue;
        }
        for next in state.index.dependents.get(&id).into_iter().flatten() {
            let Some(dependent) = state.jobs.get(next) else {
                continue;
            };
            let on_ok = |after: &&crate::job::body::After| after.job == id && after.kind == DependencyKind::Ok;
            if dependent.body.after.iter().any(|after| on_ok(&after)) && seen.insert(*next) {
                doomed.push((*next, id));
            }
        }
    }
    events
}

fn digest(decisions: &[Decision]) -> u64 {
    let mut hasher = Fnv::default();
    decisions.hash(&mut hasher);
    hasher.finish()
}

/// A recorded round that comes out otherwise when computed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayDiff {
    /// The record of RoundDecided.
    pub seq: u64,
    /// Its round.
    pub round: u64,
    /// As recorded.
    pub recorded: u64,
    /// As computed.
    pub computed: u64,
}

/// Computes every recorded round again, from scratch, and returns those that differ. `state` is the fold of what came
/// before the records. Rounds of another policy version are not compared.
pub fn replay<'a>(mut state: State, records: impl IntoIterator<Item = &'a Record>) -> Vec<ReplayDiff> {
    let mut diffs = Vec::new();
    for record in records {
        if let Event::RoundDecided { round, now, policy_version, decision_hash, .. } = &record.event
            && *policy_version == POLICY_VERSION
        {
            let computed = digest(&solve::solve(&state, *now, true).decisions);
            if computed != *decision_hash {
                diffs.push(ReplayDiff { seq: record.seq, round: *round, recorded: *decision_hash, computed });
            }
        }
        apply(&mut state, record.at, &record.event);
    }
    diffs
}
