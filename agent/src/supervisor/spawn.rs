//! Fork, exec, signals and reaping: the only unsafe code of the agent.
//!
//! The supervisor has one thread and a small memory, so a plain fork is cheap and safe. Everything the child needs is
//! made before it ([`Plan`]); between fork and exec it allocates nothing, takes no lock, and makes system calls only.
//! What goes wrong there comes back through a CLOEXEC pipe as (step, errno); the pipe closing without a word means
//! that exec happened.
//!
//! Order in the child: session, cgroups, limits, ids, **then** the parent-death signal (a change of ids clears it),
//! the check that the parent is still there, working folder, directories, descriptors, signals, exec.
//!
//! Elsewhere: what goes into a plan is `supervisor::template`; who waits for the pipe is `supervisor::server`.
#![expect(unsafe_code, reason = "fork, exec, wait4 and signalfd have no safe form; each block proves itself")]

mod birth;
mod child;
pub(crate) mod memory;
pub(crate) mod signals;

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use rustix::pipe::{PipeFlags, pipe_with};

use crate::cgroup::Doors;

/// Where a child's way to exec ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    /// setsid, or the supervisor was gone.
    Session = 1,
    /// Joining the slot's cgroups.
    Cgroup = 2,
    /// Limits of the process itself.
    Rlimit = 3,
    /// Groups and ids.
    User = 4,
    /// chdir to the working folder.
    Workdir = 5,
    /// The user's own output folders.
    Directories = 6,
    /// Descriptors and signals.
    Descriptors = 7,
    /// exec itself.
    Exec = 8,
}

impl Step {
    fn from_byte(byte: u8) -> Option<Self> {
        let steps = [
            Self::Session,
            Self::Cgroup,
            Self::Rlimit,
            Self::User,
            Self::Workdir,
            Self::Directories,
            Self::Descriptors,
            Self::Exec,
        ];
        steps.into_iter().find(|step| *step as u8 == byte)
    }
}

/// A null-terminated vector of C strings, as execve wants it.
#[derive(Debug)]
pub(crate) struct CStrings {
    /// Owns what `pointers` points to; a CString's bytes do not move when the vector does.
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl CStrings {
    /// Keeps the strings and their addresses.
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect();
        Self { _strings: strings, pointers }
    }
}

/// The ids a root supervisor gives a task.
#[derive(Clone, Debug)]
pub(crate) struct Ids {
    /// User.
    pub(crate) uid: u32,
    /// Primary group.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<libc::gid_t>,
}

/// Everything a child needs, ready before the fork.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// The file to execute, looked up already.
    pub(crate) path: &'a CStr,
    /// Arguments, the name first.
    pub(crate) argv: &'a CStrings,
    /// `NAME=VALUE`.
    pub(crate) env: &'a CStrings,
    /// Entered after the change of ids.
    pub(crate) workdir: &'a CStr,
    /// Made as the task's user, parents first; those that exist are fine.
    pub(crate) make_dirs: &'a [CString],
    /// Standard input, output and error.
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    /// The cgroups to be in.
    pub(crate) doors: &'a Doors,
    /// (resource, soft and hard value).
    pub(crate) rlimits: &'a [(libc::__rlimit_resource_t, u64)],
    /// The soft limit of open files to go back to.
    pub(crate) nofile: libc::rlimit,
    /// The signals this process ignores ([`signals::ignored`]) and a task does not.
    pub(crate) ignored: &'a [i32],
    /// Present for a root supervisor and a named user.
    pub(crate) ids: Option<&'a Ids>,
}

/// Finds out, once for each folder, whether children can be born inside.
pub(crate) fn try_doors(doors: &mut Doors) {
    let Some(unified) = doors.unified.as_mut().filter(|unified| !unified.tried) else { return };
    unified.tried = true;
    // SAFETY: the supervisor has a single thread, which waits here for this child alone.
    unified.folder.take_if(|folder| unsafe { !birth::is_possible(folder.as_fd()) });
}

/// Forks and lets the child go its way to exec. Returns its pid and the pipe that tells how that ended.
pub(crate) fn spawn(plan: &Plan<'_>) -> io::Result<(i32, OwnedFd)> {
    let (status, tell) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let parent = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: the supervisor has a single thread, so no lock can be held by another one at the time of the fork; and
    // the child calls only `child::run`, which makes system calls on memory prepared above and never returns.
    let inside = plan.doors.birthplace().and_then(|folder| unsafe { birth::fork_inside(folder) });
    // SAFETY: as above.
    match inside.unwrap_or_else(|| unsafe { libc::fork() }) {
        -1 => Err(io::Error::last_os_error()),
        0 => child::run(plan, inside.is_some(), &tell, parent),
        pid => Ok((pid, status)),
    }
}

/// The stack of a child that shares our memory.
#[derive(Debug)]
pub(crate) struct Stack {
    /// Far more than system calls need; what is not touched costs nothing.
    words: Vec<u128>,
}

impl Default for Stack {
    fn default() -> Self {
        Self { words: vec![0; 256 << 10 >> 4] }
    }
}

/// Like [`spawn`], but the child borrows our memory instead of copying it, and we wait until its exec: a quarter less
/// work for a short task. Returns its pid and the step that failed, if one did.
///
/// Only where no step of the way can wait for something outside of this machine, for we wait with it.
pub(crate) fn spawn_sharing(plan: &Plan<'_>, stack: &mut Stack) -> io::Result<(i32, Option<(Step, i32)>)> {
    let parent = rustix::process::getpid().as_raw_nonzero().get();
    let mut shared = child::Shared { plan, parent, inside: true, failed: AtomicU64::new(0) };
    let born = plan.doors.birthplace().and_then(|folder| {
        let argument = (&raw const shared).cast_mut().cast();
        // SAFETY: with CLONE_VFORK this thread, the only one, stands still until the child has execed or exited, so
        // what `shared` borrows stays as it is and nobody else touches `stack`, made of u128 and aligned as they are.
        // The child runs `child::enter`, which never returns: system calls, its own stack, the atomic in `shared`, and
        // errno, which nobody relies on.
        unsafe { birth::share_inside(folder, &mut stack.words, child::enter, argument) }
    });
    let pid = match born {
        Some(pid) => pid,
        None => {
            shared.inside = false;
            let top = stack.words.as_mut_ptr_range().end;
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
            // SAFETY: as above.
            unsafe { libc::clone(child::enter, top.cast(), flags, (&raw const shared).cast_mut().cast()) }
        }
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let failed = shared.failed.into_inner();
    let [step, errno @ .., _, _, _] = failed.to_le_bytes();
    Ok((pid, Step::from_byte(step).map(|step| (step, i32::from_le_bytes(errno)))))
}

/// What the status pipe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Not there yet.
    Open,
    /// exec happened, or the child died on its way without a word.
    Closed,
    /// The step that failed and its errno.
    Failed(Step, i32),
}

/// Reads the status pipe without waiting.
pub(crate) fn way(status: &OwnedFd) -> Way {
    let mut word = [0_u8; 5];
    match rustix::io::read(status, &mut word[..]) {
        Err(_) => Way::Open,
        Ok(5) => {
            let [step, errno @ ..] = word;
            Step::from_byte(step).map_or(Way::Closed, |step| Way::Failed(step, i32::from_le_bytes(errno)))
        }
        Ok(_) => Way::Closed,
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By exit with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// A child that ended and is no more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reaped {
    pub(crate) pid: i32,
    pub(crate) exit: Exit,
    /// The largest resident set of it and the children it waited for.
    pub(crate) max_rss_bytes: u64,
}

/// Reaps one ended child, strays that came to us as the subreaper included.
pub(crate) fn reap() -> Option<Reaped> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are to live locals of the types wait4 writes.
        let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, usage.as_mut_ptr()) };
        if pid == -1 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
            continue;
        }
        if pid <= 0 {
            return None;
        }
        // SAFETY: all zeroes is a valid rusage, and wait4 filled it.
        let usage = unsafe { usage.assume_init() };
        let exit = if libc::WIFSIGNALED(status) {
            Exit::Signal(libc::WTERMSIG(status))
        } else {
            Exit::Code(libc::WEXITSTATUS(status))
        };
        let max_rss_bytes = u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024;
        return Some(Reaped { pid, exit, max_rss_bytes });
    }
}

#[cfg(test)]
mod tests;
