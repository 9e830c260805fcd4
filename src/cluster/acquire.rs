//! A connection of a pool for one client: a parked one, a new one, or one in turn.

use std::sync::Arc;

use tokio::time::{Instant, timeout};

use super::dial_queue::DialError;
use super::pool::{MemberPool, PROOF_TIMEOUT};
use super::reuse::{Lease, Leased, Place, PoolKey, ReusePool};
use crate::upstream::{ClientEndpoints, IntroductionError, ProvenConnection};

/// Why a client has no connection of the pool.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AcquireError {
    /// None could be made.
    #[error("{0}")]
    Connect(DialError),
    /// mongod rejected the client's hello on a new connection.
    #[error("mongod rejected the client's hello on a new connection")]
    Rejected,
    /// All connections were in use for `wait_timeout`.
    #[error("all connections of the pool were in use until wait_timeout expired")]
    TimedOut,
}

impl MemberPool {
    /// Returns a connection of `reuse`, the pool of this member and credential, for a client of `caller`.
    ///
    /// It is the parked connection with the same key that was used last. If there is none, a new one is made, and
    /// `hello`, a complete message, is replayed on it; an empty one is not. If `max_connections` are open, a parked
    /// connection with another key is closed for it. If all are in use, the client waits in turn, for at most
    /// `wait_timeout`: callers take turns, whatever the number of their clients. `caller` has no other meaning.
    ///
    /// Cancel safe: the turn of a dropped future is passed on, and a connection that was being made is closed.
    pub async fn acquire(
        &self,
        reuse: &Arc<ReusePool>,
        key: &PoolKey,
        hello: &[u8],
        caller: u64,
    ) -> Result<Leased, AcquireError> {
        let (arrived, metrics) = (Instant::now(), &self.attempts.metrics);
        let Some((mut place, has_waited)) = Place::reserve(reuse, key, caller).await else {
            metrics.record_pool_wait(arrived.elapsed());
            return Err(AcquireError::TimedOut);
        };
        let reused = self.parked(reuse, &mut place, key).await;
        if reused.is_some() {
            metrics.count_pool_reuse();
        }
        let must_dial = reused.is_none();
        let connection = match reused {
            Some(connection) => connection,
            None => self.introduced(hello, None).await?,
        };
        if has_waited || must_dial {
            metrics.record_pool_wait(arrived.elapsed());
        }
        Ok(Leased { connection, lease: Lease::new(place, key.clone()), has_waited })
    }

    /// A parked connection with this key that works.
    async fn parked(&self, reuse: &ReusePool, place: &mut Place, key: &PoolKey) -> Option<ProvenConnection> {
        loop {
            let mut taken = place.take(key)?;
            if !taken.is_suspect || matches!(timeout(PROOF_TIMEOUT, taken.connection.prove_again()).await, Ok(Ok(()))) {
                return Some(taken.connection);
            }
            reuse.close_untrusted(taken.since);
        }
    }

    /// Returns a connection for one client alone, which never goes to a pool, and whether mongod has taken `hello` on
    /// it: not if that is empty, or rejected. Cancel safe: a connection that was being made is closed.
    /// The server receives `endpoints` as the addresses of the client.
    pub async fn own(
        &self,
        hello: &[u8],
        endpoints: Option<&ClientEndpoints>,
    ) -> Result<(ProvenConnection, bool), AcquireError> {
        if !hello.is_empty() {
            match self.introduced(hello, endpoints).await {
                Ok(connection) => return Ok((connection, true)),
                Err(AcquireError::Rejected) => {}
                Err(error) => return Err(error),
            }
        }
        let connection = self.connect(endpoints).await.map_err(AcquireError::Connect)?;
        Ok((connection, false))
    }

    /// As [`MemberPool::own`], for a client that authenticates itself: the gateway authenticates no user on it.
    pub async fn own_unauthenticated(
        &self,
        hello: &[u8],
        endpoints: Option<&ClientEndpoints>,
    ) -> Result<(ProvenConnection, bool), AcquireError> {
        let dial = async || self.dial_unauthenticated(endpoints).await.map_err(AcquireError::Connect);
        if !hello.is_empty() {
            match self.introduce(dial().await?, hello).await {
                Ok(connection) => return Ok((connection, true)),
                Err(AcquireError::Rejected) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((dial().await?, false))
    }

    /// A connection that no client has used, with `hello` replayed on it.
    async fn introduced(
        &self,
        hello: &[u8],
        endpoints: Option<&ClientEndpoints>,
    ) -> Result<ProvenConnection, AcquireError> {
        let connection = self.connect(endpoints).await.map_err(AcquireError::Connect)?;
        self.introduce(connection, hello).await
    }

    async fn introduce(
        &self,
        mut connection: ProvenConnection,
        hello: &[u8],
    ) -> Result<ProvenConnection, AcquireError> {
        match self.connector.introduce(&mut connection, hello).await {
            Ok(()) => Ok(connection),
            Err(IntroductionError::Rejected) => Err(AcquireError::Rejected),
            Err(IntroductionError::Failed(error)) => Err(AcquireError::Connect(self.record_failure(error))),
        }
    }
}

#[cfg(test)]
mod tests;
