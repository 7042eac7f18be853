//! TLS: this scheduler's own authority, the certificate it serves with, and what it believes of nodes.
//!
//! `gangsaw scheduler init` makes an authority (a CA) under `STATE/scheduler/tls`. The scheduler serves TLS 1.3 with a
//! certificate of it, signs the certificates of nodes that join, and believes no client certificate of anybody else.
//!
//! | file | holds | who may read it |
//! |---|---|---|
//! | `ca.pem` | the authority's certificate; clients pin it | its owner, and whoever it is given to |
//! | `ca.key` | the authority's key | its owner |
//! | `server.pem` | certificate and key that are served | its owner |
//!
//! Invariants:
//! - TLS 1.3 only, one provider (aws-lc-rs), no resumption: every connection shows its certificate anew.
//! - A served certificate is renewed by itself when a third of its life is left; connections that are open go on.
//!
//! Elsewhere: handshakes are `accept`; making and reading certificates is `authority` and `read`; clients have their own
//! side (`gangsaw_agent::trust`).

pub(crate) mod authority;
mod read;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version::TLS13};
use tokio_util::sync::CancellationToken;

use crate::clock::wall_ms;
use crate::token::{make_private_folder, write_private};
use authority::Authority;
pub(crate) use authority::Wanted;
pub(crate) use read::{NodeCertificate, node_of, until_ms};

/// Life of a served certificate.
const SERVER_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// How often the served certificate's age is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} does not hold {what}")]
    Bad {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// A name that no certificate can carry.
    #[error("`{0}` is neither a host name nor an IP address")]
    Name(String),
    /// The provider refused.
    #[error("cannot make a certificate: {0}")]
    Make(String),
}

impl TlsError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> TlsError {
        let path = path.to_owned();
        move |source| TlsError::Io { path, source }
    }
}

/// What `init` made, or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The authority's certificate, for clients to pin.
    pub ca_file: PathBuf,
    /// SHA-256 of that certificate, in hex.
    pub ca_hash: String,
    /// What the server may be called.
    pub names: Vec<String>,
    /// The authority was there before; only the served certificate is new.
    pub kept: bool,
}

/// Makes the authority of a state folder unless it has one, and a certificate to serve with.
///
/// # Errors
/// A name that no certificate can carry, or a folder that cannot be used.
pub fn init(state_dir: &Path, names: &[String]) -> Result<Made, TlsError> {
    let folder = folder_of(&state_dir.join("scheduler"));
    make_private_folder(&folder).map_err(TlsError::io(&folder))?;
    let mut all = authority::own_names();
    all.extend(names.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|name| seen.insert(name.clone()));
    // A bad name is told before anything is made.
    authority::check_names(&all)?;
    let found = Authority::load(&folder)?;
    let kept = found.is_some();
    let authority = match found {
        Some(authority) => authority,
        None => Authority::make(&folder, wall_ms())?,
    };
    serve_anew(&folder, &authority, &all)?;
    Ok(Made { ca_file: folder.join("ca.pem"), ca_hash: authority.hash(), names: all, kept })
}

/// Returns the folder of a scheduler's certificates.
fn folder_of(scheduler: &Path) -> PathBuf {
    scheduler.join("tls")
}

/// Issues a certificate to serve with and writes it down.
fn serve_anew(folder: &Path, authority: &Authority, names: &[String]) -> Result<(), TlsError> {
    let path = folder.join("server.pem");
    let pem = authority.server_pem(names, wall_ms(), SERVER_LIFE)?;
    write_private(&path, pem.as_bytes()).map_err(TlsError::io(&path))
}

/// Returns the one provider of cryptography.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The certificate that is served now.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Nothing panics while it is held.
        self.0.read().ok().map(|current| Arc::clone(&current))
    }
}

/// Everything a scheduler needs to serve TLS and to sign for nodes.
pub(crate) struct ServerTls {
    folder: PathBuf,
    pub(crate) authority: Authority,
    pub(crate) config: Arc<ServerConfig>,
    current: Arc<Current>,
    names: Vec<String>,
    node_life: Duration,
}

impl ServerTls {
    /// Opens what `init` made in the folder of a scheduler that listens at `listen`. `None`: it was never run.
    pub(crate) fn open(scheduler: &Path, listen: IpAddr, node_life: Duration) -> Result<Option<ServerTls>, TlsError> {
        let folder = folder_of(scheduler);
        let Some(authority) = Authority::load(&folder)? else { return Ok(None) };
        let served = Served::read(&folder)?;
        let mut names = served.names.clone();
        let called = listen.to_string();
        let unnamed = !listen.is_unspecified() && !names.contains(&called);
        names.extend(unnamed.then_some(called));
        if unnamed || served.is_old(wall_ms()) {
            serve_anew(&folder, &authority, &names)?;
        }
        let current = Arc::new(Current(RwLock::new(Arc::new(Served::read(&folder)?.certified(&authority)?))));
        let config = config(&authority, Arc::clone(&current))?;
        Ok(Some(ServerTls { folder, authority, config: Arc::new(config), current, names, node_life }))
    }

    /// Signs the certificate of a node, with the key that `wanted` proves.
    pub(crate) fn node_certificate(
        &self,
        wanted: &Wanted,
        node: &NodeCertificate,
        now_ms: u64,
    ) -> Result<Vec<u8>, TlsError> {
        self.authority.node_certificate(wanted, node, now_ms, self.node_life)
    }

    /// Returns what this server may be called: names and addresses.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Renews the served certificate in time, until `stop`.
    pub(crate) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if let Err(error) = self.renew(wall_ms()) {
                tracing::error!(%error, "the served certificate cannot be renewed");
            }
        }
    }

    /// Serves a new certificate from now on if the present one is old, and says whether it does.
    fn renew(&self, now_ms: u64) -> Result<bool, TlsError> {
        if !Served::read(&self.folder)?.is_old(now_ms) {
            return Ok(false);
        }
        serve_anew(&self.folder, &self.authority, &self.names)?;
        let fresh = Arc::new(Served::read(&self.folder)?.certified(&self.authority)?);
        if let Ok(mut current) = self.current.0.write() {
            *current = fresh;
        }
        tracing::info!("the served certificate was renewed");
        Ok(true)
    }
}

/// Returns what is spoken: TLS 1.3, a client certificate of our authority or none, HTTP/2 or 1.1.
fn config(authority: &Authority, current: Arc<Current>) -> Result<ServerConfig, TlsError> {
    let refused = |error: &dyn std::fmt::Display| TlsError::Make(error.to_string());
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).map_err(|error| refused(&error))?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| refused(&error))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| refused(&error))?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(current);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A resumed session would not look at the client's certificate again.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// `server.pem`, read.
struct Served {
    path: PathBuf,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    names: Vec<String>,
    /// First and last moment of its life, in ms since 1970.
    life: (u64, u64),
}

impl Served {
    fn read(folder: &Path) -> Result<Served, TlsError> {
        let path = folder.join("server.pem");
        let pem = std::fs::read(&path).map_err(TlsError::io(&path))?;
        let bad = |what| TlsError::Bad { path: path.clone(), what };
        let certificate = CertificateDer::from_pem_slice(&pem).map_err(|_| bad("a certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| bad("a private key"))?;
        let (names, life) = read::served(&certificate).ok_or_else(|| bad("a certificate with names"))?;
        Ok(Served { path, certificate, key, names, life })
    }

    /// Says whether a third of its life is left, or less.
    fn is_old(&self, now_ms: u64) -> bool {
        let (from, until) = self.life;
        until.saturating_sub(now_ms) <= until.saturating_sub(from) / 3
    }

    /// The chain as clients get it; with the authority, so that one who knows only its hash finds it there.
    fn certified(self, authority: &Authority) -> Result<CertifiedKey, TlsError> {
        let chain = vec![self.certificate, authority.certificate.clone()];
        CertifiedKey::from_der(chain, self.key, &provider())
            .map_err(|_| TlsError::Bad { path: self.path, what: "a certificate and its key" })
    }
}

#[cfg(test)]
mod tests;
