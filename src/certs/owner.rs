//! An upstream or a listener as the owner of a certificate set.

use std::sync::Arc;
use std::time::SystemTime;

use super::messages::CERTIFICATE_WARNING;
use super::set_facts::CertificateSetFacts;
use crate::cluster::{Credential, Upstream};
use crate::listener::ServerIdentity;
use crate::telemetry::metrics::CertificateRole;
use crate::tls::{MaterialFinding, MaterialSeverity, UpstreamTls};

/// The owner of a certificate set.
#[derive(Clone)]
pub enum CertificateOwner {
    /// The credential of an upstream at this index. Its client certificate is shown to mongod.
    Upstream(Arc<Upstream>, usize),
    /// A listener. Its server certificate is shown to clients.
    Listener(Arc<ServerIdentity>),
}

impl CertificateOwner {
    /// One owner for each credential of `upstream`.
    pub fn credentials_of(upstream: &Arc<Upstream>) -> impl Iterator<Item = Self> {
        (0..upstream.credentials().len()).map(|credential| Self::Upstream(Arc::clone(upstream), credential))
    }

    /// Identifies the owner, for people: `upstream orders`, `upstream orders credential 1`, `listener mesh`.
    pub fn title(&self) -> String {
        match self {
            Self::Upstream(upstream, credential) => match upstream.credentials()[*credential].number() {
                None => format!("upstream {}", self.name()),
                Some(number) => format!("upstream {} credential {number}", self.name()),
            },
            Self::Listener(_) => format!("listener {}", self.name()),
        }
    }

    /// The name of the upstream or listener in the configuration.
    pub fn name(&self) -> &str {
        match self {
            Self::Upstream(upstream, _) => upstream.name(),
            Self::Listener(identity) => identity.listener(),
        }
    }

    /// The name of the upstream, for the field of log lines.
    pub(super) fn upstream(&self) -> Option<&str> {
        matches!(self, Self::Upstream(..)).then(|| self.name())
    }

    /// The name of the listener, for the field of log lines.
    pub(super) fn listener(&self) -> Option<&str> {
        matches!(self, Self::Listener(_)).then(|| self.name())
    }

    /// The key of its leaf certificate and chain in `/status`.
    pub fn own_key(&self) -> &'static str {
        match self {
            Self::Upstream(..) => "client",
            Self::Listener(_) => "server",
        }
    }

    /// The contents of the set in use.
    pub fn set(&self) -> CertificateSetFacts {
        match self {
            Self::Upstream(..) => self.upstream_tls().map_or_else(CertificateSetFacts::default, |tls| (&*tls).into()),
            Self::Listener(identity) => (&*identity.tls()).into(),
        }
    }

    /// The principals that a credential is for; empty if it is for all others, and for a listener.
    pub fn principals(&self) -> &[String] {
        self.credential().map(Credential::principals).unwrap_or_default()
    }

    fn credential(&self) -> Option<&Credential> {
        match self {
            Self::Upstream(upstream, credential) => upstream.credentials().get(*credential),
            Self::Listener(_) => None,
        }
    }

    fn upstream_tls(&self) -> Option<Arc<UpstreamTls>> {
        self.credential()?.identity.tls()
    }

    /// The metric labels for its certificate and chain, and for its trust anchors.
    pub(super) fn roles(&self) -> [CertificateRole; 2] {
        match self {
            Self::Upstream(..) => [CertificateRole::UpstreamClient, CertificateRole::UpstreamCa],
            Self::Listener(_) => [CertificateRole::Listener, CertificateRole::ListenerCa],
        }
    }

    /// Logs warnings about the set in use, except about its expiry: see
    /// [`ExpiryMonitor`](super::expiry::ExpiryMonitor).
    pub(super) fn log_findings(&self, now: SystemTime) {
        let findings = match self {
            Self::Upstream(..) => self.upstream_tls().map(|tls| tls.findings(now)).unwrap_or_default(),
            Self::Listener(identity) => identity.tls().findings(now),
        };
        let (upstream, listener) = (self.upstream(), self.listener());
        for finding in
            findings.into_iter().filter(|finding| finding.severity > MaterialSeverity::Note && !finding.is_about_expiry)
        {
            let MaterialFinding { location, sentence, remedy, .. } = finding;
            tracing::warn!(upstream, listener, %location, finding = sentence, remedy, "{CERTIFICATE_WARNING}");
        }
    }
}
