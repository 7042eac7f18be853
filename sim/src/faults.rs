//! Everything that may go wrong, each with a name that is counted.

use crate::disk::CrashPoint;
use crate::driver::Client;
use crate::net::Wire;
use crate::rng::Rng;
use crate::world::{Happening, World};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The scheduler's process is killed between two batches.
    SchedulerKilled,
    /// The scheduler's machine loses power.
    PowerLost,
    /// The scheduler dies before an append.
    CrashBeforeAppend,
    /// The scheduler dies in an append, and a part of the batch is on disk.
    CrashInAppend,
    /// The scheduler dies after an append, before anybody is told.
    CrashAfterAppend,
    /// An append fails, and the scheduler latches.
    AppendFailed,
    /// The scheduler's disk is full for a while.
    DiskFull,
    /// The scheduler is down for a day or more.
    LongDowntime,
    /// The scheduler's wall clock went wrong while it was down.
    WallClockWrong,
    /// An agent's process is killed.
    AgentKilled,
    /// An agent's process is stopped for seconds or minutes.
    AgentStopped,
    /// A supervisor is killed, and orphans may be left.
    SupervisorKilled,
    /// A machine reboots.
    NodeRebooted,
    /// Every start on a machine fails for a while.
    NodeBroken,
    /// A device is gone from a machine for a while.
    DeviceWithheld,
    /// A stream breaks, and what was under way is lost.
    StreamBroken,
    /// A stream breaks, and what was under way arrives after the Hello of the next.
    StreamOvertaken,
    /// Somebody removes a node that is cut off, and whose tasks live on.
    ForgottenAlive,
    /// Nothing passes in either direction.
    PartitionBoth,
    /// Nothing passes from the node.
    PartitionUp,
    /// Nothing passes to the node.
    PartitionDown,
    /// Every message takes hundreds of milliseconds.
    SlowWire,
    /// Messages arrive twice.
    RepeatedMessages,
    /// A client's request is lost.
    RequestLost,
    /// A client's request arrives twice.
    RequestRepeated,
    /// An answer to a client is lost.
    ReplyLost,
    /// A watcher's stream breaks.
    WatcherBroken,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Fault; 27] = [
        Fault::SchedulerKilled,
        Fault::PowerLost,
        Fault::CrashBeforeAppend,
        Fault::CrashInAppend,
        Fault::CrashAfterAppend,
        Fault::AppendFailed,
        Fault::DiskFull,
        Fault::LongDowntime,
        Fault::WallClockWrong,
        Fault::AgentKilled,
        Fault::AgentStopped,
        Fault::SupervisorKilled,
        Fault::NodeRebooted,
        Fault::NodeBroken,
        Fault::DeviceWithheld,
        Fault::StreamBroken,
        Fault::StreamOvertaken,
        Fault::ForgottenAlive,
        Fault::PartitionBoth,
        Fault::PartitionUp,
        Fault::PartitionDown,
        Fault::SlowWire,
        Fault::RepeatedMessages,
        Fault::RequestLost,
        Fault::RequestRepeated,
        Fault::ReplyLost,
        Fault::WatcherBroken,
    ];

    fn ends_scheduler(self) -> bool {
        let ends = [
            Fault::SchedulerKilled,
            Fault::PowerLost,
            Fault::WallClockWrong,
            Fault::CrashBeforeAppend,
            Fault::CrashInAppend,
            Fault::CrashAfterAppend,
            Fault::AppendFailed,
        ];
        ends.contains(&self)
    }

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Fault::SchedulerKilled => "SchedulerKilled",
            Fault::PowerLost => "PowerLost",
            Fault::CrashBeforeAppend => "CrashBeforeAppend",
            Fault::CrashInAppend => "CrashInAppend",
            Fault::CrashAfterAppend => "CrashAfterAppend",
            Fault::AppendFailed => "AppendFailed",
            Fault::DiskFull => "DiskFull",
            Fault::LongDowntime => "LongDowntime",
            Fault::WallClockWrong => "WallClockWrong",
            Fault::AgentKilled => "AgentKilled",
            Fault::AgentStopped => "AgentStopped",
            Fault::SupervisorKilled => "SupervisorKilled",
            Fault::NodeRebooted => "NodeRebooted",
            Fault::NodeBroken => "NodeBroken",
            Fault::DeviceWithheld => "DeviceWithheld",
            Fault::StreamBroken => "StreamBroken",
            Fault::StreamOvertaken => "StreamOvertaken",
            Fault::ForgottenAlive => "ForgottenAlive",
            Fault::PartitionBoth => "PartitionBoth",
            Fault::PartitionUp => "PartitionUp",
            Fault::PartitionDown => "PartitionDown",
            Fault::SlowWire => "SlowWire",
            Fault::RepeatedMessages => "RepeatedMessages",
            Fault::RequestLost => "RequestLost",
            Fault::RequestRepeated => "RequestRepeated",
            Fault::ReplyLost => "ReplyLost",
            Fault::WatcherBroken => "WatcherBroken",
        }
    }
}

/// A node that is cut off is silent by then.
const FORGOTTEN_AFTER_MS: u64 = 40_000;

/// How long a partition or another state lasts: mostly seconds, at times longer than any time to live.
const SPANS_MS: [u64; 8] = [1_000, 3_000, 5_000, 20_000, 45_000, 60_000, 90_000, 1_200_000];

impl World {
    /// Does a random fault, and plans the next.
    pub(crate) fn on_fault(&mut self) {
        if !self.chaos {
            return;
        }
        let at = usize::try_from(self.rng.below(self.nodes.len() as u64)).unwrap_or(0);
        // Some schedulers live long, for each start gives every node a full time to live and none is ever lost.
        let spared = self.hardy_scheduler && self.rng.permille(970);
        if let Some(fault) = self.rng.pick(&Fault::ALL)
            && !(spared && fault.ends_scheduler())
            && self.inflict(fault, at)
        {
            self.counters.fault(fault);
            self.note(fault.name(), &[at as u64]);
        }
        let pause = self.rng.range(1, 2 * self.fault_pause_ms);
        self.queue.add(self.quiet_until.max(self.now) + pause, Happening::Fault);
    }

    /// Makes `fault` happen. Says whether it did.
    fn inflict(&mut self, fault: Fault, at: usize) -> bool {
        match fault {
            Fault::SchedulerKilled | Fault::PowerLost => self.end_scheduler(fault == Fault::PowerLost, None),
            Fault::WallClockWrong => {
                let span = self.rng.pick(&[0, 3_600_000, 86_400_000]);
                self.end_scheduler(false, span)
            }
            Fault::LongDowntime => self.long_downtime(),
            Fault::CrashBeforeAppend => self.arm(CrashPoint::Before),
            Fault::CrashInAppend => self.arm(CrashPoint::Torn),
            Fault::CrashAfterAppend => self.arm(CrashPoint::After),
            Fault::AppendFailed => {
                self.disk.fails_next = true;
                true
            }
            Fault::DiskFull => {
                self.disk.full = true;
                let span = self.rng.range(500, 20_000);
                self.queue.add(self.now + span, Happening::DiskHasRoom);
                true
            }
            Fault::AgentKilled => self.restart_after(at, Self::kill_agent),
            Fault::NodeRebooted => self.restart_after(at, Self::kill_node),
            Fault::AgentStopped => self.stop_agent(at),
            Fault::SupervisorKilled => {
                let alive = self.nodes[at].supervisor.is_some();
                self.kill_supervisor(at);
                alive
            }
            Fault::NodeBroken => {
                self.nodes[at].bad_until = self.now + self.span().min(60_000);
                true
            }
            Fault::DeviceWithheld => self.withhold(at),
            Fault::StreamBroken => self.break_stream(at),
            Fault::StreamOvertaken => {
                // What the agent says now is late; soon it hangs up and dials over a fast wire.
                self.net.wires[at].slow_ms = 2_000;
                let soon = self.rng.range(50, 1_500);
                self.queue.add(self.now + soon, Happening::Overtake { node: at });
                // Counted when it happens: when something of an older stream arrives.
                false
            }
            Fault::ForgottenAlive => self.forget_alive(at),
            Fault::PartitionBoth => self.hurt_wire(at, |wire, _| (wire.up_blocked, wire.down_blocked) = (true, true)),
            Fault::PartitionUp => self.hurt_wire(at, |wire, _| wire.up_blocked = true),
            Fault::PartitionDown => self.hurt_wire(at, |wire, _| wire.down_blocked = true),
            Fault::SlowWire => self.hurt_wire(at, |wire, rng| wire.slow_ms = rng.range(100, 900)),
            Fault::RepeatedMessages => self.hurt_wire(at, |wire, _| wire.repeats_permille = 300),
            // These are drawn request by request, and counted there.
            Fault::RequestLost | Fault::RequestRepeated | Fault::ReplyLost => false,
            Fault::WatcherBroken => self.break_watcher(),
        }
    }

    fn arm(&mut self, point: CrashPoint) -> bool {
        let armed = self.scheduler.is_some();
        if armed {
            self.crash_at_next_append(point);
        }
        armed
    }

    fn end_scheduler(&mut self, power: bool, measured: Option<u64>) -> bool {
        if self.scheduler.is_none() {
            return false;
        }
        self.kill_scheduler(power);
        self.measured_downtime = measured;
        self.plan_scheduler_up();
        true
    }

    /// Rare, for the simulated day costs many heartbeats of nodes that go on.
    fn long_downtime(&mut self) -> bool {
        if self.scheduler.is_none() || self.long_downtimes == 0 {
            return false;
        }
        self.long_downtimes -= 1;
        self.kill_scheduler(false);
        let hours = self.rng.pick(&[25, 30, 200, 800]).unwrap_or(25);
        self.quiet_until = self.now + hours * 3_600_000;
        self.queue.add(self.quiet_until, Happening::SchedulerUp { died: self.now });
        true
    }

    fn span(&mut self) -> u64 {
        self.rng.pick(&SPANS_MS).unwrap_or(1_000)
    }

    /// Kills what runs the agent, and starts it again after a while.
    fn restart_after(&mut self, at: usize, kill: fn(&mut Self, usize)) -> bool {
        if self.nodes[at].agent.is_none() {
            return false;
        }
        kill(self, at);
        let restart = self.rng.range(10, 8_000);
        self.queue.add(self.now + restart, Happening::AgentUp { node: at });
        true
    }

    fn stop_agent(&mut self, at: usize) -> bool {
        let until = self.now + self.span();
        let Some(agent) = &mut self.nodes[at].agent else { return false };
        agent.paused_until = until;
        true
    }

    fn withhold(&mut self, at: usize) -> bool {
        let span = self.span().min(60_000);
        let node = &mut self.nodes[at];
        let Some(device) = node.inventory.devices.iter_mut().find(|device| device.withheld.is_none()) else {
            return false;
        };
        device.withheld = Some(String::from("foreign-process pid 7"));
        self.queue.add(self.now + span, Happening::DeviceBack { node: at });
        self.tell_inventory(at);
        true
    }

    fn break_stream(&mut self, at: usize) -> bool {
        let session = self.nodes[at].agent.as_ref().and_then(|agent| agent.session);
        if let Some(stream) = session.and_then(|session| self.net.streams.get_mut(&session)) {
            stream.scheduler_open = false;
        }
        self.hang_up(at);
        session.is_some()
    }

    fn hurt_wire(&mut self, at: usize, hurt: fn(&mut Wire, &mut Rng)) -> bool {
        let until = self.now + self.span();
        let wire = &mut self.net.wires[at];
        hurt(wire, &mut self.rng);
        wire.ill_until = wire.ill_until.max(until);
        self.queue.add(until, Happening::Heal { node: at });
        true
    }

    /// Cuts a node off on which a task lives long enough, and has it removed as soon as it is silent.
    fn forget_alive(&mut self, at: usize) -> bool {
        let until = self.now + FORGOTTEN_AFTER_MS + 5_000;
        if !self.nodes[at].processes.values().any(|process| process.lives_at(until)) {
            return false;
        }
        let wire = &mut self.net.wires[at];
        (wire.up_blocked, wire.down_blocked) = (true, true);
        wire.ill_until = wire.ill_until.max(until);
        self.queue.add(until - 5_000, Happening::Forget { node: at });
        self.queue.add(until, Happening::Heal { node: at });
        true
    }

    fn break_watcher(&mut self) -> bool {
        let at = usize::try_from(self.rng.below(self.watchers.len() as u64)).unwrap_or(0);
        let Some(watcher) = self.watchers.get_mut(at).filter(|watcher| watcher.connected) else { return false };
        watcher.connected = false;
        let span = self.rng.range(10, 30_000);
        self.queue.add(self.now + span, Happening::WatcherBack { watcher: at });
        true
    }

    /// Draws one of the faults of a client's request.
    pub(crate) fn client_fault(&mut self, fault: Fault, client: Client) -> bool {
        let hit = self.chaos && client == Client::Careless && self.rng.permille(40);
        if hit {
            self.counters.fault(fault);
        }
        hit
    }
}
