//! The front of the port: takes connections, and does TLS before anything else hears of them.
//!
//! From this machine plaintext and TLS are both spoken on the same port, and the first byte says which; from anywhere
//! else only TLS. Each handshake is a task of its own with a time limit, so that a slow one holds up nobody.
//!
//! Invariants:
//! - A connection that is not from loopback and does not speak TLS 1.3 is closed before a byte of it is interpreted.
//! - A connection lasts no longer than the certificate it was opened with: its node dials again with the newer one that
//!   it has had for a third of that time.
//! - Who is on the other end goes on with every request of the connection as [`Peer`].
//! - A scheduler without certificates listens on loopback alone, and this module adds nothing to its path.
//!
//! Elsewhere: what a caller may do is `rpc::auth`; certificates are `tls`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::Connected;

use crate::clock::wall_ms;
use crate::metrics::Metrics;
use crate::places::{PROOF_WAIT, Placed, Places, Ticket};
use crate::tls::{self, NodeCertificate, ServerTls};

/// Longest a handshake may take, its first byte included. How many there are at once is `places`' business.
const HANDSHAKE_WAIT: Duration = PROOF_WAIT;
/// Connections that wait for the server; it takes them at once.
const WAITING_MAX: usize = 64;
/// Pause after the system refused a connection, for lack of descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// First byte of a TLS connection: a handshake record.
const TLS_RECORD: u8 = 0x16;
/// What is taken from somebody who speaks plain HTTP, before the answer.
const UNREAD_BYTES: usize = 4 << 10;
/// What somebody reads who speaks plain HTTP to a port that others can reach.
const SPEAKS_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n\
    this port speaks TLS: write https://\n";

/// Who is on the other end of a connection. Every request of it carries this.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) tls: bool,
    /// The node whose certificate was shown and verified.
    pub(crate) node: Option<Arc<NodeCertificate>>,
    /// The connection's place, which an admitted request makes its own.
    pub(crate) ticket: Ticket,
}

/// A connection that may be served.
pub(crate) struct Conn {
    io: Io,
    peer: Peer,
    /// When the certificate ends that the other side has shown.
    ends: Option<Pin<Box<Sleep>>>,
}

impl Conn {
    /// A connection without a certificate.
    fn plain(stream: Placed, address: SocketAddr) -> Conn {
        let peer = Peer { address, tls: false, node: None, ticket: stream.ticket() };
        Conn { io: Io::Plain(stream), peer, ends: None }
    }

    /// Fails once the other side's certificate has ended.
    fn may_go_on(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(ends) = &mut self.ends else { return Ok(()) };
        if ends.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the certificate that this connection showed has ended",
            ));
        }
        Ok(())
    }
}

enum Io {
    Plain(Placed),
    Tls(Box<TlsStream<Placed>>),
}

impl Connected for Conn {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// Takes connections until `stop`, and yields those that may be served.
pub(crate) fn incoming(
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    metrics: Arc<Metrics>,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<Conn>> + use<> {
    let (ready, waiting) = mpsc::channel(WAITING_MAX);
    let places = Places::of_this_process();
    let door = Door { tls, metrics, ready, tasks: tasks.clone(), stop, places };
    tasks.spawn(door.run(listener));
    ReceiverStream::new(waiting)
}

struct Door {
    tls: Option<Arc<ServerTls>>,
    metrics: Arc<Metrics>,
    ready: mpsc::Sender<io::Result<Conn>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    places: Places,
}

impl Door {
    async fn run(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Without it only small messages are slower.
            let _ = stream.set_nodelay(true);
            let stream = match self.places.enter(stream, address) {
                Ok(stream) => stream,
                Err(why) => {
                    self.refused(why);
                    continue;
                }
            };
            self.metrics.connections.set(i64::try_from(self.places.taken()).unwrap_or(i64::MAX));
            let Some(tls) = &self.tls else {
                if self.ready.send(Ok(Conn::plain(stream, address))).await.is_err() {
                    return;
                }
                continue;
            };
            let greeting = greet(stream, address, Arc::clone(tls));
            let (ready, metrics, stop) = (self.ready.clone(), Arc::clone(&self.metrics), self.stop.clone());
            self.tasks.spawn(async move {
                let greeted = tokio::select! {
                    greeted = tokio::time::timeout(HANDSHAKE_WAIT, greeting) => greeted,
                    () = stop.cancelled() => return,
                };
                match greeted.unwrap_or(Err(Refused { why: "too-slow", detail: String::new() })) {
                    Ok(conn) => {
                        // Nobody takes connections any more once the server ends.
                        let _ = ready.send(Ok(conn)).await;
                    }
                    Err(refused) => {
                        metrics.connections_refused.get_or_create(&[("reason", refused.why)]).inc();
                        tracing::info!(peer = %address, why = refused.why, detail = %refused.detail, "connection refused");
                    }
                }
            });
        }
    }

    fn refused(&self, why: &'static str) {
        self.metrics.connections_refused.get_or_create(&[("reason", why)]).inc();
    }
}

/// Why a connection was closed.
struct Refused {
    why: &'static str,
    detail: String,
}

/// Finds out what a connection speaks, and does its handshake.
async fn greet(mut stream: Placed, address: SocketAddr, tls: Arc<ServerTls>) -> Result<Conn, Refused> {
    let gone = |error: io::Error| Refused { why: "gone", detail: error.to_string() };
    let mut first = [0_u8; 1];
    if stream.peek(&mut first).await.map_err(gone)? == 0 {
        return Err(Refused { why: "gone", detail: String::new() });
    }
    if first[0] != TLS_RECORD {
        if address.ip().to_canonical().is_loopback() {
            return Ok(Conn::plain(stream, address));
        }
        // What was sent is taken first, for closing over it would take the answer back. Whether or not that is read.
        let _ = stream.read(&mut [0; UNREAD_BYTES]).await;
        let _ = stream.write_all(SPEAKS_TLS).await;
        let _ = stream.shutdown().await;
        return Err(Refused { why: "plaintext", detail: String::new() });
    }
    let ticket = stream.ticket();
    let accepted = TlsAcceptor::from(Arc::clone(&tls.config)).accept(stream).await;
    let stream = accepted.map_err(|error| Refused { why: "handshake", detail: said(&error) })?;
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().and_then(<[_]>::first);
    let node = shown.and_then(tls::node_of).map(Arc::new);
    let left = |until: u64| Duration::from_millis(until.saturating_sub(wall_ms()));
    let ends = shown.and_then(tls::until_ms).map(|until| Box::pin(tokio::time::sleep(left(until))));
    Ok(Conn { io: Io::Tls(Box::new(stream)), peer: Peer { address, tls: true, node, ticket }, ends })
}

/// Says why a handshake failed, and whose clock may be wrong.
fn said(error: &io::Error) -> String {
    use rustls::CertificateError::{ExpiredContext, NotValidYetContext};
    let found = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match found {
        Some(rustls::Error::InvalidCertificate(ExpiredContext { time, not_after })) => {
            let ago = time.as_secs().saturating_sub(not_after.as_secs());
            format!("the node's certificate expired {ago} s ago by this machine's clock")
        }
        Some(rustls::Error::InvalidCertificate(NotValidYetContext { time, not_before })) => {
            let ahead = not_before.as_secs().saturating_sub(time.as_secs());
            format!("the node's certificate begins in {ahead} s by this machine's clock: one of the clocks is wrong")
        }
        Some(_) | None => error.to_string(),
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.may_go_on(cx)?;
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.may_go_on(cx)?;
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.may_go_on(cx)?;
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
