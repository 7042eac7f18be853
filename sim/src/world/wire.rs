//! What carries messages: delay, repetition, partitions and their end.

use super::{Happening, World};
use crate::net::{Down, Session, Up};

impl World {
    /// Sends a message of an agent to the scheduler.
    pub(crate) fn send_up(&mut self, at: usize, message: Up) {
        let Some(session) = self.nodes[at].agent.as_ref().and_then(|agent| agent.session) else { return };
        let wire = self.net.wires[at];
        if wire.up_blocked {
            if let Some(stream) = self.net.streams.get_mut(&session) {
                stream.held_up.push(message);
            }
            return;
        }
        let delay = self.rng.range(1, 20) + wire.slow_ms;
        let Some(arrival) = self.net.arrival_up(session, self.now + delay) else { return };
        if self.rng.permille(wire.repeats_permille) {
            // A Hello that came late again would show an old list; streams do not do that.
            let again = if matches!(message, Up::Hello(_)) { arrival } else { arrival + delay };
            self.queue.add(again, Happening::Up { session, message: message.clone() });
        }
        self.queue.add(arrival, Happening::Up { session, message });
    }

    /// Sends a message of the scheduler to an agent.
    pub(crate) fn send_down(&mut self, session: Session, message: Down) {
        let Some(stream) = self.net.streams.get_mut(&session).filter(|stream| stream.scheduler_open) else { return };
        let wire = self.net.wires[stream.node];
        if wire.down_blocked {
            stream.held_down.push(message);
            return;
        }
        let delay = self.rng.range(1, 20) + wire.slow_ms;
        let Some(arrival) = self.net.arrival_down(session, self.now + delay) else { return };
        if self.rng.permille(wire.repeats_permille) {
            self.queue.add(arrival + delay, Happening::Down { session, message: message.clone() });
        }
        self.queue.add(arrival, Happening::Down { session, message });
    }

    pub(super) fn on_hangup(&mut self, session: Session) {
        let Some(stream) = self.net.streams.get(&session) else { return };
        let at = stream.node;
        if self.nodes[at].agent.as_ref().is_some_and(|agent| agent.session == Some(session)) {
            self.hang_up(at);
        }
    }

    /// Ends every trouble of a wire: what was held arrives, or its stream breaks.
    pub(super) fn heal(&mut self, at: usize) {
        let wire = std::mem::take(&mut self.net.wires[at]);
        if wire.up_blocked || wire.down_blocked {
            let arrives = self.rng.permille(500);
            let held: Vec<Session> =
                self.net.streams.iter().filter(|(_, stream)| stream.node == at).map(|(session, _)| *session).collect();
            for session in held {
                self.release(session, arrives);
            }
            if !arrives {
                self.hang_up(at);
            }
        }
        if self.nodes[at].agent.as_ref().is_some_and(|agent| agent.wants_stream) {
            self.plan_dial(at, 300);
        }
    }

    fn release(&mut self, session: Session, arrives: bool) {
        let Some(stream) = self.net.streams.get_mut(&session) else { return };
        let up = std::mem::take(&mut stream.held_up);
        let down = std::mem::take(&mut stream.held_down);
        if !arrives {
            return;
        }
        for message in up {
            let delay = self.rng.range(1, 200);
            if let Some(arrival) = self.net.arrival_up(session, self.now + delay) {
                self.queue.add(arrival, Happening::Up { session, message });
            }
        }
        for message in down {
            let delay = self.rng.range(1, 200);
            if let Some(arrival) = self.net.arrival_down(session, self.now + delay) {
                self.queue.add(arrival, Happening::Down { session, message });
            }
        }
    }
}
