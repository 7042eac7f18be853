//! Snapshots: the state as events whose fold is the state, so that restoring is folding and nothing else.

use crate::event::{Event, Restored};
use crate::state::{Counters, State, UsedKey};
use crate::token::Tokens;

/// Returns compacted events whose fold from [`State::new`], at the state's own time, is `state`.
pub fn snapshot_events(state: &State) -> Vec<Event> {
    let queues = state.queues.iter().map(|(key, queue)| Restored::Queue { queue: key.clone(), limits: queue.limits });
    let tenants =
        state.tenants.iter().map(|(tenant, held)| Restored::Tenant { tenant: tenant.clone(), limits: held.limits });
    let nodes = state.nodes.values().map(|node| Restored::Node(Box::new(node.body.clone())));
    let jobs = state.jobs.values().map(|job| Restored::Job(Box::new(job.body.clone())));
    let gangs = state.gangs.values().map(|gang| Restored::Gang(Box::new(gang.clone())));
    let leases = state.leases.values().map(|lease| Restored::Lease(Box::new(lease.clone())));
    let keys = state.keys.iter().map(|((tenant, key), used)| Restored::Key {
        tenant: tenant.clone(),
        key: key.clone(),
        used_at: used.used_at,
        digest: used.digest,
        jobs: used.jobs.clone(),
    });
    let tokens = (state.tokens != Tokens::default()).then(|| Restored::Tokens(Box::new(state.tokens.clone())));
    let Counters { job, lease, node, round } = state.counters;
    let counters = std::iter::once(Restored::Counters { job, lease, node, round });
    queues
        .chain(tenants)
        .chain(nodes)
        .chain(jobs)
        .chain(gangs)
        .chain(leases)
        .chain(keys)
        .chain(tokens)
        .chain(counters)
        .map(Event::Restored)
        .collect()
}

impl State {
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
                let used = UsedKey { used_at: *used_at, digest: *digest, jobs: jobs.clone() };
                self.insert_key(tenant, key, used);
            }
            Restored::Tokens(tokens) => self.tokens = (**tokens).clone(),
            Restored::Counters { job, lease, node, round } => {
                self.counters = Counters { job: *job, lease: *lease, node: *node, round: *round };
            }
        }
    }
}
