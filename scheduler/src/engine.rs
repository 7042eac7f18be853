//! The engine: the one thread that owns the state and feeds the core.
//!
//! It drains a batch of inputs, decides each, runs placement, appends everything once, and only then performs effects
//! and answers. It is a thread of its own, so that waiting for the disk never holds up the tasks that speak gRPC, and
//! nothing in it polls: it wakes for a message or for the next moment that time alone changes something.
//!
//! Invariants:
//! - No reply, grant or view leaves before the append that it rests on. Reads run between batches and see only what is
//!   durable.
//! - The inbox is bounded: full is refused at once, with a hint.
//! - A panic in a decision refuses that input and changes nothing; a failed append ends the engine.
//!
//! Elsewhere: what inputs mean is `gangsaw_core`; the log is `store`; sessions of nodes are in `session`.

mod desk;
mod phases;
mod refused;
mod session;
mod take;
mod turn;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use gangsaw_core::effect::Reply;
use gangsaw_core::id::NodeId;
use gangsaw_core::input::Request;
use tokio::sync::oneshot;

pub(crate) use desk::View;
pub(crate) use session::{Outbox, Said, TaskProgress};
pub(crate) use watch::Seen;

use crate::clock::boot_ns;
use crate::disk::DiskGuard;
use crate::keyring::Keyring;
use crate::metrics::Metrics;
use crate::rpc::errors::Refusal;
use crate::store::Loaded;
use crate::store::contract::{AppendError, Store};
use crate::wire::view::Volatile;

/// Messages that may wait for the engine: a second of work at full rate.
const INBOX_LIMIT: usize = 16_384;

/// What an input came to.
pub(crate) type Answer = Result<Reply, Refusal>;

/// A look at the state between two batches.
type Read = Box<dyn FnOnce(&mut View<'_>) + Send>;

enum Message {
    Ask { request: Request, answer: oneshot::Sender<Answer>, arrived_ns: u64 },
    Hello(Box<Hello>),
    Node { node: NodeId, session: u64, said: Said },
    Read(Read),
    Stop,
}

/// A node that opens a session.
struct Hello {
    request: Request,
    session: u64,
    out: Outbox,
    volatile: Volatile,
    answer: oneshot::Sender<Result<NodeId, Refusal>>,
}

/// Why the engine ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The log does not take events any more.
    #[error("the log cannot be written")]
    Append(#[source] AppendError),
    /// Tidying the store failed: the disk is not to be trusted.
    #[error("the store cannot be tidied: {0}")]
    Keeper(String),
    /// Folding an event panicked; the log holds it.
    #[error("the engine met a fault of its own: {0}")]
    Panicked(String),
}

/// What an engine starts with.
pub(crate) struct Parts {
    pub(crate) store: Box<dyn Store>,
    pub(crate) loaded: Loaded,
    pub(crate) disk: DiskGuard,
    pub(crate) metrics: Arc<Metrics>,
    /// Where inputs are kept whose decision panicked.
    pub(crate) refused_inputs: PathBuf,
}

/// A cheap, cloneable handle. Holds channels and nothing else.
#[derive(Clone)]
pub(crate) struct Engine {
    inbox: SyncSender<Message>,
    keys: tokio::sync::watch::Receiver<Arc<Keyring>>,
}

impl Engine {
    /// Starts the engine's thread. The receiver yields how it ended.
    pub(crate) fn start(parts: Parts) -> std::io::Result<(Engine, oneshot::Receiver<Result<(), EngineError>>)> {
        Engine::start_with(parts, gangsaw_core::decide::decide)
    }

    fn start_with(
        parts: Parts,
        decide: turn::Decide,
    ) -> std::io::Result<(Engine, oneshot::Receiver<Result<(), EngineError>>)> {
        let (inbox, messages) = sync_channel(INBOX_LIMIT);
        let (ended, end) = oneshot::channel();
        let running = turn::Running::new(parts, decide);
        let keys = running.keys.subscribe();
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            let _ = ended.send(run(running, &messages));
        })?;
        Ok((Engine { inbox, keys }, end))
    }

    /// Feeds one input and returns the answer once it is durable.
    pub(crate) async fn ask(&self, request: Request) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Ask { request, answer, arrived_ns: boot_ns() })?;
        answered.await.map_err(|_| Refusal::stopping())?
    }

    /// Returns the tokens in force. One that was revoked is gone before the revoking call is answered.
    pub(crate) fn keys(&self) -> Arc<Keyring> {
        Arc::clone(&self.keys.borrow())
    }

    /// Opens a node's session, and returns the node's number once its Hello is durable.
    pub(crate) async fn hello(
        &self,
        request: Request,
        session: u64,
        out: Outbox,
        volatile: Volatile,
    ) -> Result<NodeId, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Hello(Box::new(Hello { request, session, out, volatile, answer })))?;
        answered.await.map_err(|_| Refusal::stopping())?
    }

    /// Passes on what a node says in its session.
    pub(crate) fn said(&self, node: NodeId, session: u64, said: Said) -> Result<(), Refusal> {
        self.send(Message::Node { node, session, said })
    }

    /// Runs `read` between two batches and returns what it returns.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut View<'_>) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        let read = move |view: &mut View<'_>| {
            // Whoever asked may have hung up.
            let _ = answer.send(read(view));
        };
        self.send(Message::Read(Box::new(read)))?;
        answered.await.map_err(|_| Refusal::stopping())
    }

    /// Tells the engine to end after what is in its inbox.
    pub(crate) fn stop(&self) {
        // Blocks no longer than the engine takes for what is before it.
        let _ = self.inbox.send(Message::Stop);
    }

    fn send(&self, message: Message) -> Result<(), Refusal> {
        self.inbox.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::busy(),
            TrySendError::Disconnected(_) => Refusal::stopping(),
        })
    }
}

/// Runs turns until told to stop, and makes a panic of `apply` an error that says so.
fn run(mut running: turn::Running, messages: &Receiver<Message>) -> Result<(), EngineError> {
    let turns = std::panic::AssertUnwindSafe(move || {
        while running.turn(messages)? {}
        Ok(())
    });
    match std::panic::catch_unwind(turns) {
        Ok(ended) => ended,
        Err(panic) => Err(EngineError::Panicked(refused::text(panic.as_ref()))),
    }
}

/// Returns an engine on an empty folder.
#[cfg(test)]
pub(crate) fn for_tests(folder: &std::path::Path) -> Engine {
    tests::started(folder)
}

#[cfg(test)]
mod tests;
