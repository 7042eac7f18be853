//! The supervisor's own signals, as a descriptor.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// Blocks the signals the supervisor hears of and returns the descriptor they arrive at. SIGHUP, SIGINT and SIGQUIT
/// are among them only to be ignored: a terminal must not end the node's tasks.
pub(crate) fn open() -> io::Result<OwnedFd> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset fills the set before anything reads it; the other calls get that set and plain numbers.
    let fd = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: signalfd gave us this descriptor just now, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The signals this process ignores: an exec would pass that on, where it undoes handlers by itself.
pub(crate) fn ignored() -> Vec<libc::c_int> {
    let is_ignored = |signal: &libc::c_int| {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: no new action is given, and the old one is written to a live local; all zeroes is a valid one.
        let action = unsafe {
            libc::sigaction(*signal, std::ptr::null(), action.as_mut_ptr());
            action.assume_init()
        };
        action.sa_sigaction == libc::SIG_IGN
    };
    (1..=libc::SIGRTMAX()).filter(is_ignored).collect()
}

/// Empties the descriptor; true when SIGTERM was among what came.
pub(crate) fn drain(fd: &OwnedFd) -> bool {
    const SIZE: usize = size_of::<libc::signalfd_siginfo>();
    let mut buffer = [0_u8; SIZE * 8];
    let mut terminate = false;
    while let Ok(length) = rustix::io::read(fd, &mut buffer[..]) {
        // ssi_signo is the first field.
        let signals = buffer.chunks_exact(SIZE).take(length / SIZE).filter_map(|info| info.first_chunk::<4>());
        terminate |= signals.map(|number| u32::from_ne_bytes(*number)).any(|number| number == libc::SIGTERM as u32);
        if length < buffer.len() {
            break;
        }
    }
    terminate
}
