//! One simulated machine: its disk, its agent's process, its supervisor and the processes of tasks.
//!
//! The agent's process is the thinnest shell around [`gangsaw_core::agent::Agent`]: it carries messages, keeps the
//! grant of each lease on disk, and counts its starts there. It can die, be stopped for a while, and start again; the
//! supervisor and its tasks do not care.
//!
//! Neighbours: the supervisor is `supervisor`, the wire is `net`.

mod stream;

use std::collections::{BTreeMap, BTreeSet};

use gangsaw_core::agent::{Adopted, Agent, Effect, Input, Order, Spool, Spooled, Terms};
use gangsaw_core::effect::Grant;
use gangsaw_core::id::{DeviceId, LeaseId, NodeName};
use gangsaw_core::input::NodeHello;
use gangsaw_core::ranges::{IndexRange, RangeSet};
use gangsaw_core::resources::{Device, Inventory};
use gangsaw_core::time::Time;

use crate::net::{Session, Up};
use crate::rng::Rng;
use crate::supervisor::{Process, Supervisor};
use crate::world::{Happening, World};

/// Without a word from the scheduler for so long the agent drops the stream and dials again.
const STREAM_SILENCE_MS: u64 = 20_000;

/// What survives everything but is void after a reboot where it says so.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeDisk {
    /// Starts of the agent.
    pub(crate) starts: u64,
    /// The boot that the rest is of.
    pub(crate) boot: u64,
    /// Grants that were not forgotten.
    pub(crate) grants: BTreeMap<LeaseId, Grant>,
    /// Facts that were not acknowledged.
    pub(crate) spool: Vec<Spooled>,
    pub(crate) spool_last: u64,
    /// How far each lease has begun, written before each fork.
    pub(crate) begun: BTreeMap<LeaseId, u64>,
    /// Newest Renew.
    pub(crate) renewed: Time,
}

/// A running agent.
#[derive(Clone, Debug)]
pub(crate) struct AgentProcess {
    pub(crate) start: u64,
    pub(crate) machine: Agent,
    pub(crate) session: Option<Session>,
    /// Stopped until then; what comes waits.
    pub(crate) paused_until: u64,
    /// Wants a stream as soon as one can be had.
    pub(crate) wants_stream: bool,
    /// Orders for a supervisor that is being started.
    orders: Vec<Order>,
    heard_spool: u64,
    heard_scheduler: u64,
    tick_planned: Option<u64>,
}

/// A machine.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) boot: u64,
    boot_at: u64,
    pub(crate) up: bool,
    /// What it owns when all is well.
    pub(crate) owned: Inventory,
    /// What it owns now.
    pub(crate) inventory: Inventory,
    pub(crate) disk: NodeDisk,
    pub(crate) agent: Option<AgentProcess>,
    pub(crate) supervisor: Option<Supervisor>,
    pub(crate) supervisor_starts: u64,
    /// Leases whose processes are being killed.
    leftovers: BTreeSet<LeaseId>,
    pub(crate) processes: BTreeMap<u64, Process>,
    /// Every start fails until then.
    pub(crate) bad_until: u64,
}

impl Node {
    pub(crate) fn new(name: NodeName, owned: Inventory) -> Self {
        Self {
            name,
            boot: 0,
            boot_at: 0,
            up: false,
            inventory: owned.clone(),
            owned,
            disk: NodeDisk::default(),
            agent: None,
            supervisor: None,
            supervisor_starts: 0,
            leftovers: BTreeSet::new(),
            processes: BTreeMap::new(),
            bad_until: 0,
        }
    }

    /// Returns the node's BOOTTIME.
    pub(crate) fn clock(&self, now: u64) -> Time {
        Time(now - self.boot_at)
    }

    /// Returns the simulation's time at a BOOTTIME of the node.
    pub(crate) fn at(&self, clock: Time) -> u64 {
        self.boot_at.saturating_add(clock.0)
    }

    fn hello(&self, leases: Vec<gangsaw_core::input::HeldLease>) -> NodeHello {
        NodeHello {
            name: self.name.clone(),
            uuid: format!("uuid-{}", self.name),
            boot_id: format!("{}-{}", self.name, self.boot),
            agent_version: String::from("1"),
            inventory: self.inventory.clone(),
            leases,
        }
    }

    /// Returns what the living supervisor, or the spool of a dead one, shows.
    fn spool(&self) -> Spool {
        let running = self.supervisor.as_ref().map(|supervisor| &supervisor.runs);
        let mut leases = Vec::new();
        for (lease, grant) in &self.disk.grants {
            let terms = Terms::from(grant);
            let all: RangeSet = if terms.gang.is_empty() {
                RangeSet::range(terms.first, terms.last)
            } else {
                terms.gang.iter().map(|&rank| IndexRange::one(rank)).collect()
            };
            let run = running.and_then(|runs| runs.get(lease));
            // Of a dead supervisor, this one or an earlier: whatever may be open.
            let (held, open) = run.map_or((false, all), |run| (true, run.open()));
            let begun = self.disk.begun.get(lease).copied().unwrap_or(u64::from(terms.first));
            leases.push(Adopted { terms, held, open, begun, renewed: self.disk.renewed });
        }
        Spool { leases, facts: self.disk.spool.clone() }
    }
}

impl World {
    /// Boots a machine, or its agent alone if the machine is up, and dials.
    pub(crate) fn start_agent(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        if node.agent.is_some() {
            return;
        }
        if !node.up {
            node.up = true;
            node.boot += 1;
            node.boot_at = now;
        }
        node.disk.starts += 1;
        if node.disk.boot != node.boot {
            let NodeDisk { starts, spool_last, .. } = node.disk;
            node.disk = NodeDisk { starts, boot: node.boot, spool_last, ..NodeDisk::default() };
            self.start_supervisor(at);
        }
        let node = &mut self.nodes[at];
        let clock = node.clock(now);
        node.agent = Some(AgentProcess {
            start: node.disk.starts,
            machine: Agent::new(node.disk.starts << 32, clock),
            session: None,
            paused_until: 0,
            wants_stream: false,
            orders: Vec::new(),
            heard_spool: 0,
            heard_scheduler: now,
            tick_planned: None,
        });
        self.note("agent-up", &[at as u64, node_starts(&self.nodes[at])]);
        self.greet_supervisor(at);
        self.plan_dial(at, 5);
    }

    /// Tells a fresh agent what there is.
    fn greet_supervisor(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let spool = node.spool();
        let heard = node.disk.spool_last;
        if let Some(agent) = &mut node.agent {
            agent.heard_spool = heard;
        }
        if node.supervisor.is_some() {
            self.agent_step(at, Input::SupervisorList(spool));
        } else {
            self.lose_supervisor(at, spool);
        }
    }

    /// Tells the agent that its supervisor is dead, and starts another when nothing is left of the old one.
    fn lose_supervisor(&mut self, at: usize, spool: Spool) {
        self.nodes[at].leftovers.clear();
        let unreadable = self.chaos && self.rng.permille(100);
        // A spool that cannot be read still leaves the grants' files, which an agent that lives holds in memory.
        let knows = self.nodes[at].agent.as_ref().is_some_and(|agent| agent.machine.held().len() == spool.leases.len());
        let spool = if unreadable && knows { None } else { Some(spool) };
        self.agent_step(at, Input::SupervisorLost(spool));
        if self.nodes[at].leftovers.is_empty() {
            self.start_supervisor(at);
        }
    }

    pub(crate) fn on_supervisor_lost(&mut self, at: usize) {
        if self.nodes[at].agent.is_none() || self.nodes[at].supervisor.is_some() {
            return;
        }
        let spool = self.nodes[at].spool();
        self.lose_supervisor(at, spool);
    }

    pub(crate) fn on_leftovers_gone(&mut self, at: usize, lease: LeaseId) {
        if self.nodes[at].agent.is_none() || !self.nodes[at].leftovers.remove(&lease) {
            return;
        }
        self.nodes[at].processes.retain(|_, process| process.lease != lease);
        self.agent_step(at, Input::LeftoversGone { lease });
        if self.nodes[at].leftovers.is_empty() {
            self.start_supervisor(at);
        }
    }

    fn start_supervisor(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.supervisor.is_some() {
            return;
        }
        node.supervisor_starts += 1;
        node.supervisor = Some(Supervisor::new(node.supervisor_starts));
        let orders = node.agent.as_mut().map(|agent| std::mem::take(&mut agent.orders)).unwrap_or_default();
        for order in orders {
            self.order(at, order);
        }
    }

    /// Feeds the agent's machine and does what it says.
    pub(crate) fn agent_step(&mut self, at: usize, input: Input) {
        let now = self.now;
        let node = &mut self.nodes[at];
        let clock = node.clock(now);
        let Some(agent) = &mut node.agent else { return };
        self.counters.agent_input(&input);
        let effects = agent.machine.step(clock, input);
        for effect in effects {
            self.counters.agent_effect(&effect);
            self.agent_effect(at, effect);
        }
        let node = &mut self.nodes[at];
        let Some(agent) = &mut node.agent else { return };
        let next = agent.machine.next_tick().map(|clock| node.boot_at.saturating_add(clock.0).max(now));
        if next != agent.tick_planned {
            agent.tick_planned = next;
            if let Some(next) = next {
                self.queue.add(next, Happening::AgentTick { node: at, agent: agent.start });
            }
        }
    }

    fn agent_effect(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::ToSupervisor(order) => self.tell_supervisor(at, order),
            Effect::Redial => self.hang_up(at),
            Effect::SendHello { leases } => {
                let hello = self.nodes[at].hello(leases);
                self.send_up(at, Up::Hello(hello));
            }
            Effect::SendHeartbeat { sent, lease_count, lease_hash } => {
                self.send_up(at, Up::Heartbeat { sent, count: lease_count, hash: lease_hash });
            }
            Effect::SendReport { seq, facts } => self.send_up(at, Up::Report { seq, facts }),
            Effect::KillLeftovers { lease } => {
                self.nodes[at].leftovers.insert(lease);
                let delay = self.rng.range(1, 300);
                self.queue.add(self.now + delay, Happening::LeftoversGone { node: at, lease });
            }
            Effect::ForgetLease { lease } => {
                self.nodes[at].disk.grants.remove(&lease);
                self.nodes[at].disk.begun.remove(&lease);
            }
        }
    }

    fn tell_supervisor(&mut self, at: usize, order: Order) {
        let node = &mut self.nodes[at];
        if node.supervisor.is_some() {
            self.order(at, order);
        } else if !node.leftovers.is_empty()
            && let Some(agent) = &mut node.agent
        {
            agent.orders.push(order);
        }
        // Else the supervisor is dead and the agent has not noticed: the order is lost with the socket.
    }

    pub(crate) fn on_news(&mut self, at: usize, start: u64) {
        let node = &mut self.nodes[at];
        let Some(agent) = &mut node.agent else { return };
        if agent.start != start || node.supervisor.is_none() {
            return;
        }
        let heard = agent.heard_spool;
        agent.heard_spool = node.disk.spool_last;
        let news: Vec<Spooled> = node.disk.spool.iter().filter(|spooled| spooled.seq > heard).cloned().collect();
        for spooled in news {
            self.agent_step(at, Input::Fact(spooled));
        }
    }

    pub(crate) fn on_agent_tick(&mut self, at: usize, start: u64) {
        let now = self.now;
        let Some(agent) = &mut self.nodes[at].agent else { return };
        if agent.start != start || agent.tick_planned.is_none_or(|planned| planned > now) {
            return;
        }
        agent.tick_planned = None;
        if agent.session.is_some() && now.saturating_sub(agent.heard_scheduler) > STREAM_SILENCE_MS {
            self.hang_up(at);
        }
        self.agent_step(at, Input::Tick);
    }
}

fn node_starts(node: &Node) -> u64 {
    node.disk.starts
}

/// Returns a machine of random size.
pub(crate) fn machine(rng: &mut Rng, at: u64, gpus: u64) -> Option<Node> {
    let devices = (0..gpus)
        .filter_map(|gpu| {
            Some(Device {
                uuid: DeviceId::new(&format!("GPU-{at}-{gpu}")).ok()?,
                model: String::from(if at.is_multiple_of(2) { "NVIDIA H200" } else { "NVIDIA L4" }),
                memory_bytes: 24 << 30,
                pci_bus_id: format!("0000:0{gpu}:00.0"),
                withheld: None,
                compute_capability: 90,
                driver_version: String::from("580.1"),
            })
        })
        .collect();
    let inventory = Inventory {
        milli_cpus: rng.range(2, 8) * 1_000,
        memory_bytes: rng.range(4, 32) << 30,
        devices,
        address: format!("10.0.0.{at}"),
        ..Inventory::default()
    };
    Some(Node::new(NodeName::new(&format!("n{at}")).ok()?, inventory))
}
