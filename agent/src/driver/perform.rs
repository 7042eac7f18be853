//! Performing what the machine wants: words to the scheduler, orders to the supervisor, and forgetting.

use std::collections::{BTreeSet, VecDeque};

use gangsaw_core::agent::{Effect, Input, Order};
use gangsaw_core::id::LeaseId;
use gangsaw_core::time::Time;
use gangsaw_proto::node::v1::{AttachRequest, Grant, Heartbeat, Hello, Report, attach_request};
use gangsaw_proto::supervisor::v1::command::Command;
use gangsaw_proto::supervisor::v1::{Ack, Renew, Renewal, Run, Start, Stop, Trim};
use tracing::{debug, warn};

use super::{Driver, Supervisor, now};
use crate::convert;
use crate::inventory::watch::Held;
use crate::progress::Tasks;

/// Commands that wait for a supervisor; each lease has a handful.
const PENDING_MAX: usize = 65_536;
/// A deadline that has passed whatever the clock says: stop now, as for silence.
const PASSED: u64 = 1;

impl Driver {
    /// Feeds the machine one input and performs everything that follows from it.
    pub(super) fn step(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for effect in self.machine.step(now(), input) {
                self.perform(effect, &mut inputs);
            }
        }
    }

    fn perform(&mut self, effect: Effect, inputs: &mut VecDeque<Input>) {
        use attach_request::Message;
        match effect {
            Effect::ToSupervisor(order) => self.order(order),
            Effect::Redial => self.hang_up(),
            Effect::SendHello { leases } => {
                let hello = Hello {
                    node_name: self.parts.node_name.clone(),
                    agent_version: self.parts.version.clone(),
                    node_uuid: self.parts.node_uuid.clone(),
                    boot_id: self.parts.offer.host.boot_id.clone(),
                    inventory: Some(self.parts.offer.send()),
                    leases: leases.iter().map(convert::held).collect(),
                    said_ms: now().0,
                };
                self.send(Message::Hello(hello));
            }
            Effect::SendHeartbeat { sent, lease_count, lease_hash } => {
                self.send(Message::Heartbeat(Heartbeat { sent_ms: sent.0, lease_count, lease_hash }));
            }
            Effect::SendReport { seq, facts } => {
                self.send(Message::Report(Report { seq, facts: facts.iter().map(convert::report).collect() }));
            }
            Effect::KillLeftovers { lease } => match &mut self.clearing {
                Some(clearing) => clearing.push(lease.0),
                // A supervisor is there and does not know the lease: whoever was before it has been cleared up.
                None => inputs.push_back(Input::LeftoversGone { lease }),
            },
            Effect::ForgetLease { lease } => self.forget(lease),
        }
    }

    /// Queues a message for the scheduler. Who lets the queue fill up is dropped and met again.
    pub(super) fn send(&mut self, message: attach_request::Message) {
        let Some(outbox) = &self.outbox else { return };
        if outbox.try_send(AttachRequest { message: Some(message) }).is_err() && !outbox.is_closed() {
            warn!("the scheduler does not read: dialling again");
            self.hang_up();
            // The machine hears of it as of any lost stream, and says nothing to that.
            self.machine.step(now(), Input::Disconnected);
        }
    }

    /// Closes the stream: nothing more is taken from it, and a new one is dialled.
    fn hang_up(&mut self) {
        self.parts.uplink.hang_up();
        self.outbox = None;
        self.parts.line.send_replace(None);
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Spawn { lease } | Order::Prepare { lease } => {
                if let Some((grant, granted_us)) = self.arriving.take() {
                    self.run_grant(&grant, granted_us);
                } else {
                    warn!(lease = lease.0, "an order without its grant");
                }
            }
            Order::Start { lease, master_addr, master_port } => self.command(Command::Start(Start {
                lease_id: lease.0,
                master_addr,
                master_port: u32::from(master_port),
            })),
            Order::Stop { lease, elements, grace, reason } => match convert::stop_reason(reason) {
                Some(reason) => self.command(Command::Stop(Stop {
                    lease_id: lease.0,
                    reason: reason.into(),
                    elements: elements.indices().collect(),
                    grace_ms: Some(grace.0),
                })),
                None => {
                    let renewal = Renewal { lease_id: lease.0, deadline_ms: PASSED };
                    self.command(Command::Renew(Renew { renewals: vec![renewal] }));
                }
            },
            Order::Trim { lease } => {
                self.command(Command::Trim(Trim { lease_id: lease.0, last_index: 0, keep_none: true }));
            }
            Order::AckFacts { seq } => {
                // A supervisor that is not there hears it from the next report.
                if matches!(self.supervisor, Supervisor::Up(_)) {
                    self.command(Command::Ack(Ack { seq }));
                }
            }
            Order::Renew { heard } => self.renew(heard),
        }
    }

    /// Hands a grant to the supervisor: journal, socket, Run.
    fn run_grant(&mut self, grant: &Grant, granted_us: u64) {
        if let Err(error) = self.parts.journal.add(grant) {
            self.journal_failed(&error);
        }
        let progress = self.parts.progress.bind(tasks(grant));
        if let Err(error) = &progress {
            warn!(lease = grant.lease_id, %error, "no progress socket");
        }
        let run: Run = self.parts.launcher.run(grant, progress.ok().as_deref(), granted_us);
        debug!(lease = grant.lease_id, job = grant.job_id, "granted");
        if self.listing {
            self.since_list.insert(grant.lease_id);
        }
        self.command(Command::Run(run));
        if grant.ranks.iter().any(|rank| !rank.gpu_uuids.is_empty()) {
            self.publish_held();
        }
    }

    /// Moves the deadlines of the leases that end when nobody hears from the scheduler.
    fn renew(&mut self, heard: Time) {
        let deadline = |grant: &Grant| {
            let task = grant.task.as_ref().filter(|task| task.stop_after_ms > 0)?;
            let after = task.stop_after_ms.saturating_add(task.grace_ms);
            Some(Renewal { lease_id: grant.lease_id, deadline_ms: heard.0.saturating_add(after).max(PASSED) })
        };
        let renewals: Vec<Renewal> = self.parts.journal.grants.values().filter_map(deadline).collect();
        if !renewals.is_empty() {
            self.command(Command::Renew(Renew { renewals }));
        }
    }

    /// Says something to the supervisor, or keeps it for the next one.
    pub(super) fn command(&mut self, command: Command) {
        match &mut self.supervisor {
            Supervisor::Up(commands) => {
                if let Err(error) = commands.try_send(command) {
                    warn!("the supervisor does not read: connecting again");
                    self.supervisor = Supervisor::Down(vec![error.into_inner()]);
                }
            }
            Supervisor::Down(pending) if pending.len() < PENDING_MAX => pending.push(command),
            Supervisor::Down(_) => warn!("too many commands wait for a supervisor"),
        }
    }

    fn forget(&mut self, lease: LeaseId) {
        if let Err(error) = self.parts.journal.strike(lease.0) {
            self.journal_failed(&error);
        }
        self.reached.forget(lease.0);
        self.parts.progress.release(lease.0);
        self.publish_held();
    }

    /// Tells the GPU watch which devices are ours now.
    pub(super) fn publish_held(&self) {
        let ranks = self.parts.journal.grants.values().flat_map(|grant| &grant.ranks);
        let devices: BTreeSet<String> = ranks.flat_map(|rank| rank.gpu_uuids.iter().cloned()).collect();
        self.parts.held.send_if_modified(|held: &mut Held| {
            let changed = held.devices != devices;
            held.devices = devices;
            changed
        });
    }
}

/// The tasks that share a lease's progress socket.
pub(super) fn tasks(grant: &Grant) -> Tasks {
    let ranks: Vec<u32> = grant.ranks.iter().map(|rank| rank.rank).collect();
    Tasks {
        lease: grant.lease_id,
        first: grant.first_index,
        last: grant.last_index,
        ranks: if ranks.is_empty() { vec![0] } else { ranks },
    }
}
