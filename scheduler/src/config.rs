//! What a scheduler is started with, and how it can fail.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::EngineError;
use crate::store::fail::FailAt;
use crate::store::postgres::PgOpenError;
use crate::store::sqlite::OpenError;
use crate::tls::TlsError;

/// Life of a node's certificate unless somebody says otherwise.
pub const NODE_CERTIFICATE_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Nodes that attach at once unless somebody says otherwise: a batch of them is decided and stored within some ten
/// milliseconds.
pub(crate) const ATTACHING_MAX: usize = 32;

/// Called once with the bound address, when the scheduler serves.
pub type Ready = Box<dyn FnOnce(SocketAddr) + Send>;

/// What a scheduler is started with.
pub struct Config {
    /// The state folder; the scheduler lives in its subfolder `scheduler`, the ballast beside it.
    pub state_dir: PathBuf,
    /// Where to listen; port 0 takes a free one. Without TLS (see [`crate::init`]) only loopback is accepted.
    pub listen: SocketAddr,
    /// The `postgres://` URL of the store; `None`: a file in the state folder.
    pub store: Option<String>,
    /// Where to leave the token for clients; `None`: nowhere.
    pub credentials: Option<PathBuf>,
    /// How long a node's certificate lives; it is renewed at two thirds.
    pub node_certificate_life: Duration,
    /// Nodes that may be between their Hello and their Welcome at once; others wait, or come again when they are told.
    pub attaching_max: usize,
    /// Ends the process in the middle of an append, for tests: see [`FailAt`].
    pub fail_at: Option<FailAt>,
    /// Called when the scheduler serves.
    pub ready: Option<Ready>,
}

impl Config {
    /// Returns the configuration of a state folder: credentials in this user's folder, fail point from
    /// `GANGSAW_FAIL_AT`.
    #[must_use]
    pub fn new(state_dir: PathBuf, listen: SocketAddr) -> Config {
        Config {
            state_dir,
            listen,
            store: None,
            credentials: crate::token::credentials_folder(),
            node_certificate_life: NODE_CERTIFICATE_LIFE,
            attaching_max: ATTACHING_MAX,
            fail_at: std::env::var("GANGSAW_FAIL_AT").ok().and_then(|text| FailAt::parse(&text)),
            ready: None,
        }
    }
}

/// Why a scheduler did not start, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is not loopback and there is no TLS.
    #[error("{0} can be reached by others, and this scheduler has no TLS")]
    InsecureBind(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The state folder cannot be used.
    #[error("cannot use the state folder {path}")]
    StateFolder {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The certificates cannot be used.
    #[error("cannot serve TLS")]
    Tls(#[from] TlsError),
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Open(#[from] OpenError),
    /// The engine ended.
    #[error("the engine ended")]
    Engine(#[from] EngineError),
    /// The server ended.
    #[error("the server ended")]
    Server(#[from] tonic::transport::Error),
}

impl ServeError {
    /// Returns the stable reason, as in `error[insecure-bind]`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            ServeError::InsecureBind(_) => "insecure-bind",
            ServeError::Bind { .. } => "cannot-listen",
            ServeError::StateFolder { .. } => "state-folder",
            ServeError::Tls(_) => "tls",
            ServeError::Open(OpenError::InUse(_) | OpenError::Postgres(PgOpenError::InUse { .. })) => "store-in-use",
            ServeError::Open(OpenError::Damaged { .. } | OpenError::Postgres(PgOpenError::Damaged { .. })) => {
                "store-damaged"
            }
            ServeError::Open(OpenError::Format { .. } | OpenError::Postgres(PgOpenError::Format { .. })) => {
                "store-format"
            }
            ServeError::Open(OpenError::Postgres(
                PgOpenError::Address(_) | PgOpenError::InTheClear { .. } | PgOpenError::Authorities { .. },
            )) => "bad-store",
            ServeError::Open(OpenError::Postgres(PgOpenError::Untrusted { .. })) => "store-untrusted",
            ServeError::Open(OpenError::Postgres(
                PgOpenError::Postgres(_) | PgOpenError::Silent | PgOpenError::Moved(_) | PgOpenError::Io(_),
            )) => "store-unreachable",
            ServeError::Open(OpenError::Postgres(PgOpenError::Empty { .. })) => "store-empty",
            ServeError::Open(OpenError::Sqlite { .. } | OpenError::Io { .. }) => "store-unreadable",
            ServeError::Engine(EngineError::Append(_) | EngineError::Keeper(_)) => "store-failed",
            ServeError::Engine(EngineError::Panicked(_)) => "invariant",
            ServeError::Server(_) => "server-failed",
        }
    }

    /// Returns what to do about it; empty if there is nothing to add.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            ServeError::InsecureBind(_) => {
                "make certificates with `gangsaw scheduler init`, or listen on 127.0.0.1 or [::1]"
            }
            ServeError::Bind { .. } => "another program may hold the port; port 0 takes a free one",
            ServeError::StateFolder { .. } => "",
            ServeError::Tls(_) => "restore the folder `tls`, or move it away and run `gangsaw scheduler init`",
            ServeError::Open(OpenError::InUse(_)) => "stop the other scheduler, or give this one another --state",
            ServeError::Open(OpenError::Postgres(why)) => match why {
                PgOpenError::Address(_) => "write it as postgres://USER@HOST:5432/DATABASE",
                PgOpenError::InTheClear { .. } => {
                    "leave `sslmode` out or say `verify-full`; where the network between is trusted, `sslmode=disable` says so"
                }
                PgOpenError::Authorities { .. } => {
                    "`sslrootcert=FILE` in the address names a file with the certificate of the authority that PostgreSQL's is from"
                }
                PgOpenError::Untrusted { .. } => {
                    "`sslrootcert=FILE` names the authority that its certificate is from, `sslmode=verify-ca` leaves its name out; where the network between is trusted, `sslmode=disable` does without"
                }
                PgOpenError::Damaged { .. } => {
                    "`gangsaw fsck --store URL` names every fault; `gangsaw restore BACKUP --state DIR --store URL` fills an empty database from a backup"
                }
                PgOpenError::Empty { .. } => "name the database that the schedulers use",
                PgOpenError::InUse { .. } => "stop the schedulers first; without --rebuild they may go on",
                PgOpenError::Format { .. } => "use the version of gangsaw that wrote it",
                PgOpenError::Postgres(_) | PgOpenError::Silent | PgOpenError::Moved(_) | PgOpenError::Io(_) => {
                    "the user needs a database in which it may create a schema; GANGSAW_STORE says which"
                }
            },
            ServeError::Open(OpenError::Damaged { .. }) => {
                "`gangsaw fsck --state DIR` names every fault; `gangsaw restore BACKUP --state NEW-DIR` makes a new folder of a backup"
            }
            ServeError::Open(OpenError::Format { .. }) => "use the version of gangsaw that wrote it",
            ServeError::Open(OpenError::Sqlite { .. } | OpenError::Io { .. }) => "",
            ServeError::Engine(EngineError::Append(_) | EngineError::Keeper(_)) => {
                "the disk failed; everything acknowledged is on it, and a restart recovers from there"
            }
            ServeError::Engine(EngineError::Panicked(_)) => "please report it",
            ServeError::Server(_) => "",
        }
    }

    /// Returns the exit code of a process that ends for this: 2 bad input, 69 unavailable, 70 our fault, 74 store.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            ServeError::InsecureBind(_)
            | ServeError::Tls(_)
            | ServeError::Open(OpenError::Postgres(
                PgOpenError::Address(_)
                | PgOpenError::InTheClear { .. }
                | PgOpenError::Authorities { .. }
                | PgOpenError::InUse { .. },
            )) => 2,
            ServeError::Bind { .. } | ServeError::Server(_) => 69,
            ServeError::Engine(EngineError::Panicked(_)) => 70,
            ServeError::StateFolder { .. }
            | ServeError::Open(_)
            | ServeError::Engine(EngineError::Append(_) | EngineError::Keeper(_)) => 74,
        }
    }
}
