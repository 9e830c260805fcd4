//! What the readers of requests and of replies share.

use crate::relay::exchange::InFlight;
use crate::relay::guard::PolicyFilter;
use crate::relay::record::ConnectionStats;
use crate::relay::terms::HandshakeFilter;

/// What is open, what is counted, what may pass, and as what.
pub(super) struct ConnectionState {
    pub(super) exchange: InFlight,
    pub(super) record: ConnectionStats,
    pub(super) guard: PolicyFilter,
    pub(super) terms: HandshakeFilter,
}
