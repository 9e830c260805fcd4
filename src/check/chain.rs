//! A chain of certificates, from the one at its end up to its authority, and how it is drawn.
//!
//! By names alone: signatures were checked where the chain was used, or are for the other side to check.

use std::time::SystemTime;

use crate::identity::{CertificateFacts, DistinguishedName};
use crate::tls::TrustAnchors;

/// What a certificate's issuer is looked for in.
pub(super) struct Above<'a> {
    /// What is sent with the certificate.
    pub(super) sent: &'a [CertificateFacts],
    /// What those are, in words.
    pub(super) sent_as: &'static str,
    /// Ours.
    pub(super) authorities: Option<&'a TrustAnchors>,
}

/// A chain as far as it is known.
pub(super) struct Chain<'a> {
    /// The first one is the certificate itself; each other one stands with where it was found.
    pub(super) links: Vec<(&'a CertificateFacts, &'static str)>,
    /// Who issued the last one, if that one was found nowhere.
    missing: Option<&'a DistinguishedName>,
}

impl<'a> Chain<'a> {
    /// Climbs from `certificate` as far as issuers are found.
    pub(super) fn climb(certificate: &'a CertificateFacts, above: &Above<'a>) -> Self {
        let mut chain = Self { links: vec![(certificate, "")], missing: None };
        let mut current = certificate;
        // Names may lead in a circle: none is passed twice.
        for _ in 0..above.sent.len() + above.authorities().len() {
            if current.is_self_issued() {
                return chain;
            }
            let Some(link) = above.issuer_of(current) else { break };
            chain.links.push(link);
            current = link.0;
        }
        chain.missing = Some(&current.issuer).filter(|_| !current.is_self_issued());
        chain
    }

    /// One certificate below the other, each further to the right; `now` is for their expiry.
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
            lines.push(format!("{}{missing} (unknown here)", branch(self.links.len())));
        }
        lines
    }
}

impl<'a> Above<'a> {
    fn authorities(&self) -> &'a [CertificateFacts] {
        self.authorities.map(|authorities| authorities.certificates.as_slice()).unwrap_or_default()
    }

    /// Trust anchors first: a chain may end there, whatever is sent.
    fn issuer_of(&self, certificate: &CertificateFacts) -> Option<(&'a CertificateFacts, &'static str)> {
        let named = |facts: &&CertificateFacts| facts.subject == certificate.issuer;
        let is_file = self.authorities.is_some_and(|authorities| authorities.location.file.is_some());
        let found_in = if is_file { "of our ca_file" } else { "of our agent" };
        let authority = self.authorities().iter().find(named).map(|facts| (facts, found_in));
        authority.or_else(|| self.sent.iter().find(named).map(|facts| (facts, self.sent_as)))
    }
}

/// What a certificate is and until when.
pub(super) fn described(facts: &CertificateFacts, now: SystemTime) -> [String; 2] {
    let usage = match &facts.extended_key_usages {
        _ if facts.is_ca => "an authority".to_owned(),
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
    fn check(pair: &IssuedCertificate, ours: &[&CertificateAuthority], expected: &[&str]) {
        let (leaf, sent) = (facts(&pair.der), sent(pair));
        let ours = ours.iter().map(|authority| authority.der.clone()).collect();
        let authorities = TrustAnchors::from_certificates("key", ours).ok();
        let chain = Chain::climb(&leaf, &Above { sent: &sent, sent_as: "sent", authorities: authorities.as_ref() });
        let lines = chain.lines(UNIX_EPOCH);
        let subjects: Vec<_> = lines.iter().filter(|line| line.contains("CN=")).collect();
        assert_eq!(subjects, expected);
    }

    #[test]
    fn a_chain_ends_where_it_is_trusted_or_where_nobody_knows_more() {
        let root = CertificateAuthority::new("Root");
        let middle = root.intermediate("Middle");
        let pair = || middle.issue("leaf", &[]);
        let ends = |last: &'static str| ["CN=leaf,O=Acme", "└─ CN=Middle,O=Acme (sent)", last];
        check(&pair().chained(&middle), &[&root], &ends("   └─ CN=Root,O=Acme (of our agent)"));
        check(&pair().chained(&middle).chained(&root), &[], &ends("   └─ CN=Root,O=Acme (sent)"));
        check(&pair().chained(&middle), &[], &ends("   └─ CN=Root,O=Acme (unknown here)"));
        check(&pair(), &[&root], &["CN=leaf,O=Acme", "└─ CN=Middle,O=Acme (unknown here)"]);
        // The order of the file is another matter.
        check(&pair().chained(&root).chained(&middle), &[], &ends("   └─ CN=Root,O=Acme (sent)"));
    }

    #[test]
    fn names_that_lead_in_a_circle_end_all_the_same() {
        let (left, right) = (CertificateAuthority::new("Left"), CertificateAuthority::new("Right"));
        let (left_by_right, right_by_left) = (right.intermediate("Left"), left.intermediate("Right"));
        let pair = left.issue("leaf", &[]).chained(&left_by_right).chained(&right_by_left);
        let expected = [
            "CN=leaf,O=Acme",
            "└─ CN=Left,O=Acme (sent)",
            "   └─ CN=Right,O=Acme (sent)",
            "      └─ CN=Left,O=Acme (unknown here)",
        ];
        check(&pair, &[], &expected);
    }
}
