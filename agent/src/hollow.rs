//! A node without processes: the real session and core's real agent machine, over tasks that are only imagined.
//!
//! It is what load is made with: thousands of them fit in one process, and the scheduler cannot tell them from nodes.
//! Everything the scheduler sees of a node (dialling and pauses, Hello, heartbeats, one report at a time until it is
//! acknowledged) is the code that a real agent runs. Absent: supervisor, inventory, logs, progress.
//!
//! Invariants:
//! - A hollow node keeps its leases over a lost stream, as a real one does, and says so in its next Hello.
//! - Whether an imagined task fails follows from the seed, the job, the index and the attempt alone.
//!
//! Elsewhere: the real node is `driver`; what imagined tasks do is `imagined`.

mod imagined;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gangsaw_core::agent::{Agent, Effect, Input, Order, Spooled};
use gangsaw_core::id::LeaseId;
use gangsaw_core::input::Fact;
use gangsaw_core::time::{Millis, Time};
use gangsaw_proto::node::v1::{AttachRequest, AttachResponse, GpuDevice, Grant, Heartbeat, Hello, Inventory, Report};
use gangsaw_proto::node::v1::{attach_request, attach_response};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::convert;
use crate::driver::{at, now};
use crate::session::token::{Server, ServerError};
use crate::session::uplink::{Uplink, UplinkEvent};
use imagined::Imagined;

/// What the tasks of a hollow node do.
#[derive(Clone, Copy, Debug)]
pub struct Tasks {
    /// How long each runs; zero: it has ended when it begins.
    pub run: Duration,
    /// How many of a million end with exit code 1.
    pub failed_per_million: u32,
    /// Chooses which.
    pub seed: u64,
}

/// What the hollow nodes of a process have come to, all together.
#[derive(Debug, Default)]
pub struct Tally {
    /// Nodes that the scheduler has welcomed and that have not lost their stream since.
    pub attached: AtomicU64,
    /// Welcomes.
    pub welcomes: AtomicU64,
    /// Streams that ended, or were never welcomed.
    pub lost: AtomicU64,
    /// Leases that were granted.
    pub grants: AtomicU64,
    /// Tasks that ended, whether or not the scheduler knows.
    pub ended: AtomicU64,
    /// Of them, those with another exit code than zero.
    pub failed: AtomicU64,
}

/// A node to be.
#[derive(Clone, Debug)]
pub struct Hollow {
    /// Unique in the cluster.
    pub name: String,
    /// `http://HOST:PORT`.
    pub server: String,
    /// The token; absent: looked up as an agent does.
    pub token: Option<String>,
    /// What it offers, in 1/1000 of a core.
    pub milli_cpus: u64,
    /// And in bytes.
    pub memory_bytes: u64,
    /// And GPUs, whole ones.
    pub gpus: u32,
    /// What its tasks do.
    pub tasks: Tasks,
    /// Where it counts.
    pub tally: Arc<Tally>,
}

impl Hollow {
    /// Is a node until `stop`.
    ///
    /// # Errors
    /// The server's address makes no sense.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ServerError> {
        let server = Server::parse(&self.server)?;
        let uplink = Uplink::new(server, self.token.clone());
        let mut machine = Agent::new(1 << 32, now());
        // There is no supervisor to wait for: it holds nothing.
        let _ = machine.step(now(), Input::SupervisorList(gangsaw_core::agent::Spool::default()));
        let tasks = Imagined::new(self.tasks);
        let node =
            Node { hollow: self, machine, uplink, tasks, outbox: None, arriving: None, welcome: false, fact_seq: 0 };
        tokio::select! {
            () = stop.cancelled() => {}
            never = node.drive() => match never {},
        }
        Ok(())
    }
}

struct Node {
    hollow: Hollow,
    machine: Agent,
    uplink: Uplink,
    tasks: Imagined,
    outbox: Option<mpsc::Sender<AttachRequest>>,
    /// The grant whose order the machine is deciding on.
    arriving: Option<Grant>,
    /// The present stream is welcomed.
    welcome: bool,
    fact_seq: u64,
}

impl Node {
    async fn drive(mut self) -> std::convert::Infallible {
        loop {
            let tick = self.machine.next_tick().map(|at| Instant::now() + Duration::from_millis(at.since(now()).0));
            let due = self.tasks.due();
            tokio::select! {
                event = self.uplink.next() => self.heard(event),
                () = at(tick) => self.step(Input::Tick),
                () = at(due) => {
                    let facts = self.tasks.pass(Instant::now());
                    self.learn(facts);
                }
            }
        }
    }

    fn heard(&mut self, event: UplinkEvent) {
        match event {
            UplinkEvent::Connected(outbox) => {
                self.outbox = Some(outbox);
                self.step(Input::Connected);
            }
            UplinkEvent::Message(message) => self.message(*message),
            UplinkEvent::Closed => {
                self.detached();
                self.step(Input::Disconnected);
            }
        }
    }

    fn detached(&mut self) {
        self.outbox = None;
        let tally = &self.hollow.tally;
        tally.lost.fetch_add(1, Ordering::Relaxed);
        if std::mem::take(&mut self.welcome) {
            tally.attached.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn message(&mut self, message: AttachResponse) {
        use attach_response::Message;
        match message.message {
            Some(Message::Welcome(welcome)) => {
                let tally = &self.hollow.tally;
                tally.welcomes.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut self.welcome, true) {
                    tally.attached.fetch_add(1, Ordering::Relaxed);
                }
                let heartbeat = Millis(welcome.heartbeat_ms.max(1));
                self.uplink.welcomed(Duration::from_millis(heartbeat.0));
                self.step(Input::Welcomed { acked_report: welcome.acked_report, heartbeat });
            }
            Some(Message::HeartbeatAck(ack)) => self.step(Input::HeartbeatAcked { sent: Time(ack.sent_ms) }),
            Some(Message::Grant(grant)) => {
                let Some(terms) = convert::terms(&grant) else { return };
                self.hollow.tally.grants.fetch_add(1, Ordering::Relaxed);
                self.arriving = Some(grant);
                self.step(Input::Granted(terms));
                self.arriving = None;
            }
            Some(Message::Start(start)) => {
                let master_port = u16::try_from(start.master_port).unwrap_or(0);
                let (lease, master_addr) = (LeaseId(start.lease_id), start.master_addr);
                self.step(Input::StartRequested { lease, master_addr, master_port });
            }
            Some(Message::Revoke(revoke)) => {
                let reason = convert::revoke_reason(revoke.reason());
                let elements = convert::elements(&revoke.elements);
                self.step(Input::RevokeRequested { lease: LeaseId(revoke.lease_id), reason, elements });
            }
            Some(Message::Trim(trim)) => self.step(Input::TrimRequested { lease: LeaseId(trim.lease_id) }),
            Some(Message::ReportAck(ack)) => self.step(Input::ReportAcked { seq: ack.seq }),
            Some(Message::Reconcile(_)) => self.step(Input::Reconcile),
            None => {}
        }
    }

    /// Tells the machine what became of tasks, as a supervisor's spool does.
    fn learn(&mut self, facts: Vec<Fact>) {
        for fact in facts {
            imagined::count(&self.hollow.tally, &fact.kind);
            self.fact_seq += 1;
            self.step(Input::Fact(Spooled { seq: self.fact_seq, fact }));
        }
    }

    fn step(&mut self, input: Input) {
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
            Effect::ToSupervisor(order) => {
                let facts = self.order(order);
                for fact in facts {
                    imagined::count(&self.hollow.tally, &fact.kind);
                    self.fact_seq += 1;
                    inputs.push_back(Input::Fact(Spooled { seq: self.fact_seq, fact }));
                }
            }
            Effect::Redial => {
                self.uplink.hang_up();
                self.detached();
            }
            Effect::SendHello { leases } => self.send(Message::Hello(Hello {
                node_name: self.hollow.name.clone(),
                agent_version: env!("CARGO_PKG_VERSION").to_owned(),
                node_uuid: format!("hollow-{}", self.hollow.name),
                boot_id: "hollow".to_owned(),
                inventory: Some(self.inventory()),
                leases: leases.iter().map(convert::held).collect(),
                said_ms: now().0,
            })),
            Effect::SendHeartbeat { sent, lease_count, lease_hash } => {
                self.send(Message::Heartbeat(Heartbeat { sent_ms: sent.0, lease_count, lease_hash }));
            }
            Effect::SendReport { seq, facts } => {
                self.send(Message::Report(Report { seq, facts: facts.iter().map(convert::report).collect() }));
            }
            Effect::KillLeftovers { lease } => inputs.push_back(Input::LeftoversGone { lease }),
            Effect::ForgetLease { .. } => {}
        }
    }

    fn order(&mut self, order: Order) -> Vec<Fact> {
        let now = Instant::now();
        match order {
            Order::Spawn { .. } | Order::Prepare { .. } => match self.arriving.take() {
                Some(grant) => self.tasks.granted(&grant, now),
                None => Vec::new(),
            },
            Order::Start { lease, .. } => self.tasks.started(lease, now),
            Order::Stop { lease, elements, .. } => self.tasks.stopped(lease, &elements),
            Order::Trim { lease } => self.tasks.trimmed(lease),
            Order::AckFacts { .. } | Order::Renew { .. } => Vec::new(),
        }
    }

    fn inventory(&self) -> Inventory {
        Inventory {
            milli_cpus: self.hollow.milli_cpus,
            memory_bytes: self.hollow.memory_bytes,
            devices: (0..self.hollow.gpus).map(|number| gpu(&self.hollow.name, number)).collect(),
            address: "127.0.0.1".to_owned(),
            ..Inventory::default()
        }
    }

    /// Queues a message. A queue that is full is a broken stream: the machine hears of it as of any other.
    fn send(&mut self, message: attach_request::Message) {
        let Some(outbox) = &self.outbox else { return };
        if outbox.try_send(AttachRequest { message: Some(message) }).is_err() && !outbox.is_closed() {
            self.uplink.hang_up();
            self.detached();
            let _ = self.machine.step(now(), Input::Disconnected);
        }
    }
}

/// One of the GPUs that the node `name` imagines.
fn gpu(name: &str, number: u32) -> GpuDevice {
    GpuDevice {
        uuid: format!("GPU-{name}-{number}"),
        model: "imagined".to_owned(),
        memory_bytes: 80 << 30,
        pci_bus_id: format!("00000000:{number:02X}:00.0"),
        ..GpuDevice::default()
    }
}

#[cfg(test)]
mod tests;
