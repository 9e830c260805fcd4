//! Where a listener's connections go, and what they share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::lifecycle::drain::DrainWatch;
use crate::relay::{Limits, RelayEnd};
use crate::telemetry::metrics::{ListenerMetrics, UpstreamMetrics};
use crate::telemetry::repeats::{Repeats, Verdict};
use crate::tls::ClientTls;
use crate::upstream::{ConnectError, Connector, UpstreamHealth, UpstreamStream};

/// What a listener leads to, and what its connections share.
pub struct Route {
    /// Name of the listener.
    pub listener: String,
    /// `max_connections`, for the sentence that refuses the one above.
    pub places: usize,
    /// Keepalive towards clients.
    pub tcp_keepalive: Option<Duration>,
    /// Idle and lifetime limits.
    pub limits: Limits,
    /// The listener's measurements.
    pub metrics: Arc<ListenerMetrics>,
    /// Where it leads.
    pub upstream: Arc<Upstream>,
    /// Ends connections when the process ends.
    pub drain: DrainWatch,
}

/// An upstream and what is known about it; shared by its listeners and the background probe.
pub struct Upstream {
    /// Makes its connections.
    pub connector: Connector,
    /// What the last attempts showed; readiness and `/status` read it.
    pub health: UpstreamHealth,
    /// Its measurements.
    pub metrics: UpstreamMetrics,
    /// Wakes the probe when a connection could not be made, or was ended by upstream.
    pub failed: Notify,
    /// Wakes the probe when connections are made with other certificates.
    pub renewed: Notify,
    /// Keeps a failure that comes with every client from filling the log.
    pub repeats: Repeats<&'static str>,
}

impl Upstream {
    /// A proven connection; success and failure are measured, and a failure is logged with its remedy.
    pub async fn connect(&self) -> Result<UpstreamStream, ConnectError> {
        let result = self.connector.connect().await;
        match &result {
            Ok(stream) => {
                self.metrics.count_handshake(stream.handshake.duration);
                self.health.record_ok(None);
            }
            Err(error) => self.note_failure(error),
        }
        result
    }

    /// Makes all further connections with `tls`.
    pub fn renew(&self, tls: ClientTls) {
        self.connector.renew(tls);
        // Readiness is to tell of the new set, not of the old one.
        self.renewed.notify_one();
    }

    /// Measures a failure, and logs it unless the same was logged a moment ago.
    pub fn note_failure(&self, error: &ConnectError) {
        self.metrics.count_failed_handshake(error.reason());
        self.health.record_failure(error.to_string());
        self.failed.notify_one();
        if let Verdict::Log { suppressed } = self.repeats.note(error.reason(), std::time::Instant::now()) {
            tracing::warn!(
                upstream = self.connector.upstream(),
                reason = error.reason(),
                %error,
                remedy = error.remedy(),
                suppressed,
                "cannot connect to upstream"
            );
        }
    }

    /// Has an upstream that ended a connection looked at, and logs it where that cut something short.
    pub fn note_loss(&self, address: SocketAddr, end: &RelayEnd) {
        self.failed.notify_one();
        if end.is_orderly() {
            return;
        }
        if let Verdict::Log { suppressed } = self.repeats.note("lost", std::time::Instant::now()) {
            tracing::warn!(
                upstream = self.connector.upstream(),
                %address,
                reason = %end.reason,
                remedy = "look into mongod's log for why it ended; if nothing stands there, check the network between",
                suppressed,
                "upstream lost in the middle of a command"
            );
        }
    }
}
