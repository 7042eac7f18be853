//! The control stream to the scheduler: dialled, held, and dialled again.
//!
//! [`Uplink::next`] is a state machine of its own: wait, connect, attach, read. The driver polls it beside everything
//! else, so a message goes from the socket to the agent's machine without another task between.
//!
//! Invariants:
//! - `Connected` comes before the stream is opened, and what the driver queues then (the Hello) is its first message.
//! - After `Closed` nothing of that stream comes any more.
//! - Pauses between dials grow, with jitter, to 1 s on loopback and 30 s elsewhere; a Welcome resets them.
//! - A large fleet comes back over some seconds: each node adds a random part of a span that grows with the heartbeat
//!   it was told, so that the scheduler answers others meanwhile.
//! - `next` may be cancelled at any point and loses nothing.
//!
//! Elsewhere: the token is `token`; what is said is `driver`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use gangsaw_core::liveness::{HEARTBEATS_PER_TTL, LEASE_TTL};
use gangsaw_proto::node::v1::node_service_client::NodeServiceClient;
use gangsaw_proto::node::v1::{AttachRequest, AttachResponse};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tracing::{debug, warn};

use super::identity::Current;
use super::token::{self, Server};
use crate::trust::{self, LastWord};

/// Messages that wait for the network. Heartbeats, one report and progress fit many times.
pub(crate) const OUTBOX_MAX: usize = 256;
/// Largest message either way; a report of 1,000 facts stays far below it.
const MESSAGE_MAX_BYTES: usize = 16 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the Hello to the Welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(15);
/// A peer that answers no ping for the second of these is gone.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// First pause and longest pause, on loopback and elsewhere.
const PAUSE_LOOPBACK: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));
const PAUSE_REMOTE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// A fleet dials again over this part of what its heartbeat is longer than a small fleet's: some 1,200 nodes a second.
const SPREAD_SHARE: u32 = 3;
/// And never over more: what is lost while a node is away grows, too.
const SPREAD_MAX: Duration = Duration::from_secs(30);
/// The header in which a scheduler that has no room says how many milliseconds later to come again, and the longest
/// that is believed.
const RETRY_AFTER: &str = "retry-after-ms";
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// What happened on the uplink.
pub(crate) enum UplinkEvent {
    /// A connection is there. Say Hello on this channel now.
    Connected(mpsc::Sender<AttachRequest>),
    /// The scheduler said something.
    Message(Box<AttachResponse>),
    /// The stream is gone.
    Closed,
}

enum State {
    Waiting(Instant),
    Connecting(BoxFuture<'static, Result<Channel, String>>),
    Attaching(BoxFuture<'static, Result<Streaming<AttachResponse>, Status>>),
    Open(Box<Streaming<AttachResponse>>),
}

/// How a scheduler is reached, and as whom.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) server: Server,
    pub(crate) identity: Option<Current>,
    pub(crate) last_word: LastWord,
}

/// The stream, or the way to it.
pub(crate) struct Uplink {
    /// The scheduler that is dialled now.
    server: Server,
    /// The next ones, if several schedulers share one cluster: one leads, and the others send us on.
    others: VecDeque<Server>,
    /// Dials that failed since all of them were tried.
    failed: usize,
    token: Option<String>,
    /// The certificate that is shown; without one the token speaks.
    identity: Option<Current>,
    /// What the other side said last of our certificate.
    last_word: LastWord,
    state: State,
    pause: Duration,
    /// The span over which the fleet dials again.
    spread: Duration,
    /// When the Welcome must be there.
    welcome_by: Option<Instant>,
    /// The last failure that was logged as a warning, so that the same one is not repeated for ever.
    warned: String,
}

impl Uplink {
    /// Dials `server` at the first call of `next`. `token` replaces the credentials file.
    pub(crate) fn new(server: Server, token: Option<String>) -> Uplink {
        let pause = pauses(&server).0;
        let state = State::Waiting(Instant::now());
        Uplink {
            server,
            others: VecDeque::new(),
            failed: 0,
            token,
            identity: None,
            last_word: LastWord::default(),
            state,
            pause,
            spread: Duration::ZERO,
            welcome_by: None,
            warned: String::new(),
        }
    }

    /// Dials these, too, each after the one before it failed.
    pub(crate) fn or(mut self, others: Vec<Server>) -> Uplink {
        self.others = others.into();
        self
    }

    /// Shows a certificate at every dial, and sends no token.
    pub(crate) fn showing(self, identity: Option<Current>) -> Uplink {
        Uplink { identity, ..self }
    }

    /// How the scheduler is reached, and as whom.
    pub(crate) fn way(&self) -> Way {
        Way { server: self.server.clone(), identity: self.identity.clone(), last_word: self.last_word.clone() }
    }

    /// The header that every call carries, if there is a token.
    pub(crate) fn authorization(&self) -> Option<MetadataValue<tonic::metadata::Ascii>> {
        if self.identity.is_some() {
            return None;
        }
        authorization(self.token.as_deref(), &self.server)
    }

    /// The scheduler took the Hello: the next failure begins with short pauses again. `heartbeat` tells how large the
    /// fleet is, for it grows with it.
    pub(crate) fn welcomed(&mut self, heartbeat: Duration) {
        self.spread = spread(heartbeat);
        self.pause = pauses(&self.server).0;
        self.failed = 0;
        self.welcome_by = None;
        self.warned.clear();
    }

    /// Drops the stream; the next `next` dials again after a pause.
    pub(crate) fn hang_up(&mut self) {
        self.fail("hung up");
    }

    /// Drops the stream of a scheduler that must not be served, and says why.
    pub(crate) fn refuse(&mut self, why: &str) {
        self.fail(why);
    }

    /// Returns the next thing that happens.
    pub(crate) async fn next(&mut self) -> UplinkEvent {
        loop {
            let welcome_by = self.welcome_by;
            match &mut self.state {
                State::Waiting(until) => {
                    sleep_until(*until).await;
                    self.state = State::Connecting(Box::pin(connect(self.way())));
                }
                State::Connecting(connecting) => match connecting.await {
                    Ok(channel) => return UplinkEvent::Connected(self.attach(channel)),
                    Err(error) => self.fail(&error),
                },
                State::Attaching(attaching) => match before(welcome_by, attaching).await {
                    Some(Ok(stream)) => self.state = State::Open(Box::new(stream)),
                    Some(Err(status)) => return self.refused(&status),
                    None => return self.closed("no welcome in time"),
                },
                State::Open(stream) => match before(welcome_by, stream.message()).await {
                    Some(Ok(Some(message))) => return UplinkEvent::Message(Box::new(message)),
                    Some(Ok(None)) => return self.closed("the scheduler closed the stream"),
                    Some(Err(status)) => return self.closed(&said(&status)),
                    None => return self.closed("no welcome in time"),
                },
            }
        }
    }

    fn attach(&mut self, channel: Channel) -> mpsc::Sender<AttachRequest> {
        let (sender, receiver) = mpsc::channel(OUTBOX_MAX);
        let mut request = Request::new(ReceiverStream::new(receiver));
        if let Some(value) = self.authorization() {
            request.metadata_mut().insert("authorization", value);
        }
        let mut client = NodeServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_MAX_BYTES)
            .max_encoding_message_size(MESSAGE_MAX_BYTES);
        self.welcome_by = Some(Instant::now() + WELCOME_TIMEOUT);
        self.state = State::Attaching(Box::pin(async move {
            let response = client.attach(request).await?;
            Ok(response.into_inner())
        }));
        sender
    }

    fn closed(&mut self, why: &str) -> UplinkEvent {
        self.fail(why);
        UplinkEvent::Closed
    }

    /// The scheduler said no. If it said when to come again, it is asked then and not before: its time replaces ours,
    /// and is no failure that makes pauses grow.
    fn refused(&mut self, status: &Status) -> UplinkEvent {
        let Some(after) = retry_after(status) else { return self.closed(&said(status)) };
        debug!(server = %self.server.url(), ms = after.as_millis(), "the scheduler asks us to come again later");
        self.welcome_by = None;
        self.state = State::Waiting(Instant::now() + after);
        UplinkEvent::Closed
    }

    /// Goes back to waiting.
    fn fail(&mut self, why: &str) {
        let last_word = self.last_word.take();
        let why = last_word.as_deref().unwrap_or(why);
        if self.warned == why {
            debug!(server = %self.server.url(), %why, "no session with the scheduler");
        } else {
            warn!(server = %self.server.url(), %why, "no session with the scheduler");
            why.clone_into(&mut self.warned);
        }
        self.welcome_by = None;
        let pause = jitter(self.pause) + self.spread.mul_f64(random());
        self.state = State::Waiting(Instant::now() + pause);
        self.failed += 1;
        if self.failed > self.others.len() {
            // All of them were tried: only then is the next round further away.
            self.failed = 0;
            self.pause = (self.pause * 2).min(pauses(&self.server).1);
        }
        if let Some(next) = self.others.pop_front() {
            self.others.push_back(std::mem::replace(&mut self.server, next));
        }
    }
}

/// Runs `work`, but not past `deadline`.
async fn before<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        None => Some(work.await),
        Some(deadline) => timeout(deadline.saturating_duration_since(Instant::now()), work).await.ok(),
    }
}

/// Opens one connection to a scheduler.
pub(crate) async fn connect(way: Way) -> Result<Channel, String> {
    let Way { server, identity, last_word } = way;
    let endpoint = Endpoint::from_shared(server.url())
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    if !server.tls {
        return endpoint.connect().await.map_err(|error| format!("cannot connect: {}", innermost(&error)));
    }
    let config = match identity {
        Some(identity) => Arc::clone(&identity.borrow().config),
        None => trust::stored_ca(token::credentials().as_deref(), &server.names())
            .and_then(|ca| trust::config(&ca))
            .map_err(|error| error.to_string())?,
    };
    let dialled = trust::channel(&endpoint, (&server.host, server.port), config, &last_word).await;
    dialled.map_err(|error| format!("cannot connect: {error}"))
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn said(status: &Status) -> String {
    if status.code() == Code::Unauthenticated {
        return format!("the scheduler does not know our token ({}): set GANGSAW_TOKEN", status.message());
    }
    format!("{:?}: {}", status.code(), status.message())
}

/// Returns when a scheduler that has no room now wants to be asked again.
fn retry_after(status: &Status) -> Option<Duration> {
    let value = status.metadata().get(RETRY_AFTER).filter(|_| status.code() == Code::ResourceExhausted)?;
    let ms: u64 = value.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(ms).min(RETRY_AFTER_MAX))
}

fn authorization(given: Option<&str>, server: &Server) -> Option<MetadataValue<tonic::metadata::Ascii>> {
    let token = token::find(given, server)?;
    let mut value: MetadataValue<tonic::metadata::Ascii> = format!("Bearer {token}").parse().ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn pauses(server: &Server) -> (Duration, Duration) {
    if server.is_loopback() { PAUSE_LOOPBACK } else { PAUSE_REMOTE }
}

/// Between half of `pause` and all of it, so that a fleet does not come back in step.
fn jitter(pause: Duration) -> Duration {
    pause / 2 + (pause / 2).mul_f64(random())
}

/// The span over which a fleet with this heartbeat dials again: nothing for a small one, 8 s for ten thousand nodes.
fn spread(heartbeat: Duration) -> Duration {
    let small = Duration::from_millis(LEASE_TTL.0 / HEARTBEATS_PER_TTL);
    (heartbeat.saturating_sub(small) / SPREAD_SHARE).min(SPREAD_MAX)
}

/// A number from 0 to 1. Without randomness there is only no jitter.
fn random() -> f64 {
    let mut bytes = [0_u8; 2];
    let _ = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::NONBLOCK);
    f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    //! Pauses only; streams are tested against a scheduler.

    use super::*;

    #[tokio::test]
    async fn pauses_grow_to_a_second_on_loopback_and_a_welcome_resets_them() {
        let server = Server { host: "127.0.0.1".to_owned(), port: 1, tls: false };
        let mut uplink = Uplink::new(server, Some("t".to_owned()));
        for _ in 0..10 {
            uplink.hang_up();
        }
        assert_eq!(uplink.pause, PAUSE_LOOPBACK.1);
        let State::Waiting(until) = &uplink.state else { panic!("not waiting") };
        assert!(*until <= Instant::now() + PAUSE_LOOPBACK.1);
        uplink.welcomed(Duration::from_secs(5));
        assert_eq!((uplink.pause, uplink.spread), (PAUSE_LOOPBACK.0, Duration::ZERO));
        assert!(jitter(Duration::from_secs(2)) >= Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_large_fleet_dials_again_over_a_span_that_its_heartbeat_tells() {
        let server = Server { host: "127.0.0.1".to_owned(), port: 1, tls: false };
        let mut uplink = Uplink::new(server, Some("t".to_owned()));
        // The heartbeat of ten thousand nodes.
        uplink.welcomed(Duration::from_millis(gangsaw_core::liveness::lease_ttl(10_000).0 / HEARTBEATS_PER_TTL));
        let begin = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..200 {
            uplink.hang_up();
            let State::Waiting(until) = &uplink.state else { panic!("not waiting") };
            waits.push(until.saturating_duration_since(begin));
        }
        let within = |from: u64, to: u64| {
            let (from, to) = (Duration::from_millis(from), Duration::from_millis(to));
            waits.iter().filter(|wait| (from..to).contains(*wait)).count()
        };
        assert!(within(0, 4_600) > 50 && within(4_600, 9_500) > 50, "{waits:?}");
        assert_eq!(within(0, 9_500), 200);
    }

    #[tokio::test]
    async fn a_scheduler_without_room_is_asked_again_when_it_said() {
        let server = Server { host: "127.0.0.1".to_owned(), port: 1, tls: false };
        let mut uplink = Uplink::new(server, Some("t".to_owned()));
        uplink.welcome_by = Some(Instant::now());
        let mut status = Status::resource_exhausted("as many as may");
        let wait = |uplink: &Uplink| match &uplink.state {
            State::Waiting(until) => until.saturating_duration_since(Instant::now()),
            State::Connecting(_) | State::Attaching(_) | State::Open(_) => panic!("not waiting"),
        };
        for (said, from, to) in [("7000", 6_900, 7_000), ("99999999", 59_900, 60_000)] {
            status.metadata_mut().insert(RETRY_AFTER, MetadataValue::from_static(said));
            assert!(matches!(uplink.refused(&status), UplinkEvent::Closed));
            assert!((from..=to).contains(&wait(&uplink).as_millis()), "{:?}", wait(&uplink));
            assert_eq!((uplink.pause, uplink.welcome_by), (PAUSE_LOOPBACK.0, None), "no failure of ours");
        }
        status.metadata_mut().remove(RETRY_AFTER);
        assert!(matches!(uplink.refused(&status), UplinkEvent::Closed));
        assert!(wait(&uplink) <= PAUSE_LOOPBACK.0, "without a time the own pause counts");
        assert_eq!(uplink.pause, 2 * PAUSE_LOOPBACK.0);
    }

    #[tokio::test]
    async fn every_scheduler_is_dialled_in_turn_and_the_pause_grows_once_a_round() {
        let server = |port| Server { host: "127.0.0.1".to_owned(), port, tls: false };
        let mut uplink = Uplink::new(server(1), Some("t".to_owned())).or(vec![server(2), server(3)]);
        let mut dialled = Vec::new();
        for _ in 0..3 {
            dialled.push(uplink.server.port);
            assert_eq!(uplink.pause, PAUSE_LOOPBACK.0);
            uplink.hang_up();
        }
        dialled.push(uplink.server.port);
        assert_eq!((dialled.as_slice(), uplink.pause), ([1, 2, 3, 1].as_slice(), 2 * PAUSE_LOOPBACK.0));
    }
}
