//! Facts: into the spool first, then to the agent; and the connection they travel on.
//!
//! There is no queue of facts in memory. The agent's place in the spool is one number: facts of this turn go straight
//! from memory when the agent is at their beginning, everything else is read back from the file. So an agent that
//! stops reading costs nothing, and one that returns is served the same way.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;

use gangsaw_proto::supervisor::v1::{Command, Fact, Facts, Notice, command, fact, notice};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::clock::now_us;
use super::server::{Source, Supervisor, Timer};
use super::wire::{self, Assembler, PACKET_BUFFER};
use crate::spool::Spool;

/// Facts of one message.
const FACTS_MAX: usize = 512;
/// Packets taken from the agent in one turn.
const PACKETS_MAX: usize = 64;
/// Packets that wait for an agent which does not read; beyond that it is disconnected. 4 MiB.
const OUTBOUND_MAX: usize = 64;
/// Between two tries to write to a disk that is full or failed.
const SPOOL_RETRY_US: u64 = 100_000;

/// The agent's connection.
#[derive(Debug)]
struct Agent {
    fd: OwnedFd,
    assembler: Assembler,
    outbound: VecDeque<Vec<u8>>,
    /// The next fact it gets; zero before its Hello.
    next_seq: u64,
    wants_write: bool,
}

/// The spool and who reads it.
#[derive(Debug)]
pub(super) struct Reporter {
    pub(super) spool: Spool,
    /// Facts of this turn.
    batch: Vec<Fact>,
    agent: Option<Agent>,
    /// A connection that has not said Hello yet.
    newcomer: Option<Agent>,
    /// Leases that ended, until the agent acknowledged their last fact: a repeated Run is recognised by it.
    pub(super) ended: BTreeMap<u64, u64>,
    /// What was last said of the spool's disk, so that a fault that lasts is said once.
    trouble: Option<String>,
}

impl Reporter {
    pub(super) fn new(spool: Spool) -> Self {
        Self { spool, batch: Vec::new(), agent: None, newcomer: None, ended: BTreeMap::new(), trouble: None }
    }

    /// Adds a fact to this turn's.
    pub(super) fn tell(&mut self, lease_id: u64, fact: fact::Fact) {
        self.batch.push(Fact { seq: 0, lease_id, fact: Some(fact) });
    }

    /// Remembers that a lease's last fact has been told.
    pub(super) fn lease_ended(&mut self, lease_id: u64) {
        let last = self.spool.next_seq() + self.batch.len() as u64;
        self.ended.insert(lease_id, last.saturating_sub(1));
    }

    pub(super) fn has_unwritten(&self) -> bool {
        !self.batch.is_empty()
    }

    pub(super) fn has_agent(&self) -> bool {
        self.agent.is_some()
    }

    /// Whether the agent, if there is one, has been sent everything.
    pub(super) fn all_sent(&self) -> bool {
        self.agent.as_ref().is_none_or(|agent| agent.outbound.is_empty() && agent.next_seq >= self.spool.next_seq())
    }

    /// The highest sequence that is or will be told for what has happened so far.
    pub(super) fn last_seq(&self) -> u64 {
        self.spool.next_seq() - 1 + self.batch.len() as u64
    }

    /// From now on facts above `acked` are sent.
    pub(super) fn welcome(&mut self, acked: u64) {
        if let Some(agent) = &mut self.agent {
            agent.next_seq = acked.saturating_add(1);
        }
        self.ack(acked);
    }

    pub(super) fn ack(&mut self, seq: u64) {
        if let Err(fault) = self.spool.ack(seq) {
            self.complain(format!("spool: {fault}"));
        }
        self.ended.retain(|_, last| *last > seq);
    }

    /// Says what is wrong with the spool, unless that was said last.
    fn complain(&mut self, what: String) {
        if self.trouble.as_ref() != Some(&what) {
            super::say(&what);
            self.trouble = Some(what);
        }
    }

    /// Ends the connection, also where a child on its way to exec holds a copy of it.
    fn hang_up(&mut self, epoll: &OwnedFd) {
        if let Some(agent) = self.agent.take() {
            agent.hang_up(epoll);
        }
    }

    /// Queues a notice that is no fact.
    pub(super) fn notify(&mut self, notice: notice::Notice) {
        if let Some(agent) = &mut self.agent {
            agent.outbound.extend(wire::packets(&Notice { notice: Some(notice) }));
        }
    }

    /// Writes this turn's facts, then sends what can be sent.
    fn flush(&mut self, epoll: &OwnedFd) -> io::Result<()> {
        let first = self.spool.next_seq();
        if !self.batch.is_empty() {
            self.spool.append(&mut self.batch)?;
            if self.trouble.take().is_some() {
                super::say("spool: written again");
            }
        }
        let fresh = std::mem::take(&mut self.batch);
        if let Some(agent) = &mut self.agent
            && agent.next_seq == first
            && agent.outbound.is_empty()
            && !fresh.is_empty()
        {
            agent.next_seq += fresh.len() as u64;
            agent.queue(fresh);
        }
        self.send(epoll);
        Ok(())
    }

    /// Sends until the agent's socket is full or it has everything.
    fn send(&mut self, epoll: &OwnedFd) {
        let Some(agent) = &mut self.agent else { return };
        let sent = agent.push_out().and_then(|()| {
            while agent.outbound.is_empty() && agent.next_seq > 0 && agent.next_seq < self.spool.next_seq() {
                let facts = self.spool.replay(agent.next_seq, FACTS_MAX)?;
                // A hole is damage that the spool cut at its start: what is not there cannot be told.
                agent.next_seq = facts.last().map_or(self.spool.next_seq(), |last| last.seq + 1);
                agent.queue(facts);
                agent.push_out()?;
            }
            agent.arm(epoll)
        });
        if sent.is_err() || agent.outbound.len() > OUTBOUND_MAX {
            self.hang_up(epoll);
        }
    }
}

impl Agent {
    fn hang_up(self, epoll: &OwnedFd) {
        let _ = epoll::delete(epoll, &self.fd);
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
    }

    fn queue(&mut self, facts: Vec<Fact>) {
        let mut facts = facts.into_iter().peekable();
        while facts.peek().is_some() {
            let facts = facts.by_ref().take(FACTS_MAX).collect();
            let notice = notice::Notice::Facts(Facts { facts });
            self.outbound.extend(wire::packets(&Notice { notice: Some(notice) }));
        }
    }

    fn push_out(&mut self) -> io::Result<()> {
        while let Some(packet) = self.outbound.front() {
            match wire::send_packet(&self.fd, packet) {
                Ok(()) => drop(self.outbound.pop_front()),
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Has epoll tell when there is room again, only while something waits.
    fn arm(&mut self, epoll: &OwnedFd) -> io::Result<()> {
        let wants = !self.outbound.is_empty();
        if wants != self.wants_write {
            self.wants_write = wants;
            let flags = if wants { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(epoll, &self.fd, EventData::new_u64(Source::Agent.token()), flags)?;
        }
        Ok(())
    }

    /// Takes what has come. True: the agent has gone.
    fn receive(&mut self, commands: &mut Vec<Command>) -> io::Result<bool> {
        let mut buffer = [0_u8; PACKET_BUFFER];
        for _ in 0..PACKETS_MAX {
            match wire::receive_packet(&self.fd, &mut buffer) {
                Ok([]) => return Ok(true),
                Ok(packet) => commands.extend(self.assembler.push(packet)?),
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(fault) => return Err(fault),
            }
        }
        Ok(false)
    }
}

impl Supervisor {
    /// A newer connection waits until it has said something; one that waited already gives way.
    pub(super) fn accept(&mut self) {
        loop {
            match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(fd) => {
                    if let Some(older) = self.reporter.newcomer.take() {
                        older.hang_up(&self.epoll);
                    }
                    if self.watch(&fd, Source::Newcomer).is_ok() {
                        self.reporter.newcomer = Some(Agent {
                            fd,
                            assembler: Assembler::default(),
                            outbound: VecDeque::new(),
                            next_seq: 0,
                            wants_write: false,
                        });
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// The newcomer says Hello: it replaces the agent there was, whose death may not have been noticed yet.
    pub(super) fn on_newcomer(&mut self) {
        let Some(mut newcomer) = self.reporter.newcomer.take() else { return };
        let mut commands = Vec::new();
        let gone = newcomer.receive(&mut commands);
        let hello = matches!(commands.first(), Some(Command { command: Some(command::Command::Hello(_)) }));
        if !hello {
            if matches!(gone, Ok(false)) && commands.is_empty() {
                self.reporter.newcomer = Some(newcomer);
            } else {
                newcomer.hang_up(&self.epoll);
            }
            return;
        }
        let token = EventData::new_u64(Source::Agent.token());
        if epoll::modify(&self.epoll, &newcomer.fd, token, EventFlags::IN).is_err() {
            return newcomer.hang_up(&self.epoll);
        }
        self.reporter.hang_up(&self.epoll);
        self.reporter.agent = Some(newcomer);
        for command in commands {
            self.command(command);
        }
        if !matches!(gone, Ok(false)) {
            self.reporter.hang_up(&self.epoll);
        }
    }

    pub(super) fn on_agent(&mut self) {
        let mut commands = Vec::new();
        let Some(agent) = &mut self.reporter.agent else { return };
        let gone = agent.receive(&mut commands);
        if let Err(fault) = &gone {
            super::say(&format!("agent's connection: {fault}"));
        }
        for command in commands {
            self.command(command);
        }
        if !matches!(gone, Ok(false)) {
            self.reporter.hang_up(&self.epoll);
        }
    }

    /// The end of a turn.
    pub(super) fn flush(&mut self) {
        if let Err(fault) = self.reporter.flush(&self.epoll) {
            self.reporter.complain(format!("spool: {fault}; facts wait"));
            self.timers.insert((now_us() + SPOOL_RETRY_US, Timer::Spool));
        }
    }
}
