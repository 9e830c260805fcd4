//! One place of a pool, which is free again when it is dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::places::{Parked, Reserved, Turn};
use super::pool_key::PoolKey;
use super::store::ReusePool;
use super::wait_queue::WaiterId;
use crate::lifecycle::lease::LeaseState;
use crate::upstream::{ParkedConnection, ProvenConnection};

/// The time after which a parked connection has to be proven before it is used. Load balancers of the large clouds drop
/// silent connections after 350 s, without a word to either side.
const SILENT_MAX: Duration = Duration::from_mins(4);

/// The right to have one connection of a pool. Dropping it passes the place on, with the parked connection in it.
pub(in crate::cluster) struct Place {
    pool: Arc<ReusePool>,
    number: u64,
    lease: Arc<LeaseState>,
    parked: Option<Parked<ParkedConnection>>,
}

/// A client that waits for its turn. Dropping it passes the turn on.
struct Waiting {
    pool: Arc<ReusePool>,
    id: WaiterId,
    wake: Arc<Notify>,
}

/// A parked connection that was taken and may be used.
pub(in crate::cluster) struct Taken {
    pub(in crate::cluster) connection: ProvenConnection,
    /// When it was parked.
    pub(in crate::cluster) since: Instant,
    /// Whether it has to be proven before it is used.
    pub(in crate::cluster) is_suspect: bool,
}

impl Place {
    /// Reserves a place for a client of `caller`. Waits in turn, for at most `wait_timeout`; `None` if that expires.
    /// Also returns whether it had to wait. Cancel safe: the turn of a dropped future is passed on.
    pub(in crate::cluster) async fn reserve(pool: &Arc<ReusePool>, key: &PoolKey, caller: u64) -> Option<(Self, bool)> {
        // The lock must not be held while a connection is closed.
        let reserved = pool.locked().reserve(key, caller);
        match reserved {
            Reserved::Turn { turn, evicted } => {
                evicted.into_iter().for_each(ParkedConnection::close);
                Some((Self::new(pool, turn), false))
            }
            Reserved::Wait { id, wake } => {
                let waiting = Waiting { pool: Arc::clone(pool), id, wake };
                let turn = timeout(pool.config().wait_timeout, waiting.turn()).await.ok()?;
                Some((Self::new(pool, turn), true))
            }
        }
    }

    fn new(pool: &Arc<ReusePool>, Turn { place, lease, parked }: Turn<ParkedConnection>) -> Self {
        Self { pool: Arc::clone(pool), number: place, lease, parked }
    }

    /// Takes a parked connection with this key: the one in the place, or else another one, which gives up its own
    /// place. Closes those that no client may use. Must be called on the worker that will use it.
    pub(in crate::cluster) fn take(&mut self, key: &PoolKey) -> Option<Taken> {
        loop {
            let parked = match self.parked.take() {
                Some(parked) => parked,
                None => self.pool.locked().take(key)?,
            };
            let since = parked.since;
            let is_suspect = since.elapsed() > SILENT_MAX || self.pool.locked().is_suspect(&parked);
            if !self.pool.is_usable(&parked.connection) {
                parked.connection.close();
            } else if let Ok(connection) = parked.connection.register() {
                return Some(Taken { connection, since, is_suspect });
            }
        }
    }

    /// Puts a connection into the place, to be passed on with it. Closes it if no other client may use it.
    pub(super) fn put(&mut self, connection: ProvenConnection, key: &PoolKey) {
        self.parked = self.pool.prepare(connection, key);
    }

    pub(super) fn lease(&self) -> &Arc<LeaseState> {
        &self.lease
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let useless = self.pool.locked().free(self.number, self.parked.take());
        useless.into_iter().for_each(ParkedConnection::close);
    }
}

impl Waiting {
    async fn turn(&self) -> Turn<ParkedConnection> {
        loop {
            let turn = self.pool.locked().claim(self.id);
            match turn {
                Some(turn) => return turn,
                None => self.wake.notified().await,
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let useless = self.pool.locked().give_up(self.id);
        useless.into_iter().for_each(ParkedConnection::close);
    }
}
