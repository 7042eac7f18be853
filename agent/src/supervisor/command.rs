//! What the agent says, and what follows from it.

use std::net::{Ipv4Addr, TcpListener};
use std::rc::Rc;

use gangsaw_proto::supervisor::v1::{
    Command, HeldLease, HeldTask, Hello, Listing, Prepared as PreparedFact, Renew, Returned, Run, Start, StartFailed,
    Stop, Trim, Unknown, Welcome, command, fact, notice, start_failed, stop,
};

use super::clock::now_us;
use super::lease::{Lease, Prepared};
use super::server::{Supervisor, Timer};
use super::template::{StartFault, Template};
use super::wire::PROTOCOL;

/// Leases held at the same time: far more than a node has room for. A further one comes back.
const LEASES_MAX: usize = 10_000;

impl Supervisor {
    pub(super) fn command(&mut self, command: Command) {
        use command::Command;
        match command.command {
            Some(Command::Hello(hello)) => self.on_hello(&hello),
            Some(Command::Run(run)) => self.on_run(run),
            Some(Command::Start(start)) => self.on_start(start),
            Some(Command::Trim(trim)) => self.on_trim(&trim),
            Some(Command::Stop(stop)) => self.on_stop(&stop),
            Some(Command::Renew(renew)) => self.on_renew(&renew),
            Some(Command::Ack(ack)) => self.reporter.ack(ack.seq),
            Some(Command::List(_)) => {
                let leases = self.listing();
                let listing = Listing { leases, last_seq: self.reporter.last_seq() };
                self.reporter.notify(notice::Notice::Listing(listing));
            }
            Some(Command::Quit(_)) => self.on_quit(),
            Some(Command::Retire(_)) => self.retiring = true,
            // A command of a newer agent: it was told our protocol's version.
            None => {}
        }
    }

    fn on_hello(&mut self, hello: &Hello) {
        let leases = self.listing();
        let welcome = Welcome {
            supervisor_pid: std::process::id(),
            protocol: PROTOCOL.min(hello.protocol.max(1)),
            version: self.version.clone(),
            limits: self.slots.cgroups.name().to_owned(),
            notes: self.slots.cgroups.notes.clone(),
            last_seq: self.reporter.last_seq(),
            leases,
            retiring: self.retiring,
        };
        self.reporter.notify(notice::Notice::Welcome(welcome));
        self.reporter.welcome(hello.acked_seq);
    }

    /// Every lease held. Successes that wait to be told are told first: an element is in the list or in a fact.
    fn listing(&mut self) -> Vec<HeldLease> {
        for lease_id in self.leases.keys().copied().collect::<Vec<_>>() {
            self.tell_done(lease_id);
        }
        let held = |(lease_id, lease): (&u64, &Lease)| {
            let run = &lease.template.run;
            HeldLease {
                lease_id: *lease_id,
                job_id: run.job_id,
                attempt: run.attempt,
                next_index: u32::try_from(lease.next).unwrap_or(u32::MAX),
                last_index: u32::try_from(lease.end.saturating_sub(1)).unwrap_or(u32::MAX),
                prepared: lease.prepared.is_some(),
                tasks: self.tasks_of(*lease_id).map(|slot| self.held_task(slot)).collect(),
                returned_indices: lease.skip.iter().copied().collect(),
                deadline_ms: lease.deadline / 1000,
            }
        };
        self.leases.iter().map(held).collect()
    }

    /// Slots in which a task of the lease is.
    pub(super) fn tasks_of(&self, lease_id: u64) -> impl Iterator<Item = usize> {
        let of_it = move |slot: &super::slot::Slot| slot.task.as_ref().is_some_and(|task| task.lease_id == lease_id);
        self.slots.all.iter().enumerate().filter(move |(_, slot)| of_it(slot)).map(|(which, _)| which)
    }

    fn held_task(&self, slot: usize) -> HeldTask {
        let Some(task) = &self.slots.all[slot].task else { return HeldTask::default() };
        let rank = self.leases.get(&task.lease_id).and_then(|lease| lease.template.ranks.get(task.position));
        HeldTask {
            index: task.index,
            rank: rank.map_or(0, |rank| rank.rank),
            pid: u32::try_from(task.pid).unwrap_or(0),
            start_ticks: super::starting::start_ticks(task.pid),
            output_dir: task.folders.output.clone(),
        }
    }

    fn on_run(&mut self, run: Run) {
        let lease_id = run.lease_id;
        if lease_id == 0 || self.leases.contains_key(&lease_id) || self.reporter.ended.contains_key(&lease_id) {
            return;
        }
        let (first_index, last_index) = (run.first_index, run.last_index);
        if self.quitting || self.retiring || self.leases.len() >= LEASES_MAX {
            self.reporter.tell(lease_id, fact::Fact::Returned(Returned { first_index, last_index }));
            self.reporter.lease_ended(lease_id);
            return;
        }
        let ranks: Vec<u32> = run.ranks.iter().map(|rank| rank.rank).collect();
        let prepare = run.prepare;
        match Template::new(run, &self.tag) {
            Err(fault) => {
                let ranks = if ranks.is_empty() { vec![0] } else { ranks };
                self.tell_refused(lease_id, first_index, last_index, &ranks, &fault);
                self.reporter.lease_ended(lease_id);
            }
            Ok(template) => {
                let lease = Lease::new(Rc::new(template), now_us());
                if lease.deadline > 0 {
                    self.timers.insert((lease.deadline, Timer::Deadline(lease_id)));
                }
                self.leases.insert(lease_id, lease);
                if prepare {
                    self.prepare(lease_id);
                } else {
                    self.start_more(lease_id);
                }
            }
        }
    }

    /// StartFailed for every rank of the first element, and the other elements back.
    fn tell_refused(&mut self, lease_id: u64, first: u32, last: u32, ranks: &[u32], fault: &StartFault) {
        for rank in ranks {
            self.reporter.tell(lease_id, fact::Fact::StartFailed(start_failed(first, *rank, fault)));
        }
        if let Some(first_index) = first.checked_add(1).filter(|next| *next <= last) {
            self.reporter.tell(lease_id, fact::Fact::Returned(Returned { first_index, last_index: last }));
        }
    }

    /// Everything that can fail is tried before a gang is said to be ready.
    fn prepare(&mut self, lease_id: u64) {
        let Some(lease) = self.leases.get(&lease_id) else { return };
        let template = Rc::clone(&lease.template);
        match self.try_prepare(lease_id, &template) {
            Ok((prepared, port)) => {
                if let Some(lease) = self.leases.get_mut(&lease_id) {
                    lease.prepared = Some(prepared);
                }
                self.reporter.tell(lease_id, fact::Fact::Prepared(PreparedFact { port }));
            }
            Err(fault) => {
                let ranks: Vec<u32> = template.ranks.iter().map(|rank| rank.rank).collect();
                let run = &template.run;
                self.tell_refused(lease_id, run.first_index, run.last_index, &ranks, &fault);
                self.forget(lease_id);
            }
        }
    }

    fn try_prepare(&mut self, lease_id: u64, template: &Template) -> Result<(Prepared, u32), StartFault> {
        template.check_workdir()?;
        template.program()?;
        let at_port = |fault| StartFault::infra(start_failed::Step::Port, "cannot bind a rendezvous port", &fault);
        let port = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(at_port)?;
        let number = u32::from(port.local_addr().map_err(at_port)?.port());
        let at_slot = |fault| StartFault::infra(start_failed::Step::Slot, "cannot make a slot", &fault);
        let mut slots = Vec::new();
        for _ in &template.ranks {
            let slot = self.slots.take(lease_id, &self.epoll).map_err(at_slot)?;
            self.slots.all[slot].group.set(template.limits).map_err(at_slot)?;
            slots.push(slot);
        }
        Ok((Prepared { port, slots }, number))
    }

    fn on_start(&mut self, start: Start) {
        let Some(lease) = self.leases.get_mut(&start.lease_id) else { return self.unknown(start.lease_id) };
        let Some(prepared) = lease.prepared.take() else { return };
        if let Some(template) = Rc::get_mut(&mut lease.template) {
            let gang = template.gang.get_or_insert_default();
            gang.master_addr = start.master_addr;
            gang.master_port = start.master_port;
        }
        drop(prepared.port);
        for slot in prepared.slots {
            self.slots.all[slot].taken = false;
        }
        self.start_more(start.lease_id);
    }

    fn on_trim(&mut self, trim: &Trim) {
        if !self.leases.contains_key(&trim.lease_id) {
            return self.unknown(trim.lease_id);
        }
        let from = if trim.keep_none { 0 } else { u64::from(trim.last_index) + 1 };
        self.give_back(trim.lease_id, from);
        self.settle_lease(trim.lease_id);
    }

    fn on_stop(&mut self, stop: &Stop) {
        if !self.leases.contains_key(&stop.lease_id) {
            return self.unknown(stop.lease_id);
        }
        let reason = stop::Reason::try_from(stop.reason).unwrap_or(stop::Reason::Unspecified);
        self.stop_lease(stop.lease_id, &stop.elements, reason, stop.grace_ms);
    }

    fn on_renew(&mut self, renew: &Renew) {
        for renewal in &renew.renewals {
            if let Some(lease) = self.leases.get_mut(&renewal.lease_id) {
                self.timers.remove(&(lease.deadline, Timer::Deadline(renewal.lease_id)));
                lease.deadline = renewal.deadline_ms.saturating_mul(1000);
                if lease.deadline > 0 {
                    self.timers.insert((lease.deadline, Timer::Deadline(renewal.lease_id)));
                }
            }
        }
    }

    fn on_quit(&mut self) {
        self.quitting = true;
        let prepared = self.leases.iter().filter(|(_, lease)| lease.prepared.is_some());
        for lease_id in prepared.map(|(lease_id, _)| *lease_id).collect::<Vec<_>>() {
            self.stop_lease(lease_id, &[], stop::Reason::Shutdown, None);
        }
    }

    fn unknown(&mut self, lease_id: u64) {
        self.reporter.notify(notice::Notice::Unknown(Unknown { lease_id }));
    }

    /// Returns unstarted elements from `from` on.
    pub(super) fn give_back(&mut self, lease_id: u64, from: u64) {
        let Some(lease) = self.leases.get_mut(&lease_id) else { return };
        if lease.prepared.is_some() && from <= lease.next {
            lease.prepared = None;
        }
        for (first_index, last_index) in lease.cut(from) {
            self.reporter.tell(lease_id, fact::Fact::Returned(Returned { first_index, last_index }));
        }
    }
}

/// The wire's form of a fault.
pub(super) fn start_failed(index: u32, rank: u32, fault: &StartFault) -> StartFailed {
    StartFailed {
        index,
        rank,
        step: fault.step.into(),
        errno: fault.errno,
        users_fault: fault.users_fault,
        detail: fault.detail.clone(),
    }
}
