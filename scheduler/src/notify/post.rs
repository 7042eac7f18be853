//! One POST over HTTP/1.1, plain or TLS, to an address that was checked.
//!
//! A connection a try: notices are rare and hosts differ. What the other side says counts as its status alone; what
//! follows the head of its answer is not read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gangsaw_core::job::notice::Posted;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

use super::address::{self, Refused};

/// A whole try: name, connection, handshake, request and the head of the answer.
const TRY_MAX: Duration = Duration::from_secs(10);
/// Bytes the head of an answer may have.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Makes tries. Holds the system's certificates from the first `https` on.
pub(super) struct Poster {
    tls: OnceCell<Arc<ClientConfig>>,
}

/// Why a try failed.
struct Failure {
    again: bool,
    why: String,
}

fn later(why: impl Into<String>) -> Failure {
    Failure { again: true, why: why.into() }
}

fn never(why: impl Into<String>) -> Failure {
    Failure { again: false, why: why.into() }
}

impl Poster {
    pub(super) fn new() -> Poster {
        Poster { tls: OnceCell::new() }
    }

    /// Makes one try.
    pub(super) async fn post(&self, url: &str, id: &str, body: &Value) -> Posted {
        let tried = tokio::time::timeout(TRY_MAX, self.attempt(url, id, body)).await;
        let tried = tried.unwrap_or_else(|_| Err(later(format!("no answer within {} s", TRY_MAX.as_secs()))));
        match tried.and_then(judged) {
            Ok(()) => Posted::Taken,
            Err(Failure { again, why }) => Posted::Failed { again, why },
        }
    }

    async fn attempt(&self, url: &str, id: &str, body: &Value) -> Result<StatusCode, Failure> {
        let uri: Uri = url.parse().map_err(|error| never(format!("the URL cannot be read: {error}")))?;
        let host = uri.host().ok_or_else(|| never("the URL names no host"))?.to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let addresses = address::resolve(&host, port).await.map_err(|refused| match refused {
            Refused::Unknown { .. } => later(refused.to_string()),
            Refused::Forbidden { .. } => never(refused.to_string()),
        })?;
        let stream = connect(&addresses).await?;
        let request = request(&uri, id, body)?;
        if !secure {
            return send(stream, request).await;
        }
        let connector = TlsConnector::from(self.tls().await?);
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(|error| never(format!("no certificate names it: {error}")))?;
        let stream = connector.connect(name, stream).await.map_err(|error| later(format!("TLS: {error}")))?;
        send(stream, request).await
    }

    /// The system's certificates, read once.
    async fn tls(&self) -> Result<Arc<ClientConfig>, Failure> {
        let read = || async {
            let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
            let found = found.map_err(|error| later(error.to_string()))?;
            let mut roots = RootCertStore::empty();
            let (known, _) = roots.add_parsable_certificates(found.certs);
            if known == 0 {
                return Err(later("this machine has no certificates of authorities to check the host by"));
            }
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let config = config.map_err(|error| later(error.to_string()))?;
            Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
        };
        self.tls.get_or_try_init(read).await.cloned()
    }
}

/// Connects to the first address that answers.
async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, Failure> {
    let mut why = String::new();
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => why = format!("{address} does not answer: {error}"),
        }
    }
    Err(later(why))
}

fn request(uri: &Uri, id: &str, body: &Value) -> Result<Request<Full<Bytes>>, Failure> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let body = Bytes::from(body.to_string());
    let request = Request::post(path)
        .header(HOST, host)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("gangsaw/", env!("CARGO_PKG_VERSION")))
        .header("idempotency-key", id)
        .body(Full::new(body));
    request.map_err(|error| never(format!("the URL cannot be asked for: {error}")))
}

/// Sends the request and returns the answer's status.
async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<StatusCode, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        later(format!("the connection failed: {error}{}", cause.unwrap_or_default()))
    };
    let handshake = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(broken)?;
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer.map(|answer| answer.status()).map_err(broken),
        // The connection has ended; what it still brought is in the answer.
        _ = &mut connection => answer.await.map(|answer| answer.status()).map_err(broken),
    }
}

/// What a status means: taken, later, or never.
fn judged(status: StatusCode) -> Result<(), Failure> {
    let later_codes = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    if status.is_success() {
        Ok(())
    } else if status.is_redirection() {
        Err(never(format!("it answered {status}, and redirects are not followed")))
    } else if status.is_server_error() || later_codes.contains(&status) {
        Err(later(format!("it answered {status}")))
    } else {
        Err(never(format!("it answered {status}")))
    }
}
