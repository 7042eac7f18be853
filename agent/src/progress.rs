//! Progress of running tasks: from a unix datagram socket per lease to batches for the scheduler.
//!
//! `GANGSAW_PROGRESS` is the path of a datagram socket that the agent binds before the task starts. Each datagram is
//! one JSON object `{step, total, epoch, metrics{}, checkpoint}` of at most 4 KiB. Newer values replace older ones
//! within a tenth of a second, so that a batch carries one message a task. Nothing of it is durable, and a sender
//! never waits: a full socket buffer refuses the datagram.
//!
//! Invariants:
//! - What leaves is valid: known keys, numbers that are numbers, bounded names; anything else was dropped.
//! - A task that floods its socket costs at most [`DATAGRAMS_PER_WINDOW`] messages a window, then nobody reads it.
//!
//! Elsewhere: the messages' meaning is the scheduler's; the sender in scripts is `gangsaw progress`.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

mod message;
mod sender;

pub(crate) use message::Update;
use sender::Senders;
pub(crate) use sender::Tasks;

/// Largest datagram that counts, in bytes.
pub const DATAGRAM_MAX: usize = 4096;
/// One batch in this time.
pub(crate) const WINDOW: Duration = Duration::from_millis(100);
/// Datagrams of one socket that are read in a window: far above any honest rate.
const DATAGRAMS_PER_WINDOW: u32 = 200;
/// Longest path a unix socket can have on Linux, without the closing zero.
const SOCKET_PATH_MAX: usize = 107;
/// Longest file name in the folder: a lease of 20 digits.
const NAME_MAX: usize = 20;

/// Sends one JSON object to the socket at `path` without ever waiting. The sender's own `GANGSAW_TASK_ID` goes with it.
///
/// # Errors
/// `InvalidInput` when the text is no object or longer than 4 KiB; `WouldBlock` when the agent is behind; else what
/// the system says, for example `NotFound` after the task's end.
pub fn send_progress(path: &Path, json: &str) -> io::Result<()> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
    let mut message: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(json).map_err(|error| invalid(&format!("not a JSON object: {error}")))?;
    if let Ok(task) = std::env::var("GANGSAW_TASK_ID") {
        message.insert("task".to_owned(), task.into());
    }
    let text = serde_json::Value::Object(message).to_string();
    if text.len() > DATAGRAM_MAX {
        return Err(invalid("a progress message is at most 4 KiB"));
    }
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to(text.as_bytes(), path).map(drop)
}

/// Which task a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TaskKey {
    pub(crate) lease: u64,
    pub(crate) index: u32,
    pub(crate) rank: u32,
}

/// The sockets of all leases, and what came in by them since the last batch.
pub(crate) struct Progress {
    folder: PathBuf,
    pending: Arc<Pending>,
    sockets: BTreeMap<u64, Socket>,
}

struct Socket {
    path: PathBuf,
    socket: Arc<LeaseSocket>,
    reader: AbortHandle,
}

/// One lease's socket and the memory of who sends to it.
struct LeaseSocket {
    socket: UnixDatagram,
    senders: Mutex<Senders>,
}

impl LeaseSocket {
    /// Takes one datagram, or says that there is none.
    fn receive(&self, pending: &Pending) -> io::Result<()> {
        let mut buffer = [0_u8; DATAGRAM_MAX + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg(&self.socket, &mut slices, &mut control, RecvFlags::DONTWAIT)?;
        let mut pid = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmCredentials(credentials) = message {
                pid = u32::try_from(credentials.pid.as_raw_pid()).ok();
            }
        }
        let Some(update) = Update::parse(buffer.get(..received.bytes).unwrap_or_default()) else { return Ok(()) };
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        let key = senders.find(update.task.as_deref(), pid);
        drop(senders);
        if let Some(key) = key {
            pending.put(key, update);
        }
        Ok(())
    }
}

/// What waits for the next batch, and the bell that something does.
#[derive(Default)]
struct Pending {
    updates: Mutex<BTreeMap<TaskKey, Update>>,
    bell: Notify,
}

impl Pending {
    fn put(&self, key: TaskKey, update: Update) {
        let mut updates = self.updates.lock().unwrap_or_else(PoisonError::into_inner);
        updates.entry(key).or_default().merge(update);
        drop(updates);
        self.bell.notify_one();
    }
}

impl Progress {
    /// Opens the folder of the sockets: `folder`, or one with a short name where the path would be too long.
    pub(crate) fn open(folder: &Path) -> io::Result<Progress> {
        let folder =
            if folder.as_os_str().len() + 1 + NAME_MAX > SOCKET_PATH_MAX { short(folder) } else { folder.to_owned() };
        std::fs::create_dir_all(&folder)?;
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::symlink_metadata(&folder)?);
        let me = rustix::process::getuid();
        if owner != me.as_raw() {
            return Err(io::Error::other(format!("{} belongs to somebody else", folder.display())));
        }
        // Tasks of another user must reach their socket; they cannot list the others.
        let mode = if me.is_root() { 0o711 } else { 0o700 };
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode))?;
        Ok(Progress { folder, pending: Arc::default(), sockets: BTreeMap::new() })
    }

    /// The folder of the sockets, with which the environment of every task of this agent begins.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Binds the socket of one lease and returns its path. A socket that is bound already stays as it is.
    pub(crate) fn bind(&mut self, tasks: Tasks) -> io::Result<PathBuf> {
        let lease = tasks.lease;
        let path = self.folder.join(lease.to_string());
        if self.sockets.contains_key(&lease) {
            return Ok(path);
        }
        // The file of an agent that was here before.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let socket = std::os::unix::net::UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        rustix::net::sockopt::set_socket_passcred(&socket, true)?;
        if rustix::process::getuid().is_root() {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        }
        let socket =
            Arc::new(LeaseSocket { socket: UnixDatagram::from_std(socket)?, senders: Mutex::new(Senders::new(tasks)) });
        let reader = tokio::spawn(read(Arc::clone(&socket), Arc::clone(&self.pending))).abort_handle();
        self.sockets.insert(lease, Socket { path: path.clone(), socket, reader });
        Ok(path)
    }

    /// Reads what is in a lease's socket now, so that a task's last word goes out before its end does.
    pub(crate) fn drain(&self, lease: u64) {
        let Some(socket) = self.sockets.get(&lease) else { return };
        for _ in 0..DATAGRAMS_PER_WINDOW {
            // Straight from the system: the runtime may not have noticed the last datagram yet.
            if socket.socket.receive(&self.pending).is_err() {
                break;
            }
        }
    }

    /// Removes a lease's socket after reading what is still in it.
    pub(crate) fn release(&mut self, lease: u64) {
        self.drain(lease);
        if let Some(socket) = self.sockets.remove(&lease) {
            socket.reader.abort();
            // Nobody can want a file that is gone already.
            let _ = std::fs::remove_file(&socket.path);
        }
    }

    /// Removes every socket file that no task of ours has, from agents that were killed.
    pub(crate) fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            if !self.sockets.values().any(|socket| socket.path == entry.path()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Takes what came in since the last call.
    pub(crate) fn take(&self) -> Vec<(TaskKey, Update)> {
        let mut updates = self.pending.updates.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *updates).into_iter().collect()
    }

    /// A bell that rings when there may be something to take.
    pub(crate) fn bell(&self) -> ProgressBell {
        ProgressBell(Arc::clone(&self.pending))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        for socket in self.sockets.values() {
            socket.reader.abort();
        }
    }
}

/// Waits for progress without borrowing the sockets.
pub(crate) struct ProgressBell(Arc<Pending>);

impl ProgressBell {
    /// Returns when something came in. Cancelling it loses nothing.
    pub(crate) async fn ring(&self) {
        self.0.bell.notified().await;
    }
}

async fn read(socket: Arc<LeaseSocket>, pending: Arc<Pending>) {
    let mut window = Instant::now();
    let mut count = 0;
    loop {
        // An error here means that the runtime ends.
        let Ok(()) = socket.socket.readable().await else { return };
        if socket.socket.try_io(Interest::READABLE, || socket.receive(&pending)).is_err() {
            continue;
        }
        count += 1;
        if window.elapsed() >= WINDOW {
            (window, count) = (Instant::now(), 0);
        } else if count >= DATAGRAMS_PER_WINDOW {
            sleep_until(window + WINDOW).await;
        }
    }
}

/// A folder with a short name that stands for a long one: always the same for the same folder.
fn short(folder: &Path) -> PathBuf {
    // FNV-1a: names need to differ, not to resist anybody.
    let hash =
        folder.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    PathBuf::from(format!("/tmp/gangsaw-{}-{hash:016x}", rustix::process::getuid().as_raw()))
}

#[cfg(test)]
mod tests;
