//! The connections to one member that use one credential.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::attempts::Attempts;
use super::dial_queue::{DialError, DialQueue};
use super::member_health::MemberHealth;
use super::reuse::ReusePool;
use crate::config::UpstreamConfig;
use crate::lifecycle::renewal::Renewal;
use crate::upstream::{
    ClientEndpoints, ConnectError, Connector, HelloReplayError, ProvenConnection, SpareConnections, TakenSpare,
    UpstreamStream, Users,
};

/// How long a spare connection may take to prove that the member is still there. A client waits for it.
pub(super) const PROOF_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes connections to one member with one credential, and keeps spare ones.
pub struct MemberPool {
    /// Makes the connections.
    pub connector: Connector,
    /// Proven connections that no client uses yet.
    pub spares: SpareConnections,
    /// Connections that clients use one after the other; `None` if `[upstream.NAME.pool]` is off.
    pub reuse: Option<Arc<ReusePool>>,
    /// Records what becomes of connection attempts.
    pub attempts: Attempts,
    /// Makes connections of a replaced certificate set end.
    pub renewal: Renewal,
    /// Limits the connections that are made at the same time.
    queue: DialQueue,
    /// Limits the connections that are made at the same time to replace others.
    replacements: Arc<Semaphore>,
    /// The number of spare connections as last reported to the metrics.
    reported_spares: AtomicUsize,
}

/// Why no connection could replace one of a previous certificate set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoReplacement {
    /// Making one failed. A later attempt may succeed.
    NotNow,
    /// mongod does not accept the client's hello a second time.
    Never,
}

impl MemberPool {
    /// `replacements` is shared by all pools of the upstream.
    pub(super) fn new(
        connector: Connector,
        config: &UpstreamConfig,
        attempts: Attempts,
        renewal: Renewal,
        replacements: Arc<Semaphore>,
    ) -> Self {
        Self {
            spares: SpareConnections::new(config.warm_connections, config.warm_connections_max),
            reuse: ReusePool::new(config.pool, connector.authenticates(), renewal.watch()),
            connector,
            attempts,
            renewal,
            queue: DialQueue::default(),
            replacements,
            reported_spares: AtomicUsize::new(0),
        }
    }

    /// Returns a connection for a client: a spare one, or else a new one. With `send_proxy` there are no
    /// spare ones.
    pub async fn connect(&self, client: Option<&ClientEndpoints>) -> Result<ProvenConnection, DialError> {
        while let Some(TakenSpare { connection: mut link, is_suspect }) =
            self.spares.take(self.connector.identity().generation())
        {
            self.report_spares();
            if !is_suspect || matches!(timeout(PROOF_TIMEOUT, link.prove_again()).await, Ok(Ok(()))) {
                return Ok(link);
            }
            // The network to the member was interrupted: the others of that time are not tried one after the other.
            self.spares.close_suspects();
            self.report_spares();
        }
        self.dial(client).await
    }

    /// Makes a proven connection when it has a permit, and records the result. A failure is logged with its remedy.
    /// While the member is failing, only one connection at a time is attempted, and the others fail at once.
    ///
    /// `client` is `None` for a connection of the gateway's own.
    pub(super) async fn dial(&self, client: Option<&ClientEndpoints>) -> Result<ProvenConnection, DialError> {
        let _permit = self.queue.permit().await?;
        match self.connector.connect(client).await {
            Ok(stream) => {
                self.attempts.record_credential_accepted();
                self.record_success(&stream);
                self.health().status.record_ok(None);
                Ok(ProvenConnection::new(stream))
            }
            Err(error) => Err(self.record_failure(error)),
        }
    }

    /// Makes a proven connection on which the gateway authenticates no user, and records the result as [`Self::dial`]
    /// does. It says nothing about the user of the gateway, so that the health of the member stays as it is.
    pub(super) async fn dial_unauthenticated(
        &self,
        client: Option<&ClientEndpoints>,
    ) -> Result<ProvenConnection, DialError> {
        let _permit = self.queue.permit().await?;
        match self.connector.connect_without_user(client).await {
            Ok(stream) => {
                self.record_success(&stream);
                Ok(ProvenConnection::new(stream))
            }
            Err(error) => Err(self.record_failure(error)),
        }
    }

    /// Makes a connection that replaces another one: the client's `hello` has already been repeated on it.
    ///
    /// Waits while too many replacements are being made. Never uses a spare connection: those are for new clients, and
    /// no client waits for a replacement.
    pub async fn replacement(
        &self,
        hello: &[u8],
        client: Option<&ClientEndpoints>,
    ) -> Result<ProvenConnection, NoReplacement> {
        let _permit = self.replacements.acquire().await;
        let mut link = self.dial(client).await.map_err(|_| NoReplacement::NotNow)?;
        match timeout(self.connector.connect_timeout(), link.replay_hello(hello)).await {
            Ok(Ok(())) => Ok(link),
            Ok(Err(HelloReplayError::Rejected)) => Err(NoReplacement::Never),
            Ok(Err(HelloReplayError::Failed(_))) | Err(_) => Err(NoReplacement::NotNow),
        }
    }

    /// Whether spare connections can be made now. Where the gateway authenticates, a spare connection must have its
    /// user.
    pub(super) fn may_have_spares(&self) -> bool {
        !self.connector.authenticates() || matches!(self.connector.users(), Users::Kept | Users::Awaited)
    }

    /// The number of spare connections to be made now. Together with the shared connections they are not more than
    /// `max_connections`.
    pub(super) fn missing_spares(&self) -> usize {
        let room = self.reuse.as_ref().map_or(usize::MAX, |reuse| reuse.room());
        self.spares.missing().min(room.saturating_sub(self.spares.level().0))
    }

    /// Makes a spare connection; returns whether that succeeded.
    pub(super) async fn make_spare(&self) -> bool {
        match self.dial(None).await {
            // The user may exist later, but this connection would never have it.
            Ok(link) if link.user.is_none() && self.connector.authenticates() => false,
            Ok(link) => self.spares.put(link).is_ok(),
            Err(_) => false,
        }
    }

    /// Records a connection that was made and proven, and ends connections of the previous certificate set.
    pub(super) fn record_success(&self, stream: &UpstreamStream) {
        // A new certificate may have no MongoDB user yet. Connections of the previous set stay open until it has one.
        if stream.user.is_some() || !self.connector.authenticates() {
            self.renewal.begin(stream.generation);
        }
        self.queue.record(None);
        self.attempts.record_success(stream.handshake.duration);
    }

    /// Records a connection that could not be made, or that failed before its client used it.
    pub(super) fn record_failure(&self, error: ConnectError) -> DialError {
        self.attempts.record_failure(&error);
        if error.is_timeout() {
            self.spares.suspect();
            self.reuse.iter().for_each(|reuse| reuse.suspect());
        }
        let cause = Arc::new(error);
        self.queue.record(Some(&cause));
        DialError { cause, age: None }
    }

    /// Whether the current certificate set has not carried a connection yet. mongod may reject it.
    pub(super) fn has_unproven_certificates(&self) -> bool {
        self.connector.identity().generation() > self.renewal.watch().generation()
    }

    /// Updates the metric of spare connections.
    pub(super) fn report_spares(&self) {
        let now = self.spares.level().0;
        // Of two concurrent calls, the second one reports the change since the first.
        let before = self.reported_spares.swap(now, Ordering::Relaxed);
        self.attempts.metrics.change_warm_connections(before, now);
    }

    /// The health of the member.
    pub fn health(&self) -> &Arc<MemberHealth> {
        &self.attempts.health
    }
}

#[cfg(test)]
mod tests {
    use crate::cluster::Upstream;
    use crate::config::CredentialConfig;
    use crate::telemetry::metrics::UpstreamMetrics;
    use crate::tls::test_pki::{files_of, upstream_of};
    use crate::upstream::REASONS;
    use crate::upstream::test_server::{Behaviour, TestUpstream};

    #[tokio::test]
    async fn only_the_first_credential_decides_about_the_health_of_the_member() {
        let scene = TestUpstream { behaviour: Behaviour::CloseAfterHandshake, ..TestUpstream::new() };
        let (mut endpoint, server) = scene.listen().await;
        let (principals, files) = (vec!["cluster.local/ns/shop/*".to_owned()], files_of(&mut endpoint).clone());
        let mut section = upstream_of(&endpoint);
        section.credentials.push(CredentialConfig { principals, files });
        let upstream = Upstream::new(&section, UpstreamMetrics::new("orders", &REASONS)).unwrap();
        let member = upstream.new_member(&endpoint.address).unwrap();
        let [first, second] = member.pools.as_slice() else { panic!("two credentials") };

        let rejected = server.during(Box::pin(second.dial(None))).await.map(|_| ()).unwrap_err();
        assert_eq!(rejected.cause.reason(), "client_certificate_refused");
        assert!(second.attempts.is_credential_rejected() && !first.attempts.is_credential_rejected());
        assert_eq!(member.health.status.snapshot().failed, None);

        server.during(Box::pin(first.dial(None))).await.map(|_| ()).unwrap_err();
        assert!(first.attempts.is_credential_rejected() && member.health.status.snapshot().failed.is_some());
        // A server that does not answer says nothing about the credential.
        drop(server);
        second.dial(None).await.map(|_| ()).unwrap_err();
        assert!(!second.attempts.is_credential_rejected());
    }
}
