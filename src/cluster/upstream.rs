//! An upstream as its listeners share it: its credentials, and its current members.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use super::attempts::Attempts;
use super::credential::Credential;
use super::member::Member;
use super::member_health::MemberHealth;
use super::membership::Membership;
use super::pool::MemberPool;
use crate::config::{EndpointConfig, HostPort, ReadPreference, UpstreamConfig};
use crate::identity::Principal;
use crate::telemetry::log_throttle::{LogSubject, LogThrottle};
use crate::telemetry::metrics::UpstreamMetrics;
use crate::tls::{UpstreamTls, UpstreamTlsError};
use crate::upstream::Connector;

/// Connections that are made at the same time to replace those of a previous certificate set. A reload must not flood
/// mongod with handshakes.
const REPLACEMENTS_MAX: usize = 4;

/// An upstream, shared by its listeners, monitors and health checks.
pub struct Upstream {
    config: UpstreamConfig,
    credentials: Vec<Credential>,
    metrics: Arc<UpstreamMetrics>,
    membership: watch::Sender<Arc<Membership>>,
    replacements: Arc<Semaphore>,
    /// Limits the log lines about members that cannot be connected to.
    failures: LogThrottle,
}

impl Upstream {
    /// Reads the certificates of all credentials. An upstream of one server has its member at once; a replica set or
    /// sharded cluster has none until a monitor finds them.
    pub fn new(config: &UpstreamConfig, metrics: UpstreamMetrics) -> Result<Self, UpstreamTlsError> {
        let this = Self {
            config: config.clone(),
            credentials: Credential::all_of(config)?,
            metrics: Arc::new(metrics),
            membership: watch::Sender::new(Arc::default()),
            replacements: Arc::new(Semaphore::new(REPLACEMENTS_MAX)),
            failures: LogThrottle::new(LogSubject::Upstream(config.name.clone())),
        };
        if !config.deployment.has_members() {
            let member = Arc::new(this.new_member(&config.any_address())?);
            this.publish(Membership::single(member));
        }
        Ok(this)
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Its section of the configuration.
    pub fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// The certificate of `[upstream.NAME.tls]` first, then those of `[[upstream.NAME.credential]]`.
    pub fn credentials(&self) -> &[Credential] {
        &self.credentials
    }

    /// The index of the credential for connections of `principal`: the first that names it, or else that of
    /// `[upstream.NAME.tls]`.
    pub fn credential_of(&self, principal: Option<&Principal>) -> usize {
        let is_for = |credential: &Credential| principal.is_some_and(|principal| credential.is_for(principal));
        self.credentials.iter().position(is_for).unwrap_or_default()
    }

    /// How the gateway connects to any server of this upstream with the credential at this index: its certificate files
    /// are the same for all servers.
    pub fn any_endpoint(&self, credential: usize) -> Option<EndpointConfig> {
        Some(self.credentials.get(credential)?.endpoint(&self.config, &self.config.any_address()))
    }

    /// Prepares the connections to the member at `address`. Fails if no certificate could have that name.
    pub(super) fn new_member(&self, address: &HostPort) -> Result<Member, UpstreamTlsError> {
        let health = Arc::new(MemberHealth::new(self.name(), self.failures.clone()));
        let mut pools = Vec::new();
        for credential in &self.credentials {
            let endpoint = credential.endpoint(&self.config, address);
            pools.push(Arc::new(MemberPool::new(
                Connector::new(&endpoint, Arc::clone(&credential.identity))?,
                &self.config,
                Attempts::new(self.name(), Arc::clone(&health), Arc::clone(&self.metrics), pools.is_empty()),
                credential.renewal.clone(),
                Arc::clone(&self.replacements),
            )));
        }
        let service_id = bson::oid::ObjectId::new().bytes();
        Ok(Member { address: address.clone(), pools, health, hello: Arc::default(), service_id })
    }

    /// The current members.
    pub fn membership(&self) -> Arc<Membership> {
        Arc::clone(&self.membership.borrow())
    }

    /// Reports each change of the members.
    pub(super) fn membership_watch(&self) -> watch::Receiver<Arc<Membership>> {
        self.membership.subscribe()
    }

    /// Makes `membership` the current one. Open connections are not affected.
    pub(super) fn publish(&self, membership: Membership) {
        self.membership.send_replace(Arc::new(membership));
    }

    /// Resolves when `preference` excludes the member of `pool`: new clients are given another one. Cancel safe.
    pub async fn until_not_preferred(&self, preference: ReadPreference, pool: &MemberPool) {
        let mut membership = self.membership_watch();
        while membership.borrow_and_update().still_prefers(preference, pool.health()) {
            if membership.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Uses `tls` for all new connections of one credential.
    ///
    /// Connections of the previous set stay open until the new set has carried a connection: a certificate that mongod
    /// rejects must not end a working connection.
    pub fn renew(&self, credential: usize, tls: UpstreamTls) {
        let Some(renewed) = self.credentials.get(credential) else { return };
        renewed.identity.renew(tls);
        for status in &self.membership().members {
            // The spare connections use the previous set.
            if let Some(pool) = status.member.pools.get(credential) {
                pool.spares.wake();
            }
            // The readiness probe must report on the new set. Health checks and monitors use the first credential.
            if credential == 0 {
                status.member.health.certificates_renewed.notify_one();
            }
        }
    }
}
