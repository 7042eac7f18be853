//! The wire between agents and the scheduler: streams that delay, repeat, break and stall.
//!
//! Within one stream what arrives arrives in order. A broken stream's messages may still arrive at the scheduler, also
//! after the Hello of the stream that replaced it; the agent, which holds one stream, never sees an old one's.
//! A partition stalls one direction or both; when it ends, what was stalled arrives or the stream breaks.

use std::collections::BTreeMap;

use gangsaw_core::effect::Grant;
use gangsaw_core::id::LeaseId;
use gangsaw_core::input::{Fact, NodeHello};
use gangsaw_core::lease::RevokeReason;
use gangsaw_core::ranges::RangeSet;
use gangsaw_core::resources::Inventory;
use gangsaw_core::time::{Millis, Time};

/// A stream's number; later streams have higher ones.
pub(crate) type Session = u64;

/// From an agent to the scheduler.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    Hello(NodeHello),
    Heartbeat { sent: Time, count: u32, hash: u64 },
    Report { seq: u64, facts: Vec<Fact> },
    Inventory(Inventory),
}

/// From the scheduler to an agent.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    Welcome { acked_report: u64, heartbeat: Millis },
    HeartbeatAck { sent: Time },
    Grant(Grant),
    Start { lease: LeaseId, master_addr: String, master_port: u16 },
    Revoke { lease: LeaseId, reason: RevokeReason, elements: RangeSet },
    Trim { lease: LeaseId },
    ReportAck { seq: u64 },
    Reconcile,
}

/// One stream.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) node: usize,
    /// Which start of the scheduler it was dialled to.
    pub(crate) scheduler: u64,
    /// The agent still listens.
    pub(crate) agent_open: bool,
    /// The scheduler still listens.
    pub(crate) scheduler_open: bool,
    up_last: u64,
    down_last: u64,
    pub(crate) held_up: Vec<Up>,
    pub(crate) held_down: Vec<Down>,
}

/// How a node's wire is now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wire {
    pub(crate) up_blocked: bool,
    pub(crate) down_blocked: bool,
    /// It is ill until then.
    pub(crate) ill_until: u64,
    /// Added to every delay.
    pub(crate) slow_ms: u64,
    /// Messages in a thousand that arrive twice.
    pub(crate) repeats_permille: u64,
}

/// All streams and wires.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    pub(crate) streams: BTreeMap<Session, Stream>,
    pub(crate) wires: Vec<Wire>,
    last: Session,
}

impl Net {
    /// Returns `wires` wires without trouble, and no stream.
    pub(crate) fn new(wires: usize) -> Self {
        Self { streams: BTreeMap::new(), wires: vec![Wire::default(); wires], last: 0 }
    }

    pub(crate) fn open(&mut self, node: usize, scheduler: u64) -> Session {
        self.last += 1;
        let stream = Stream {
            node,
            scheduler,
            agent_open: true,
            scheduler_open: true,
            up_last: 0,
            down_last: 0,
            held_up: Vec::new(),
            held_down: Vec::new(),
        };
        self.streams.insert(self.last, stream);
        self.last
    }

    /// Returns when a message sent now with `delay` arrives at the scheduler: after those before it.
    pub(crate) fn arrival_up(&mut self, session: Session, at: u64) -> Option<u64> {
        let stream = self.streams.get_mut(&session)?;
        stream.up_last = stream.up_last.max(at);
        Some(stream.up_last)
    }

    /// Returns when a message sent now with `delay` arrives at the agent: after those before it.
    pub(crate) fn arrival_down(&mut self, session: Session, at: u64) -> Option<u64> {
        let stream = self.streams.get_mut(&session)?;
        stream.down_last = stream.down_last.max(at);
        Some(stream.down_last)
    }

    /// Forgets streams that nobody listens to.
    pub(crate) fn sweep(&mut self, before: Session) {
        self.streams.retain(|&session, stream| session >= before || stream.agent_open || stream.scheduler_open);
    }

    pub(crate) fn last(&self) -> Session {
        self.last
    }
}
