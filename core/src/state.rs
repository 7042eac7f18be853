//! The whole durable state in memory, and what people may ask of it.
//!
//! It is exactly the fold of the events. Fields that are derived (what is free, who is in which line, counts) are kept
//! up by `apply` and are part of no snapshot. Reads for people are in `view`; the placement indices are in `index`.

pub mod index;
pub mod view;
mod wait;

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{IdempotencyKey, Index, JobId, LeaseId, NodeId, NodeName, Tenant};
use crate::job::body::Job;
use crate::lease::{Gang, Lease};
use crate::mutations::Mutations;
use crate::node::Node;
use crate::queue::{Queue, QueueKey};
use crate::state::index::Indexed;
use crate::time::Time;
use crate::token::Tokens;

/// A used idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedKey {
    /// When it was used.
    pub used_at: Time,
    /// Digest of the specs it came with.
    pub digest: u64,
    /// The jobs it made.
    pub jobs: Vec<JobId>,
}

/// The next ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Next job.
    pub job: u64,
    /// Next lease.
    pub lease: u64,
    /// Next node.
    pub node: u32,
    /// Rounds so far.
    pub round: u64,
}

/// Everything that decisions read.
#[derive(Clone, Debug)]
pub struct State {
    /// Time of the last event.
    pub(crate) now: Time,
    pub(crate) counters: Counters,
    pub(crate) jobs: BTreeMap<JobId, Job>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    pub(crate) gangs: BTreeMap<(JobId, Index), Gang>,
    pub(crate) queues: BTreeMap<QueueKey, Queue>,
    /// What each tenant may use, and uses, in all of its queues together.
    pub(crate) tenants: BTreeMap<Tenant, Queue>,
    pub(crate) keys: BTreeMap<(Tenant, IdempotencyKey), UsedKey>,
    pub(crate) node_names: BTreeMap<NodeName, NodeId>,
    pub(crate) tokens: Tokens,
    pub(crate) index: Indexed,
    pub(crate) mutations: Mutations,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// Returns the state before the first event.
    pub fn new() -> Self {
        Self {
            now: Time::ZERO,
            counters: Counters { job: 1, lease: 1, node: 1, round: 0 },
            jobs: BTreeMap::new(),
            nodes: BTreeMap::new(),
            leases: BTreeMap::new(),
            gangs: BTreeMap::new(),
            queues: BTreeMap::new(),
            tenants: BTreeMap::new(),
            keys: BTreeMap::new(),
            node_names: BTreeMap::new(),
            tokens: Tokens::default(),
            index: Indexed::default(),
            mutations: Mutations::default(),
        }
    }

    /// Returns the empty state of a core that is broken on purpose.
    #[cfg(feature = "mutations")]
    pub fn broken(mutations: Mutations) -> Self {
        Self { mutations, ..Self::new() }
    }

    /// Returns the time of the last event.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Returns the next ids.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Returns a job.
    pub fn job(&self, job: JobId) -> Option<&Job> {
        self.jobs.get(&job)
    }

    /// Yields the jobs, oldest first; reversible.
    pub fn jobs(&self) -> impl DoubleEndedIterator<Item = &Job> {
        self.jobs.values()
    }

    /// Returns a node.
    pub fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(&node)
    }

    /// Returns a node's number.
    pub fn node_id(&self, name: &NodeName) -> Option<NodeId> {
        self.node_names.get(name).copied()
    }

    /// Yields the nodes in the order of registration.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Returns a lease.
    pub fn lease(&self, lease: LeaseId) -> Option<&Lease> {
        self.leases.get(&lease)
    }

    /// Yields the leases in the order they were granted, fenced ones among them.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// Returns the gang that runs an element.
    pub fn gang(&self, job: JobId, index: Index) -> Option<&Gang> {
        self.gangs.get(&(job, index))
    }

    /// Yields the gangs.
    pub fn gangs(&self) -> impl Iterator<Item = &Gang> {
        self.gangs.values()
    }

    /// Yields the queues by tenant and name.
    pub fn queues(&self) -> impl Iterator<Item = (&QueueKey, &Queue)> {
        self.queues.iter()
    }

    /// Returns a queue, without limits and use if it was never used.
    pub fn queue(&self, key: &QueueKey) -> Queue {
        self.queues.get(key).copied().unwrap_or_default()
    }

    /// Returns the API tokens in force.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Yields the tenants by name, with what each may use and uses in all of its queues together.
    pub fn tenants(&self) -> impl Iterator<Item = (&Tenant, &Queue)> {
        self.tenants.iter()
    }

    /// Returns a tenant's limits and use, none if it was never heard of.
    pub fn tenant(&self, tenant: &Tenant) -> Queue {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }

    /// Returns count and order-free hash of the leases a node should hold, to compare with its heartbeat. Foreign ones
    /// count until a Hello shows that they are gone, so that the first heartbeat without them brings that Hello.
    pub fn lease_summary(&self, node: NodeId) -> (u32, u64) {
        let none = BTreeSet::new();
        let leases = self.nodes.get(&node).map_or(&none, |node| &node.leases);
        let foreign = self.nodes.get(&node).map_or(&none, |node| &node.body.foreign);
        let count = u32::try_from(leases.len() + foreign.len()).unwrap_or(u32::MAX);
        (count, crate::liveness::lease_hash(leases.iter().chain(foreign).copied()))
    }
}
