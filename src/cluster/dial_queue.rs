//! The order in which connections to one member are made, so that a storm of clients does not make all of them too
//! slow.
//!
//! A TLS handshake takes processor time on both sides. If hundreds of them share a few cores, all of them reach
//! `connect_timeout`; one after the other, each takes milliseconds.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::upstream::ConnectError;

/// Connections that are made at the same time. A handshake with a distant server mostly waits for the network.
const DIALS_MAX: usize = 32;

/// Makes connections wait for their turn, first come, first served.
pub(super) struct DialQueue {
    turns: Semaphore,
    failure: Mutex<Option<(Instant, Arc<ConnectError>)>>,
}

impl Default for DialQueue {
    fn default() -> Self {
        Self { turns: Semaphore::new(DIALS_MAX), failure: Mutex::new(None) }
    }
}

impl DialQueue {
    /// Waits for a turn, which ends when the permit is dropped. Time limits begin after it.
    ///
    /// Returns the failure of another attempt that ended while this one waited, if no attempt has succeeded since.
    /// While a server does not respond, each turn takes `connect_timeout`, and a client must not wait for several of
    /// them. Cancel safe.
    pub(super) async fn turn(&self) -> Result<Option<SemaphorePermit<'_>>, Arc<ConnectError>> {
        if let Ok(permit) = self.turns.try_acquire() {
            return Ok(Some(permit));
        }
        let arrived = Instant::now();
        // The semaphore is never closed.
        let permit = self.turns.acquire().await.ok();
        match &*self.locked() {
            Some((failed, error)) if *failed >= arrived => Err(Arc::clone(error)),
            _ => Ok(permit),
        }
    }

    /// Records the result of an attempt.
    pub(super) fn record(&self, failure: Option<&Arc<ConnectError>>) {
        *self.locked() = failure.map(|error| (Instant::now(), Arc::clone(error)));
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Arc<ConnectError>)>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
