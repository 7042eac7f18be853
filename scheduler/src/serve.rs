//! Starts a scheduler, serves until told to stop, and ends in order.
//!
//! With a file as its store a scheduler leads from its start to its end. With PostgreSQL it stands by until it leads, and
//! stands by again when another does.
//!
//! The order of the end is written here and nowhere else: streams are told, connections close, the engine finishes its
//! batch, the store tidies up.

mod standby;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::TcpIncoming;

use crate::clock::wall_ms;
use crate::config::{Config, ServeError};
use crate::disk::DiskGuard;
use crate::engine::{Engine, EngineError, Parts};
use crate::http::{self, Served};
use crate::lead::Candidate;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::rpc::auth::Gate;
use crate::rpc::caller::Person;
use crate::store::contract::{AppendError, Store};
use crate::store::sqlite::OpenError;
use crate::store::{Loaded, SqliteStore};
use crate::token::{self, Token};

/// How long connections may take to close once they were told.
const CLOSING_WAIT: Duration = Duration::from_secs(2);
/// The same where another scheduler waits to take over: its clients are better served there.
const HAND_OVER_WAIT: Duration = Duration::from_millis(200);

/// What stays over every turn of leading and standing by.
struct Ground {
    state_dir: PathBuf,
    folder: PathBuf,
    token: Token,
    listener: std::net::TcpListener,
    address: SocketAddr,
}

/// Serves until `stop` is cancelled or something cannot go on.
///
/// # Errors
/// Why the scheduler did not start, or ended by itself; [`ServeError::exit_code`] says how the process should end.
pub async fn serve(mut config: Config, stop: CancellationToken) -> Result<(), ServeError> {
    if !config.listen.ip().is_loopback() {
        return Err(ServeError::InsecureBind(config.listen));
    }
    let folder = config.state_dir.join("scheduler");
    let unusable = |source| ServeError::StateFolder { path: folder.clone(), source };
    token::make_private_folder(&folder).map_err(unusable)?;
    let Some(url) = config.store.clone() else {
        let (store, loaded) = SqliteStore::open(&folder, config.fail_at)?;
        let ground = Ground::prepare(&config, folder)?;
        let parts = ground.parts(Box::new(store), loaded)?;
        ground.announce(&mut config)?;
        return ground.lead(parts, stop, CLOSING_WAIT).await;
    };
    let ground = Ground::prepare(&config, folder)?;
    ground.announce(&mut config)?;
    loop {
        let candidate = Candidate::new(&url, ground.address.to_string(), config.fail_at).map_err(OpenError::from)?;
        let Some(lead) = standby::stand_by(ground.listener()?, candidate, &stop).await? else { return Ok(()) };
        tracing::info!(seq = lead.store.last_seq(), "leading");
        let parts = ground.parts(Box::new(lead.store), lead.loaded)?;
        match ground.lead(parts, stop.child_token(), HAND_OVER_WAIT).await {
            Err(ServeError::Engine(EngineError::Append(AppendError::Fenced))) => {
                // What this process remembers is behind or ahead of the log: it is dropped, and the log read again.
                tracing::warn!("this scheduler does not lead any more, and stands by");
            }
            ended => return ended,
        }
    }
}

impl Ground {
    fn prepare(config: &Config, folder: PathBuf) -> Result<Ground, ServeError> {
        let unusable = |source| ServeError::StateFolder { path: folder.clone(), source };
        let token = Token::of_folder(&folder).map_err(unusable)?;
        let cannot = |source| ServeError::Bind { address: config.listen, source };
        let listener = std::net::TcpListener::bind(config.listen).map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        Ok(Ground { state_dir: config.state_dir.clone(), folder, token, listener, address })
    }

    /// Returns the listening socket once more: whoever comes while nobody accepts waits for the next who does.
    fn listener(&self) -> Result<TcpListener, ServeError> {
        let again = self.listener.try_clone().and_then(TcpListener::from_std);
        again.map_err(|source| ServeError::Bind { address: self.address, source })
    }

    fn parts(&self, store: Box<dyn Store>, loaded: Loaded) -> Result<Parts, ServeError> {
        let unusable = |source| ServeError::StateFolder { path: self.state_dir.clone(), source };
        let disk = DiskGuard::open(&self.state_dir).map_err(unusable)?;
        let metrics = Arc::new(Metrics::new());
        Ok(Parts { store, loaded, disk, metrics, refused_inputs: self.folder.join("refused-inputs") })
    }

    /// Leads until told to stop, or until the engine ends.
    async fn lead(&self, parts: Parts, stop: CancellationToken, patience: Duration) -> Result<(), ServeError> {
        let unusable = |source| ServeError::StateFolder { path: self.folder.clone(), source };
        let metrics = Arc::clone(&parts.metrics);
        let (engine, ended) = Engine::start(parts).map_err(unusable)?;
        let readers = TaskTracker::new();
        let logs = Logs::open(engine.clone(), self.folder.join("logs"), Arc::clone(&metrics), readers.clone())
            .map_err(unusable)?;
        readers.spawn(logs.clone().keep(stop.clone()));
        let served = Served {
            engine: engine.clone(),
            logs,
            gate: Arc::new(Gate {
                folder: (self.token.clone(), Person::of_this_process()),
                metrics: Arc::clone(&metrics),
            }),
            metrics,
            stop: stop.clone(),
            readers: readers.clone(),
            started_wall_ms: wall_ms(),
        };
        let ended = run(served, self.listener()?, stop.clone(), ended, patience).await;
        stop.cancel();
        readers.close();
        // Readers that do not end have nothing that is owed to anybody.
        let _ = tokio::time::timeout(patience, readers.wait()).await;
        ended
    }

    /// Leaves address and token where clients look, and tells whoever started this.
    fn announce(&self, config: &mut Config) -> Result<(), ServeError> {
        let path = self.folder.join("address");
        token::write_private(&path, self.address.to_string().as_bytes())
            .map_err(|source| ServeError::StateFolder { path, source })?;
        if let Some(credentials) = &config.credentials {
            token::leave_credentials(credentials, self.address, &self.token)
                .map_err(|source| ServeError::StateFolder { path: credentials.clone(), source })?;
        }
        tracing::info!(address = %self.address, "serving");
        if let Some(ready) = config.ready.take() {
            ready(self.address);
        }
        Ok(())
    }
}

type EngineEnd = tokio::sync::oneshot::Receiver<Result<(), EngineError>>;

/// Serves until told to stop or the engine ends, and then ends the engine.
async fn run(
    served: Served,
    listener: TcpListener,
    stop: CancellationToken,
    mut ended: EngineEnd,
    patience: Duration,
) -> Result<(), ServeError> {
    let engine = served.engine.clone();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let signal = stop.clone();
    let server = http::server()
        .serve_with_incoming_shutdown(http::routes(served), incoming, async move { signal.cancelled().await });
    let closing = async {
        stop.cancelled().await;
        tokio::time::sleep(patience).await;
    };
    tokio::pin!(server);
    tokio::select! {
        end = &mut ended => {
            // Connections are told, so that nobody goes on asking an engine that is gone.
            stop.cancel();
            let _ = tokio::time::timeout(patience, server).await;
            return Ok(end.unwrap_or(Ok(()))?);
        }
        done = &mut server => done?,
        () = closing => {}
    }
    tokio::task::spawn_blocking(move || engine.stop()).await.ok();
    Ok(ended.await.unwrap_or(Ok(()))?)
}
