//! The store of one pool, shared by all workers: the places, their lock, and the checks of parked connections.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::places::{Parked, Places, parked_max};
use super::pool_key::PoolKey;
use crate::config::{PoolConfig, PoolMode};
use crate::lifecycle::descriptors;
use crate::lifecycle::renewal::RenewalWatch;
use crate::upstream::{ParkedConnection, ProvenConnection};

/// Parked connections that a sweep looks at before it lets clients have the lock. One costs a system call.
const SWEEP_BATCH: usize = 64;

/// The upstream connections to one member, with one credential, that clients use one after the other.
pub struct ReusePool {
    config: PoolConfig,
    /// Whether a connection without a user is of no use: the gateway authenticates.
    needs_user: bool,
    renewal: RenewalWatch,
    /// Locked for a few assignments, or a few system calls that do not block.
    places: Mutex<Places<ParkedConnection>>,
}

/// Keeps the pool open. When the last one is dropped, all parked connections are closed, and so are those that clients
/// give back afterwards. A member that leaves and comes back soon may have two for a moment.
pub(in crate::cluster) struct Keeper(Arc<ReusePool>);

/// The numbers of one pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Connections without a client.
    pub idle: usize,
    /// Connections that a client has, or that are being made for one.
    pub in_use: usize,
    /// Clients that wait for their turn.
    pub waiting: usize,
}

impl ReusePool {
    /// The pool of `config`; `None` if that is off. `needs_user` says whether the gateway authenticates connections.
    pub(in crate::cluster) fn new(config: PoolConfig, needs_user: bool, renewal: RenewalWatch) -> Option<Arc<Self>> {
        // A client keeps its connection for its whole session: asking for it would be in vain.
        let recalls = match config.mode {
            PoolMode::Off => return None,
            PoolMode::Session => false,
            PoolMode::Request => true,
        };
        let places = Mutex::new(Places::new(config.max_connections, parked_max(descriptors::limit()), recalls));
        Some(Arc::new(Self { config, needs_user, renewal, places }))
    }

    /// Its configuration.
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// The current numbers.
    pub fn counts(&self) -> PoolCounts {
        let (idle, in_use, waiting) = self.locked().counts();
        PoolCounts { idle, in_use, waiting }
    }

    /// The number of connections that may still be made.
    pub(in crate::cluster) fn room(&self) -> usize {
        let (idle, in_use, _) = self.locked().counts();
        self.config.max_connections.saturating_sub(idle + in_use)
    }

    /// Prepares a connection that its client no longer uses to be parked. Closes it if no other client may use it.
    pub(super) fn prepare(&self, connection: ProvenConnection, key: &PoolKey) -> Option<Parked<ParkedConnection>> {
        let connection = ParkedConnection::new(connection).ok()?;
        if !self.is_usable(&connection) {
            connection.close();
            return None;
        }
        Some(Parked { connection, key: key.clone(), since: Instant::now() })
    }

    /// Whether a client may take this connection.
    ///
    /// A replaced certificate set is good until a newer one has carried a connection: mongod may reject the new one,
    /// and that must not end connections that work.
    pub(super) fn is_usable(&self, connection: &ParkedConnection) -> bool {
        let is_current = connection.generation() >= self.renewal.generation();
        is_current && connection.is_silent() && (connection.has_user() || !self.needs_user)
    }

    /// The server has not answered in time: every connection that is parked now has to be proven before it is used.
    pub(in crate::cluster) fn suspect(&self) {
        self.locked().suspect(Instant::now());
    }

    /// A connection that was parked at `since` did not answer. Closes those that probably do not answer either, so that
    /// a client does not try them one after the other.
    pub(in crate::cluster) fn close_untrusted(&self, since: Instant) {
        let untrusted = self.locked().take_untrusted(since);
        close(untrusted);
    }

    /// Closes parked connections that no client may use, or that have been parked for `idle_timeout`, and asks clients
    /// that have been idle for that long for theirs. Returns how many connections mongod has closed.
    pub(in crate::cluster) fn sweep(&self) -> usize {
        let expired = Instant::now().checked_sub(self.config.idle_timeout);
        let expired = {
            let mut places = self.locked();
            if self.config.mode == PoolMode::Request {
                places.recall_idle(self.config.idle_timeout);
                places.recall_for_waiters();
            }
            expired.map(|oldest| places.take_expired(oldest)).unwrap_or_default()
        };
        close(expired);
        let (mut lost, mut from) = (0, 0);
        loop {
            let (unusable, parked) = {
                let mut places = self.locked();
                let unusable = places.take_unusable(from, SWEEP_BATCH, |parked| self.is_usable(&parked.connection));
                (unusable, places.counts().0)
            };
            from += SWEEP_BATCH.saturating_sub(unusable.len());
            lost += unusable.iter().filter(|parked| !parked.connection.is_silent()).count();
            close(unusable);
            if from >= parked {
                return lost;
            }
        }
    }

    /// Lets clients give their connections back while the keeper exists.
    pub(in crate::cluster) fn keep(self: &Arc<Self>) -> Keeper {
        self.locked().add_keeper();
        Keeper(Arc::clone(self))
    }

    /// Whether bytes that no client may read have arrived on a parked connection.
    #[cfg(test)]
    pub(in crate::cluster) fn has_noise(&self) -> bool {
        let mut has_noise = false;
        let unusable = self.locked().take_unusable(0, usize::MAX, |parked| {
            has_noise |= !parked.connection.is_silent();
            true
        });
        assert!(unusable.is_empty());
        has_noise
    }

    /// The places are consistent even after a panic.
    pub(super) fn locked(&self) -> MutexGuard<'_, Places<ParkedConnection>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let parked = self.0.locked().remove_keeper();
        close(parked);
    }
}

fn close(parked: impl IntoIterator<Item = Parked<ParkedConnection>>) {
    for parked in parked {
        parked.connection.close();
    }
}
