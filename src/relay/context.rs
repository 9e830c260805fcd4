//! What the readers of requests and of replies share.

use crate::relay::connection_stats::ConnectionStats;
use crate::relay::filter::handshake::HandshakeFilter;
use crate::relay::filter::policy::PolicyFilter;
use crate::relay::in_flight::InFlight;

/// What is open, what is counted, what may pass, and as what.
pub(super) struct ConnectionState {
    pub(super) exchange: InFlight,
    pub(super) record: ConnectionStats,
    pub(super) guard: PolicyFilter,
    pub(super) terms: HandshakeFilter,
}
