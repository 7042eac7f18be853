//! Birth inside a cgroup of version 2: clone3 with CLONE_INTO_CGROUP (Linux 5.7).
//!
//! A child that moves itself by writing to `cgroup.procs` takes the kernel's threadgroup lock for writing, and on an
//! idle machine that lock waits for a grace period of every core: 5 to 40 ms. A child born inside takes it for reading.
//! On version 1 there is no such birth, but a single thread that writes itself to `tasks` does not take the lock.
//!
//! Where clone3 is refused (an older kernel, a container's system call filter), where who is born there does not live
//! ([`is_possible`] tries it once), or where the architecture has no entry below, the caller clones as before and the
//! child goes through the door.

use std::ffi::{c_int, c_long, c_void};
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Not in every libc: <https://man7.org/linux/man-pages/man2/clone.2.html>.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of clone(2), as of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

impl CloneArgs {
    fn inside(folder: BorrowedFd<'_>) -> CloneArgs {
        let cgroup = u64::from(folder.as_raw_fd().cast_unsigned());
        let exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
        CloneArgs { flags: CLONE_INTO_CGROUP, exit_signal, cgroup, ..CloneArgs::default() }
    }
}

/// Whether a child born in `folder` lives.
///
/// # Safety
/// That of fork, and no other child may be waited for by this thread meanwhile.
pub(super) unsafe fn is_possible(folder: BorrowedFd<'_>) -> bool {
    // SAFETY: passed on; the child makes one system call and is gone.
    let pid = match unsafe { fork_inside(folder) } {
        // SAFETY: it ends this process only, without destructors of the copied memory.
        Some(0) => unsafe { libc::_exit(0) },
        Some(pid) => pid,
        None => return false,
    };
    let mut status = 0;
    // SAFETY: a pointer to a live local of the right type.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 {
        if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            return false;
        }
    }
    libc::WIFEXITED(status)
}

/// As fork: 0 in the child, its pid in the parent. Absent when the kernel refused.
///
/// # Safety
/// That of fork: no other thread may hold a lock the child needs.
pub(super) unsafe fn fork_inside(folder: BorrowedFd<'_>) -> Option<i32> {
    let args = CloneArgs::inside(folder);
    // SAFETY: the arguments are a live local of the size given; without CLONE_VM and a stack the child goes on here in
    // a copy of our memory, as after fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    i32::try_from(pid).ok().filter(|pid| *pid >= 0)
}

/// As clone(2) with CLONE_VM and CLONE_VFORK: returns the pid once the child is out of our memory. Absent when the
/// kernel refused.
///
/// # Safety
/// `stack` is memory that nobody else uses until this returns, its length a multiple of 16 and its end aligned to 16;
/// `enter` never returns and may be given `argument`.
pub(super) unsafe fn share_inside(
    folder: BorrowedFd<'_>,
    stack: &mut [u128],
    enter: extern "C" fn(*mut c_void) -> c_int,
    argument: *mut c_void,
) -> Option<i32> {
    let mut args = CloneArgs::inside(folder);
    args.flags |= u64::from((libc::CLONE_VM | libc::CLONE_VFORK).cast_unsigned());
    args.stack = stack.as_mut_ptr().expose_provenance() as u64;
    args.stack_size = size_of_val(stack) as u64;
    // SAFETY: passed on to the caller.
    let pid = unsafe { clone3(&args, enter, argument) };
    i32::try_from(pid).ok().filter(|pid| *pid > 0)
}

/// clone3 whose child begins `enter` on the new stack. Returns in the parent only.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(args: &CloneArgs, enter: extern "C" fn(*mut c_void) -> c_int, argument: *mut c_void) -> c_long {
    let result: c_long;
    // SAFETY: the child finds the registers as they were, and the stack pointer at the end of its own stack: it calls
    // `enter`, which never returns. CLONE_VFORK keeps the parent at `syscall` meanwhile, so its frame stays untouched.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") std::ptr::from_ref(args),
            in("rsi") size_of::<CloneArgs>(),
            in("r12") enter,
            in("r13") argument,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// Not written for this architecture: always refused.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn clone3(_: &CloneArgs, _: extern "C" fn(*mut c_void) -> c_int, _: *mut c_void) -> c_long {
    -c_long::from(libc::ENOSYS)
}
