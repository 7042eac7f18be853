//! What the scheduler hears from nodes: heartbeats are answered at once, everything else is an input.

use gangsaw_core::input::Input;

use super::Asker;
use crate::faults::Fault;
use crate::net::{Down, Session, Up};
use crate::world::World;

impl World {
    /// Takes a message of a node.
    pub(crate) fn on_up(&mut self, session: Session, message: Up) {
        let now = self.now;
        let Some(stream) = self.net.streams.get(&session).filter(|stream| stream.scheduler_open) else { return };
        let machine = stream.node;
        let Some(scheduler) = &mut self.scheduler else { return };
        if stream.scheduler != scheduler.start {
            return;
        }
        let node = scheduler.nodes.get(&session).copied();
        if scheduler.newest.get(&machine).is_some_and(|newest| *newest > session) {
            self.counters.fault(Fault::StreamOvertaken);
        }
        match message {
            Up::Hello(hello) => {
                let newest = scheduler.newest.entry(machine).or_insert(session);
                if *newest > session {
                    return;
                }
                *newest = session;
                self.ask(Asker::Node(session), "node", None, Input::NodeHello(hello));
            }
            Up::Heartbeat { sent, count, hash } => {
                let Some(node) = node.filter(|node| scheduler.streams.get(node) == Some(&session)) else { return };
                let known = scheduler.state.node(node).is_some_and(|node| node.connected());
                let clock = scheduler.clock(now);
                let differs = scheduler.state.lease_summary(node) != (count, hash);
                let row = scheduler.mismatches.entry(node).or_insert(0);
                *row = if differs { *row + 1 } else { 0 };
                let reconcile = !known || *row >= 2;
                if reconcile {
                    *row = 0;
                }
                if known {
                    scheduler.liveness.heard(node, clock);
                }
                self.send_down(session, Down::HeartbeatAck { sent });
                if reconcile {
                    self.send_down(session, Down::Reconcile);
                }
            }
            Up::Report { seq, facts } => {
                let Some(node) = node else { return };
                if !scheduler.state.node(node).is_some_and(|node| node.connected()) {
                    self.send_down(session, Down::Reconcile);
                }
                self.ask(Asker::Node(session), "node", None, Input::NodeReport { node, seq, facts });
            }
            Up::Inventory(inventory) => {
                let Some(node) = node else { return };
                self.ask(Asker::Node(session), "node", None, Input::NodeInventory { node, inventory });
            }
        }
    }
}
