//! Who has certificates: an upstream or a listener, seen alike by whatever watches over them.

use std::sync::Arc;

use crate::connection::Upstream;
use crate::identity::CertificateFacts;
use crate::telemetry::metrics::CertificateRole;
use crate::tls::ClientTls;

/// An upstream, or a listener that speaks TLS.
#[derive(Clone)]
pub(super) enum Owner {
    /// Shows a certificate to mongod.
    Upstream(Arc<Upstream>),
}

/// The certificates of one owner, to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CertificateSet {
    /// The owner's certificate, then its chain; never empty.
    pub(super) own: Vec<CertificateFacts>,
    /// Those that the other side's certificate may come from.
    pub(super) authorities: Vec<CertificateFacts>,
}

impl Owner {
    /// As it is named in sentences: `upstream orders`.
    pub(super) fn title(&self) -> String {
        match self {
            Self::Upstream(upstream) => format!("upstream {}", upstream.connector.upstream()),
        }
    }

    /// Its name in the configuration.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Upstream(upstream) => upstream.connector.upstream(),
        }
    }

    /// Its name, if it is an upstream: for the field of log lines.
    #[expect(clippy::unnecessary_wraps, reason = "listeners have no upstream's name")]
    pub(super) fn upstream(&self) -> Option<&str> {
        match self {
            Self::Upstream(upstream) => Some(upstream.connector.upstream()),
        }
    }

    /// Its name, if it is a listener.
    pub(super) fn listener(&self) -> Option<&str> {
        match self {
            Self::Upstream(_) => None,
        }
    }

    /// What its own certificates are called in `/status`.
    pub(super) fn own_key(&self) -> &'static str {
        match self {
            Self::Upstream(_) => "client",
        }
    }

    /// What is in use now.
    pub(super) fn set(&self) -> CertificateSet {
        match self {
            Self::Upstream(upstream) => CertificateSet::from(&*upstream.connector.tls()),
        }
    }

    /// The roles of its own certificates and of its authorities.
    pub(super) fn roles(&self) -> [CertificateRole; 2] {
        match self {
            Self::Upstream(_) => [CertificateRole::UpstreamClient, CertificateRole::UpstreamCa],
        }
    }
}

impl From<&ClientTls> for CertificateSet {
    fn from(tls: &ClientTls) -> Self {
        Self {
            own: tls.credentials.certificates().cloned().collect(),
            authorities: tls.authorities.certificates.clone(),
        }
    }
}
