//! What becomes of connection attempts: metrics, the member's health, and the log.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::member_health::MemberHealth;
use super::messages::{UPSTREAM_CONNECTION_FAILED, UPSTREAM_CONNECTION_LOST};
use crate::telemetry::log_throttle::{LineBudget, LogDecision, LogSubject, LogThrottle};
use crate::telemetry::metrics::UpstreamMetrics;
use crate::upstream::ConnectError;

/// Records the connection attempts to one member with one credential.
pub struct Attempts {
    upstream: String,
    /// The health of the member, whatever the credential.
    pub health: Arc<MemberHealth>,
    /// The metrics of the upstream.
    pub metrics: Arc<UpstreamMetrics>,
    /// Whether this is the first credential: it decides about the health of the member.
    is_first_credential: bool,
    /// Whether the member rejected the credential, or its user, in the last attempt.
    is_credential_rejected: AtomicBool,
    /// Suppresses repeated log lines about the credential. Each credential has its own.
    credential_repeats: LogThrottle,
}

impl Attempts {
    pub(super) fn new(
        upstream: &str,
        health: Arc<MemberHealth>,
        metrics: Arc<UpstreamMetrics>,
        is_first_credential: bool,
    ) -> Self {
        Self {
            upstream: upstream.to_owned(),
            health,
            metrics,
            is_first_credential,
            is_credential_rejected: AtomicBool::new(false),
            credential_repeats: LogThrottle::new(LogSubject::Upstream(upstream.to_owned())),
        }
    }

    /// Counts a proven connection and wakes tasks that wait for the member to recover.
    pub(super) fn record_success(&self, handshake: Duration) {
        self.metrics.count_handshake(handshake);
        self.health.connected.notify_waiters();
    }

    /// The member accepted the credential.
    pub(super) fn record_credential_accepted(&self) {
        self.is_credential_rejected.store(false, Ordering::Relaxed);
    }

    /// Whether the last attempt failed because of the credential or its user. Other credentials may still work.
    pub(super) fn is_credential_rejected(&self) -> bool {
        self.is_credential_rejected.load(Ordering::Relaxed)
    }

    /// Counts a failed attempt, and logs it unless the same failure was logged in the last seconds.
    pub(super) fn record_failure(&self, error: &ConnectError) {
        if error.is_attempt() {
            self.metrics.count_failed_handshake(error.reason());
        }
        self.is_credential_rejected.store(error.is_identity_failure(), Ordering::Relaxed);
        let repeats = if error.is_user_failure() || (error.is_identity_failure() && !self.is_first_credential) {
            // The member itself is healthy, and serves other credentials.
            &self.credential_repeats
        } else {
            self.health.status.record_failure(error.to_string());
            self.health.failed.notify_one();
            &self.health.repeats
        };
        let decision = self.health.note_failed_connection(repeats, error.reason());
        if let LogDecision::Log { suppressed } = decision {
            tracing::warn!(
                upstream = self.upstream,
                reason = error.reason(),
                %error,
                remedy = error.remedy(),
                suppressed,
                "{UPSTREAM_CONNECTION_FAILED}"
            );
        }
    }

    /// The server ended a connection: starts a health check. `interrupted` is the reason when that cut a command short;
    /// then it is logged too.
    pub fn record_loss(&self, address: SocketAddr, interrupted: Option<&dyn Display>) {
        self.health.failed.notify_one();
        let Some(reason) = interrupted else { return };
        let decision = self.health.repeats.note(UPSTREAM_CONNECTION_LOST, "", LineBudget::Failures);
        if let LogDecision::Log { suppressed } = decision {
            tracing::warn!(
                upstream = self.upstream,
                %address,
                %reason,
                remedy = "look in mongod's log for the cause; if there is none, check the network to mongod",
                suppressed,
                "{UPSTREAM_CONNECTION_LOST}"
            );
        }
    }
}
