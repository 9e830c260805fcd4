//! What two clients must have in common to use the same upstream connection.

use std::sync::Arc;

/// What two clients of a pool must have in common to use the same upstream connection. The member, the credential and
/// so the MongoDB user are those of the pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The bytes of the element `client` of the client's hello: mongod accepts it once on a connection, and shows it in
    /// its log. Empty if the hello has none.
    pub client: Arc<[u8]>,
    /// Whether the hello has `loadBalanced: true`, which changes how mongos treats the connection.
    pub load_balanced: bool,
}
