//! Where the supervisor keeps what: names only, nothing is opened here.
//!
//! Everything lies in STATE/agent. A supervisor that another version's still stands beside has a state folder of its own,
//! STATE/agent/versions/N, for its lock, socket, spool and cgroups; the tasks' folders and logs are in `home`, the
//! agent's state folder, for all of them. A unix socket's address holds 108 bytes and a state path may be longer, so sockets
//! are bound and dialled through `/proc/self/fd/N/NAME` of their opened folder, see [`socket_address`].

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::net::SocketAddrUnix;

/// The names inside of one state folder.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    /// The folder given as `--state`.
    pub(crate) state: PathBuf,
    /// STATE/agent.
    pub(crate) agent: PathBuf,
    /// The agent's state folder; the same as `state` but for a later generation.
    home: PathBuf,
}

impl Paths {
    /// Names of `state`, which need not exist.
    pub(crate) fn new(state: &Path) -> Self {
        Self::below(state, state)
    }

    /// Names of `state` whose tasks' folders are below `home`.
    pub(crate) fn below(state: &Path, home: &Path) -> Self {
        Self { state: state.to_path_buf(), agent: state.join("agent"), home: home.to_path_buf() }
    }

    /// Tells this state folder's processes and cgroups from those of another one on the same machine. The folder exists.
    pub(crate) fn tag(&self) -> io::Result<String> {
        let agent = self.agent.canonicalize()?;
        let inode = std::fs::metadata(&agent)?.ino();
        Ok(format!("{:08x}-{inode:x}", crc32fast::hash(agent.as_os_str().as_encoded_bytes())))
    }

    /// The lock that makes a second supervisor on the same folder refuse.
    pub(crate) fn lock(&self) -> PathBuf {
        self.agent.join("supervisor.lock")
    }

    /// What the supervisor has to say to people.
    pub(crate) fn messages(&self) -> PathBuf {
        self.agent.join("supervisor.log")
    }

    /// One cgroup folder a line, for whoever cleans up after a killed supervisor.
    pub(crate) fn cgroups(&self) -> PathBuf {
        self.agent.join("supervisor.cgroups")
    }

    /// The attempts of one job.
    pub(crate) fn attempts(&self, job_id: u64) -> PathBuf {
        self.home.join("agent/attempts").join(job_id.to_string())
    }

    /// The logs of one job.
    pub(crate) fn logs(&self, job_id: u64) -> PathBuf {
        self.home.join("agent/logs").join(job_id.to_string())
    }

    /// The socket's address, and the opened folder that must live until it was used.
    pub(crate) fn socket(&self) -> io::Result<(SocketAddrUnix, File)> {
        socket_address(&self.agent, "supervisor.sock")
    }

    /// The socket's place in the file system.
    pub(crate) fn socket_file(&self) -> PathBuf {
        self.agent.join("supervisor.sock")
    }
}

/// An address for the socket `name` in `folder`, however long the folder's path is.
fn socket_address(folder: &Path, name: &str) -> io::Result<(SocketAddrUnix, File)> {
    let opened = File::open(folder)?;
    let path = format!("/proc/self/fd/{}/{name}", opened.as_raw_fd());
    Ok((SocketAddrUnix::new(path)?, opened))
}
