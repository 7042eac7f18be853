//! The node's own certificate: got with a join token, kept in the state folder, renewed before it ends.
//!
//! The key is made here and never leaves the folder; the scheduler sees a signed request and answers with a certificate
//! for this node's name and uuid. At two thirds of its life another key and certificate take their place. Connections
//! that are open go on under the old one, and the next dial shows the new one.
//!
//! Invariants:
//! - Key and certificate are replaced together, in one file that only its owner may read.
//! - The scheduler is believed by the hash in the join token before a secret is sent to it.
//!
//! Elsewhere: who is let in is decided by the scheduler; believing it is `trust`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gangsaw_proto::node::v1::node_service_client::NodeServiceClient;
use gangsaw_proto::node::v1::{JoinRequest, RenewRequest};
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Endpoint;
use tracing::{info, warn};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::token::Server;
use crate::trust::{self, Ca, LastWord, TrustError};

/// The file in the agent's folder.
const FILE: &str = "identity.pem";
/// Longest a call may take.
const CALL_WAIT: Duration = Duration::from_secs(15);
/// Shortest and longest pause between two tries at a renewal; between them a twelfth of the certificate's life.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// A join token, taken apart: `ID.SECRET.CA-HASH`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct JoinToken {
    id: u64,
    secret: String,
    ca_hash: String,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinToken({}.…)", self.id)
    }
}

/// Why a machine was not let in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token is none.
    #[error("that is no join token")]
    Malformed,
    /// Joining needs TLS.
    #[error("a node joins at an https:// address")]
    Plaintext,
    /// The scheduler is not the one that the token names.
    #[error("{0}")]
    NotTrusted(TrustError),
    /// The scheduler refused.
    #[error("{}", .0.message())]
    Refused(Box<Status>),
    /// What came back, or what is kept, cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// The folder cannot be used.
    #[error("cannot use {0}")]
    Io(PathBuf, #[source] io::Error),
}

impl JoinToken {
    /// Takes one apart.
    pub(crate) fn parse(text: &str) -> Result<JoinToken, JoinError> {
        let mut parts = text.trim().split('.');
        let mut next = || parts.next().ok_or(JoinError::Malformed);
        let (id, secret, ca_hash) = (next()?, next()?, next()?);
        let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = id.parse().map_err(|_| JoinError::Malformed)?;
        if parts.next().is_some() || secret.is_empty() || !hex(secret) || ca_hash.len() != 64 || !hex(ca_hash) {
            return Err(JoinError::Malformed);
        }
        Ok(JoinToken { id, secret: secret.to_owned(), ca_hash: ca_hash.to_ascii_lowercase() })
    }
}

/// Who this node is.
#[derive(Clone)]
pub(crate) struct Identity {
    /// What every dial speaks: believes the authority and shows the certificate.
    pub(crate) config: Arc<ClientConfig>,
    ca: Ca,
    /// The token it was got with.
    token: u64,
    /// First and last moment of the certificate, in seconds since 1970.
    life: (i64, i64),
}

/// The identity that dials show, and where renewed ones appear.
pub(crate) type Current = watch::Receiver<Arc<Identity>>;

impl Identity {
    /// Reads what is kept in the agent's folder. `None`: this node never joined.
    fn read(folder: &Path) -> Result<Option<Identity>, JoinError> {
        let path = folder.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(JoinError::Io(path, error)),
        };
        let unusable = || JoinError::Unusable(format!("{} does not hold a node's certificate", path.display()));
        Identity::of(&text).map(Some).ok_or_else(unusable)
    }

    /// Takes a file's text apart: a line with the token's number, the key, the certificate, the authority.
    fn of(text: &str) -> Option<Identity> {
        let token = text.lines().next()?.strip_prefix("joined with token ")?.parse().ok()?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).ok()?;
        let mut certificates = CertificateDer::pem_slice_iter(text.as_bytes());
        let certificate = certificates.next()?.ok()?;
        let ca = Ca::of(certificates.next()?.ok()?);
        let (_, x509) = X509Certificate::from_der(&certificate).ok()?;
        let life = (x509.validity().not_before.timestamp(), x509.validity().not_after.timestamp());
        let config = trust::config_with(&ca, Some((certificate.clone(), key))).ok()?;
        Some(Identity { config, ca, token, life })
    }

    /// Says whether it has ended by this machine's clock.
    fn has_ended(&self) -> bool {
        now_s() > self.life.1
    }

    /// Returns how long until it should be renewed: when a third of its life is left.
    fn renew_in(&self) -> Duration {
        let (from, until) = self.life;
        let due = until - (until - from) / 3;
        Duration::from_secs(u64::try_from(due - now_s()).unwrap_or(0))
    }

    fn pause(&self) -> Duration {
        let life = u64::try_from(self.life.1 - self.life.0).unwrap_or(0);
        Duration::from_secs(life / 12).clamp(PAUSE.0, PAUSE.1)
    }
}

/// Who a node is to become.
pub(crate) struct Joining<'a> {
    /// The agent's folder.
    pub(crate) folder: &'a Path,
    pub(crate) server: &'a Server,
    pub(crate) name: &'a str,
    pub(crate) uuid: &'a str,
}

impl Joining<'_> {
    /// Returns this node's identity: the one it has, or a new one for `token`. `None`: it has none and no token was
    /// given. An unreachable scheduler is no error: it is asked until it answers, or `stop`.
    pub(crate) async fn identity(
        &self,
        token: Option<&JoinToken>,
        stop: &CancellationToken,
    ) -> Result<Option<Identity>, JoinError> {
        let kept = Identity::read(self.folder)?;
        let Some(token) = token else {
            if let Some(kept) = kept.as_ref().filter(|kept| kept.has_ended()) {
                warn!(ended_s = kept.life.1, "by this machine's clock the node's certificate has ended: join again");
            }
            return Ok(kept);
        };
        if !self.server.tls {
            return Err(JoinError::Plaintext);
        }
        let fits = |kept: &Identity| kept.token == token.id && kept.ca.hash() == token.ca_hash && !kept.has_ended();
        if let Some(kept) = kept.filter(fits) {
            return Ok(Some(kept));
        }
        let key = new_key()?;
        loop {
            match self.join(token, &key).await {
                Ok(identity) => {
                    info!(node = self.name, "this node has joined");
                    return Ok(Some(identity));
                }
                Err(JoinError::NotTrusted(TrustError::Unreachable(why))) => {
                    warn!(server = %self.server.url(), %why, "cannot join yet");
                }
                Err(JoinError::Refused(status)) if passes(&status) => {
                    warn!(server = %self.server.url(), why = status.message(), "cannot join yet");
                }
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = sleep(PAUSE.0) => {}
                () = stop.cancelled() => return Ok(None),
            }
        }
    }

    async fn join(&self, token: &JoinToken, key: &KeyPair) -> Result<Identity, JoinError> {
        let Server { host, port, .. } = self.server;
        let ca = trust::fetch(host, *port, &token.ca_hash).await.map_err(JoinError::NotTrusted)?;
        let config = trust::config(&ca).map_err(JoinError::NotTrusted)?;
        let request = JoinRequest {
            token_id: token.id,
            secret: token.secret.clone(),
            node_name: self.name.to_owned(),
            node_uuid: self.uuid.to_owned(),
            certificate_request: request(key)?,
        };
        let mut client = client(self.server, config, &LastWord::default()).await?;
        let answer = client.join(request).await.map_err(|status| JoinError::Refused(Box::new(status)))?.into_inner();
        keep(self.folder, token.id, key, &answer.certificate, &ca)
    }
}

/// Renews the node's certificate in time, until `stop`.
pub(crate) async fn renew(
    folder: PathBuf,
    server: Server,
    current: watch::Sender<Arc<Identity>>,
    stop: CancellationToken,
) {
    loop {
        let identity = Arc::clone(&current.borrow());
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(identity.renew_in().max(PAUSE.0)) => {}
        }
        let last_word = LastWord::default();
        match renewed(&folder, &server, &identity, &last_word).await {
            Ok(fresh) => {
                info!("the node's certificate was renewed");
                current.send_replace(Arc::new(fresh));
            }
            Err(error) => {
                let why = last_word.take().unwrap_or_else(|| error.to_string());
                warn!(%why, "the node's certificate cannot be renewed");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(identity.pause()) => {}
        }
    }
}

async fn renewed(
    folder: &Path,
    server: &Server,
    identity: &Identity,
    last_word: &LastWord,
) -> Result<Identity, JoinError> {
    let key = new_key()?;
    let mut client = client(server, Arc::clone(&identity.config), last_word).await?;
    let asked = RenewRequest { certificate_request: request(&key)? };
    let answer = client.renew(asked).await.map_err(|status| JoinError::Refused(Box::new(status)))?.into_inner();
    keep(folder, identity.token, &key, &answer.certificate, &identity.ca)
}

async fn client(
    server: &Server,
    config: Arc<ClientConfig>,
    last_word: &LastWord,
) -> Result<NodeServiceClient<tonic::transport::Channel>, JoinError> {
    let endpoint = Endpoint::from_shared(server.url()).map_err(|error| JoinError::Unusable(error.to_string()))?;
    let endpoint = endpoint.timeout(CALL_WAIT);
    let dialled = trust::channel(&endpoint, (&server.host, server.port), config, last_word).await;
    dialled.map(NodeServiceClient::new).map_err(JoinError::NotTrusted)
}

/// Says whether a refusal may pass: the scheduler is busy, starting or stopping.
fn passes(status: &Status) -> bool {
    use tonic::Code::{DeadlineExceeded, ResourceExhausted, Unavailable};
    [DeadlineExceeded, ResourceExhausted, Unavailable].contains(&status.code())
}

fn new_key() -> Result<KeyPair, JoinError> {
    KeyPair::generate().map_err(|error| JoinError::Unusable(format!("cannot make a key: {error}")))
}

/// Returns a signed request. It says nothing but the public key: who the node is, the scheduler knows better.
fn request(key: &KeyPair) -> Result<Vec<u8>, JoinError> {
    let made = CertificateParams::default().serialize_request(key);
    made.map(|request| request.der().to_vec()).map_err(|error| JoinError::Unusable(error.to_string()))
}

/// Writes an identity down and returns it.
fn keep(folder: &Path, token: u64, key: &KeyPair, certificate: &[u8], ca: &Ca) -> Result<Identity, JoinError> {
    let certificate = pem::encode(&pem::Pem::new("CERTIFICATE", certificate.to_vec()));
    let text = format!("joined with token {token}\n{}{certificate}{}", key.serialize_pem(), ca.pem());
    let identity = Identity::of(&text);
    let identity =
        identity.ok_or_else(|| JoinError::Unusable("the scheduler sent no certificate of ours".to_owned()))?;
    let (path, fresh) = (folder.join(FILE), folder.join(format!("{FILE}.new")));
    let write = || {
        let _ = fs::remove_file(&fresh);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &path)
    };
    write().map_err(|error| JoinError::Io(path.clone(), error))?;
    Ok(identity)
}

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    //! Tokens and files; joining is tested on real processes.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_join_token_is_a_number_a_secret_and_a_hash() {
        let hash = "ab".repeat(32);
        let token = JoinToken::parse(&format!(" 7.c0ffee.{hash}\n")).unwrap();
        assert_eq!((token.id, token.secret.as_str(), token.ca_hash.as_str()), (7, "c0ffee", hash.as_str()));
        assert_eq!(format!("{token:?}"), "JoinToken(7.…)", "a secret is not shown");
        for bad in ["", "7", "7.c0ffee", "x.c0ffee.ab", &format!("7.co.{hash}"), &format!("7.c0.{hash}.x"), "7..ab"] {
            assert!(JoinToken::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_kept_comes_back_and_nobody_else_reads_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let authority = KeyPair::generate().unwrap();
        let ca = CertificateParams::default().self_signed(&authority).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let pinned = Ca::from_pem(ca.pem().as_bytes()).unwrap();
        assert!(Identity::read(folder.path()).unwrap().is_none());
        keep(folder.path(), 3, &key, certificate.der(), &pinned).unwrap();
        let kept = Identity::read(folder.path()).unwrap().unwrap();
        assert_eq!((kept.token, &kept.ca), (3, &pinned));
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(folder.path().join(FILE), "joined with token 3\n").unwrap();
        assert!(Identity::read(folder.path()).is_err());
    }
}
