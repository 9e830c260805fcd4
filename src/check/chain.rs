//! A certificate chain, from the leaf certificate to its trust anchor, and its drawing as text.
//!
//! Compares names only. The TLS handshake verifies the signatures.

use std::time::SystemTime;

use crate::identity::{CertificateFacts, DistinguishedName};
use crate::tls::TrustAnchors;

/// The certificates among which an issuer is searched.
pub(super) struct IssuerSources<'a> {
    /// The intermediate certificates that are sent with the certificate.
    pub(super) sent: &'a [CertificateFacts],
    /// How the drawing calls them.
    pub(super) sent_as: &'static str,
    /// The gateway's own trust anchors.
    pub(super) trust_anchors: Option<&'a TrustAnchors>,
}

/// A chain, as far as its certificates are known.
pub(super) struct Chain<'a> {
    /// The certificates, each with where it was found. The first one is the leaf certificate.
    pub(super) links: Vec<(&'a CertificateFacts, &'static str)>,
    /// The issuer of the last certificate, if the certificate of that issuer was not found.
    missing: Option<&'a DistinguishedName>,
}

impl<'a> Chain<'a> {
    /// Follows the issuers from `certificate`, as far as they are found.
    pub(super) fn follow(certificate: &'a CertificateFacts, sources: &IssuerSources<'a>) -> Self {
        let mut chain = Self { links: vec![(certificate, "")], missing: None };
        let mut current = certificate;
        // Names can form a circle, so the number of steps is limited.
        for _ in 0..sources.sent.len() + sources.anchor_certificates().len() + sources.intermediates().len() {
            if current.is_self_issued() {
                return chain;
            }
            let Some(link) = sources.issuer_of(current) else { break };
            chain.links.push(link);
            current = link.0;
        }
        chain.missing = Some(&current.issuer).filter(|_| !current.is_self_issued());
        chain
    }

    /// The drawing: one certificate below the other, with growing indentation. `now` is compared with their expiry.
    pub(super) fn lines(&self, now: SystemTime) -> Vec<String> {
        let indent = |depth: usize| "   ".repeat(depth);
        let branch = |depth: usize| format!("{}└─ ", indent(depth.saturating_sub(1)));
        let mut lines = Vec::new();
        for (depth, (certificate, found_in)) in self.links.iter().enumerate() {
            let subject = certificate.subject.to_string();
            lines.push(if depth == 0 { subject } else { format!("{}{subject} ({found_in})", branch(depth)) });
            lines.extend(described(certificate, now).map(|line| format!("{}{line}", indent(depth))));
        }
        if let Some(missing) = self.missing {
            lines.push(format!("{}{missing} (not found)", branch(self.links.len())));
        }
        lines
    }
}

impl<'a> IssuerSources<'a> {
    fn anchor_certificates(&self) -> &'a [CertificateFacts] {
        self.trust_anchors.map(|trust_anchors| trust_anchors.certificates.as_slice()).unwrap_or_default()
    }

    fn intermediates(&self) -> &'a [CertificateFacts] {
        self.trust_anchors.map(|trust_anchors| trust_anchors.intermediates.as_slice()).unwrap_or_default()
    }

    /// Searches the trust anchors first: a chain can end at a trust anchor, whatever else was sent.
    fn issuer_of(&self, certificate: &CertificateFacts) -> Option<(&'a CertificateFacts, &'static str)> {
        let named = |facts: &&CertificateFacts| facts.subject == certificate.issuer;
        let is_file = self.trust_anchors.is_some_and(|trust_anchors| trust_anchors.location.file.is_some());
        let found_in = if is_file { "from ca_file" } else { "from the SPIFFE agent" };
        let anchor = self.anchor_certificates().iter().find(named).map(|facts| (facts, found_in));
        let sent = || self.sent.iter().find(named).map(|facts| (facts, self.sent_as));
        anchor.or_else(sent).or_else(|| self.intermediates().iter().find(named).map(|facts| (facts, found_in)))
    }
}

/// The properties of a certificate, and its expiry.
pub(super) fn described(facts: &CertificateFacts, now: SystemTime) -> [String; 2] {
    let usage = match &facts.extended_key_usages {
        _ if facts.is_ca => "a CA".to_owned(),
        Some(usages) => format!("for {}", usages.join(", ")),
        None => "for any use".to_owned(),
    };
    let (key, version, signature) = (&facts.key, facts.version, &facts.signature);
    [format!("{key}, X.509 version {version}, {usage}, signed with {signature}"), facts.expiry_text(now)]
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::tls::test_pki::{CertificateAuthority, IssuedCertificate};

    fn facts(der: &[u8]) -> CertificateFacts {
        CertificateFacts::from_der(der).unwrap()
    }

    fn sent(pair: &IssuedCertificate) -> Vec<CertificateFacts> {
        pair.chain.iter().map(|der| facts(der)).collect()
    }

    #[track_caller]
    fn check(pair: &IssuedCertificate, trusted: &[&CertificateAuthority], expected: &[&str]) {
        let (leaf, sent) = (facts(&pair.der), sent(pair));
        let trusted = trusted.iter().map(|anchor| anchor.der.clone()).collect();
        let trust_anchors = TrustAnchors::from_certificates("key", trusted).ok();
        let chain = Chain::follow(
            &leaf,
            &IssuerSources { sent: &sent, sent_as: "sent", trust_anchors: trust_anchors.as_ref() },
        );
        let lines = chain.lines(UNIX_EPOCH);
        let subjects: Vec<_> = lines.iter().filter(|line| line.contains("CN=")).collect();
        assert_eq!(subjects, expected);
    }

    #[test]
    fn a_chain_ends_at_a_trust_anchor_or_at_an_unknown_issuer() {
        let root = CertificateAuthority::new("Root");
        let middle = root.intermediate("Middle");
        let pair = || middle.issue("leaf", &[]);
        let ends = |last: &'static str| ["CN=leaf,O=Acme", "└─ CN=Middle,O=Acme (sent)", last];
        check(&pair().chained(&middle), &[&root], &ends("   └─ CN=Root,O=Acme (from the SPIFFE agent)"));
        check(&pair().chained(&middle).chained(&root), &[], &ends("   └─ CN=Root,O=Acme (sent)"));
        check(&pair().chained(&middle), &[], &ends("   └─ CN=Root,O=Acme (not found)"));
        check(&pair(), &[&root], &["CN=leaf,O=Acme", "└─ CN=Middle,O=Acme (not found)"]);
        // The order in the file does not matter here.
        check(&pair().chained(&root).chained(&middle), &[], &ends("   └─ CN=Root,O=Acme (sent)"));
    }

    #[test]
    fn a_circle_of_names_has_an_end() {
        let (left, right) = (CertificateAuthority::new("Left"), CertificateAuthority::new("Right"));
        let (left_by_right, right_by_left) = (right.intermediate("Left"), left.intermediate("Right"));
        let pair = left.issue("leaf", &[]).chained(&left_by_right).chained(&right_by_left);
        let expected = [
            "CN=leaf,O=Acme",
            "└─ CN=Left,O=Acme (sent)",
            "   └─ CN=Right,O=Acme (sent)",
            "      └─ CN=Left,O=Acme (not found)",
        ];
        check(&pair, &[], &expected);
    }
}
