//! Dialling with TLS, and saying why it did not work.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use hyper_util::rt::TokioIo;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use super::TrustError;

/// Longest a connection with its handshake may take.
const DIAL_WAIT: Duration = Duration::from_secs(10);

/// What the other side said when it closed the connection. In TLS 1.3 a refused client certificate is told only after
/// the handshake has succeeded, when the caller sees no more than a lost connection.
#[derive(Clone, Debug, Default)]
pub struct LastWord(Arc<Mutex<Option<String>>>);

impl LastWord {
    /// Returns it, once.
    #[must_use]
    pub fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, error: &io::Error) {
        if let Some(error @ rustls::Error::AlertReceived(_)) = tls_error(error) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(explain(error));
        }
    }
}

/// Connects to `host`, which must show a certificate that `config` believes, now and whenever the connection is lost.
/// What else `endpoint` says holds for it, too.
///
/// # Errors
/// Nobody listens there, or one side does not believe the other.
pub async fn channel(
    endpoint: &Endpoint,
    (host, port): (&str, u16),
    config: Arc<ClientConfig>,
    last_word: &LastWord,
) -> Result<Channel, TrustError> {
    let (host, word) = (host.to_owned(), last_word.clone());
    let connector = tower::service_fn(move |_: Uri| {
        let (host, config, last_word) = (host.clone(), Arc::clone(&config), word.clone());
        async move {
            let stream = timeout(DIAL_WAIT, dial(&host, port, config)).await.unwrap_or_else(|_| Err(late()))?;
            Ok::<_, TrustError>(TokioIo::new(Watched { stream: Box::new(stream), last_word }))
        }
    });
    let connected = endpoint.connect_with_connector(connector).await;
    connected.map_err(|error| {
        let mut cause = error.source();
        while let Some(next) = cause.filter(|cause| !cause.is::<TrustError>()) {
            cause = next.source();
        }
        let ours = cause.and_then(|cause| cause.downcast_ref::<TrustError>()).cloned();
        ours.unwrap_or_else(|| TrustError::Unreachable(last_word.take().unwrap_or_else(|| error.to_string())))
    })
}

/// Returns the failure of a dial that took too long.
pub(super) fn late() -> TrustError {
    TrustError::Unreachable("no answer in time".to_owned())
}

/// Opens a TLS connection.
pub(super) async fn dial(host: &str, port: u16, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, TrustError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned())
        .map_err(|_| TrustError::Unreachable(format!("`{bare}` is neither a host name nor an IP address")))?;
    let stream = TcpStream::connect((bare, port)).await.map_err(|error| TrustError::Unreachable(error.to_string()))?;
    // Without it only small messages are slower.
    let _ = stream.set_nodelay(true);
    let connected = TlsConnector::from(config).connect(name, stream).await;
    connected.map_err(|error| match tls_error(&error) {
        Some(error) => TrustError::Handshake(explain(error)),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            TrustError::Unreachable("the connection was closed in the middle of the handshake".to_owned())
        }
        None => TrustError::Unreachable(error.to_string()),
    })
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// Says what a TLS failure means to the one who reads it on the client's side.
#[expect(clippy::wildcard_enum_match_arm, reason = "another crate's errors; those that people meet are named")]
pub(super) fn explain(error: &rustls::Error) -> String {
    use CertificateError::{
        ApplicationVerificationFailure, ExpiredContext, NotValidForNameContext, NotValidYetContext, UnknownIssuer,
    };
    match error {
        rustls::Error::InvalidCertificate(ExpiredContext { time, not_after }) => {
            let (now, until) = (date(*time), date(*not_after));
            format!("the scheduler's certificate ended {until}, and this machine's clock says {now}: check the clock")
        }
        rustls::Error::InvalidCertificate(NotValidYetContext { time, not_before }) => {
            let (now, from) = (date(*time), date(*not_before));
            format!("the scheduler's certificate begins {from}, and this machine's clock says {now}: check the clock")
        }
        rustls::Error::InvalidCertificate(NotValidForNameContext { expected, presented }) => {
            let presented = presented.join(", ");
            format!("the scheduler's certificate is not for {}, but for {presented}", expected.to_str())
        }
        rustls::Error::InvalidCertificate(UnknownIssuer | CertificateError::BadSignature) => {
            "the scheduler's certificate is not of the authority that is pinned for it".to_owned()
        }
        rustls::Error::InvalidCertificate(ApplicationVerificationFailure) => {
            "the scheduler's authority is not the one that the hash names".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "by the scheduler's clock this node's certificate has expired or has not begun".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
            "the scheduler does not know the authority of this node's certificate".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) | rustls::Error::PeerIncompatible(_) => {
            "the other side does not speak TLS 1.3".to_owned()
        }
        rustls::Error::InvalidMessage(_) => "the other side does not speak TLS".to_owned(),
        other => other.to_string(),
    }
}

fn date(time: UnixTime) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs())).to_string()
}

/// A connection that remembers what was said last.
struct Watched {
    stream: Box<TlsStream<TcpStream>>,
    last_word: LastWord,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &read {
            self.last_word.note(error);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
