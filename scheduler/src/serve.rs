//! Starts a scheduler, serves until told to stop, and ends in order.
//!
//! The order of the end is written here and nowhere else: streams are told, connections close, the engine finishes its
//! batch, the store tidies up.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::{self, Conn};
use crate::clock::wall_ms;
use crate::config::{Config, ServeError};
use crate::disk::DiskGuard;
use crate::engine::{Engine, Parts};
use crate::http::{self, Served};
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::notify;
use crate::rpc::auth::{Gate, LogRate};
use crate::rpc::caller::Person;
use crate::store::SqliteStore;
use crate::tls::ServerTls;
use crate::token::{self, Token};

/// How long connections may take to close once they were told.
const CLOSING_WAIT: Duration = Duration::from_secs(2);

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
    let unusable = |source| ServeError::StateFolder { path: folder.clone(), source };
    token::make_private_folder(&folder).map_err(unusable)?;
    let metrics = Arc::new(Metrics::new());
    let (notices, made) = watch::channel(0);
    let parts = open(&config, &folder, Arc::clone(&metrics), notices)?;
    let token = Token::of_folder(&folder).map_err(unusable)?;
    let owner = Person::of_this_process();
    let listener = bind(config.listen).await?;
    let address = listener.local_addr().map_err(unusable)?;
    let (engine, ended) = Engine::start(parts).map_err(unusable)?;
    let readers = TaskTracker::new();
    let logs =
        Logs::open(engine.clone(), folder.join("logs"), Arc::clone(&metrics), readers.clone()).map_err(unusable)?;
    readers.spawn(logs.clone().keep(stop.clone()));
    readers.spawn(notify::keep(engine.clone(), Arc::clone(&metrics), made, stop.clone()));
    let served = Served {
        engine: engine.clone(),
        logs,
        gate: Arc::new(Gate {
            folder: (token.clone(), owner),
            engine: engine.clone(),
            metrics: Arc::clone(&metrics),
            said: LogRate::default(),
        }),
        metrics,
        stop: stop.clone(),
        readers: readers.clone(),
        started_wall_ms: wall_ms(),
        tls: tls.clone(),
    };
    announce(&mut config, &folder, address, &token, tls.as_deref())?;
    if let Some(tls) = &tls {
        readers.spawn(Arc::clone(tls).keep(stop.clone()));
    }
    let incoming = accept::incoming(listener, tls, Arc::clone(&served.metrics), &readers, stop.clone());
    let ended = run(served, incoming, stop.clone(), ended).await;
    stop.cancel();
    readers.close();
    // Readers that do not end have nothing that is owed to anybody.
    let _ = tokio::time::timeout(CLOSING_WAIT, readers.wait()).await;
    ended
}

fn open(
    config: &Config,
    folder: &Path,
    metrics: Arc<Metrics>,
    notices: watch::Sender<u64>,
) -> Result<Parts, ServeError> {
    let (store, loaded) = SqliteStore::open(folder, config.fail_at)?;
    let unusable = |source| ServeError::StateFolder { path: config.state_dir.clone(), source };
    let disk = DiskGuard::open(&config.state_dir).map_err(unusable)?;
    Ok(Parts {
        store: Box::new(store),
        loaded,
        disk,
        metrics,
        refused_inputs: folder.join("refused-inputs"),
        fail_at: config.fail_at,
        notices,
    })
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, source })
}

/// Leaves address and token where clients look, and tells whoever started this.
fn announce(
    config: &mut Config,
    folder: &Path,
    address: SocketAddr,
    token: &Token,
    tls: Option<&ServerTls>,
) -> Result<(), ServeError> {
    let path = folder.join("address");
    token::write_private(&path, address.to_string().as_bytes())
        .map_err(|source| ServeError::StateFolder { path, source })?;
    if let Some(credentials) = &config.credentials {
        let unusable = |source| ServeError::StateFolder { path: credentials.clone(), source };
        token::leave_credentials(credentials, address, token, tls).map_err(unusable)?;
    }
    tracing::info!(%address, tls = tls.is_some(), "serving");
    if let Some(ready) = config.ready.take() {
        ready(address);
    }
    Ok(())
}

type EngineEnd = tokio::sync::oneshot::Receiver<Result<(), crate::engine::EngineError>>;

/// Serves until told to stop or the engine ends, and then ends the engine.
async fn run(
    served: Served,
    incoming: impl Stream<Item = std::io::Result<Conn>>,
    stop: CancellationToken,
    mut ended: EngineEnd,
) -> Result<(), ServeError> {
    let engine = served.engine.clone();
    let signal = stop.clone();
    let server = http::server()
        .serve_with_incoming_shutdown(http::routes(served), incoming, async move { signal.cancelled().await });
    let closing = async {
        stop.cancelled().await;
        tokio::time::sleep(CLOSING_WAIT).await;
    };
    tokio::select! {
        end = &mut ended => return Ok(end.unwrap_or(Ok(()))?),
        done = server => done?,
        () = closing => {}
    }
    tokio::task::spawn_blocking(move || engine.stop()).await.ok();
    Ok(ended.await.unwrap_or(Ok(()))?)
}
