//! What becomes of a node: it comes, is silent, returns, drains, goes.

use std::collections::{BTreeMap, BTreeSet};

use super::Decider;
use super::scratch::{Scratch, infra_exit};
use crate::effect::{RefusalKind, Reply, Step};
use crate::event::Event;
use crate::grant;
use crate::id::{LeaseId, NodeId, NodeName};
use crate::input::{HeldLease, NodeHello, Phase};
use crate::job::record::{Cause, Exit, Outcome};
use crate::node::{Node, NodeMode};
use crate::resources::Inventory;
use crate::time::Millis;

/// What people read when a lease is gone from its node.
const REBOOTED: &str = "the node was restarted";
const NOT_HELD: &str = "the agent lost its record of the lease";
const FORGOTTEN: &str = "the node was removed";

/// A drain that waits longer than this need not say how long.
const EVICT_AFTER_MAX: Millis = Millis::hours(24 * 30);

impl Decider<'_> {
    pub(super) fn hello(&self, hello: &NodeHello) -> Step {
        let inventory = distinct(&hello.inventory);
        let Some(id) = self.state.node_id(&hello.name) else {
            return self.register(hello, inventory);
        };
        let Some(node) = self.state.nodes.get(&id) else {
            return self.register(hello, inventory);
        };
        if node.body.uuid != hello.uuid {
            let message = format!("another agent is registered as node `{}`", hello.name);
            let hint = "start the agent with another `--name`, or `gangsaw nodes forget` the old one";
            return self.refuse(RefusalKind::AlreadyExists, "node-name-taken", message, hint);
        }
        let mut scratch = Scratch::new(self);
        if node.body.inventory != inventory {
            scratch.event(Event::NodeInventoryChanged { node: id, inventory });
        }
        let rebooted = node.body.boot_id != hello.boot_id;
        if rebooted || !node.connected() || node.body.agent_version != hello.agent_version {
            let (boot_id, agent_version) = (hello.boot_id.clone(), hello.agent_version.clone());
            scratch.event(Event::NodeReturned { node: id, boot_id, agent_version });
        }
        let held: BTreeMap<LeaseId, HeldLease> = hello.leases.iter().map(|held| (held.lease, *held)).collect();
        for lease in &node.leases {
            scratch.compare(*lease, held.get(lease).map(|held| held.phase), rebooted);
        }
        let foreign = self.foreign(hello, |lease| node.leases.contains(&lease));
        if foreign != node.body.foreign {
            scratch.event(Event::NodeClearing { node: id, leases: foreign });
        }
        scratch.effect(self.reply(Reply::Welcome { node: id, acked_report: node.body.acked_report }));
        scratch.step
    }

    fn register(&self, hello: &NodeHello, inventory: Inventory) -> Step {
        let same = self.state.nodes.values().find(|node| node.body.uuid == hello.uuid);
        if let Some(other) = same {
            let message = format!("this agent is registered as node `{}`", other.body.name);
            let hint = "start it under that name, or `gangsaw nodes forget` it first";
            return self.refuse(RefusalKind::AlreadyExists, "node-renamed", message, hint);
        }
        let node = NodeId(self.state.counters.node);
        let mut step = self.answer(Reply::Welcome { node, acked_report: 0 });
        step.events.push(Event::NodeRegistered {
            node,
            name: hello.name.clone(),
            uuid: hello.uuid.clone(),
            boot_id: hello.boot_id.clone(),
            agent_version: hello.agent_version.clone(),
            inventory,
        });
        let leases = self.foreign(hello, |_| false);
        if !leases.is_empty() {
            step.events.push(Event::NodeClearing { node, leases });
        }
        step
    }

    /// Returns the leases of which processes may live and that are not `known`: their node was forgotten with them, or
    /// they were granted after the state that was restored.
    fn foreign(&self, hello: &NodeHello, known: impl Fn(LeaseId) -> bool) -> BTreeSet<LeaseId> {
        let lives = |held: &&HeldLease| match held.phase {
            Phase::Prepared | Phase::Running => !known(held.lease),
            Phase::Ended => false,
        };
        let counts = !self.state.mutations.clearing_off();
        hello.leases.iter().filter(lives).filter(|_| counts).map(|held| held.lease).collect()
    }

    pub(super) fn silent(&self, id: NodeId) -> Step {
        let mut step = Step::default();
        if self.state.nodes.get(&id).is_some_and(Node::connected) {
            step.events.push(Event::NodeSilenced(id));
        }
        step
    }

    pub(super) fn inventory(&self, id: NodeId, inventory: &Inventory) -> Step {
        let inventory = distinct(inventory);
        let mut step = Step::default();
        if self.state.nodes.get(&id).is_some_and(|node| node.body.inventory != inventory) {
            step.events.push(Event::NodeInventoryChanged { node: id, inventory });
        }
        step
    }

    pub(super) fn set_node(&self, name: &NodeName, mode: NodeMode, reason: &str, evict_after: Option<Millis>) -> Step {
        let node = match self.node(name) {
            Ok(node) => node,
            Err(refused) => return refused,
        };
        if evict_after.is_some_and(|after| mode != NodeMode::Draining || after > EVICT_AFTER_MAX) {
            let message = format!("only what drains is evicted, after at most {EVICT_AFTER_MAX}");
            return self.refuse(RefusalKind::Invalid, "bad-eviction", message, "`gangsaw nodes drain NODE --evict`");
        }
        let mut scratch = Scratch::new(self);
        scratch.effect(self.reply(Reply::Done));
        let at_once = evict_after == Some(Millis(0));
        let evict_at = evict_after.filter(|_| !at_once).map(|after| self.now + after);
        if node.body.mode != mode || node.body.mode_reason != reason || node.body.evict_at != evict_at {
            let (node, reason) = (node.body.id, reason.to_owned());
            scratch.event(Event::NodeModeSet { by: self.by(), node, mode, reason, evict_at });
        }
        if at_once {
            scratch.evict(node);
        } else if mode == NodeMode::Draining {
            self.trim(node.leases.iter().filter_map(|lease| self.state.leases.get(lease)), &mut scratch.step);
        }
        scratch.step
    }

    pub(super) fn forget_node(&self, name: &NodeName) -> Step {
        let node = match self.node(name) {
            Ok(node) => node,
            Err(refused) => return self.forget_member(name).unwrap_or(refused),
        };
        if node.connected() {
            let message = format!("node `{name}` is connected");
            let hint = "stop its agent first; a node that is not heard for half a minute may be forgotten";
            return self.refuse(RefusalKind::Precondition, "node-connected", message, hint);
        }
        let mut scratch = Scratch::new(self);
        for lease in &node.leases {
            scratch.lose(*lease, Outcome::Infra, FORGOTTEN, true);
        }
        scratch.event(Event::NodeForgotten { by: self.by(), node: node.body.id });
        scratch.effect(self.reply(Reply::Done));
        scratch.step
    }

    fn node(&self, name: &NodeName) -> Result<&Node, Step> {
        let node = self.state.node_id(name).and_then(|id| self.state.nodes.get(&id));
        node.ok_or_else(|| {
            let message = format!("there is no node `{name}`");
            self.refuse(RefusalKind::NotFound, "unknown-node", message, "`gangsaw nodes` lists nodes")
        })
    }
}

impl Scratch<'_> {
    /// Compares a lease on a node with what the node says of it.
    fn compare(&mut self, id: LeaseId, phase: Option<Phase>, rebooted: bool) {
        let Some(lease) = self.lease(id).cloned() else {
            return;
        };
        match phase {
            // Its last reports are on the way, whatever happened since.
            Some(Phase::Ended) => {}
            Some(Phase::Prepared | Phase::Running) if rebooted => self.lose(id, Outcome::Infra, REBOOTED, true),
            Some(Phase::Prepared | Phase::Running) => {}
            None if lease.fenced => self.lose(id, Outcome::Infra, NOT_HELD, true),
            // It may have begun without a word, and a second start under one attempt must never be.
            None if rebooted => self.lose(id, Outcome::Infra, REBOOTED, true),
            None if lease.begun => self.lose(id, Outcome::Infra, NOT_HELD, true),
            // The node never got it. What was taken back meanwhile is back now; the rest is granted again by `owed`.
            None if lease.gang.is_some() && (lease.revoke.is_some() || lease.preempted) => self.gang_returned(id),
            None if lease.gang.is_none() && (lease.revoke.is_some() || lease.trimmed || lease.preempted) => {
                self.all_returned(id);
            }
            None => {}
        }
    }

    /// Takes back everything that runs on a node; what was taken back for another reason stays as it is.
    pub(super) fn evict(&mut self, node: &Node) {
        let detail = format!("node `{}` is being drained", node.body.name);
        for id in &node.leases {
            let Some(lease) = self.lease(*id).filter(|lease| !lease.fenced && !lease.preempted).cloned() else {
                continue;
            };
            let (job, index) = (lease.job, lease.first);
            if lease.gang.is_some()
                && self.gang(job, index).is_none_or(|gang| gang.stopping.is_some() || gang.cancelled)
            {
                continue;
            }
            self.event(Event::LeasePreempted { lease: *id, job });
            if let Some(held) = self.lease(*id) {
                held.preempted = true;
                let revoke = grant::revoke(held);
                self.step.effects.extend(revoke);
            }
            if lease.gang.is_some() {
                let exit = Exit { cause: Cause::Revoked, ..infra_exit(&detail) };
                self.stop_gang(job, index, Outcome::Preempted, exit);
            }
        }
    }

    fn all_returned(&mut self, id: LeaseId) {
        let Some(lease) = self.lease(id) else { return };
        let job = lease.job;
        let live = std::mem::take(&mut lease.live);
        self.drop_if_dead(id);
        for range in live.iter() {
            self.event(Event::ElementsReturned { lease: id, job, first: range.first, last: range.last });
        }
    }

    /// Takes a gang's lease back of which nothing runs.
    pub(super) fn gang_returned(&mut self, id: LeaseId) {
        let Some(lease) = self.lease(id) else { return };
        let ranks: Vec<_> = lease.ranks.iter().filter(|hold| hold.live).map(|hold| hold.rank).collect();
        let exit = Exit {
            cause: Cause::Revoked,
            exit_code: None,
            signal: None,
            detail: "it was taken back before it started".to_owned(),
            ran_us: 0,
            checkpoint: None,
            max_rss_bytes: 0,
        };
        self.ranks_ended(id, &ranks, &exit);
    }
}

/// Returns the inventory with each device once.
fn distinct(inventory: &Inventory) -> Inventory {
    let mut seen = BTreeSet::new();
    let mut inventory = inventory.clone();
    inventory.devices.retain(|device| seen.insert(device.uuid.clone()));
    inventory
}
