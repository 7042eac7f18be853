//! TLS to PostgreSQL, in the words that its own clients take: `sslmode` and `sslrootcert` in the address.
//!
//! | `sslmode` | on this machine | elsewhere |
//! |---|---|---|
//! | not said | in the clear | as `verify-full` |
//! | `disable` | in the clear | in the clear |
//! | `prefer` | TLS if the server has it, whoever it is | refused |
//! | `require` | TLS, whoever it is; with `sslrootcert` as `verify-ca` | as `verify-full` |
//! | `verify-ca` | the server's certificate is from an authority that is believed | the same |
//! | `verify-full` | and it carries the name that the address calls the server by | the same |
//!
//! Believed are the authorities in the file `sslrootcert`, or the system's. What `libpq` would do in the clear or without
//! a look at the certificate, it does here on this machine alone. A folder's socket never has TLS.
//!
//! Invariants:
//! - TLS 1.3 only, one provider, no fall-back but that of `prefer`.
//! - A password is bound to the connection (SCRAM channel binding) wherever the server offers that.
//!
//! Elsewhere: whom certificates of our own authority are for is `crate::tls`.

mod stream;
mod verify;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};
use tokio_rustls::TlsConnector;

use super::error::PgOpenError;
use crate::tls::provider;
use stream::Stream;
use verify::{Check, Verifier};

/// What `sslmode` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Unsaid,
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// What an address asks for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    mode: Mode,
    /// Where the authorities are that it believes; `None`: the system's.
    authorities: Option<PathBuf>,
}

/// How one server is spoken to.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// In the clear.
    Clear,
    /// By TLS; where `or_clear`, in the clear if the server has none.
    Tls { connector: Connector, or_clear: bool },
}

impl Asked {
    /// Takes what is said of TLS out of an address, and returns the rest of it.
    pub(crate) fn take(url: &str) -> (String, Asked) {
        let mut asked = Asked { mode: Mode::Unsaid, authorities: None };
        let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
        // A password ends before the first `@`, and may hold anything.
        let head = url.find('@').unwrap_or(0);
        let Some(at) = url[head..].find('?').map(|at| head + at).filter(|_| is_url) else {
            return (url.to_owned(), asked);
        };
        let mut rest: Vec<&str> = Vec::new();
        for pair in url[at + 1..].split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (key, value) {
                ("sslmode", "disable") => asked.mode = Mode::Disable,
                ("sslmode", "prefer") => asked.mode = Mode::Prefer,
                ("sslmode", "require") => asked.mode = Mode::Require,
                ("sslmode", "verify-ca") => asked.mode = Mode::VerifyCa,
                ("sslmode", "verify-full") => asked.mode = Mode::VerifyFull,
                ("sslrootcert", "system") => asked.authorities = None,
                ("sslrootcert", path) => asked.authorities = Some(PathBuf::from(decoded(path))),
                // Whatever is no word of ours is judged with the rest of the address.
                _ => rest.push(pair),
            }
        }
        let mark = if rest.is_empty() { "" } else { "?" };
        (format!("{}{mark}{}", &url[..at], rest.join("&")), asked)
    }

    /// Adds what the rest of the address says: one that is no URL is not looked into here.
    pub(crate) fn and(mut self, rest: &Config) -> Asked {
        self.mode = match (self.mode, rest.get_ssl_mode()) {
            (Mode::Unsaid, SslMode::Disable) => Mode::Disable,
            (Mode::Unsaid, SslMode::Require) => Mode::Require,
            (mode, _) => mode,
        };
        self
    }

    /// Says how the server is spoken to that is called `host` or is at `address`.
    pub(crate) fn way(&self, host: Option<&Host>, address: Option<&IpAddr>) -> Result<Way, PgOpenError> {
        let name = match (host, address) {
            (Some(Host::Tcp(name)), _) => name.clone(),
            (None, Some(address)) => address.to_string(),
            (Some(Host::Unix(_)) | None, _) => return Ok(Way::Clear),
        };
        let here = is_here(&name) && address.is_none_or(IpAddr::is_loopback);
        let (check, or_clear) = match (self.mode, here) {
            (Mode::Disable, _) | (Mode::Unsaid, true) => return Ok(Way::Clear),
            (Mode::Prefer, false) => return Err(PgOpenError::InTheClear { host: name }),
            (Mode::Prefer, true) => (Check::Nothing, true),
            (Mode::Require, true) if self.authorities.is_none() => (Check::Nothing, false),
            (Mode::Require, true) | (Mode::VerifyCa, _) => (Check::Authority, false),
            (Mode::Unsaid | Mode::Require, false) | (Mode::VerifyFull, _) => (Check::Name, false),
        };
        Ok(Way::Tls { connector: self.connector(name, check)?, or_clear })
    }

    fn connector(&self, name: String, check: Check) -> Result<Connector, PgOpenError> {
        let server = ServerName::try_from(name.clone())
            .map_err(|_| PgOpenError::Authorities { what: name.clone(), why: "no certificate can name it".into() })?;
        let roots = match check {
            Check::Nothing => RootCertStore::empty(),
            Check::Authority | Check::Name => self.roots()?,
        };
        let refused = |why: rustls::Error| PgOpenError::Authorities { what: name.clone(), why: why.into() };
        let verifier = Verifier::new(check, roots).map_err(&refused)?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(refused)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Connector { config: Arc::new(config), server })
    }

    /// Reads the authorities that are believed.
    fn roots(&self) -> Result<RootCertStore, PgOpenError> {
        let mut roots = RootCertStore::empty();
        let Some(path) = &self.authorities else {
            let (known, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return if known > 0 { Ok(roots) } else { Err(unusable("this system", "there are none")) };
        };
        let shown = path.display().to_string();
        let listed = read(path).map_err(|why| unusable(&shown, why))?;
        let (known, _) = roots.add_parsable_certificates(listed);
        if known > 0 { Ok(roots) } else { Err(unusable(&shown, "there are none")) }
    }
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, Box<dyn std::error::Error + Send + Sync>> {
    let pem = std::fs::read(path)?;
    Ok(CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>()?)
}

fn unusable(what: &str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PgOpenError {
    PgOpenError::Authorities { what: what.to_owned(), why: why.into() }
}

/// Says whether a name or address is one of this machine's own.
fn is_here(name: &str) -> bool {
    name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Undoes what a URL does to characters that mean something in it.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((byte, more)) = rest.split_first() {
        let hex = more.get(..2).filter(|_| *byte == b'%').and_then(|two| std::str::from_utf8(two).ok());
        match hex.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(meant) => (bytes.push(meant), rest = &more[2..]),
            None => (bytes.push(*byte), rest = more),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Way {
    /// What the rest of the client is told.
    pub(crate) fn mode(&self) -> SslMode {
        match self {
            Way::Clear => SslMode::Disable,
            Way::Tls { or_clear: true, .. } => SslMode::Prefer,
            Way::Tls { or_clear: false, .. } => SslMode::Require,
        }
    }
}

/// Speaks TLS with one server.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    config: Arc<ClientConfig>,
    server: ServerName<'static>,
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Stream;
    type TlsConnect = Connector;
    type Error = io::Error;

    fn make_tls_connect(&mut self, _domain: &str) -> io::Result<Connector> {
        Ok(self.clone())
    }
}

impl TlsConnect<Socket> for Connector {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        let connecting = TlsConnector::from(self.config).connect(self.server, socket);
        Box::pin(async move { Ok(Stream(connecting.await?)) })
    }
}

/// Says whether a connection failed because there is no TLS with this server, or none that is believed; else the
/// network is to blame, and may be better soon.
pub(crate) fn is_refusal(error: &tokio_postgres::Error) -> bool {
    // Which kind an error is, is told in words alone.
    let about_tls = error.to_string().starts_with("error performing TLS handshake");
    let broken = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    about_tls && broken.is_none_or(|broken| broken.kind() == io::ErrorKind::InvalidData)
}

#[cfg(test)]
mod tests;
