//! The child between fork and exec: system calls only.
//!
//! No allocation, no lock, no panic, no destructor: the memory is a copy of a process that could have been anywhere.
//! The same holds in memory that is not copied but borrowed, where the parent stands still meanwhile ([`enter`]).
//! Ids are set by raw system calls, for glibc's wrappers would signal threads that do not exist here.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use libc::{c_int, c_long, c_void};

use super::{Plan, Step};

/// Goes from fork to exec; on a fault writes (step, errno) to `tell` and exits.
pub(super) fn run(plan: &Plan<'_>, inside: bool, tell: &OwnedFd, parent: i32) -> ! {
    let step = prepare(plan, inside, parent);
    let errno = errno();
    let mut word = [0_u8; 5];
    word[0] = step as u8;
    word[1..].copy_from_slice(&errno.to_le_bytes());
    // SAFETY: `word` is 5 bytes of live memory and `tell` an open descriptor; _exit runs no destructor, so nothing of
    // the copied parent is touched.
    unsafe {
        libc::write(tell.as_raw_fd(), word.as_ptr().cast(), word.len());
        libc::_exit(127)
    }
}

/// What a child that shares our memory is given.
pub(super) struct Shared<'a> {
    pub(super) plan: &'a Plan<'a>,
    pub(super) parent: i32,
    /// It was born in its cgroup of version 2.
    pub(super) inside: bool,
    /// The step in the lowest byte and its errno in the four after it; zero while none has failed.
    pub(super) failed: AtomicU64,
}

/// The way of a child on its own stack in the parent's memory; `shared` is a [`Shared`] that outlives it.
pub(super) extern "C" fn enter(shared: *mut c_void) -> c_int {
    // SAFETY: `spawn_sharing` passes a pointer to its live `Shared` and stands still until this process is gone from
    // its memory; nobody holds a mutable reference to it.
    let shared = unsafe { &*shared.cast::<Shared<'_>>() };
    let step = prepare(shared.plan, shared.inside, shared.parent);
    let errno = u64::from(errno().cast_unsigned());
    shared.failed.store((errno << 8) | u64::from(step as u8), Ordering::Relaxed);
    // SAFETY: it ends this process only, without destructors or handlers of the memory it borrowed.
    unsafe { libc::_exit(127) }
}

fn errno() -> c_int {
    // SAFETY: glibc's errno location is valid for the whole life of the thread.
    unsafe { *libc::__errno_location() }
}

/// Does every step and execs. It returns only when one failed: which one.
fn prepare(plan: &Plan<'_>, inside: bool, parent: i32) -> Step {
    // SAFETY: setsid has no arguments.
    if unsafe { libc::setsid() } < 0 {
        return Step::Session;
    }
    let procs = plan.doors.unified.as_ref().filter(|_| !inside).map(|unified| &unified.procs);
    for door in plan.doors.tasks.iter().chain(procs) {
        // SAFETY: one byte of static memory to an open descriptor.
        if unsafe { libc::write(door.as_raw_fd(), c"0".as_ptr().cast(), 1) } != 1 {
            return Step::Cgroup;
        }
    }
    if !limit(plan) {
        return Step::Rlimit;
    }
    if !change_ids(plan) {
        return Step::User;
    }
    // SAFETY: PR_SET_PDEATHSIG takes a signal number; getppid nothing.
    let orphan =
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_long) != 0 || libc::getppid() != parent };
    if orphan {
        return Step::Session;
    }
    for directory in plan.make_dirs {
        // SAFETY: a C string that lives as long as the plan.
        if unsafe { libc::mkdir(directory.as_ptr(), 0o755) } != 0 && errno() != libc::EEXIST {
            return Step::Directories;
        }
    }
    // SAFETY: a C string that lives as long as the plan.
    if unsafe { libc::chdir(plan.workdir.as_ptr()) } != 0 {
        return Step::Workdir;
    }
    if !descriptors(plan) {
        return Step::Descriptors;
    }
    reset_signals(plan.ignored);
    // SAFETY: path is a C string; both vectors end with a null pointer and point to C strings that live in the plan.
    unsafe { libc::execve(plan.path.as_ptr(), plan.argv.pointers.as_ptr(), plan.env.pointers.as_ptr()) };
    Step::Exec
}

fn limit(plan: &Plan<'_>) -> bool {
    let all =
        plan.rlimits.iter().map(|(resource, value)| (*resource, libc::rlimit { rlim_cur: *value, rlim_max: *value }));
    all.chain([(libc::RLIMIT_NOFILE, plan.nofile)]).all(|(resource, limit)| {
        // SAFETY: `limit` is a live local of the right type.
        unsafe { libc::setrlimit(resource, &raw const limit) == 0 }
    })
}

fn change_ids(plan: &Plan<'_>) -> bool {
    let Some(ids) = plan.ids else { return true };
    let (uid, gid) = (c_long::from(ids.uid), c_long::from(ids.gid));
    // SAFETY: setgroups reads `len` ids from the slice's memory; the other two take plain numbers.
    unsafe {
        libc::syscall(libc::SYS_setgroups, ids.groups.len(), ids.groups.as_ptr()) == 0
            && libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
            && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
    }
}

/// 0, 1 and 2 are the task's; every other descriptor closes at exec, also one that was opened without CLOEXEC.
fn descriptors(plan: &Plan<'_>) -> bool {
    for (to, from) in (0..).zip(plan.stdio) {
        // SAFETY: `from` is an open descriptor above 2; dup2 clears CLOEXEC on the copy.
        if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
            return false;
        }
    }
    // A kernel without it (before 5.11) is fine: all our own descriptors are CLOEXEC anyway.
    // SAFETY: three plain numbers.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    true
}

/// Default dispositions, for an ignored signal stays ignored over exec, and an empty mask.
fn reset_signals(ignored: &[c_int]) {
    for signal in ignored {
        // SAFETY: a plain number and SIG_DFL; those that cannot be changed are refused without harm.
        unsafe { libc::signal(*signal, libc::SIG_DFL) };
    }
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset fills the set before sigprocmask reads it.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}
