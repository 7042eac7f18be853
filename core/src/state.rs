//! The whole durable state in memory, and what people may ask of it.
//!
//! It is exactly the fold of the events. Fields that are derived (what is free, who is in which line, counts) are kept
//! up by `apply` and are part of no snapshot. Reads for people are in `view`; the placement indices are in `index`.

pub mod index;
pub mod view;
mod wait;

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Attempt, Index, JobId, LeaseId, NodeId, NodeName, Tenant};
use crate::job::body::Job;
use crate::join::Joins;
use crate::keys::UsedKeys;
use crate::lease::{Gang, Lease};
use crate::mutations::Mutations;
use crate::node::Node;
use crate::queue::{Queue, QueueKey};
use crate::state::index::Indexed;
use crate::time::Time;
use crate::token::Tokens;

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
    /// Every attempt has a higher number: those up to here may have been begun in a history that a restore took back.
    pub attempt_base: Attempt,
    /// How often the state was restored from a backup.
    pub epoch: u64,
}

/// Everything that decisions read.
#[derive(Clone, Debug)]
pub struct State {
    /// Time of the last event.
    pub(crate) now: Time,
    pub(crate) counters: Counters,
    /// Boxed: a map's nodes are half empty when its keys rise, and jobs are large.
    pub(crate) jobs: BTreeMap<JobId, Box<Job>>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    pub(crate) gangs: BTreeMap<(JobId, Index), Gang>,
    pub(crate) queues: BTreeMap<QueueKey, Queue>,
    /// What each tenant may use, and uses, in all of its queues together.
    pub(crate) tenants: BTreeMap<Tenant, Queue>,
    pub(crate) keys: UsedKeys,
    pub(crate) node_names: BTreeMap<NodeName, NodeId>,
    pub(crate) joins: Joins,
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
            counters: Counters { job: 1, lease: 1, node: 1, round: 0, attempt_base: 0, epoch: 0 },
            jobs: BTreeMap::new(),
            nodes: BTreeMap::new(),
            leases: BTreeMap::new(),
            gangs: BTreeMap::new(),
            queues: BTreeMap::new(),
            tenants: BTreeMap::new(),
            keys: UsedKeys::default(),
            node_names: BTreeMap::new(),
            joins: Joins::default(),
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
        self.jobs.get(&job).map(Box::as_ref)
    }

    /// Yields the jobs, oldest first; reversible.
    pub fn jobs(&self) -> impl DoubleEndedIterator<Item = &Job> {
        self.jobs.values().map(Box::as_ref)
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

    /// Returns who may join, and who has.
    pub fn joins(&self) -> &Joins {
        &self.joins
    }

    /// Returns how many nodes there are.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
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
