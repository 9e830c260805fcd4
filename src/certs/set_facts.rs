//! What a certificate set contains, for `/status`, the expiry monitor and log lines.

use std::time::SystemTime;

use crate::identity::{CertificateFacts, DistinguishedName};
use crate::tls::{ListenerTls, RevocationList, UpstreamTls};

/// The contents of one certificate set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateSetFacts {
    /// The leaf certificate, then its chain. Empty only if the first set has not arrived yet.
    pub own: Vec<CertificateFacts>,
    /// Where they were read from: configuration key and file.
    pub own_location: String,
    /// The trust anchors for the certificates of the other side.
    pub trust_anchors: Vec<CertificateFacts>,
    /// The other CA certificates of the same source.
    pub intermediates: Vec<CertificateFacts>,
    /// Where the trust anchors were read from: configuration key and file.
    pub trust_anchors_location: String,
    /// The revocation lists of their CAs.
    pub crls: Vec<CrlFacts>,
}

/// One revocation list (CRL).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlFacts {
    /// The CA that issued it.
    pub issuer: DistinguishedName,
    /// The number of revoked certificates.
    pub revoked: usize,
    /// When it was issued.
    pub this_update: SystemTime,
    /// When the next one is due, if the list states it.
    pub next_update: Option<SystemTime>,
}

impl From<&UpstreamTls> for CertificateSetFacts {
    fn from(tls: &UpstreamTls) -> Self {
        Self {
            own: tls.credentials.certificates().cloned().collect(),
            own_location: tls.credentials.location.to_string(),
            trust_anchors: tls.trust_anchors.certificates.clone(),
            intermediates: tls.trust_anchors.intermediates.clone(),
            trust_anchors_location: tls.trust_anchors.location.to_string(),
            crls: tls.revocation_lists.iter().map(CrlFacts::from).collect(),
        }
    }
}

impl From<&ListenerTls> for CertificateSetFacts {
    fn from(tls: &ListenerTls) -> Self {
        Self {
            own: tls.credentials.certificates().cloned().collect(),
            own_location: tls.credentials.location.to_string(),
            trust_anchors: tls.trust_anchors.certificates.clone(),
            intermediates: tls.trust_anchors.intermediates.clone(),
            trust_anchors_location: tls.trust_anchors.location.to_string(),
            crls: tls.revocation_lists.iter().map(CrlFacts::from).collect(),
        }
    }
}

impl From<&RevocationList> for CrlFacts {
    fn from(list: &RevocationList) -> Self {
        let RevocationList { issuer, this_update, next_update, .. } = list;
        Self { issuer: issuer.clone(), revoked: list.len(), this_update: *this_update, next_update: *next_update }
    }
}
