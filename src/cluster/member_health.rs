//! Whether the gateway can connect to a member, and the wake-ups for tasks that depend on it.

use tokio::sync::Notify;

use crate::telemetry::log_throttle::{LogSubject, LogThrottle};
use crate::upstream::UpstreamHealth;

/// The health of one member, shared by its pools, its health check and its monitor.
pub struct MemberHealth {
    /// The results of the last attempts. The readiness probe and `/status` show them.
    pub status: UpstreamHealth,
    /// Wakes the health check: a connection attempt failed, or the server ended a connection.
    pub failed: Notify,
    /// Wakes the health check and the monitor: new connections use another certificate set.
    pub certificates_renewed: Notify,
    /// Wakes tasks that wait for the member to recover: a connection was made.
    pub connected: Notify,
    /// Suppresses repeated log lines about the same failure, which may come with every client.
    pub(super) repeats: LogThrottle,
}

impl MemberHealth {
    /// The health of a member of `upstream`, before the first attempt.
    pub(super) fn new(upstream: &str) -> Self {
        Self {
            status: UpstreamHealth::default(),
            failed: Notify::default(),
            certificates_renewed: Notify::default(),
            connected: Notify::default(),
            repeats: LogThrottle::new(LogSubject::Upstream(upstream.to_owned())),
        }
    }
}
