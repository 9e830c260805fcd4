//! The connections to one member of an upstream that are made with one credential.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use crate::lifecycle::renewal::Renewal;
use crate::relay::RelayEnd;
use crate::telemetry::log_throttle::{LogDecision, LogThrottle};
use crate::telemetry::metrics::UpstreamMetrics;
use crate::upstream::{
    ConnectError, Connector, HelloReplayError, ProvenConnection, SpareConnections, UpstreamHealth, UpstreamStream,
    Users,
};

/// Upstream connections that are made at one time in place of old ones: a renewal is no reason to storm mongod.
pub(super) const REPLACEMENTS_MAX: usize = 4;

/// Makes connections to one member with one credential, keeps spare ones, and says what became of them.
pub struct MemberPool {
    /// Makes them.
    pub connector: Connector,
    /// Spare ones.
    pub shelf: SpareConnections,
    /// What is known of the member, by whatever credential.
    pub news: Arc<MemberHealth>,
    pub(super) metrics: Arc<UpstreamMetrics>,
    /// Has connections of replaced certificates go.
    pub(super) renewal: Renewal,
    pub(super) replacements: Arc<Semaphore>,
    /// Spares as they were last counted.
    pub(super) counted: AtomicUsize,
    /// Whether it is of the first credential, by which readiness and monitors judge the member.
    pub(super) is_first: bool,
    /// Whether the last attempt failed by what is shown to the member: that others succeed says nothing then.
    pub(super) denied: AtomicBool,
    /// Keeps a user that mongod does not take from filling the log; each credential has one of its own.
    pub(super) denials: LogThrottle<&'static str>,
}

/// What is known of one member; shared by its connections and whoever watches over it.
#[derive(Default)]
pub struct MemberHealth {
    /// What the last attempts showed; readiness and `/status` read it.
    pub health: UpstreamHealth,
    /// Wakes the probe when a connection could not be made, or was ended by upstream.
    pub failed: Notify,
    /// Wakes the probe when connections are made with other certificates.
    pub renewed: Notify,
    /// Wakes whoever waits for the member to be well again, each time that a connection was made.
    pub succeeded: Notify,
    /// Keeps a failure that comes with every client from filling the log.
    repeats: LogThrottle<&'static str>,
}

/// Why a connection of replaced certificates got no other one.
pub(super) enum NoReplacement {
    /// There is none now, and may be later.
    NotNow,
    /// mongod does not take this client's hello a second time.
    Never,
}

impl MemberPool {
    /// A connection for a client: a spare one, or else one that is made now.
    pub(super) async fn connect(&self) -> Result<ProvenConnection, ConnectError> {
        if let Some(link) = self.shelf.take(self.connector.identity().generation()) {
            self.tell_shelf();
            return Ok(link);
        }
        self.dial().await
    }

    /// Makes a proven connection; success and failure are measured, and a failure is logged with its remedy.
    pub async fn dial(&self) -> Result<ProvenConnection, ConnectError> {
        let result = self.connector.connect().await;
        match result {
            Ok(stream) => {
                self.denied.store(false, Ordering::Relaxed);
                self.note_success(&stream);
                self.news.health.record_ok(None);
                Ok(ProvenConnection::new(stream))
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
    pub(super) async fn replacement(&self, hello: &[u8]) -> Result<ProvenConnection, NoReplacement> {
        let _permit = self.replacements.acquire().await;
        let mut link = self.dial().await.map_err(|_| NoReplacement::NotNow)?;
        match timeout(self.connector.connect_timeout(), link.replay_hello(hello)).await {
            Ok(Ok(())) => Ok(link),
            Ok(Err(HelloReplayError::Rejected)) => Err(NoReplacement::Never),
            Ok(Err(HelloReplayError::Failed(_))) | Err(_) => Err(NoReplacement::NotNow),
        }
    }

    /// Whether a connection that is made now may wait for a client: it has to have its user, if it is to have one.
    pub fn may_have_spares(&self) -> bool {
        !self.connector.authenticates() || matches!(self.connector.users(), Users::Kept | Users::Awaited)
    }

    /// Makes a spare connection; whether it could.
    pub async fn make_spare(&self) -> bool {
        match self.dial().await {
            // What has no user now must not be what a client gets that comes later.
            Ok(link) if link.user.is_none() && self.connector.authenticates() => false,
            Ok(link) => self.shelf.put(link).is_ok(),
            Err(_) => false,
        }
    }

    /// Measures a connection that was made and proven.
    pub fn note_success(&self, stream: &UpstreamStream) {
        self.metrics.count_handshake(stream.handshake.duration);
        // Certificates that mongod knows no user for cost nobody the connection that he has either.
        if stream.user.is_some() || !self.connector.authenticates() {
            self.renewal.begin(stream.generation);
        }
        self.news.succeeded.notify_waiters();
    }

    /// Shows how many spares there are.
    pub fn tell_shelf(&self) {
        let now = self.shelf.level().0;
        // Whoever comes second takes what the first one said as what was said before.
        self.metrics.change_warm_connections(self.counted.swap(now, Ordering::Relaxed), now);
    }

    /// Whether the last attempt failed by the certificate that was shown, or its user. Others may be served all the same.
    pub fn is_denied(&self) -> bool {
        self.denied.load(Ordering::Relaxed)
    }

    /// Measures a failure, and logs it unless the same was logged a moment ago.
    pub fn note_failure(&self, error: &ConnectError) {
        if error.is_attempt() {
            self.metrics.count_failed_handshake(error.reason());
        }
        self.denied.store(error.is_identity_failure(), Ordering::Relaxed);
        let repeats = if error.is_user_failure() || (error.is_identity_failure() && !self.is_first) {
            // The member is well, and serves others.
            &self.denials
        } else {
            self.news.health.record_failure(error.to_string());
            self.news.failed.notify_one();
            &self.news.repeats
        };
        if let LogDecision::Log { suppressed } = repeats.note(error.reason(), std::time::Instant::now()) {
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

    /// Has a member that ended a connection looked at, and logs it where that cut something short.
    pub(super) fn note_loss(&self, address: SocketAddr, end: &RelayEnd) {
        self.news.failed.notify_one();
        if end.is_orderly() {
            return;
        }
        if let LogDecision::Log { suppressed } = self.news.repeats.note("lost", std::time::Instant::now()) {
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

#[cfg(test)]
mod tests {
    use crate::config::CredentialConfig;
    use crate::connection::Upstream;
    use crate::telemetry::metrics::UpstreamMetrics;
    use crate::tls::test_pki::{files_of, upstream_of};
    use crate::upstream::REASONS;
    use crate::upstream::test_server::{Behaviour, TestUpstream};

    #[tokio::test]
    async fn a_certificate_that_is_not_taken_says_nothing_of_the_member_unless_it_is_everybodys() {
        let scene = TestUpstream { behaviour: Behaviour::CloseAfterHandshake, ..TestUpstream::new() };
        let (mut endpoint, server) = scene.listen().await;
        let (principals, files) = (vec!["cluster.local/ns/shop/*".to_owned()], files_of(&mut endpoint).clone());
        let mut section = upstream_of(&endpoint);
        section.credentials.push(CredentialConfig { principals, files });
        let upstream = Upstream::new(&section, UpstreamMetrics::new("orders", &REASONS)).unwrap();
        let member = upstream.member(&endpoint.address).unwrap();
        let [everybodys, own] = member.lines.as_slice() else { panic!("two credentials") };

        let denied = server.during(Box::pin(own.dial())).await.map(|_| ()).unwrap_err();
        assert_eq!(denied.reason(), "client_certificate_refused");
        assert!(own.is_denied() && !everybodys.is_denied());
        assert_eq!(member.news.health.snapshot().failed, None);

        server.during(Box::pin(everybodys.dial())).await.map(|_| ()).unwrap_err();
        assert!(everybodys.is_denied() && member.news.health.snapshot().failed.is_some());
        // A server that is away is another matter.
        drop(server);
        own.dial().await.map(|_| ()).unwrap_err();
        assert!(!own.is_denied());
    }
}
