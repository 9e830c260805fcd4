//! An upstream as its listeners share it: its credentials, and the members that it has now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use tokio::sync::{Semaphore, watch};

use super::line::{MemberHealth, MemberPool, REPLACEMENTS_MAX};
use super::roster::Membership;
use crate::config::{CredentialConfig, EndpointConfig, HostPort, ReadPreference, UpstreamConfig};
use crate::identity::{Principal, PrincipalPattern};
use crate::lifecycle::renewal::Renewal;
use crate::relay::CursorBook;
use crate::telemetry::log_throttle::LogThrottle;
use crate::telemetry::metrics::UpstreamMetrics;
use crate::tls::{UpstreamTls, UpstreamTlsError};
use crate::upstream::{ClientIdentity, Connector, SpareConnections};

/// An upstream and what is known about it; shared by its listeners and whoever watches over it.
pub struct Upstream {
    config: UpstreamConfig,
    /// That of `[upstream.NAME.tls]` first, then those of `[[upstream.NAME.credential]]`.
    credentials: Vec<Credential>,
    /// Its measurements.
    pub metrics: Arc<UpstreamMetrics>,
    /// Which of its cursors was given to whom.
    pub cursors: Arc<CursorBook>,
    roster: watch::Sender<Arc<Membership>>,
    replacements: Arc<Semaphore>,
}

/// Certificates that connections are made with, for some callers or for all others.
pub struct Credential {
    /// Its place in the file, and for whom it is; `None` for whoever has no other.
    section: Option<(usize, CredentialConfig)>,
    principals: Vec<PrincipalPattern>,
    /// The certificates.
    pub identity: Arc<ClientIdentity>,
    /// Has connections of replaced certificates go.
    pub renewal: Renewal,
}

/// One mongod or mongos of an upstream.
pub struct Member {
    /// Where it is, as its set names it.
    pub address: HostPort,
    /// One for each credential of the upstream, in their order.
    pub lines: Vec<Arc<MemberPool>>,
    /// What is known of it.
    pub news: Arc<MemberHealth>,
    /// By which load-balanced clients tell it from the others: the same as long as the process lives.
    pub(super) service_id: [u8; 12],
}

impl Upstream {
    /// Reads the certificates of all credentials. There are no members yet, but for an upstream that is one server.
    pub fn new(config: &UpstreamConfig, metrics: UpstreamMetrics) -> Result<Self, UpstreamTlsError> {
        // Whom connections of a credential go to is not known yet; its files can be read all the same.
        let first = &config.any_address();
        let recycle_after = config.certificate_recycle_after;
        let mut credentials = vec![Credential::new(None, &config.endpoint(first), recycle_after)?];
        for (index, section) in config.credentials.iter().enumerate() {
            let endpoint = config.endpoint_with(index + 1, section, first);
            credentials.push(Credential::new(Some((index + 1, section.clone())), &endpoint, recycle_after)?);
        }
        let this = Self {
            config: config.clone(),
            credentials,
            metrics: Arc::new(metrics),
            cursors: Arc::default(),
            roster: watch::Sender::new(Arc::default()),
            replacements: Arc::new(Semaphore::new(REPLACEMENTS_MAX)),
        };
        if !config.deployment.has_members() {
            let member = Arc::new(this.member(first)?);
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

    /// That of `[upstream.NAME.tls]` first.
    pub fn credentials(&self) -> &[Credential] {
        &self.credentials
    }

    /// Which of the credentials connections of `principal` are made with: the first that is for it.
    pub(super) fn credential_of(&self, principal: Option<&Principal>) -> usize {
        let is_for = |credential: &Credential| {
            principal.is_some_and(|who| credential.principals.iter().any(|pattern| pattern.matches(who)))
        };
        self.credentials.iter().position(is_for).unwrap_or_default()
    }

    /// Prepares the connections to a member; fails where its name is none that a certificate could have.
    pub fn member(&self, address: &HostPort) -> Result<Member, UpstreamTlsError> {
        let news = Arc::<MemberHealth>::default();
        let mut lines = Vec::new();
        for credential in &self.credentials {
            let endpoint = credential.endpoint(&self.config, address);
            let connector = Connector::new(&endpoint, Arc::clone(&credential.identity))?;
            lines.push(Arc::new(MemberPool {
                connector,
                shelf: SpareConnections::new(self.config.warm_connections, self.config.warm_connections_max),
                news: Arc::clone(&news),
                metrics: Arc::clone(&self.metrics),
                renewal: credential.renewal.clone(),
                replacements: Arc::clone(&self.replacements),
                counted: AtomicUsize::new(0),
                is_first: lines.is_empty(),
                denied: AtomicBool::new(false),
                denials: LogThrottle::new(),
            }));
        }
        Ok(Member { address: address.clone(), lines, news, service_id: bson::oid::ObjectId::new().bytes() })
    }

    /// Who its members are now.
    pub fn roster(&self) -> Arc<Membership> {
        Arc::clone(&self.roster.borrow())
    }

    /// Tells of each change of its members.
    pub(super) fn roster_watch(&self) -> watch::Receiver<Arc<Membership>> {
        self.roster.subscribe()
    }

    /// Resolves when `preference` would not put a client on the member of `line` any more. Cancel safe.
    pub(super) async fn outlives(&self, preference: ReadPreference, line: &MemberPool) {
        let mut roster = self.roster.subscribe();
        while roster.borrow_and_update().still_suits(preference, &line.news) {
            if roster.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Says who its members are from now on; connections to others stay as they are.
    pub fn publish(&self, roster: Membership) {
        self.roster.send_replace(Arc::new(roster));
    }

    /// Makes all further connections of one credential with `tls`. Those of the old set go when the new one has carried a
    /// connection: one that mongod does not take costs nobody the connection that he has.
    pub fn renew(&self, credential: usize, tls: UpstreamTls) {
        let Some(renewed) = self.credentials.get(credential) else { return };
        renewed.identity.renew(tls);
        for member in &self.roster().members {
            // The spares are of the old set.
            if let Some(line) = member.member.lines.get(credential) {
                line.shelf.wake();
            }
            // Readiness is to tell of the new set, not of the old one; whoever asks for it has the first credential.
            if credential == 0 {
                member.member.news.renewed.notify_one();
            }
        }
    }
}

impl Credential {
    fn new(
        section: Option<(usize, CredentialConfig)>,
        endpoint: &EndpointConfig,
        recycle_after: std::time::Duration,
    ) -> Result<Self, UpstreamTlsError> {
        let texts = section.as_ref().map(|(_, section)| section.principals.as_slice()).unwrap_or_default();
        let principals = texts.iter().map(|text| PrincipalPattern::new(text)).collect();
        let identity = Arc::new(ClientIdentity::new(endpoint)?);
        Ok(Self { section, principals, identity, renewal: Renewal::new(recycle_after) })
    }

    /// How a member is reached with it.
    pub fn endpoint(&self, upstream: &UpstreamConfig, address: &HostPort) -> EndpointConfig {
        match &self.section {
            None => upstream.endpoint(address),
            Some((index, section)) => upstream.endpoint_with(*index, section, address),
        }
    }

    /// For whom it is, as configured; nobody in particular where it is that of `[upstream.NAME.tls]`.
    pub fn principals(&self) -> &[String] {
        self.section.as_ref().map(|(_, section)| section.principals.as_slice()).unwrap_or_default()
    }

    /// Its place among `[[upstream.NAME.credential]]`, counted from 1; `None` for that of `[upstream.NAME.tls]`.
    pub fn place(&self) -> Option<usize> {
        self.section.as_ref().map(|(place, _)| *place)
    }
}
