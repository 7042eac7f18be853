//! Places at the port: how many connections there may be, and which one goes when there are too many.
//!
//! A connection has *proved* itself once a request on it was admitted by the door. Until then it is a stranger: it has
//! ten seconds, and when there are too many strangers the oldest goes, so that somebody who opens connections and says
//! nothing costs himself and not those who come after him. Proved connections are counted too, and a quarter of all
//! places is always left for other addresses than the busiest one.
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
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How long a connection may take to its first admitted request, a TLS handshake included.
pub(crate) const PROOF_WAIT: Duration = Duration::from_secs(10);
/// Descriptors that are kept for the store, logs and copies.
const DESCRIPTORS_KEPT: usize = 256;
/// Connections at most, whatever the descriptors allow: ten thousand agents and their log streams fit three times.
const CONNECTIONS_MAX: usize = 65_536;
/// Strangers of one address.
const STRANGERS_OF_ONE_MAX: usize = 256;
/// Strangers of all addresses.
const STRANGERS_MAX: usize = 1_024;

/// How many places there are.
#[derive(Clone, Copy, Debug)]
struct Limits {
    all: usize,
    of_one: usize,
    strangers: usize,
    strangers_of_one: usize,
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
            strangers: STRANGERS_MAX.min(all / 2),
            strangers_of_one: STRANGERS_OF_ONE_MAX.min(all / 4),
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
    addresses: BTreeMap<IpAddr, Held>,
}

#[derive(Debug)]
struct Entry {
    from: IpAddr,
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
    fn enter(&mut self, from: IpAddr) -> Result<(u64, CancellationToken), &'static str> {
        let limits = self.limits;
        let held = self.addresses.entry(from).or_default();
        let (of_one, own) = (held.all >= limits.of_one, held.strangers.first().copied());
        if of_one || held.strangers.len() >= limits.strangers_of_one {
            match own {
                Some(oldest) => self.turn_out(oldest),
                None => return Err("too-many-of-one-address"),
            }
        }
        if self.all.len() >= limits.all || self.strangers.len() >= limits.strangers {
            match self.strangers.first().copied() {
                Some(oldest) => self.turn_out(oldest),
                None => {
                    self.forget_empty(from);
                    return Err("too-many-connections");
                }
            }
        }
        let (number, leave) = (self.next, CancellationToken::new());
        self.next += 1;
        self.all.insert(number, Entry { from, leave: leave.clone() });
        self.strangers.insert(number);
        let held = self.addresses.entry(from).or_default();
        held.all += 1;
        held.strangers.insert(number);
        Ok((number, leave))
    }

    fn turn_out(&mut self, number: u64) {
        if let Some(entry) = self.leave(number) {
            entry.leave.cancel();
        }
    }

    fn leave(&mut self, number: u64) -> Option<Entry> {
        let entry = self.all.remove(&number)?;
        self.strangers.remove(&number);
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

    fn proved(&mut self, number: u64) {
        let Some(entry) = self.all.get(&number) else { return };
        self.strangers.remove(&number);
        if let Some(held) = self.addresses.get_mut(&entry.from) {
            held.strangers.remove(&number);
        }
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
        Places(Arc::new(Mutex::new(Book { limits, next: 1, all, strangers, addresses })))
    }

    /// Gives a connection a place. An error says which limit is in the way; the connection is closed.
    pub(crate) fn enter(&self, stream: TcpStream, address: SocketAddr) -> Result<Placed, &'static str> {
        let mut book = locked(&self.0);
        let ((number, leave), wait) = (book.enter(whose(address.ip()))?, book.limits.wait);
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
    /// Notes that a request on this connection was admitted.
    pub(crate) fn proved(&self) {
        if !self.0.proved.swap(true, Ordering::Relaxed) {
            locked(&self.0.book).proved(self.0.number);
        }
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
