//! The trust anchors of path validation, and other CA certificates that are known without a peer's help.

use std::collections::HashMap;
use std::fmt;

use rustls::pki_types::CertificateDer;

use super::certificate::{CertificateOrigin, PathCertificate};
use super::name::CanonicalName;

/// The trust anchors of path validation, and other CA certificates that are known without a peer's help.
#[derive(Default)]
pub(in crate::tls) struct PathAnchors {
    stored: Vec<(CertificateDer<'static>, CertificateOrigin)>,
    /// Positions in `stored`.
    by_subject: HashMap<CanonicalName, Vec<usize>>,
}

impl PathAnchors {
    /// `intermediates` complete a chain, but do not end it.
    pub(in crate::tls) fn new(
        trust_anchors: &[CertificateDer<'static>],
        intermediates: &[CertificateDer<'static>],
    ) -> Self {
        let anchors = trust_anchors.iter().map(|der| (der.clone(), CertificateOrigin::TrustAnchor));
        let others = intermediates.iter().map(|der| (der.clone(), CertificateOrigin::Chain));
        let stored: Vec<_> = anchors.chain(others).collect();
        let mut by_subject: HashMap<_, Vec<_>> = HashMap::new();
        for (position, (der, origin)) in stored.iter().enumerate() {
            if let Some(certificate) = PathCertificate::from_der(der, *origin) {
                by_subject.entry(certificate.subject).or_default().push(position);
            }
        }
        Self { stored, by_subject }
    }

    /// Whether `certificate` itself is a trust anchor.
    pub(super) fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        let is_anchor = |(der, origin): &(CertificateDer<'_>, _)| {
            *origin == CertificateOrigin::TrustAnchor && der.as_ref() == certificate.as_ref()
        };
        self.stored.iter().any(is_anchor)
    }

    /// The certificates with this subject.
    pub(super) fn with_subject(&self, subject: &CanonicalName) -> impl Iterator<Item = PathCertificate<'_>> {
        let positions = self.by_subject.get(subject).map(Vec::as_slice).unwrap_or_default();
        let stored = positions.iter().filter_map(|position| self.stored.get(*position));
        stored.filter_map(|(der, origin)| PathCertificate::from_der(der, *origin))
    }
}

impl fmt::Debug for PathAnchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathAnchors").field("stored", &self.stored.len()).finish_non_exhaustive()
    }
}
