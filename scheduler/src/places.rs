//! Places at the port: how many connections there may be, and which one goes when there are too many.
//!
//! A connection has *proved* itself once a request on it was admitted by the door. Until then it is a stranger: it has
//! ten seconds, and when there are more strangers than are welcome the oldest goes, so that somebody who opens
//! connections and says nothing costs himself and not those who come after him. But nobody goes within his first two
//! seconds: when thousands of nodes dial at once, what a stranger has sent may not have been looked at yet, and a person
//! among them would lose a connection for nothing. Only at the most strangers that there may ever be the oldest goes
//! whatever his age. Proved connections are counted too: a quarter of all places is always left for other addresses than
//! the busiest one, and some are never a node's, so that however many nodes there are, people are served.
//!
//! Invariants:
//! - A connection that was told to go is not counted any more, and is closed when its task next runs.
//! - Nothing here waits: taking a place, proving oneself and leaving are each a few steps under a leaf lock.
//!
//! Elsewhere: taking connections is `accept`; who a caller is, is `rpc::auth`; limits within a connection are in `http`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How long a connection may take to its first admitted request, a TLS handshake included.
pub(crate) const PROOF_WAIT: Duration = Duration::from_secs(10);
/// Descriptors that are kept for the store, logs and copies.
const DESCRIPTORS_KEPT: usize = 256;
/// Connections at most, whatever the descriptors allow: ten thousand agents and their log streams fit three times.
const CONNECTIONS_MAX: usize = 65_536;
/// Places that no node may keep.
const NOT_FOR_NODES: usize = 256;
/// How long a stranger stays however many come after him: many times what a busy scheduler takes to look at him.
const FAIR_TIME: Duration = Duration::from_secs(2);
/// Strangers of one address that are welcome, and the most that there may be.
const STRANGERS_OF_ONE: Crowd = Crowd { welcome: 256, most: 4_096 };
/// Strangers of all addresses.
const STRANGERS: Crowd = Crowd { welcome: 1_024, most: 8_192 };

/// How many strangers there may be.
#[derive(Clone, Copy, Debug)]
struct Crowd {
    /// Above it, those go that have had their fair time.
    welcome: usize,
    /// Above it, anybody goes.
    most: usize,
}

impl Crowd {
    /// Returns a crowd that leaves room for others among so many places.
    fn within(self, places: usize) -> Crowd {
        Crowd { welcome: self.welcome.min(places), most: self.most.min(places) }
    }
}

/// How many places there are.
#[derive(Clone, Copy, Debug)]
struct Limits {
    all: usize,
    of_one: usize,
    nodes: usize,
    strangers: Crowd,
    strangers_of_one: Crowd,
    fair: Duration,
    wait: Duration,
}

impl Limits {
    /// Returns what this process has descriptors for.
    fn of_this_process() -> Limits {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let descriptors = limit.map_or(CONNECTIONS_MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let all = descriptors.saturating_sub(DESCRIPTORS_KEPT).clamp(16, CONNECTIONS_MAX);
        Limits {
            all,
            of_one: all - all / 4,
            nodes: all - NOT_FOR_NODES.min(all / 8),
            strangers: STRANGERS.within(all / 2),
            strangers_of_one: STRANGERS_OF_ONE.within(all / 4),
            fair: FAIR_TIME,
            wait: PROOF_WAIT,
        }
    }
}

/// Every connection there is.
#[derive(Debug)]
struct Book {
    limits: Limits,
    next: u64,
    /// By number, which is by age.
    all: BTreeMap<u64, Entry>,
    strangers: BTreeSet<u64>,
    /// How many are proved, and a node's.
    nodes: usize,
    addresses: BTreeMap<IpAddr, Held>,
}

#[derive(Debug)]
struct Entry {
    from: IpAddr,
    since: Instant,
    node: bool,
    leave: CancellationToken,
}

/// What one address holds.
#[derive(Debug, Default)]
struct Held {
    all: usize,
    strangers: BTreeSet<u64>,
}

impl Book {
    /// Takes a place for `from`. An error says which limit is in the way.
    fn enter(&mut self, from: IpAddr, now: Instant) -> Result<(u64, CancellationToken), &'static str> {
        let limits = self.limits;
        while let Some(oldest) = self.unwelcome(&self.held(from).strangers, limits.strangers_of_one, now) {
            self.turn_out(oldest);
        }
        if self.held(from).all >= limits.of_one {
            let own = self.held(from).strangers.first().copied();
            self.turn_out(own.ok_or("too-many-of-one-address")?);
        }
        while let Some(oldest) = self.unwelcome(&self.strangers, limits.strangers, now) {
            self.turn_out(oldest);
        }
        if self.all.len() >= limits.all {
            let oldest = self.strangers.first().copied();
            self.turn_out(oldest.ok_or("too-many-connections")?);
        }
        let (number, leave) = (self.next, CancellationToken::new());
        self.next += 1;
        self.all.insert(number, Entry { from, since: now, node: false, leave: leave.clone() });
        self.strangers.insert(number);
        let held = self.addresses.entry(from).or_default();
        held.all += 1;
        held.strangers.insert(number);
        Ok((number, leave))
    }

    fn held(&self, from: IpAddr) -> &Held {
        static NOTHING: Held = Held { all: 0, strangers: BTreeSet::new() };
        self.addresses.get(&from).unwrap_or(&NOTHING)
    }

    /// Returns the oldest of some strangers if he must make room for one more.
    fn unwelcome(&self, strangers: &BTreeSet<u64>, crowd: Crowd, now: Instant) -> Option<u64> {
        let oldest = *strangers.first()?;
        let age = now.saturating_duration_since(self.all.get(&oldest)?.since);
        let many = strangers.len() >= crowd.welcome && age >= self.limits.fair;
        (many || strangers.len() >= crowd.most).then_some(oldest)
    }

    fn turn_out(&mut self, number: u64) {
        if let Some(entry) = self.leave(number) {
            entry.leave.cancel();
        }
    }

    fn leave(&mut self, number: u64) -> Option<Entry> {
        let entry = self.all.remove(&number)?;
        self.strangers.remove(&number);
        self.nodes -= usize::from(entry.node);
        if let Some(held) = self.addresses.get_mut(&entry.from) {
            held.all -= 1;
            held.strangers.remove(&number);
        }
        self.forget_empty(entry.from);
        Some(entry)
    }

    fn forget_empty(&mut self, from: IpAddr) {
        if self.addresses.get(&from).is_some_and(|held| held.all == 0) {
            self.addresses.remove(&from);
        }
    }

    /// Takes a connection from among the strangers. `false`: it is a node's, and as many of theirs are here as may be.
    fn proved(&mut self, number: u64, of_node: bool) -> bool {
        let Some(entry) = self.all.get_mut(&number).filter(|_| self.strangers.contains(&number)) else { return true };
        if of_node && self.nodes >= self.limits.nodes {
            return false;
        }
        entry.node = of_node;
        self.nodes += usize::from(of_node);
        self.strangers.remove(&number);
        if let Some(held) = self.addresses.get_mut(&entry.from) {
            held.strangers.remove(&number);
        }
        true
    }
}

/// The places of one port.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<Mutex<Book>>);

impl Places {
    /// Returns as many places as this process has descriptors for.
    pub(crate) fn of_this_process() -> Places {
        Places::new(Limits::of_this_process())
    }

    fn new(limits: Limits) -> Places {
        let (all, strangers, addresses) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Places(Arc::new(Mutex::new(Book { limits, next: 1, all, strangers, nodes: 0, addresses })))
    }

    /// Gives a connection a place. An error says which limit is in the way; the connection is closed.
    pub(crate) fn enter(&self, stream: TcpStream, address: SocketAddr) -> Result<Placed, &'static str> {
        let mut book = locked(&self.0);
        let ((number, leave), wait) = (book.enter(whose(address.ip()), Instant::now())?, book.limits.wait);
        drop(book);
        let place = Place { book: Arc::clone(&self.0), number, proved: AtomicBool::new(false) };
        let waiting = Waiting { until: Box::pin(tokio::time::sleep(wait)), leave: Box::pin(leave.cancelled_owned()) };
        Ok(Placed { stream, waiting: Some(waiting), ticket: Ticket(Arc::new(place)) })
    }

    /// Returns how many connections there are.
    pub(crate) fn taken(&self) -> usize {
        locked(&self.0).all.len()
    }
}

/// A leaf lock's data is whole after every statement, so a panic elsewhere does not spoil it.
fn locked(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns what counts as one address: one machine has a whole /64 of IPv6.
fn whose(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) if v6.is_loopback() => IpAddr::V6(v6),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[derive(Debug)]
struct Place {
    book: Arc<Mutex<Book>>,
    number: u64,
    proved: AtomicBool,
}

/// A connection's place. Every request of it carries a copy.
#[derive(Clone, Debug)]
pub(crate) struct Ticket(Arc<Place>);

impl Ticket {
    /// Notes that a request on this connection was admitted. `false`: there is no place for one more node.
    pub(crate) fn proved(&self, of_node: bool) -> bool {
        if self.0.proved.load(Ordering::Relaxed) {
            return true;
        }
        let stays = locked(&self.0.book).proved(self.0.number, of_node);
        if stays {
            self.0.proved.store(true, Ordering::Relaxed);
        }
        stays
    }
}

/// What ends a connection that has not proved itself.
struct Waiting {
    until: Pin<Box<Sleep>>,
    leave: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// A connection with a place.
pub(crate) struct Placed {
    stream: TcpStream,
    waiting: Option<Waiting>,
    ticket: Ticket,
}

impl Drop for Placed {
    fn drop(&mut self) {
        // A request that outlives its connection may still hold a ticket.
        locked(&self.ticket.0.book).leave(self.ticket.0.number);
    }
}

impl Placed {
    /// Returns the connection's place, for its requests.
    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket.clone()
    }

    /// Waits for bytes and returns how many there are, leaving them where they are.
    pub(crate) async fn peek(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            self.may_go_on(cx)?;
            self.stream.poll_peek(cx, &mut ReadBuf::new(bytes))
        })
        .await
    }

    /// Fails once a stranger's time is over, or it was told to go. Every way of using a connection asks here, for one
    /// that neither reads nor writes is polled for the other.
    fn may_go_on(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(waiting) = &mut self.waiting else { return Ok(()) };
        if self.ticket.0.proved.load(Ordering::Relaxed) {
            self.waiting = None;
            return Ok(());
        }
        if waiting.until.as_mut().poll(cx).is_ready() || waiting.leave.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody knows whose connection this is"));
        }
        Ok(())
    }
}

impl AsyncRead for Placed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.may_go_on(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.may_go_on(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.may_go_on(cx)?;
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

#[cfg(test)]
mod tests;
