//! Starts a scheduler, serves until told to stop, and ends in order.
//!
//! With a file as its store a scheduler leads from its start to its end. With PostgreSQL it stands by until it leads, and
//! stands by again when another does.
//!
//! The order of the end is written here and nowhere else: streams are told, connections close, the engine finishes its
//! batch, the store tidies up.

mod port;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::wall_ms;
use crate::config::{Config, ServeError};
use crate::disk::DiskGuard;
use crate::engine::{Engine, EngineError, Parts};
use crate::http::{Front, Served};
use crate::lead::Candidate;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::notify;
use crate::rpc::admission::{Admission, Bounds};
use crate::rpc::auth::{Gate, LogRate};
use crate::rpc::caller::Person;
use crate::store::contract::{AppendError, Store};
use crate::store::fail::FailAt;
use crate::store::postgres::hosts::Known;
use crate::store::sqlite::OpenError;
use crate::store::{Loaded, SqliteStore};
use crate::tls::ServerTls;
use crate::token::{self, Token};
use port::{Port, Role};

/// Connections that may wait to be accepted: a fleet that comes back at once, between two turns of the acceptor.
const BACKLOG: u32 = 4_096;
/// How long connections may take to close once they were told.
const CLOSING_WAIT: Duration = Duration::from_secs(2);
/// The same where another scheduler waits to take over: its clients are better served there.
const HAND_OVER_WAIT: Duration = Duration::from_millis(200);

/// What stays over every turn of leading and standing by.
struct Ground {
    state_dir: PathBuf,
    folder: PathBuf,
    token: Token,
    tls: Option<Arc<ServerTls>>,
    metrics: Arc<Metrics>,
    address: SocketAddr,
    attaching_max: usize,
    fail_at: Option<FailAt>,
}

/// Serves until `stop` is cancelled or something cannot go on.
///
/// # Errors
/// Why the scheduler did not start, or ended by itself; [`ServeError::exit_code`] says how the process should end.
pub async fn serve(mut config: Config, stop: CancellationToken) -> Result<(), ServeError> {
    let folder = config.state_dir.join("scheduler");
    let tls = ServerTls::open(&folder, config.listen.ip(), config.node_certificate_life)?.map(Arc::new);
    if tls.is_none() && !config.listen.ip().is_loopback() {
        return Err(ServeError::InsecureBind(config.listen));
    }
    token::make_private_folder(&folder).map_err(|source| ServeError::StateFolder { path: folder.clone(), source })?;
    let Some(url) = config.store.clone() else {
        let (store, loaded) = SqliteStore::open(&folder, config.fail_at)?;
        let (ground, mut port) = Ground::prepare(&config, folder, tls)?;
        let parts = ground.parts(Box::new(store), loaded)?;
        return ground.lead(&mut port, parts, (stop, CLOSING_WAIT), Some(&mut config)).await;
    };
    let (ground, mut port) = Ground::prepare(&config, folder, tls)?;
    ground.announce(&mut config)?;
    let known = Known::nothing(ground.metrics.synchronous_standbys.clone());
    loop {
        let address = ground.address.to_string();
        let candidate = Candidate::new(&url, address, config.fail_at, known.clone()).map_err(OpenError::from)?;
        let lead = tokio::select! {
            lead = candidate.lead(|leader| port.play(Role::Standby(leader.to_owned()))) => lead.map_err(OpenError::from)?,
            () = stop.cancelled() => return Ok(()),
        };
        let parts = ground.parts(Box::new(lead.store), lead.loaded)?;
        match ground.lead(&mut port, parts, (stop.child_token(), HAND_OVER_WAIT), None).await {
            Err(ServeError::Engine(EngineError::Append(AppendError::Fenced))) => {
                // What this process remembers is behind or ahead of the log: it is dropped, and the log read again.
                tracing::warn!("this scheduler does not lead any more, and stands by");
            }
            ended => return ended,
        }
    }
}

impl Ground {
    fn prepare(config: &Config, folder: PathBuf, tls: Option<Arc<ServerTls>>) -> Result<(Ground, Port), ServeError> {
        let unusable = |source| ServeError::StateFolder { path: folder.clone(), source };
        let token = Token::of_folder(&folder).map_err(unusable)?;
        let cannot = |source| ServeError::Bind { address: config.listen, source };
        let listener = listen(config.listen).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let (state_dir, metrics) = (config.state_dir.clone(), Arc::new(Metrics::new()));
        let port = Port::open(listener, tls.clone(), Arc::clone(&metrics));
        let (attaching_max, fail_at) = (config.attaching_max, config.fail_at);
        Ok((Ground { state_dir, folder, token, tls, metrics, address, attaching_max, fail_at }, port))
    }

    fn parts(&self, store: Box<dyn Store>, loaded: Loaded) -> Result<Parts, ServeError> {
        let unusable = |source| ServeError::StateFolder { path: self.state_dir.clone(), source };
        let disk = DiskGuard::open(&self.state_dir).map_err(unusable)?;
        let (metrics, refused_inputs) = (Arc::clone(&self.metrics), self.folder.join("refused-inputs"));
        let (notices, fail_at) = (watch::channel(0).0, self.fail_at);
        Ok(Parts { store, loaded, disk, metrics, refused_inputs, fail_at, notices })
    }

    /// Leads until told to stop, or until the engine ends. A scheduler that never stands by is announced when it leads.
    async fn lead(
        &self,
        port: &mut Port,
        parts: Parts,
        (stop, patience): (CancellationToken, Duration),
        announced: Option<&mut Config>,
    ) -> Result<(), ServeError> {
        let unusable = |source| ServeError::StateFolder { path: self.folder.clone(), source };
        let owed = parts.notices.subscribe();
        let (engine, mut ended) = Engine::start(parts).map_err(unusable)?;
        let readers = TaskTracker::new();
        readers.spawn(notify::keep(engine.clone(), Arc::clone(&self.metrics), owed, stop.clone()));
        let served = self.served(&engine, &stop, &readers).map_err(unusable)?;
        port.play(Role::Leading(Arc::new(Front::new(served))));
        if let Some(config) = announced {
            self.announce(config)?;
        }
        let came = tokio::select! {
            end = &mut ended => Some(end),
            failed = port.failed() => return failed.map_or(Ok(()), |error| Err(error.into())),
            () = stop.cancelled() => None,
        };
        stop.cancel();
        let end = match came {
            Some(end) => end,
            None => {
                port.shut(patience).await;
                tokio::task::spawn_blocking(move || engine.stop()).await.ok();
                ended.await
            }
        };
        port.play(Role::Standby(String::new()));
        readers.close();
        // Readers that do not end have nothing that is owed to anybody.
        let _ = tokio::time::timeout(patience, readers.wait()).await;
        Ok(end.unwrap_or(Ok(()))?)
    }

    fn served(&self, engine: &Engine, stop: &CancellationToken, readers: &TaskTracker) -> std::io::Result<Served> {
        let (metrics, engine) = (Arc::clone(&self.metrics), engine.clone());
        let logs = Logs::open(engine.clone(), self.folder.join("logs"), Arc::clone(&metrics), readers.clone())?;
        readers.spawn(logs.clone().keep(stop.clone()));
        let folder = (self.token.clone(), Person::of_this_process());
        let gate =
            Arc::new(Gate { folder, engine: engine.clone(), metrics: Arc::clone(&metrics), said: LogRate::default() });
        let admission = Admission::new(Bounds::of(self.attaching_max), Arc::clone(&metrics));
        let (stop, readers) = (stop.clone(), readers.clone());
        Ok(Served {
            engine,
            admission,
            logs,
            gate,
            metrics,
            stop,
            readers,
            started_wall_ms: wall_ms(),
            tls: self.tls.clone(),
        })
    }

    /// Leaves address and token where clients look, and tells whoever started this.
    fn announce(&self, config: &mut Config) -> Result<(), ServeError> {
        let path = self.folder.join("address");
        token::write_private(&path, self.address.to_string().as_bytes())
            .map_err(|source| ServeError::StateFolder { path, source })?;
        if let Some(credentials) = &config.credentials {
            token::leave_credentials(credentials, self.address, &self.token, self.tls.as_deref())
                .map_err(|source| ServeError::StateFolder { path: credentials.clone(), source })?;
        }
        tracing::info!(address = %self.address, tls = self.tls.is_some(), "serving");
        if let Some(ready) = config.ready.take() {
            ready(self.address);
        }
        Ok(())
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
