//! The nodes that are connected: where to send to, and what they say.
//!
//! A session is a bounded queue of messages to one agent. One that overflows is closed: the agent redials, says Hello,
//! and `owed` derives everything again, so nothing needs to be kept for it.

use std::collections::BTreeMap;

use gangsaw_core::effect::Effect;
use gangsaw_core::id::{Index, LeaseId, NodeId, Rank};
use gangsaw_core::input::Fact;
use gangsaw_core::resources::Inventory;
use gangsaw_proto::jobs::v1::Progress;
use gangsaw_proto::node::v1::AttachResponse;
use gangsaw_proto::node::v1::attach_response::Message as ToNode;
use tokio::sync::mpsc;
use tonic::Status;

use crate::wire::grant;
use crate::wire::view::Volatile;

/// Where messages to one agent go.
pub(crate) type Outbox = mpsc::Sender<Result<AttachResponse, Status>>;

/// Heartbeats in a row that may differ from the state: a grant or a report may be on its way.
const MISMATCHES_MAX: u32 = 1;

/// What a node says after its Hello.
pub(crate) enum Said {
    Heartbeat { sent_ms: u64, leases: (u32, u64) },
    Report { seq: u64, facts: Vec<Fact> },
    Inventory { inventory: Inventory, volatile: Volatile },
    Progress(Vec<TaskProgress>),
    Gone,
}

/// What a task said of itself.
pub(crate) struct TaskProgress {
    pub(crate) lease: LeaseId,
    pub(crate) index: Index,
    pub(crate) rank: Rank,
    pub(crate) progress: Progress,
}

#[derive(Debug)]
struct Session {
    id: u64,
    out: Outbox,
    mismatches: u32,
}

/// The sessions, one a node.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    nodes: BTreeMap<NodeId, Session>,
}

impl Sessions {
    /// Opens a session; an older one of the same node ends.
    pub(super) fn open(&mut self, node: NodeId, id: u64, out: Outbox) {
        self.nodes.insert(node, Session { id, out, mismatches: 0 });
    }

    /// Closes a session if it is still the node's.
    pub(super) fn close(&mut self, node: NodeId, id: u64) {
        if self.is_current(node, id) {
            self.nodes.remove(&node);
        }
    }

    /// Ends a node's session, whoever holds it. Its agent dials again.
    pub(super) fn end(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// Says whether `id` is the node's present session.
    pub(super) fn is_current(&self, node: NodeId, id: u64) -> bool {
        self.nodes.get(&node).is_some_and(|session| session.id == id)
    }

    /// Sends one message, or ends a session that does not take it.
    pub(super) fn send(&mut self, node: NodeId, message: ToNode) {
        let Some(session) = self.nodes.get(&node) else { return };
        if session.out.try_send(Ok(AttachResponse { message: Some(message) })).is_err() {
            tracing::warn!(%node, "session closed: its queue is full or its stream is gone");
            self.nodes.remove(&node);
        }
    }

    /// Compares a heartbeat with what the node should hold, and says whether it must say Hello again.
    pub(super) fn differs(&mut self, node: NodeId, said: (u32, u64), should: (u32, u64)) -> bool {
        let Some(session) = self.nodes.get_mut(&node) else { return false };
        if said == should {
            session.mismatches = 0;
            return false;
        }
        session.mismatches += 1;
        if session.mismatches <= MISMATCHES_MAX {
            return false;
        }
        session.mismatches = 0;
        true
    }

    /// Performs an effect that goes to a node.
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            // Answered by the turn that fed the input.
            Effect::Reply { .. } => {}
            Effect::Grant(lease) => self.send(lease.node, grant::grant(&lease)),
            Effect::Start { node, lease, master_addr, master_port } => {
                self.send(node, grant::start(lease, &master_addr, master_port));
            }
            Effect::Revoke { node, lease, reason, elements } => {
                for revoke in grant::revokes(lease, reason, &elements) {
                    self.send(node, revoke);
                }
            }
            Effect::Trim { node, lease } => self.send(node, grant::trim(lease)),
            Effect::AckReport { node, seq } => {
                self.send(node, ToNode::ReportAck(gangsaw_proto::node::v1::ReportAck { seq }));
            }
        }
    }
}
