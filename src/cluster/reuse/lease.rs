//! A client's right to use one connection of a pool.

use std::sync::Arc;

use super::place::Place;
use super::pool_key::PoolKey;
use crate::lifecycle::lease::LeaseState;
use crate::upstream::ProvenConnection;

/// A connection for a client, and the right to use it.
pub struct Leased {
    /// The connection. mongod has answered a hello with the key's `client` on it.
    pub connection: ProvenConnection,
    /// The right to use it.
    pub lease: Lease,
    /// Whether the client has waited for its turn.
    pub has_waited: bool,
}

/// The right to use one connection of a pool. Dropping it frees the place of the connection, which the owner closes.
pub struct Lease {
    place: Place,
    key: PoolKey,
}

impl Lease {
    pub(in crate::cluster) fn new(place: Place, key: PoolKey) -> Self {
        Self { place, key }
    }

    /// Gives the connection back, for the next client with the same key. The connection must be at a boundary: no reply
    /// is owed and no request is incomplete.
    ///
    /// It is closed instead if anything waits to be read from it, if its certificate set was replaced, and after the
    /// drain has begun or the member has left.
    pub fn give_back(mut self, connection: ProvenConnection) {
        self.place.put(connection, &self.key);
    }

    /// Resolves when the client is idle and another client needs the connection, or the client has been idle for
    /// `idle_timeout`. Never resolves in the mode `session`. Cancel safe.
    pub fn recalled(&self) -> impl Future<Output = ()> + Send + use<> {
        let state = self.handle();
        async move { state.recalled().await }
    }

    /// The state of the lease, for the relay, which sets whether its client is idle.
    pub fn handle(&self) -> Arc<LeaseState> {
        Arc::clone(self.place.lease())
    }
}
