//! Snapshots: the state as events whose fold is the state, so that restoring is folding and nothing else.

use crate::event::{Event, Raised, Restored};
use crate::keys::UsedKeys;
use crate::state::{Counters, State};
use crate::time::Time;
use crate::token::Tokens;

/// Yields compacted events whose fold from [`State::new`], at the state's own time, is `state`. One after the other:
/// all at once would double what the state weighs.
pub fn snapshot_events(state: &State) -> impl Iterator<Item = Event> + '_ {
    let queues = state.queues.iter().map(|(key, queue)| Restored::Queue { queue: key.clone(), limits: queue.limits });
    let tenants =
        state.tenants.iter().map(|(tenant, held)| Restored::Tenant { tenant: tenant.clone(), limits: held.limits });
    let nodes = state.nodes.values().map(|node| Restored::Node(Box::new(node.body.clone())));
    let jobs = state.jobs.values().map(|job| Restored::Job(Box::new(job.body.clone())));
    let gangs = state.gangs.values().map(|gang| Restored::Gang(Box::new(gang.clone())));
    let leases = state.leases.values().map(|lease| Restored::Lease(Box::new(lease.clone())));
    let keys = state.keys.iter().map(|(first, used)| Restored::Key {
        tenant: used.tenant.clone(),
        key: used.key.clone(),
        used_at: used.used_at,
        digest: used.digest,
        jobs: UsedKeys::jobs(first, used),
    });
    let joins = state.joins.parts().into_iter().map(|part| Restored::Join(Box::new(part)));
    let tokens = (state.tokens != Tokens::default()).then(|| Restored::Tokens(Box::new(state.tokens.clone())));
    let Counters { job, lease, node, round, attempt_base, epoch } = state.counters;
    let counters = std::iter::once(Restored::Counters { job, lease, node, round, attempt_base, epoch });
    queues
        .chain(tenants)
        .chain(nodes)
        .chain(jobs)
        .chain(gangs)
        .chain(leases)
        .chain(keys)
        .chain(joins)
        .chain(tokens)
        .chain(counters)
        .map(Event::Restored)
}

impl State {
    /// Goes on after a backup was restored. See [`Event::ClusterRestored`].
    pub(super) fn cluster_restored(&mut self, at: Time, raised: &Raised) {
        let &Raised { epoch, job, lease, node, attempt_base, .. } = raised;
        let before = self.counters;
        self.counters = Counters {
            job: before.job.max(job),
            lease: before.lease.max(lease),
            node: before.node.max(node),
            round: before.round,
            attempt_base: before.attempt_base.max(attempt_base),
            epoch,
        };
        // A grant may have been sent after the backup was made, and a second start under one attempt must never be.
        self.leases.values_mut().for_each(|lease| lease.begun = true);
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.node_silenced(at, node);
        }
    }

    pub(super) fn restored(&mut self, restored: &Restored) {
        match restored {
            Restored::Queue { queue, limits } => self.queue_set(queue, *limits),
            Restored::Tenant { tenant, limits } => self.tenant_set(tenant, *limits),
            Restored::Node(body) => self.insert_node((**body).clone()),
            Restored::Job(body) => self.insert_job((**body).clone()),
            Restored::Gang(gang) => {
                if let Some(job) = self.jobs.get_mut(&gang.job) {
                    job.active += 1;
                    job.running += 1;
                }
                if gang.started.is_none() && gang.stopping.is_none() {
                    self.index.preparing.insert((gang.deadline, gang.job, gang.index));
                }
                self.gangs.insert((gang.job, gang.index), (**gang).clone());
                self.reindex(gang.job, false);
            }
            Restored::Lease(lease) => {
                self.insert_lease((**lease).clone());
                self.reindex(lease.job, false);
            }
            Restored::Key { tenant, key, used_at, digest, jobs } => {
                self.insert_key(tenant, key, (*used_at, *digest), jobs);
            }
            Restored::Join(part) => self.joins.restore(part),
            Restored::Tokens(tokens) => self.tokens = (**tokens).clone(),
            &Restored::Counters { job, lease, node, round, attempt_base, epoch } => {
                self.counters = Counters { job, lease, node, round, attempt_base, epoch };
            }
        }
    }
}
