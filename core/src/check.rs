//! Invariants of the state, for the simulator and tests. Costs all of the state.
//!
//! [`check`] looks at one state; [`History`] at a log as it grows: what must hold between events.

mod history;

use std::collections::{BTreeMap, BTreeSet};

pub use history::{History, Truth, Try, Unseen, Watched};

use crate::id::{DeviceId, Index, LeaseId, NodeId};
use crate::job::body::Job;
use crate::job::notice::{NOTICE_TRIES_MAX, NoticeStanding};
use crate::job::record::{EndState, RecordStatus};
use crate::ranges::RangeSet;
use crate::state::State;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation(what())) }
}

/// Checks every invariant of `state`: each element is in exactly one place, a device has one holder, free amounts are
/// the capacity less what is held, counts and queue use are what the jobs say, limits hold.
///
/// # Errors
/// The first that does not hold.
pub fn check(state: &State) -> Result<(), Violation> {
    for job in state.jobs.values() {
        elements_once(state, job)?;
        counts(state, job)?;
    }
    nodes(state)?;
    queues(state)?;
    notices(state)?;
    gangs(state)
}

fn elements_once(state: &State, job: &Job) -> Result<(), Violation> {
    let id = job.body.id;
    let mut seen = RangeSet::new();
    let mut put = |first: Index, last: Index, place: &str| {
        let twice = seen.within(first, last).next().is_some();
        seen.insert(first, last);
        ensure(!twice, || format!("job {id}: an element of {first}-{last} is in {place} and elsewhere"))
    };
    for range in job.body.pending.iter() {
        put(range.first, range.last, "pending")?;
    }
    for (first, range) in &job.body.ended {
        put(*first, range.last, "an ended range")?;
    }
    for (index, record) in &job.body.records {
        match record.status {
            RecordStatus::Waiting { not_before } => {
                let known = job.waiting.contains(&(not_before, *index));
                ensure(known, || format!("job {id}[{index}] waits and is not in the index"))?;
                put(*index, *index, "a waiting record")?;
            }
            RecordStatus::Ended { .. } => put(*index, *index, "an ended record")?,
            RecordStatus::Leased => {}
        }
    }
    let mut leased = 0;
    for lease in job.leases.iter().filter_map(|lease| state.leases.get(lease)) {
        ensure(!lease.fenced, || format!("job {id} counts fenced lease {}", lease.id))?;
        if lease.gang.is_none() {
            leased += lease.live.len();
            for range in lease.live.iter() {
                put(range.first, range.last, "a lease")?;
            }
        }
    }
    for (_, gang) in state.gangs.range((id, 0)..=(id, Index::MAX)) {
        leased += 1;
        put(gang.index, gang.index, "a gang")?;
    }
    let all = job.body.spec.elements();
    ensure(seen == all, || format!("job {id}: elements are missing or foreign"))?;
    ensure(leased == job.active, || format!("job {id}: {leased} leased elements, {} counted", job.active))
}

fn counts(state: &State, job: &Job) -> Result<(), Violation> {
    let id = job.body.id;
    let mut ended: BTreeMap<EndState, u64> = BTreeMap::new();
    for (first, range) in &job.body.ended {
        *ended.entry(range.state).or_default() += u64::from(range.last - first) + 1;
    }
    for record in job.body.records.values() {
        if let RecordStatus::Ended { state, .. } = record.status {
            *ended.entry(state).or_default() += 1;
        }
    }
    ensure(ended == *job.ended_counts, || format!("job {id}: end counts {:?}, found {ended:?}", job.ended_counts))?;
    let over = job.ended_count() == job.body.spec.element_count();
    ensure(over == job.body.ended_at.is_some(), || format!("job {id}: ended_at is wrong"))?;
    let shown: u64 = state.element_counts(id).values().sum();
    ensure(shown == job.body.spec.element_count(), || format!("job {id}: {shown} elements are shown"))?;
    ensure(job.entry == job.entry_at(state.now), || format!("job {id}: its index entry is old"))?;
    let leases = job.leases.iter().filter_map(|lease| state.leases.get(lease));
    let gpus: u64 = leases.map(|lease| lease.devices().count() as u64).sum();
    ensure(gpus == job.gpus, || format!("job {id}: holds {gpus} GPUs, {} counted", job.gpus))?;
    let max = job.body.spec.array.as_ref().and_then(|array| array.running_max);
    let within = max.is_none_or(|max| job.running <= u64::from(max));
    ensure(within, || format!("job {id}: {} elements run, {max:?} may", job.running))
}

/// A notice is owed from the end of a job that has somebody to tell, and the index knows exactly those that are.
fn notices(state: &State) -> Result<(), Violation> {
    let mut owed = BTreeSet::new();
    for job in state.jobs.values() {
        let (id, body) = (job.body.id, &job.body);
        let begun = body.ended_at.is_some() && body.spec.notify.is_some();
        ensure(begun == body.notice.is_some(), || format!("job {id}: its notice began at another time than its end"))?;
        let Some(notice) = body.notice.as_deref() else { continue };
        ensure(notice.tries <= NOTICE_TRIES_MAX, || format!("job {id}: {} tries of its notice", notice.tries))?;
        match notice.standing {
            NoticeStanding::Owed { not_before } => {
                owed.insert((not_before, id));
            }
            NoticeStanding::Sent | NoticeStanding::GivenUp => {}
        }
    }
    ensure(owed == state.index.notices, || format!("notices: {owed:?} owed, {:?} known", state.index.notices))
}

fn nodes(state: &State) -> Result<(), Violation> {
    let mut holders: BTreeMap<(NodeId, &DeviceId), LeaseId> = BTreeMap::new();
    let mut held: BTreeMap<NodeId, (u64, u64)> = BTreeMap::new();
    for lease in state.leases.values() {
        ensure(lease.is_live(), || format!("lease {} is kept and nothing in it is live", lease.id))?;
        let found = state.nodes.get(&lease.node).is_some_and(|node| node.leases.contains(&lease.id));
        ensure(found, || format!("lease {} is not on its node", lease.id))?;
        let (cpus, memory) = lease.held();
        let sum = held.entry(lease.node).or_default();
        *sum = (sum.0 + cpus, sum.1 + memory);
        for device in lease.devices() {
            let other = holders.insert((lease.node, device), lease.id);
            ensure(other.is_none(), || format!("device {device} is held by {other:?} and lease {}", lease.id))?;
        }
    }
    for node in state.nodes.values() {
        let id = node.body.id;
        let (cpus, memory) = held.get(&id).copied().unwrap_or_default();
        let books = (node.held_milli_cpus, node.held_memory_bytes);
        ensure(books == (cpus, memory), || format!("node {id} books {books:?}, leases hold {cpus} and {memory}"))?;
        let free = (node.free_milli_cpus, node.free_memory_bytes);
        let owned = &node.body.inventory;
        let left = (owned.milli_cpus.saturating_sub(cpus), owned.memory_bytes.saturating_sub(memory));
        ensure(free == left, || format!("node {id} has {free:?} free, {left:?} is left"))?;
        let known = node.holders.iter().map(|(device, lease)| ((id, device), *lease));
        let found = holders.iter().filter(|((node, _), _)| *node == id).map(|(key, lease)| (*key, *lease));
        ensure(known.eq(found), || format!("node {id}: its holders are wrong"))?;
    }
    Ok(())
}

fn queues(state: &State) -> Result<(), Violation> {
    for (key, queue) in &state.queues {
        let mut usage = crate::queue::Usage::default();
        for job in state.jobs.values().filter(|job| job.entry.queue.as_ref() == Some(key)) {
            usage.running += job.running;
            usage.queued += job.body.pending.len() + job.waiting.len() as u64;
            usage.gpus += job.gpus;
        }
        ensure(usage == queue.usage, || format!("queue {}: {:?} counted, {usage:?} found", key.name, queue.usage))?;
    }
    for (tenant, held) in &state.tenants {
        let mut usage = crate::queue::Usage::default();
        let queues = state.queues.iter().filter(|(key, _)| key.tenant == *tenant);
        queues.for_each(|(_, queue)| usage.grow(queue.usage));
        ensure(usage == held.usage, || format!("tenant {tenant}: {:?} counted, {usage:?} found", held.usage))?;
    }
    let orphan = state.queues.keys().find(|key| !state.tenants.contains_key(&key.tenant));
    ensure(orphan.is_none_or(|key| state.queue(key).usage == Default::default()), || {
        "a queue's tenant is unknown".into()
    })
}

fn gangs(state: &State) -> Result<(), Violation> {
    for gang in state.gangs.values() {
        let (job, index) = (gang.job, gang.index);
        let live = gang.leases.iter().filter_map(|id| state.leases.get(id)).filter(|lease| !lease.fenced).count();
        ensure(live > 0, || format!("gang {job}[{index}] is kept and none of its leases is"))?;
        let waits = gang.started.is_none() && gang.stopping.is_none();
        let known = state.index.preparing.contains(&(gang.deadline, job, index));
        ensure(waits == known, || format!("gang {job}[{index}]: its deadline is not in the index"))?;
    }
    Ok(())
}
