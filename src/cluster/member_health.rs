//! Whether the gateway can connect to a member, and the wake-ups for tasks that depend on it.

use tokio::sync::Notify;

use super::messages::UPSTREAM_CONNECTION_FAILED;
use crate::telemetry::log_throttle::{LineBudget, LogDecision, LogSubject, LogThrottle};
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
    /// The same for all members of the upstream together: a hostile set has new members again and again.
    failures_of_all: LogThrottle,
}

impl MemberHealth {
    /// The health of a member of `upstream`, before the first attempt. All members of the upstream share
    /// `failures_of_all`.
    pub(super) fn new(upstream: &str, failures_of_all: LogThrottle) -> Self {
        Self {
            status: UpstreamHealth::default(),
            failed: Notify::default(),
            certificates_renewed: Notify::default(),
            connected: Notify::default(),
            repeats: LogThrottle::new(LogSubject::Upstream(upstream.to_owned())),
            failures_of_all,
        }
    }

    /// Whether to log a failed connection attempt: within the budget of `repeats` for this `reason`, and within that of
    /// all members.
    pub(super) fn note_failed_connection(&self, repeats: &LogThrottle, reason: &str) -> LogDecision {
        let note = |throttle: &LogThrottle, kind, budget| throttle.note(UPSTREAM_CONNECTION_FAILED, kind, budget);
        let LogDecision::Log { suppressed } = note(repeats, reason, LineBudget::Failures) else {
            return LogDecision::Suppress;
        };
        match note(&self.failures_of_all, "", LineBudget::MemberFailures) {
            LogDecision::Log { suppressed: others } => LogDecision::Log { suppressed: suppressed + others },
            LogDecision::Suppress => LogDecision::Suppress,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_of_50_members_are_logged_and_those_of_ever_new_members_are_not() {
        let failures = LogThrottle::new(LogSubject::Upstream("orders".to_owned()));
        let is_logged = || {
            let health = MemberHealth::new("orders", failures.clone());
            let decisions = [0; 2].map(|_| health.note_failed_connection(&health.repeats, "unreachable"));
            // Each member has a budget of its own.
            assert_eq!(decisions[1], LogDecision::Suppress);
            decisions[0] != LogDecision::Suppress
        };
        assert!((0..50).all(|_| is_logged()));
        assert_eq!((0..500).filter(|_| is_logged()).count(), 64 - 50);
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert_eq!((0..10).filter(|_| is_logged()).count(), 1);
    }
}
