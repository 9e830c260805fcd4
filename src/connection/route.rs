//! Where a listener's connections go, and what they share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use super::door::Door;
use super::policing::Policing;
use crate::identity::{Principal, PrincipalPattern};
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::renewal::Renewal;
use crate::relay::{CursorBook, Limits, RelayEnd};
use crate::telemetry::metrics::{ListenerMetrics, UpstreamMetrics};
use crate::telemetry::repeats::{Repeats, Verdict};
use crate::tls::{ClientTls, ServerTls};
use crate::upstream::{ConnectError, Connector, IntroductionError, Link, Shelf, UpstreamHealth, UpstreamStream};

/// Upstream connections that are made at one time in place of old ones: a renewal is no reason to storm mongod.
const REPLACEMENTS_MAX: usize = 4;

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
    /// Who is let in, and as whom.
    pub door: Door,
    /// The listener's measurements; of commands, errors and bytes those of all principals that are not listed.
    pub metrics: Arc<ListenerMetrics>,
    /// The principals that the operator wants to see in metrics, in the order of the configuration.
    pub listed: Vec<ListedPrincipal>,
    /// What its connections may do.
    pub policing: Policing,
    /// Where it leads.
    pub upstream: Arc<Upstream>,
    /// Ends connections when the process ends.
    pub drain: DrainWatch,
}

/// A principal, or several, with measurements of its own.
pub struct ListedPrincipal {
    /// Who counts as this one.
    pub pattern: PrincipalPattern,
    /// What it does.
    pub metrics: Arc<ListenerMetrics>,
}

impl Route {
    /// TLS clients that arrive from now on are shown `tls`; those that are in and would not be let in by it have to go.
    pub fn renew_tls(&self, tls: ServerTls) {
        self.door.renew_tls(tls);
    }

    /// Where the commands of `principal` are counted; asked once per connection.
    pub(super) fn metrics_of(&self, principal: Option<&Principal>) -> &Arc<ListenerMetrics> {
        let listed = principal.and_then(|who| self.listed.iter().find(|listed| listed.pattern.matches(who)));
        listed.map_or(&self.metrics, |listed| &listed.metrics)
    }
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
    /// Wakes whoever waits for the upstream to be well again, each time that a connection was made.
    pub succeeded: Notify,
    /// Keeps a failure that comes with every client from filling the log.
    pub repeats: Repeats<&'static str>,
    /// Spare connections.
    pub shelf: Shelf,
    /// Has connections of replaced certificates go.
    pub renewal: Renewal,
    /// Which of its cursors was given to whom.
    pub cursors: Arc<CursorBook>,
    replacements: Semaphore,
}

/// Why a connection of replaced certificates got no other one.
pub(super) enum NoReplacement {
    /// There is none now, and may be later.
    NotNow,
    /// mongod does not take this client's hello a second time.
    Never,
}

impl Upstream {
    /// An upstream of which nothing is known yet.
    ///
    /// `recycle_after` is by when connections of replaced certificates are gone.
    pub fn new(connector: Connector, metrics: UpstreamMetrics, shelf: Shelf, recycle_after: Duration) -> Self {
        Self {
            connector,
            health: UpstreamHealth::default(),
            metrics,
            failed: Notify::new(),
            renewed: Notify::new(),
            succeeded: Notify::new(),
            repeats: Repeats::new(),
            shelf,
            renewal: Renewal::new(recycle_after),
            cursors: Arc::default(),
            replacements: Semaphore::new(REPLACEMENTS_MAX),
        }
    }

    /// A connection for a client: a spare one, or else one that is made now.
    pub(super) async fn connect(&self) -> Result<Link, ConnectError> {
        if let Some(link) = self.shelf.take(self.connector.generation()) {
            self.tell_shelf();
            return Ok(link);
        }
        self.dial().await
    }

    /// Makes a proven connection; success and failure are measured, and a failure is logged with its remedy.
    pub async fn dial(&self) -> Result<Link, ConnectError> {
        let result = self.connector.connect().await;
        match result {
            Ok(stream) => {
                self.note_success(&stream);
                self.health.record_ok(None);
                Ok(Link::new(stream))
            }
            Err(error) => {
                self.note_failure(&error);
                Err(error)
            }
        }
    }

    /// A connection on which the client that said `hello` is introduced already, to take another one's place.
    ///
    /// Waits while others are made. Spares are for clients that come, and nobody waits for this one.
    pub(super) async fn replacement(&self, hello: &[u8]) -> Result<Link, NoReplacement> {
        let _permit = self.replacements.acquire().await;
        let mut link = self.dial().await.map_err(|_| NoReplacement::NotNow)?;
        match timeout(self.connector.connect_timeout(), link.introduce(hello)).await {
            Ok(Ok(())) => Ok(link),
            Ok(Err(IntroductionError::Refused)) => Err(NoReplacement::Never),
            Ok(Err(IntroductionError::Broken(_))) | Err(_) => Err(NoReplacement::NotNow),
        }
    }

    /// Makes all further connections with `tls`. Those of the old set go when the new one has carried a connection: one
    /// that mongod does not take costs nobody the connection that he has.
    pub fn renew(&self, tls: ClientTls) {
        self.connector.renew(tls);
        // The spares are of the old set.
        self.shelf.wake();
        // Readiness is to tell of the new set, not of the old one.
        self.renewed.notify_one();
    }

    /// Measures a connection that was made and proven.
    pub fn note_success(&self, stream: &UpstreamStream) {
        self.metrics.count_handshake(stream.handshake.duration);
        self.renewal.begin(stream.generation);
        self.succeeded.notify_waiters();
    }

    /// Shows how many spares there are.
    pub fn tell_shelf(&self) {
        self.metrics.set_warm_connections(self.shelf.level().0);
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
