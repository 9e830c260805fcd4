//! Who has certificates: an upstream or a listener, seen alike by whatever watches over them.

use std::sync::Arc;
use std::time::SystemTime;

use crate::connection::{Route, Upstream};
use crate::identity::{CertificateFacts, DistinguishedName};
use crate::telemetry::metrics::CertificateRole;
use crate::tls::{ListenerTls, MaterialFinding, MaterialSeverity, RevocationList, UpstreamTls};

/// An upstream, or a listener that speaks TLS.
#[derive(Clone)]
pub(super) enum Owner {
    /// Shows a certificate to mongod: the credential at this place of the upstream's.
    Upstream(Arc<Upstream>, usize),
    /// Shows one to its clients.
    Listener(Arc<Route>),
}

/// The certificates of one owner, to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CertificateSet {
    /// The owner's certificate, then its chain; not empty, unless the owner has none yet.
    pub(super) own: Vec<CertificateFacts>,
    /// Those that the other side's certificate may come from.
    pub(super) authorities: Vec<CertificateFacts>,
    /// What they have taken back.
    pub(super) lists: Vec<ListFacts>,
}

/// One revocation list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListFacts {
    /// Whose certificates it is about.
    pub(super) issuer: DistinguishedName,
    /// How many it names.
    pub(super) revoked: usize,
    /// When it was made.
    pub(super) this_update: SystemTime,
    /// When the next one is due, if it says so.
    pub(super) next_update: Option<SystemTime>,
}

impl Owner {
    /// A listener that speaks TLS; `None` for others.
    pub(super) fn listener_of(route: &Arc<Route>) -> Option<Self> {
        route.door.tls().map(|_| Self::Listener(Arc::clone(route)))
    }

    /// As it is named in sentences: `upstream orders`.
    pub(super) fn title(&self) -> String {
        match self {
            Self::Upstream(upstream, credential) => match upstream.credentials()[*credential].place() {
                None => format!("upstream {}", self.name()),
                Some(place) => format!("upstream {} credential {place}", self.name()),
            },
            Self::Listener(_) => format!("listener {}", self.name()),
        }
    }

    /// Its name in the configuration.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Upstream(upstream, _) => upstream.name(),
            Self::Listener(route) => &route.listener,
        }
    }

    /// Its name, if it is an upstream: for the field of log lines.
    pub(super) fn upstream(&self) -> Option<&str> {
        matches!(self, Self::Upstream(..)).then(|| self.name())
    }

    /// Its name, if it is a listener.
    pub(super) fn listener(&self) -> Option<&str> {
        matches!(self, Self::Listener(_)).then(|| self.name())
    }

    /// What its own certificates are called in `/status`.
    pub(super) fn own_key(&self) -> &'static str {
        match self {
            Self::Upstream(..) => "client",
            Self::Listener(_) => "server",
        }
    }

    /// What is in use now.
    pub(super) fn set(&self) -> CertificateSet {
        match self {
            Self::Upstream(..) => self.client_tls().map_or_else(CertificateSet::default, |tls| (&*tls).into()),
            Self::Listener(route) => route.door.tls().map_or_else(CertificateSet::default, |tls| (&*tls).into()),
        }
    }

    /// For whom it is, if it is a credential for some.
    pub(super) fn principals(&self) -> &[String] {
        match self {
            Self::Upstream(upstream, credential) => upstream.credentials()[*credential].principals(),
            Self::Listener(_) => &[],
        }
    }

    /// What connections to mongod are made with, if it is an upstream and has it.
    fn client_tls(&self) -> Option<Arc<UpstreamTls>> {
        match self {
            Self::Upstream(upstream, credential) => upstream.credentials()[*credential].identity.tls(),
            Self::Listener(_) => None,
        }
    }

    /// Those of all credentials of an upstream.
    pub(super) fn credentials_of(upstream: &Arc<Upstream>) -> impl Iterator<Item = Self> {
        (0..upstream.credentials().len()).map(|credential| Self::Upstream(Arc::clone(upstream), credential))
    }

    /// The roles of its own certificates and of its authorities.
    pub(super) fn roles(&self) -> [CertificateRole; 2] {
        match self {
            Self::Upstream(..) => [CertificateRole::UpstreamClient, CertificateRole::UpstreamCa],
            Self::Listener(_) => [CertificateRole::Listener, CertificateRole::ListenerCa],
        }
    }

    /// Logs what is doubtful about the set in use; its end is told in its own time.
    pub(super) fn tell_findings(&self, now: SystemTime) {
        let findings = match self {
            Self::Upstream(..) => self.client_tls().map(|tls| tls.findings(now)).unwrap_or_default(),
            Self::Listener(route) => route.door.tls().map(|tls| tls.findings(now)).unwrap_or_default(),
        };
        let (upstream, listener) = (self.upstream(), self.listener());
        for finding in
            findings.into_iter().filter(|finding| finding.severity > MaterialSeverity::Note && !finding.is_about_expiry)
        {
            let MaterialFinding { location, sentence, remedy, .. } = finding;
            tracing::warn!(upstream, listener, %location, finding = sentence, remedy, "doubtful certificates");
        }
    }
}

impl From<&UpstreamTls> for CertificateSet {
    fn from(tls: &UpstreamTls) -> Self {
        Self {
            own: tls.credentials.certificates().cloned().collect(),
            authorities: tls.trust_anchors.certificates.clone(),
            lists: tls.revocation_lists.iter().map(ListFacts::from).collect(),
        }
    }
}

impl From<&ListenerTls> for CertificateSet {
    fn from(tls: &ListenerTls) -> Self {
        Self {
            own: tls.credentials.certificates().cloned().collect(),
            authorities: tls.trust_anchors.certificates.clone(),
            lists: tls.revocation_lists.iter().map(ListFacts::from).collect(),
        }
    }
}

impl From<&RevocationList> for ListFacts {
    fn from(list: &RevocationList) -> Self {
        let RevocationList { issuer, this_update, next_update, .. } = list;
        Self { issuer: issuer.clone(), revoked: list.len(), this_update: *this_update, next_update: *next_update }
    }
}
