//! Carries core's agent machine: inputs from the uplink, the supervisor and the clock go in, effects are performed in
//! order.
//!
//! One task owns everything here, so a grant becomes a Run without a lock, a wait or a disk sync between. The machine
//! decides; this module knows the things the machine has no need of: grants, sockets, journals, channels.
//!
//! Invariants:
//! - What the machine returns is performed at once and in order; nothing else speaks to scheduler or supervisor.
//! - A full channel is a broken peer: it is dropped and met again with everything that is owed. Only progress is lost.
//!
//! Elsewhere: performing effects is `perform`, what the supervisor says is `heard`; the way to the scheduler is
//! `session::uplink`, to the supervisor `keeper`.

mod heard;
mod perform;

use std::collections::BTreeSet;
use std::time::Duration;

use gangsaw_core::agent::{Agent, Input};
use gangsaw_core::id::LeaseId;
use gangsaw_core::input::Phase;
use gangsaw_core::time::{Millis, Time};
use gangsaw_core::version::work_together;
use gangsaw_proto::node::v1::{AttachRequest, AttachResponse, Grant, ProgressBatch, TaskProgress, Welcome};
use gangsaw_proto::node::v1::{attach_request, attach_response};
use gangsaw_proto::supervisor::v1::Quit;
use gangsaw_proto::supervisor::v1::command::Command;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::adopt::Reached;
use crate::convert;
use crate::disk::Disk;
use crate::inventory::host::boottime_ms;
use crate::inventory::offer::Offer;
use crate::inventory::watch::{GpuView, Held};
use crate::journal::Journal;
use crate::keeper::Heard;
use crate::launch::Launcher;
use crate::progress::{Progress, ProgressBell, WINDOW};
use crate::session::logs::Line;
use crate::session::uplink::{Uplink, UplinkEvent};

/// Between SIGTERM and SIGKILL when the node's operator ends all tasks.
pub(crate) const STOP_GRACE: Millis = Millis(5_000);
/// Longest a stop of all tasks takes altogether, reports included.
const STOP_WITHIN: Duration = Duration::from_millis(7_500);
/// Longest a supervisor without tasks needs to end after Quit.
const QUIT_WITHIN: Duration = Duration::from_secs(1);
/// Room in the outbox that progress leaves to what matters.
const PROGRESS_LEAVES: usize = 64;
/// Tasks in one batch of progress: 4 KiB each stays below a message's limit.
const PROGRESS_TASKS_MAX: usize = 512;

/// The way to the supervisor.
pub(super) enum Supervisor {
    /// Commands that wait for the next one.
    Down(Vec<Command>),
    Up(mpsc::Sender<Command>),
}

/// What the driver is made of.
pub(crate) struct Parts {
    pub(crate) node_name: String,
    pub(crate) node_uuid: String,
    pub(crate) version: String,
    pub(crate) starts: u64,
    pub(crate) journal: Journal,
    pub(crate) disk: Disk,
    pub(crate) launcher: Launcher,
    pub(crate) progress: Progress,
    pub(crate) offer: Offer,
    pub(crate) uplink: Uplink,
    pub(crate) heard: mpsc::Receiver<Heard>,
    pub(crate) clears: mpsc::Sender<Vec<u64>>,
    pub(crate) gpus: watch::Receiver<GpuView>,
    pub(crate) held: watch::Sender<Held>,
    pub(crate) line: watch::Sender<Option<Line>>,
    pub(crate) stop_tasks: bool,
}

/// The agent's one owner of state.
pub(crate) struct Driver {
    parts: Parts,
    machine: Agent,
    bell: ProgressBell,
    outbox: Option<mpsc::Sender<AttachRequest>>,
    supervisor: Supervisor,
    /// The supervisor answered once, or cannot be had: the Hello may leave.
    ready: bool,
    /// The grant whose Spawn the machine is deciding on, and when it came in µs of BOOTTIME.
    arriving: Option<(Grant, u64)>,
    /// While a dead supervisor is cleared up: the leases whose processes are to be killed.
    clearing: Option<Vec<u64>>,
    /// Highest number of a fact that the machine has heard.
    seen: u64,
    /// How far leases have come.
    reached: Reached,
    /// Leases handed over since the supervisor was last asked what it holds: its answer may not name them.
    since_list: BTreeSet<u64>,
    /// What supervisors of other versions held when ours was found dead.
    elsewhere: BTreeSet<u64>,
    /// It was asked and has not answered.
    listing: bool,
    flush_at: Option<Instant>,
    flushed: Instant,
    stopping: bool,
}

impl Driver {
    pub(crate) fn new(parts: Parts) -> Driver {
        Driver {
            machine: Agent::new(parts.starts << 32, now()),
            bell: parts.progress.bell(),
            parts,
            outbox: None,
            supervisor: Supervisor::Down(Vec::new()),
            ready: false,
            arriving: None,
            clearing: None,
            seen: 0,
            reached: Reached::default(),
            since_list: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
            listing: false,
            flush_at: None,
            flushed: Instant::now(),
            stopping: false,
        }
    }

    /// Drives until `stop`, then ends the tasks if that is wanted.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.turn() => {}
            }
        }
        if self.parts.stop_tasks {
            self.stop_tasks().await;
        }
        self.flush_progress();
    }

    /// Waits for one thing and deals with it. Dropping it while it waits loses nothing.
    async fn turn(&mut self) {
        let tick = self.machine.next_tick().map(|at| Instant::now() + Duration::from_millis(at.since(now()).0));
        let (flush_at, look_again) = (self.flush_at, self.parts.offer.look_again());
        tokio::select! {
            event = self.parts.uplink.next(), if self.ready => self.on_uplink(event),
            heard = self.parts.heard.recv() => match heard {
                Some(heard) => self.on_heard(heard).await,
                // The keeper ends only with the agent.
                None => std::future::pending().await,
            },
            () = at(tick) => self.step(Input::Tick),
            () = self.bell.ring(), if flush_at.is_none() => self.flush_at = Some(self.flushed + WINDOW),
            () = at(flush_at) => self.flush_progress(),
            Ok(()) = self.parts.gpus.changed() => {
                self.parts.offer.gpu = self.parts.gpus.borrow_and_update().clone();
                self.send_news();
            }
            Ok(()) = self.parts.disk.fault.changed() => self.on_disk(),
            () = at(look_again) => self.send_news(),
        }
    }

    /// The disk failed, or is well again: the scheduler hears of it, and what could not be written is.
    fn on_disk(&mut self) {
        self.parts.offer.withheld = self.parts.disk.fault.borrow_and_update().clone();
        if self.parts.offer.withheld.is_none()
            && let Err(error) = self.parts.journal.mend()
        {
            self.journal_failed(&error);
        }
        self.send_news();
    }

    /// The supervisor's own list is enough to find a lease again, without its terms.
    fn journal_failed(&self, error: &std::io::Error) {
        warn!(%error, "the journal of grants cannot be written");
        self.parts.disk.doubt();
    }

    fn on_uplink(&mut self, event: UplinkEvent) {
        match event {
            UplinkEvent::Connected(outbox) => {
                self.outbox = Some(outbox);
                self.step(Input::Connected);
            }
            UplinkEvent::Message(message) => self.on_message(*message),
            UplinkEvent::Closed => self.disconnected(),
        }
    }

    fn disconnected(&mut self) {
        self.outbox = None;
        self.parts.line.send_replace(None);
        self.step(Input::Disconnected);
    }

    fn on_message(&mut self, message: AttachResponse) {
        use attach_response::Message;
        match message.message {
            Some(Message::Welcome(welcome)) => self.on_welcome(&welcome),
            Some(Message::HeartbeatAck(ack)) => self.step(Input::HeartbeatAcked { sent: Time(ack.sent_ms) }),
            Some(Message::Grant(grant)) => self.on_grant(grant),
            Some(Message::Start(start)) => match u16::try_from(start.master_port) {
                Ok(master_port) => {
                    let (lease, master_addr) = (LeaseId(start.lease_id), start.master_addr);
                    self.step(Input::StartRequested { lease, master_addr, master_port });
                }
                Err(_) => warn!(lease = start.lease_id, "the start names no port"),
            },
            Some(Message::Revoke(revoke)) => {
                let reason = convert::revoke_reason(revoke.reason());
                let elements = convert::elements(&revoke.elements);
                self.step(Input::RevokeRequested { lease: LeaseId(revoke.lease_id), reason, elements });
            }
            Some(Message::Trim(trim)) => self.step(Input::TrimRequested { lease: LeaseId(trim.lease_id) }),
            Some(Message::ReportAck(ack)) => self.step(Input::ReportAcked { seq: ack.seq }),
            Some(Message::Reconcile(_)) => self.step(Input::Reconcile),
            // A newer scheduler said something we do not know.
            None => debug!("an unknown message of the scheduler"),
        }
    }

    fn on_welcome(&mut self, welcome: &Welcome) {
        if !work_together(&self.parts.version, &welcome.scheduler_version) {
            self.parts.uplink.refuse(&format!(
                "version-skew: this agent is version {} and the scheduler {}; they may be one minor version apart",
                self.parts.version, welcome.scheduler_version
            ));
            return self.disconnected();
        }
        info!(node = welcome.node_id, scheduler = %welcome.scheduler_version, "the scheduler took this node");
        let authorization = self.parts.uplink.authorization();
        self.parts.line.send_replace(Some(Line { way: self.parts.uplink.way(), authorization }));
        let heartbeat = Millis(welcome.heartbeat_ms.max(1));
        self.parts.uplink.welcomed(Duration::from_millis(heartbeat.0));
        self.step(Input::Welcomed { acked_report: welcome.acked_report, heartbeat });
        self.send_news();
    }

    fn on_grant(&mut self, grant: Grant) {
        let granted_us = boottime_us();
        let Some(terms) = convert::terms(&grant) else {
            warn!(lease = grant.lease_id, "a grant that makes no sense");
            return;
        };
        if self.stopping {
            return;
        }
        self.arriving = Some((grant, granted_us));
        self.step(Input::Granted(terms));
        self.arriving = None;
    }

    fn send_news(&mut self) {
        if let Some(inventory) = self.parts.offer.news() {
            self.send(attach_request::Message::Inventory(inventory));
        }
    }

    /// Sends what tasks said since the last time.
    fn flush_progress(&mut self) {
        self.flush_at = None;
        self.flushed = Instant::now();
        let updates = self.parts.progress.take();
        let Some(outbox) = self.outbox.as_ref().filter(|outbox| outbox.capacity() > PROGRESS_LEAVES) else { return };
        let mut tasks: Vec<TaskProgress> = updates
            .iter()
            .filter_map(|(key, update)| {
                let json = update.to_json()?;
                Some(TaskProgress { lease_id: key.lease, index: key.index, rank: key.rank, json })
            })
            .collect();
        while !tasks.is_empty() {
            let rest = tasks.split_off(tasks.len().min(PROGRESS_TASKS_MAX));
            let batch = attach_request::Message::Progress(ProgressBatch { tasks });
            // Progress may be lost.
            let _ = outbox.try_send(AttachRequest { message: Some(batch) });
            tasks = rest;
        }
    }

    /// Ends every task within the grace, reports it if the scheduler is there, and ends the supervisor.
    async fn stop_tasks(&mut self) {
        info!("ending every task");
        self.stopping = true;
        let deadline = Instant::now() + STOP_WITHIN;
        self.step(Input::StopTasks { grace_max: STOP_GRACE });
        while !self.is_idle() && timeout_at(deadline, self.turn()).await.is_ok() {}
        let Supervisor::Up(commands) = &self.supervisor else { return };
        // A full channel means that nobody reads it: the supervisor then ends by itself when we are gone.
        let _ = commands.try_send(Command::Quit(Quit {}));
        let deadline = Instant::now() + QUIT_WITHIN;
        while matches!(self.supervisor, Supervisor::Up(_)) && timeout_at(deadline, self.turn()).await.is_ok() {}
    }

    /// Whether nothing runs and the scheduler has heard of it, as far as there is one.
    fn is_idle(&self) -> bool {
        let held = self.machine.held();
        let over = held.iter().all(|lease| lease.phase == Phase::Ended);
        over && (held.is_empty() || self.outbox.is_none())
    }
}

/// Waits until then, or for ever.
pub(crate) async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// The machine's clock.
pub(crate) fn now() -> Time {
    Time(boottime_ms())
}

/// The supervisor's clock, in µs.
fn boottime_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let us = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
    u64::try_from(us).unwrap_or(0)
}
