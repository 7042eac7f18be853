//! What the engine does after the append: answers, and messages to nodes.

use gangsaw_core::effect::{Effect, Reply};
use gangsaw_core::id::NodeId;
use gangsaw_core::input::HeldLease;
use gangsaw_core::liveness::HEARTBEATS_PER_TTL;
use gangsaw_core::owed::owed;
use gangsaw_core::time::Millis;

use super::Asker;
use crate::net::{Down, Session};
use crate::world::World;

impl World {
    pub(super) fn perform(&mut self, effects: Vec<(Asker, Effect)>, hellos: &[(Session, Vec<HeldLease>)]) {
        for (asker, effect) in effects {
            self.counters.effect(&effect);
            self.read(|| format!("{effect:?}"));
            match effect {
                Effect::Reply { reply, .. } => self.reply(asker, reply, hellos),
                Effect::Grant(grant) => {
                    self.send_to_node(grant.node, Down::Grant(grant));
                }
                Effect::Start { node, lease, master_addr, master_port } => {
                    self.send_to_node(node, Down::Start { lease, master_addr, master_port });
                }
                Effect::Revoke { node, lease, reason, elements } => {
                    self.send_to_node(node, Down::Revoke { lease, reason, elements });
                }
                Effect::Trim { node, lease } => self.send_to_node(node, Down::Trim { lease }),
                Effect::AckReport { node, seq } => self.send_to_node(node, Down::ReportAck { seq }),
            }
        }
    }

    fn reply(&mut self, asker: Asker, reply: Reply, hellos: &[(Session, Vec<HeldLease>)]) {
        self.counters.reply(&reply);
        let session = match asker {
            Asker::Client(call) => return self.answered(call, reply),
            Asker::Engine => return,
            Asker::Node(session) => session,
        };
        let Reply::Welcome { node, acked_report } = reply else { return };
        let now = self.now;
        let Some(scheduler) = &mut self.scheduler else { return };
        let clock = scheduler.clock(now);
        let heartbeat = Millis(scheduler.ttl().0 / HEARTBEATS_PER_TTL);
        if scheduler.streams.get(&node).is_some_and(|newer| *newer > session) {
            return;
        }
        if let Some(older) = scheduler.streams.insert(node, session)
            && older != session
        {
            // The older stream is closed; what it sent before may still be on its way to the inbox.
            let cut = self.rng.permille(500);
            if let Some(stream) = self.net.streams.get_mut(&older) {
                stream.scheduler_open = !cut;
            }
        }
        scheduler.nodes.insert(session, node);
        scheduler.mismatches.remove(&node);
        scheduler.liveness.heard(node, clock);
        let held = hellos.iter().rev().find(|(from, _)| *from == session).map_or(&[][..], |(_, held)| held);
        let outstanding = owed(&scheduler.state, node, held);
        self.send_down(session, Down::Welcome { acked_report, heartbeat });
        self.counters.owed += outstanding.len() as u64;
        self.perform(outstanding.into_iter().map(|effect| (Asker::Engine, effect)).collect(), &[]);
    }

    fn send_to_node(&mut self, node: NodeId, message: Down) {
        let session = self.scheduler.as_ref().and_then(|scheduler| scheduler.streams.get(&node).copied());
        if let Some(session) = session {
            self.send_down(session, message);
        }
    }
}
