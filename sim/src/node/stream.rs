//! The agent's end of a stream: what it takes from the scheduler, dialling, hanging up, and its death.

use gangsaw_core::agent::{Input, Terms};

use crate::net::{Down, Session};
use crate::world::{Happening, World};

impl World {
    /// Takes a message of the scheduler, if it comes on the stream that the agent holds.
    pub(crate) fn on_down(&mut self, session: Session, message: Down) {
        let Some(at) = self.net.streams.get(&session).filter(|stream| stream.agent_open).map(|stream| stream.node)
        else {
            return;
        };
        let now = self.now;
        let Some(agent) = &mut self.nodes[at].agent else { return };
        if agent.session != Some(session) {
            return;
        }
        agent.heard_scheduler = now;
        let input = match message {
            Down::Welcome { acked_report, heartbeat } => Input::Welcomed { acked_report, heartbeat },
            Down::HeartbeatAck { sent } => Input::HeartbeatAcked { sent },
            Down::Grant(grant) => {
                let terms = Terms::from(&grant);
                let known = agent.machine.held().iter().any(|held| held.lease == grant.lease);
                let before = self.nodes[at].disk.grants.contains_key(&grant.lease);
                let lease = grant.lease;
                if !known {
                    self.nodes[at].disk.grants.insert(lease, grant);
                }
                self.agent_step(at, Input::Granted(terms));
                let agent = self.nodes[at].agent.as_ref();
                if !before && !agent.is_some_and(|agent| agent.machine.held().iter().any(|held| held.lease == lease)) {
                    self.nodes[at].disk.grants.remove(&lease);
                }
                return;
            }
            Down::Start { lease, master_addr, master_port } => {
                Input::StartRequested { lease, master_addr, master_port }
            }
            Down::Revoke { lease, reason, elements } => Input::RevokeRequested { lease, reason, elements },
            Down::Trim { lease } => Input::TrimRequested { lease },
            Down::ReportAck { seq } => Input::ReportAcked { seq },
            Down::Reconcile => Input::Reconcile,
        };
        self.agent_step(at, input);
    }

    /// Plans a dial within `within` ms.
    pub(crate) fn plan_dial(&mut self, at: usize, within: u64) {
        let Some(agent) = &mut self.nodes[at].agent else { return };
        agent.wants_stream = true;
        let start = agent.start;
        let delay = self.rng.range(1, within.max(1));
        self.queue.add(self.now + delay, Happening::Dial { node: at, agent: start });
    }

    pub(crate) fn on_dial(&mut self, at: usize, start: u64) {
        let wire = self.net.wires[at];
        let now = self.now;
        let Some(scheduler) = self.scheduler.as_ref().map(|scheduler| scheduler.start) else { return };
        let Some(agent) = &mut self.nodes[at].agent else { return };
        if agent.start != start || agent.session.is_some() || wire.up_blocked || wire.down_blocked {
            return;
        }
        let session = self.net.open(at, scheduler);
        agent.session = Some(session);
        agent.wants_stream = false;
        agent.heard_scheduler = now;
        self.note("dialled", &[at as u64, session]);
        self.agent_step(at, Input::Connected);
    }

    /// Ends the agent's stream from its side, and dials again.
    pub(crate) fn hang_up(&mut self, at: usize) {
        let Some(session) = self.nodes[at].agent.as_mut().and_then(|agent| agent.session.take()) else { return };
        if let Some(stream) = self.net.streams.get_mut(&session) {
            stream.agent_open = false;
            stream.held_down.clear();
        }
        self.agent_step(at, Input::Disconnected);
        self.plan_dial(at, 400);
    }

    /// Ends the agent's process. The supervisor and its tasks go on.
    pub(crate) fn kill_agent(&mut self, at: usize) {
        let Some(agent) = self.nodes[at].agent.take() else { return };
        if let Some(stream) = agent.session.and_then(|session| self.net.streams.get_mut(&session)) {
            stream.agent_open = false;
        }
        self.nodes[at].leftovers.clear();
        self.note("agent-killed", &[at as u64]);
    }

    /// Takes the whole machine down.
    pub(crate) fn kill_node(&mut self, at: usize) {
        self.kill_agent(at);
        let node = &mut self.nodes[at];
        node.supervisor = None;
        node.processes.clear();
        node.up = false;
        self.note("node-down", &[at as u64]);
    }
}
