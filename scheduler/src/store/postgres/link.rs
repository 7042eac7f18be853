//! The way to PostgreSQL: one thread that drives every connection, and how a connection is made.
//!
//! The engine is synchronous and waits for its store; whatever must go on meanwhile (renewing the lease, reading
//! answers) goes on here.
//!
//! Invariants:
//! - Every connection says who it belongs to (`application_name`), so that a successor can end those of a scheduler
//!   that hangs.
//! - Nothing waits for ever for a server that took the connection and says nothing: neither TCP nor PostgreSQL ends that.
//! - A transaction that its client abandons is ended by the server, so that nobody waits for its locks.
//! - A session never commits without waiting for the disk, and for a synchronous standby if there is one: a server or
//!   role that says otherwise is overruled, and no time-out of theirs may cut the wait short. Where somebody does, the
//!   connection ends before the answer is seen, so that the commit counts as unclear.
//!
//! Elsewhere: which of several servers is used is `hosts`; whether by TLS, and whom that believes, is `tls`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error, NoTls};
use tokio_util::sync::CancellationToken;

use super::error::PgOpenError;
use super::hosts::Known;
use super::tls::{Asked, Way, is_refusal};

/// How long a connection may take to be made, its session's beginning included.
const CONNECT_WAIT: Duration = Duration::from_secs(2);
/// How long all of the servers together may take, the one that was chosen saying which line it is on.
const CHOOSE_WAIT: Duration = Duration::from_secs(3);
/// How long what was sent may stay unacknowledged by the other side's kernel.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// What every session begins with. The two time-outs are the lease's time to live.
const SESSION: &str = "
SET search_path = gangsaw;
SET client_min_messages = warning;
SET idle_in_transaction_session_timeout = '6s';
SET statement_timeout = 0; SET lock_timeout = 0;
SET tcp_keepalives_idle = 2; SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 3;
SELECT set_config('synchronous_commit', 'on', false) 
WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')";

/// Where PostgreSQL says that a commit did not wait for its standby; it then answers as if it had.
const CUT_SHORT: &str = "SyncRepWaitForLSN";

/// Why the database was not reached, or did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// It refused, or the connection broke.
    #[error(transparent)]
    Postgres(#[from] Error),
    /// It has no TLS, or is not who it should be.
    #[error("there is no TLS with PostgreSQL at {host} that could be trusted")]
    Untrusted {
        /// The server.
        host: String,
        /// Why not.
        source: Error,
    },
    /// It took what was said and did not answer in time.
    #[error("PostgreSQL does not answer")]
    Silent,
    /// It was the primary once, and another is now.
    #[error("this PostgreSQL is on timeline {found}, and timeline {seen} was seen: another server took over from it")]
    Older {
        /// The newest that was seen.
        seen: u32,
        /// The one it is on.
        found: u32,
    },
    /// It does not have what was read from it or written to it before.
    #[error("this PostgreSQL lacks what the one before it had")]
    Behind,
}

/// Waits for an answer, but not for ever.
pub(crate) async fn within<T, E>(longest: Duration, answer: impl Future<Output = Result<T, E>>) -> Result<T, E>
where
    E: From<LinkError>,
{
    match tokio::time::timeout(longest, answer).await {
        Ok(answered) => answered,
        Err(_) => Err(LinkError::Silent.into()),
    }
}

/// The thread that drives the connections. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Driver {
    handle: Handle,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Driver {
    /// Starts the thread.
    pub(crate) fn start() -> std::io::Result<Arc<Driver>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || runtime.block_on(stopped.cancelled()))?;
        Ok(Arc::new(Driver { handle, stop, thread: Some(thread) }))
    }

    /// Waits for `future` on the calling thread, which must not be one of a runtime's.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.handle.block_on(future)
    }

    /// Runs `task` until it ends by itself or the driver is dropped.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.handle.spawn(task)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

/// A database, and who asks.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    config: Config,
    /// One for each server, and how it is spoken to.
    servers: Vec<(Config, Way)>,
    /// What is known of them.
    pub(crate) known: Known,
    driver: Arc<Driver>,
}

impl Target {
    /// Reads a `postgres://` URL. What leaves this machine in the clear does so because it says `sslmode=disable`.
    pub(crate) fn parse(url: &str, known: Known, driver: Arc<Driver>) -> Result<Target, PgOpenError> {
        let (rest, asked) = Asked::take(url);
        let config: Config = rest.parse().map_err(PgOpenError::Address)?;
        let servers = servers(&config, &asked.and(&config))?;
        Ok(Target { config, servers, known, driver })
    }

    /// Reads a URL for somebody who asks once.
    pub(crate) fn open(url: &str) -> Result<Target, PgOpenError> {
        Target::parse(url, Known::default(), Driver::start()?)
    }

    /// Returns where the database is, without secrets.
    pub(crate) fn shown(&self) -> String {
        format!("postgres://{}/{}", shown(self.config.get_hosts()), self.config.get_dbname().unwrap_or_default())
    }

    /// Returns the thread that drives this target's connections.
    pub(crate) fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    /// Connects under the name of `holder`.
    pub(crate) async fn connect(&self, holder: &str) -> Result<Client, LinkError> {
        self.listen(holder, Arc::default()).await
    }

    /// Connects under the name of `holder`; a NOTIFY that the session listens for, and its end, wake `woken`.
    pub(crate) async fn listen(&self, holder: &str, woken: Arc<Notify>) -> Result<Client, LinkError> {
        let connecting: FuturesUnordered<_> = (self.servers.iter().cloned())
            .map(|(mut config, way)| {
                config.application_name(application(holder));
                within(CONNECT_WAIT, open(config, way, Arc::clone(&woken)))
            })
            .collect();
        let known = self.known.clone();
        // One server is as quick as ever; of several, none makes the others wait.
        let chosen = self.driver.spawn(within(CHOOSE_WAIT, async move { known.choose(connecting).await }));
        match chosen.await {
            Ok(connected) => connected,
            // The driver ends with everything that could wait for this.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Opens one connection.
async fn open(config: Config, way: Way, woken: Arc<Notify>) -> Result<Client, LinkError> {
    let client = match way {
        Way::Clear => {
            let (client, connection) = config.connect(NoTls).await?;
            tokio::spawn(carry(connection, woken));
            client
        }
        Way::Tls { connector, .. } => {
            let connected = config.connect(connector).await;
            let (client, connection) = connected.map_err(|source| match is_refusal(&source) {
                true => LinkError::Untrusted { host: shown(config.get_hosts()), source },
                false => source.into(),
            })?;
            tokio::spawn(carry(connection, woken));
            client
        }
    };
    client.batch_execute(SESSION).await?;
    Ok(client)
}

/// Carries what is said until the connection ends, or until its client is dropped.
async fn carry<S, T>(mut connection: Connection<S, T>, woken: Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            AsyncMessage::Notification(_) => woken.notify_one(),
            AsyncMessage::Notice(notice) if notice.routine() == Some(CUT_SHORT) => {
                tracing::warn!(%notice, "a commit is in doubt");
                break;
            }
            AsyncMessage::Notice(notice) => tracing::debug!(%notice, "PostgreSQL says"),
            // The enum is theirs and grows.
            _ => {}
        }
    }
    woken.notify_one();
}

/// Returns what servers are called.
fn shown(hosts: &[Host]) -> String {
    let host = |host: &Host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    };
    hosts.iter().map(host).collect::<Vec<_>>().join(",")
}

/// Returns a configuration for each server that `all` names, and how it is spoken to.
fn servers(all: &Config, asked: &Asked) -> Result<Vec<(Config, Way)>, PgOpenError> {
    let (hosts, addresses, ports) = (all.get_hosts(), all.get_hostaddrs(), all.get_ports());
    let one = |at: usize| {
        let way = asked.way(hosts.get(at), addresses.get(at))?;
        let mut one = Config::new();
        match (hosts.get(at), addresses.get(at)) {
            (Some(Host::Tcp(name)), _) => drop(one.host(name)),
            (Some(Host::Unix(folder)), _) => drop(one.host_path(folder)),
            // Whatever has no name is called by its address.
            (None, Some(address)) => drop(one.host(address.to_string())),
            (None, None) => {}
        }
        addresses.get(at).map(|address| one.hostaddr(*address));
        ports.get(at).or_else(|| ports.first()).map(|port| one.port(*port));
        all.get_user().map(|user| one.user(user));
        all.get_password().map(|password| one.password(password));
        all.get_dbname().map(|name| one.dbname(name));
        all.get_options().map(|options| one.options(options));
        one.ssl_mode(way.mode())
            .ssl_negotiation(all.get_ssl_negotiation())
            .channel_binding(all.get_channel_binding())
            .connect_timeout(CONNECT_WAIT)
            .tcp_user_timeout(UNACKNOWLEDGED)
            .keepalives_idle(Duration::from_secs(2))
            .keepalives_interval(Duration::from_secs(1))
            .keepalives_retries(3)
            // A standby of the database takes no writes.
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        Ok((one, way))
    };
    (0..hosts.len().max(addresses.len())).map(one).collect()
}

/// Returns the name that connections of `holder` carry.
pub(crate) fn application(holder: &str) -> String {
    format!("gangsaw {holder}")
}
