//! The supervisor's loop: one thread, one epoll, one timer, one signal descriptor.
//!
//! A turn handles what epoll brought, then the timers that are due, then writes the facts of the turn to the spool
//! and sends them. Nothing in a turn waits: a stuck child, a flood of output and an agent that stopped reading each
//! cost their own turn only.
//!
//! Elsewhere: commands of the agent are [`super::command`]; starting is [`super::starting`]; exits, limits and kills
//! are [`super::ending`]; facts and the connection are [`super::report`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::args::Args;
use super::clock::now_us;
use super::lease::Lease;
use super::logs::pump::{Logs, Rates};
use super::paths::Paths;
use super::report::Reporter;
use super::slot::Slots;
use super::spawn::{Stack, signals};
use crate::cgroup::{Cgroups, Doors};
use crate::folder::is_full;
use crate::spool::{self, Spool};
use gangsaw_proto::supervisor::v1::stop::Reason;

/// How long a supervisor without tasks waits for an agent.
const IDLE_US: u64 = 4_000_000;
/// Between SIGTERM to the supervisor itself and SIGKILL to its tasks, at most.
const OWN_GRACE_MS: u64 = 5_000;
/// One turn reads this much of a stream.
pub(super) const TURN_BYTES: usize = 64 * 1024;
/// Events of one turn.
const EVENTS_MAX: usize = 64;

/// What an epoll token names: the kind in the upper half, the slot in the lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Listener,
    Signals,
    Timer,
    Agent,
    Stdout(usize),
    Stderr(usize),
    Status(usize),
    Newcomer,
}

impl Source {
    pub(super) fn token(self) -> u64 {
        let (kind, slot) = match self {
            Self::Listener => (0, 0),
            Self::Signals => (1, 0),
            Self::Timer => (2, 0),
            Self::Agent => (3, 0),
            Self::Stdout(slot) => (4, slot),
            Self::Stderr(slot) => (5, slot),
            Self::Status(slot) => (6, slot),
            Self::Newcomer => (7, 0),
        };
        (kind << 32) | slot as u64
    }

    fn from_token(token: u64) -> Option<Self> {
        let slot = usize::try_from(token & 0xffff_ffff).ok()?;
        let sources = [
            Self::Listener,
            Self::Signals,
            Self::Timer,
            Self::Agent,
            Self::Stdout(slot),
            Self::Stderr(slot),
            Self::Status(slot),
            Self::Newcomer,
        ];
        sources.get(usize::try_from(token >> 32).ok()?).copied()
    }
}

/// What a due time means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A task's time limit, its SIGKILL, or another look at what is left of it.
    Task(usize),
    /// A lease's deadline.
    Deadline(u64),
    /// A lease's successes have waited long enough.
    Flush(u64),
    /// The spool could not be written; try again.
    Spool,
    /// Nobody came.
    Idle,
}

/// The whole process.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) paths: Paths,
    pub(super) tag: String,
    pub(super) rates: Rates,
    pub(super) epoll: OwnedFd,
    signals: OwnedFd,
    timer: OwnedFd,
    armed: u64,
    pub(super) listener: OwnedFd,
    pub(super) null: File,
    pub(super) nofile: libc::rlimit,
    pub(super) ignored: Vec<i32>,
    pub(super) slots: Slots,
    pub(super) leases: BTreeMap<u64, Lease>,
    /// Slot of each main process that was not reaped yet.
    pub(super) mains: BTreeMap<i32, usize>,
    /// Slots whose child is on its way to exec.
    pub(super) on_the_way: BTreeSet<usize>,
    /// Slots whose main process is gone and whose tree is not.
    pub(super) draining: BTreeSet<usize>,
    pub(super) timers: BTreeSet<(u64, Timer)>,
    pub(super) logs: Logs,
    pub(super) reporter: Reporter,
    pub(super) quitting: bool,
    /// Another version's supervisor takes what comes; this one stays for what it has.
    pub(super) retiring: bool,
    pub(super) version: String,
    /// Since when there is neither lease nor agent.
    idle_since: Option<u64>,
    pub(super) buffer: Vec<u8>,
    pub(super) stack: Stack,
    _lock: File,
}

impl Supervisor {
    /// Takes the state folder and listens.
    pub(super) fn new(args: &Args, paths: Paths, lock: File) -> io::Result<Self> {
        let nofile = raise_nofile();
        let signals = signals::open()?;
        if rustix::process::set_child_subreaper(Some(rustix::process::getpid())).is_err() {
            super::say("cannot be a subreaper: strays of ended tasks go to init");
        }
        let tag = paths.tag()?;
        let cgroups =
            if args.rlimit_only { Cgroups::rlimit_only() } else { Cgroups::detect(args.cgroup_root.as_deref(), &tag) };
        for note in &cgroups.notes {
            super::say(note);
        }
        note_cgroups(&paths, &cgroups)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let spool = Spool::open(spool::folder(&paths.state))?;
        let listener = listen(&paths)?;
        let supervisor = Self {
            tag,
            rates: args.rates,
            signals,
            timer,
            armed: 0,
            listener,
            null: File::open("/dev/null")?,
            nofile,
            ignored: signals::ignored(),
            slots: Slots { all: Vec::new(), cgroups },
            leases: BTreeMap::new(),
            mains: BTreeMap::new(),
            on_the_way: BTreeSet::new(),
            draining: BTreeSet::new(),
            timers: BTreeSet::new(),
            logs: Logs::new(args.generation),
            reporter: Reporter::new(spool),
            quitting: false,
            retiring: false,
            version: args.version.clone().unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
            idle_since: None,
            buffer: vec![0; TURN_BYTES],
            stack: Stack::default(),
            _lock: lock,
            paths,
            epoll,
        };
        supervisor.watch(&supervisor.listener, Source::Listener)?;
        supervisor.watch(&supervisor.signals, Source::Signals)?;
        supervisor.watch(&supervisor.timer, Source::Timer)?;
        Ok(supervisor)
    }

    pub(super) fn watch(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(source.token()), EventFlags::IN)?)
    }

    /// Stops watching. Closing alone is not enough: a child on its way to exec holds a copy, and until it has gone the
    /// closed descriptor would go on waking us up.
    pub(super) fn unwatch(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Runs until nothing is left to do.
    pub(super) fn run(mut self) -> ExitCode {
        self.is_over();
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            self.arm();
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(fault) => {
                    super::say(&format!("epoll: {fault}"));
                    return ExitCode::FAILURE;
                }
            }
            let mut signalled = false;
            for event in &events {
                let data = event.data;
                match Source::from_token(data.u64()) {
                    // Last, so that what a task wrote and the end of its way to exec are seen before its exit.
                    Some(Source::Signals) => signalled = true,
                    Some(source) => self.handle(source),
                    None => {}
                }
            }
            if signalled {
                self.on_signals();
            }
            self.fire();
            self.flush();
            if self.is_over() {
                self.leave();
                return ExitCode::SUCCESS;
            }
        }
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Listener => self.accept(),
            Source::Agent => self.on_agent(),
            Source::Newcomer => self.on_newcomer(),
            Source::Stdout(slot) => self.pump(slot, super::logs::Stream::Stdout),
            Source::Stderr(slot) => self.pump(slot, super::logs::Stream::Stderr),
            Source::Status(slot) => self.on_status(slot),
            Source::Timer => {
                let mut count = [0_u8; 8];
                let _ = rustix::io::read(&self.timer, &mut count[..]);
                self.armed = 0;
            }
            Source::Signals => {}
        }
    }

    fn on_signals(&mut self) {
        let terminate = signals::drain(&self.signals);
        self.reap_all();
        if terminate {
            super::say("SIGTERM: every task is stopped");
            self.quitting = true;
            for lease_id in self.leases.keys().copied().collect::<Vec<_>>() {
                self.stop_lease(lease_id, &[], Reason::Shutdown, Some(OWN_GRACE_MS));
            }
        }
    }

    /// Sets the timer to the first due time, if that is another one than it is set to.
    fn arm(&mut self) {
        let first = self.timers.first().map_or(0, |(at, _)| (*at).max(1));
        if first == self.armed {
            return;
        }
        let at = Timespec {
            tv_sec: i64::try_from(first / 1_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(first % 1_000_000).unwrap_or(0) * 1000,
        };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = Itimerspec { it_interval: never, it_value: at };
        if let Err(fault) = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &setting) {
            super::say(&format!("timer: {fault}"));
        }
        self.armed = first;
    }

    fn fire(&mut self) {
        let now = now_us();
        while let Some((at, timer)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Task(slot) => self.on_alarm(slot, now),
                Timer::Deadline(lease_id) => self.on_deadline(lease_id, now),
                Timer::Flush(lease_id) => self.tell_done(lease_id),
                // The flush at the end of this turn tries again; is_over looks whether anybody came.
                Timer::Spool | Timer::Idle => {}
            }
        }
    }

    /// Whether there is no reason to stay: no lease, and no agent for some seconds, or one that said Quit, or another
    /// version's supervisor and every fact acknowledged.
    fn is_over(&mut self) -> bool {
        let busy = !self.leases.is_empty() || self.reporter.has_unwritten();
        if !busy && self.retiring && self.reporter.spool.is_settled() {
            return true;
        }
        if busy || (self.reporter.has_agent() && !self.quitting) {
            self.idle_since = None;
            return false;
        }
        if self.quitting && self.reporter.all_sent() {
            return true;
        }
        let now = now_us();
        let at = *self.idle_since.get_or_insert(now) + IDLE_US;
        self.timers.insert((at, Timer::Idle));
        now >= at
    }

    fn leave(&mut self) {
        let _ = fs::remove_file(self.paths.socket_file());
        for slot in &mut self.slots.all {
            slot.group.doors = Doors::default();
        }
        self.slots.cgroups.remove();
        let _ = fs::remove_file(self.paths.cgroups());
    }
}

/// Leaves word of our cgroups for whoever cleans up after us. On a full disk that word may be missing: leftovers are
/// then found by their environment.
fn note_cgroups(paths: &Paths, cgroups: &Cgroups) -> io::Result<()> {
    let folders: String = cgroups.folders().map(|folder| format!("{}\n", folder.display())).collect();
    if fs::read_to_string(paths.cgroups()).is_ok_and(|there| there == folders) {
        return Ok(());
    }
    match fs::write(paths.cgroups(), folders) {
        Err(fault) if is_full(&fault) => {
            super::say(&format!("cannot note the cgroups: {fault}"));
            Ok(())
        }
        written => written,
    }
}

fn listen(paths: &Paths) -> io::Result<OwnedFd> {
    let _ = fs::remove_file(paths.socket_file());
    let (address, _folder) = paths.socket()?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // Nobody but our own user may command the node's tasks.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = rustix::net::bind(&fd, &address);
    rustix::process::umask(before);
    bound?;
    rustix::net::listen(&fd, 8)?;
    Ok(fd)
}

/// Lets the supervisor use all descriptors it may; returns what its tasks go back to.
fn raise_nofile() -> libc::rlimit {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
    let raw = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
    libc::rlimit { rlim_cur: raw(before.current), rlim_max: raw(before.maximum) }
}
