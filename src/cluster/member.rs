//! One mongod or mongos of an upstream.

use std::sync::Arc;

use super::member_health::MemberHealth;
use super::pool::MemberPool;
use super::reuse::PoolCounts;
use crate::config::HostPort;
use crate::lifecycle::feed::Feed;
use crate::topology::KnownHello;

/// One mongod or mongos of an upstream, with the connections to it.
pub struct Member {
    /// Its host and port, as its replica set names it.
    pub address: HostPort,
    /// One for each credential of the upstream, in the order of the credentials. Never empty.
    pub pools: Vec<Arc<MemberPool>>,
    /// Whether the gateway can connect to it. Shared by its pools.
    pub health: Arc<MemberHealth>,
    /// What its monitor last heard of it. Clients are answered from it.
    pub hello: Arc<Feed<KnownHello>>,
    /// The `serviceId` by which load-balanced clients distinguish it from other members. It stays the same until the
    /// member leaves the set.
    pub service_id: [u8; 12],
}

impl Member {
    /// The numbers of its shared connections, of all credentials together; `None` if its upstream has no pool.
    pub fn pool_counts(&self) -> Option<PoolCounts> {
        let mut counts = self.pools.iter().filter_map(|pool| Some(pool.reuse.as_ref()?.counts()));
        let first = counts.next()?;
        Some(counts.fold(first, |sum, other| PoolCounts {
            idle: sum.idle + other.idle,
            in_use: sum.in_use + other.in_use,
            waiting: sum.waiting + other.waiting,
        }))
    }
}
