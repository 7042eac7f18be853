//! The agent's process: makes the parts, joins them, and ends them in order.
//!
//! Order of the end: the driver first (it may stop all tasks, and needs everybody else for it), then the keeper, the
//! GPU watch and the log stream. The supervisor lives on unless the tasks were ended.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::disk;
use crate::driver::{Driver, Parts};
use crate::folder::{Folder, FolderError};
use crate::inventory::host;
use crate::inventory::offer::Offer;
use crate::inventory::ours::Marks;
use crate::inventory::watch::{self as gpus, GpuView, Held};
use crate::journal::Journal;
use crate::keeper::{self, Keeper};
use crate::launch::{Launcher, default_env};
use crate::progress::Progress;
use crate::session::identity::{self, Current, Identity, JoinError, JoinToken, Joining};
use crate::session::logs;
use crate::session::token::{Server, ServerError};
use crate::session::uplink::Uplink;
use crate::supervisor::Launch;
use crate::users::Users;

/// Words of the keeper that wait for the driver.
const HEARD_MAX: usize = 256;
/// Longest the first Hello waits for the GPUs: one call into a library that hangs, and a little.
const GPUS_WITHIN: Duration = Duration::from_millis(5_500);
/// Longest name of a node, as the scheduler takes it.
const NAME_MAX: usize = 128;

/// Everything an agent is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--state`: the agent's files are in `agent/` below it.
    pub state_dir: PathBuf,
    /// `--server`: `http://HOST:PORT`, or several of them separated by commas.
    pub server: String,
    /// The join token; absent: the certificate that is kept, else the token.
    pub join: Option<String>,
    /// The token; absent: `credentials/HOST:PORT` is looked up at every dial.
    pub token: Option<String>,
    /// Unique in the cluster. Absent: the host name.
    pub name: Option<String>,
    /// Shown with the node.
    pub labels: BTreeMap<String, String>,
    /// Address that other nodes reach this one by. Absent: the one that faces the scheduler.
    pub address: Option<String>,
    /// Where the supervisor makes its cgroups. Absent: it looks for a place itself.
    pub cgroup_root: Option<PathBuf>,
    /// Whether to look for GPUs.
    pub gpus: bool,
    /// End every task and the supervisor when told to stop, within 10 s.
    pub stop_tasks: bool,
    /// What the agent says its version is. Absent: this executable's.
    pub version: Option<String>,
    /// The executable with the verbs `supervisor`, `agent-nvml` and `train`. Absent: this one.
    pub exe: Option<PathBuf>,
}

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The state folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The scheduler's address makes no sense.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The node's name makes no sense.
    #[error("`{0}` is no name for a node: 1 to 128 characters, no spaces or control characters")]
    Name(String),
    /// This machine was not let in.
    #[error("cannot join")]
    Join(#[from] JoinError),
    /// Something of the system is missing.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl AgentError {
    fn system(what: &'static str) -> impl FnOnce(io::Error) -> AgentError {
        move |source| AgentError::System { what, source }
    }
}

/// Runs an agent until `stop`. Tasks and their supervisor run on afterwards, unless `config.stop_tasks`.
///
/// # Errors
/// Only at the start: a folder that another agent holds, a name or an address that makes no sense, no permission.
/// An unreachable scheduler is no error; it is dialled until it answers.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), AgentError> {
    let (server, others) = Server::parse_list(&config.server)?;
    let node_name = name(config.name)?;
    let state =
        std::path::absolute(&config.state_dir).map_err(AgentError::system("cannot resolve the state folder"))?;
    let exe = config.exe.map_or_else(std::env::current_exe, Ok);
    let exe = exe.map_err(AgentError::system("cannot find this executable"))?;
    let host = host::read(Path::new("/"), host::cores());
    let folder = Folder::open(&state, &host.boot_id)?;
    let joining = Joining { folder: &folder.path, server: &server, name: &node_name, uuid: &folder.node_uuid };
    let identity = joined(&joining, config.join.as_deref(), &stop).await?;
    let journal = Journal::open(&folder.path.join("grants"), folder.rebooted)
        .map_err(AgentError::system("cannot open the journal of grants"))?;
    let progress = Progress::open(&folder.path.join("progress"))
        .map_err(AgentError::system("cannot make the folder of progress sockets"))?;
    let users = Users::of_this_process();
    let address = config.address.unwrap_or_else(|| facing(&server));
    let mut offer = Offer::new(host, config.labels, vec![users.note()], address);

    let inner = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let (disk, looks) = disk::of(&folder.path, inner.clone());
    tasks.spawn(looks.run());
    let (heard_in, heard) = mpsc::channel(HEARD_MAX);
    let (clears, clears_out) = mpsc::channel(1);
    let version = config.version.unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned());
    let launch = supervisor(&exe, &state, config.cgroup_root);
    let keeper =
        keeper::Parts { launch, version: version.clone(), clears: clears_out, heard: heard_in, stop: inner.clone() };
    tasks.spawn(Keeper::new(keeper).run());

    let environ = format!("GANGSAW_PROGRESS={}/", progress.folder().display());
    let (held, held_out) = watch::channel(Held { marks: Marks { supervisor: None, environ }, ..Held::default() });
    let (view, mut view_out) = watch::channel(GpuView::default());
    if config.gpus {
        tasks.spawn(gpus::run(exe.clone(), held_out, view, inner.clone()));
        // Late is better than never, and no answer is an answer: the devices come with a later Inventory.
        let _ = timeout(GPUS_WITHIN, view_out.wait_for(|view| view.ready)).await;
        offer.gpu = view_out.borrow_and_update().clone();
    }
    let (line, line_out) = watch::channel(None);
    tasks.spawn(logs::serve(state.clone(), node_name.clone(), line_out, inner.clone()));

    let identity = identity.map(|identity| renewing(identity, &folder.path, &server, &mut tasks, &inner));
    let node = node_name.to_string();
    let launcher = Launcher { exe, folder: folder.path.clone(), default_env: default_env(), users, node };
    let driver = Driver::new(Parts {
        node_name,
        node_uuid: folder.node_uuid.clone(),
        version,
        starts: folder.starts,
        journal,
        disk,
        launcher,
        progress,
        offer,
        uplink: Uplink::new(server, config.token).or(others).showing(identity),
        heard,
        clears,
        gpus: view_out,
        held,
        line,
        stop_tasks: config.stop_tasks,
    });
    driver.run(stop).await;
    inner.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Returns who this node is, after it has joined if a token says so. `None`: its token speaks for it.
async fn joined(
    joining: &Joining<'_>,
    token: Option<&str>,
    stop: &CancellationToken,
) -> Result<Option<Identity>, JoinError> {
    let token = token.map(JoinToken::parse).transpose()?;
    match (joining.server.tls, token) {
        (true, token) => joining.identity(token.as_ref(), stop).await,
        (false, Some(_)) => Err(JoinError::Plaintext),
        (false, None) => Ok(None),
    }
}

/// Has an identity renewed in time, until `stop`, and returns where the present one is.
fn renewing(
    identity: Identity,
    folder: &Path,
    server: &Server,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Current {
    let (renewed, current) = watch::channel(Arc::new(identity));
    tasks.spawn(identity::renew(folder.to_owned(), server.clone(), renewed, stop.clone()));
    current
}

/// Returns how this node's supervisor is started.
fn supervisor(exe: &Path, state: &Path, cgroup_root: Option<PathBuf>) -> Launch {
    Launch {
        exe: exe.to_owned(),
        verb: vec!["supervisor".into()],
        state: state.to_owned(),
        cgroup_root,
        rlimit_only: false,
        beside: None,
        version: None,
    }
}

fn name(given: Option<String>) -> Result<String, AgentError> {
    let name = given.unwrap_or_else(host::hostname);
    let odd = |c: char| c.is_control() || c.is_whitespace();
    if name.is_empty() || name.len() > NAME_MAX || name.contains(odd) {
        return Err(AgentError::Name(name));
    }
    Ok(name)
}

/// The address of this machine that a packet to the scheduler would leave from. Nothing is sent.
fn facing(server: &Server) -> String {
    let host = server.host.trim_start_matches('[').trim_end_matches(']');
    let find = || {
        let target = (host, server.port).to_socket_addrs().ok()?.next()?;
        let any: IpAddr = if target.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(target).ok()?;
        Some(socket.local_addr().ok()?.ip().to_string())
    };
    find().unwrap_or_default()
}
