//! How many nodes attach at once: a fleet that comes back together must leave the engine to others.
//!
//! Between its Hello and its Welcome a node costs the engine a decision, rows and the derivation of what it is owed. So
//! many may be there at once that one batch of the engine is short, and a few times as many wait at the door with their
//! streams open. Whoever comes beyond that is told when to come again, each at a moment of its own, so that those who
//! were sent away do not return together.
//!
//! Invariants:
//! - At most `attaching_max` (in `config`) Hellos are in the engine's hands, so no batch has more.
//! - Nobody waits longer than [`WAIT_MAX`], which is less than an agent waits for its Welcome.
//! - Whoever is sent away is told a moment within [`AGAIN_MAX`].
//!
//! Elsewhere: the agent's side is `session::uplink`; spreading by the size of the fleet is the agent's own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::errors::Refusal;
use crate::metrics::Metrics;

/// Nodes that wait for each of them to be done.
const WAITING_SHARE: usize = 16;
/// Longest wait of one of those.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Nodes that are told to come again within one second: about half of what one core attaches.
const AGAIN_PER_SECOND: u32 = 1_000;
/// The earliest and the latest moment that is told.
const AGAIN_MIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(20);
/// The header that says how many milliseconds later to come again.
pub(super) const RETRY_AFTER: &str = "retry-after-ms";

/// The bounds of one door.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) attaching: usize,
    pub(crate) waiting: usize,
    pub(crate) wait: Duration,
}

impl Bounds {
    /// Returns the bounds of a door behind which `attaching` nodes may be at once.
    pub(crate) fn of(attaching: usize) -> Bounds {
        Bounds { attaching, waiting: attaching * WAITING_SHARE, wait: WAIT_MAX }
    }
}

/// Who may attach now. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    bounds: Bounds,
    attaching: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// The moment that was told last.
    told: Arc<Mutex<Instant>>,
    metrics: Arc<Metrics>,
}

impl Admission {
    pub(crate) fn new(bounds: Bounds, metrics: Arc<Metrics>) -> Admission {
        Admission {
            bounds,
            attaching: Arc::new(Semaphore::new(bounds.attaching)),
            waiting: Arc::new(Semaphore::new(bounds.waiting)),
            told: Arc::new(Mutex::new(Instant::now())),
            metrics,
        }
    }

    /// Lets a node in that has said Hello, now or after a wait; it is attaching until the permit is dropped.
    ///
    /// # Errors
    /// Too many are before it: RESOURCE_EXHAUSTED with the time to come again.
    pub(crate) async fn enter(&self) -> Result<OwnedSemaphorePermit, Status> {
        if let Ok(permit) = Arc::clone(&self.attaching).try_acquire_owned() {
            return Ok(permit);
        }
        let Ok(_place) = self.waiting.try_acquire() else { return Err(self.again()) };
        match timeout(self.bounds.wait, Arc::clone(&self.attaching).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            // Nobody closes it.
            Ok(Err(_)) | Err(_) => Err(self.again()),
        }
    }

    /// Sends one away until a moment that nobody else was told.
    fn again(&self) -> Status {
        self.metrics.inputs_refused.get_or_create(&[("reason", "attach-later")]).inc();
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        *told = (*told + Duration::from_secs(1) / AGAIN_PER_SECOND).clamp(now + AGAIN_MIN, now + AGAIN_MAX);
        let wait_ms = told.saturating_duration_since(now).as_millis();
        drop(told);
        let message = format!("as many nodes attach now as may at once; this one may come again in {wait_ms} ms");
        let refusal = Refusal::new(Code::ResourceExhausted, "attach-later", message, "an agent does so by itself");
        let mut status = Status::from(refusal);
        if let Ok(value) = MetadataValue::try_from(wait_ms.to_string()) {
            status.metadata_mut().insert(RETRY_AFTER, value);
        }
        status
    }
}

#[cfg(test)]
mod tests;
