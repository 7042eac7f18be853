//! Slots: the place a task runs in. Made once, reused while the supervisor lives.
//!
//! A slot owns a cgroup, and, while one lease uses it, the pipes its tasks print into and an untouched attempt folder
//! to hand on. All of that may go from one task to the next only because a slot is proven empty in between: no
//! process is left inside, so nobody else holds a pipe's writing end. Another lease gets new pipes in any case.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::epoll;
use rustix::pipe::{PipeFlags, pipe_with};

use super::attempt::{Folders, Spare};
use super::logs::Stream;
use super::logs::pump::Meter;
use super::spawn::{self, Exit, Step};
use crate::cgroup::{self, Cgroups};
use gangsaw_proto::supervisor::v1::{ended::Cause, stop::Reason};

/// Descriptors bound the number of slots before memory does: a slot has up to nine.
const SLOTS_MAX: usize = 1500;

/// A place for one task.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) group: cgroup::Slot,
    /// The lease it is used by or was used by last.
    pub(super) owner: u64,
    /// Held for a prepared lease, or busy.
    pub(super) taken: bool,
    pub(super) pipes: Option<[Pipe; 2]>,
    /// An untouched attempt folder of the owner.
    pub(super) spare: Option<Spare>,
    pub(super) task: Option<Task>,
}

/// A pipe a task prints into. The supervisor keeps both ends.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
}

/// Why a task is being ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) cause: Cause,
    pub(super) reason: Reason,
    /// When SIGKILL is due, BOOTTIME microseconds.
    pub(super) kill_at: u64,
    /// It was sent, and is sent again until nothing is left.
    pub(super) killed: bool,
}

/// How the main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) exit: Exit,
    pub(super) max_rss_bytes: u64,
    pub(super) at: u64,
}

/// A task from fork until its whole tree is gone.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) lease_id: u64,
    pub(super) index: u32,
    /// Which of the lease's ranks.
    pub(super) position: usize,
    pub(super) pid: i32,
    /// The way to exec; `None` once that is known.
    pub(super) status: Option<OwnedFd>,
    /// What ended the way to exec.
    pub(super) failed: Option<(Step, i32)>,
    pub(super) forked_at: u64,
    pub(super) executed_at: Option<u64>,
    /// Started was reported.
    pub(super) told: bool,
    pub(super) folders: Folders,
    pub(super) meter: Meter,
    pub(super) ending: Option<Ending>,
    pub(super) gone: Option<Gone>,
    /// When the task wants to be looked at, as it stands in the timer set.
    pub(super) alarm: Option<u64>,
}

/// All slots.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) all: Vec<Slot>,
    pub(super) cgroups: Cgroups,
}

impl Slots {
    /// Takes a free slot, one that this lease used before if there is one.
    pub(super) fn take(&mut self, lease_id: u64, epoll: &OwnedFd) -> io::Result<usize> {
        let own = self.all.iter().position(|slot| !slot.taken && slot.owner == lease_id);
        let which = match own.or_else(|| self.all.iter().position(|slot| !slot.taken)) {
            Some(which) => which,
            None => self.grow()?,
        };
        let slot = &mut self.all[which];
        if slot.owner != lease_id {
            slot.hand_over(lease_id, epoll);
        }
        slot.taken = true;
        Ok(which)
    }

    fn grow(&mut self) -> io::Result<usize> {
        if self.all.len() >= SLOTS_MAX {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let number = u32::try_from(self.all.len()).map_err(io::Error::other)?;
        let mut group = self.cgroups.slot(number)?;
        if group.populated() == Some(true) {
            // A supervisor that was killed left something; it is nobody's now.
            group.kill();
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        self.all.push(Slot { group, owner: 0, taken: false, pipes: None, spare: None, task: None });
        Ok(self.all.len() - 1)
    }

    /// Frees what a lease's slots kept for its next tasks.
    pub(super) fn release(&mut self, lease_id: u64, epoll: &OwnedFd) {
        for slot in self.all.iter_mut().filter(|slot| slot.owner == lease_id && slot.task.is_none()) {
            slot.taken = false;
            slot.hand_over(0, epoll);
        }
    }
}

impl Slot {
    fn hand_over(&mut self, lease_id: u64, epoll: &OwnedFd) {
        self.owner = lease_id;
        for pipe in self.pipes.take().into_iter().flatten() {
            // Closing is not enough while a child on its way to exec holds a copy.
            let _ = epoll::delete(epoll, &pipe.read);
        }
        if let Some(spare) = self.spare.take() {
            spare.discard();
        }
    }

    /// Sets what holds for the next task, and makes the pipes if there are none.
    pub(super) fn get_ready(&mut self, limits: cgroup::Limits, epoll: &OwnedFd, tokens: [u64; 2]) -> io::Result<()> {
        self.group.set(limits)?;
        spawn::try_doors(&mut self.group.doors);
        self.open_pipes(epoll, tokens)
    }

    /// Has epoll watch new pipes under the tokens given.
    fn open_pipes(&mut self, epoll: &OwnedFd, tokens: [u64; 2]) -> io::Result<()> {
        if self.pipes.is_some() {
            return Ok(());
        }
        let open = |token| -> io::Result<Pipe> {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            // Only our end: a task must find its output blocking, as programs expect.
            rustix::io::ioctl_fionbio(&read, true)?;
            epoll::add(epoll, &read, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
            Ok(Pipe { read, write })
        };
        self.pipes = Some([open(tokens[0])?, open(tokens[1])?]);
        Ok(())
    }

    /// One turn of a stream: what was read, at most `buffer`; `None` when nothing is there.
    pub(super) fn read_pipe<'b>(&self, stream: Stream, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let pipe = &self.pipes.as_ref()?[stream as usize];
        match rustix::io::read(&pipe.read, &mut *buffer) {
            Ok(0) | Err(_) => None,
            Ok(length) => buffer.get(..length),
        }
    }
}
