//! Finds problems of certificates, keys and revocation lists that can be used: dates, usage, order, permissions.
//!
//! Material that cannot be used is an error when it is read. The findings are logged at start and shown by `mongate
//! check`. Pure: reads no file and no clock.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::credentials::Credentials;
use super::finding::{FindingCollector, MaterialFinding, MaterialItem, MaterialSeverity, TlsSide};
use super::revocation::RevocationList;
use super::trust_anchors::TrustAnchors;
use crate::identity::{CertificateFacts, Validity, date_text};

/// Signatures with smaller RSA keys are rejected.
const RSA_BITS_MIN: usize = 2048;

/// All findings about one certificate set.
pub(super) fn material_findings(
    side: TlsSide,
    credentials: &Credentials,
    trust_anchors: &TrustAnchors,
    lists: &[RevocationList],
    now: SystemTime,
) -> Vec<MaterialFinding> {
    let mut findings = credentials.findings(side, Some(trust_anchors), now);
    findings.extend(trust_anchors.findings(now));
    findings.extend(revocation_findings(lists, trust_anchors, now));
    findings
}

impl Credentials {
    /// Findings about certificate, chain and key. `trust_anchors` are those of the same table, if they could be read.
    pub fn findings(
        &self,
        side: TlsSide,
        trust_anchors: Option<&TrustAnchors>,
        now: SystemTime,
    ) -> Vec<MaterialFinding> {
        let mut found = FindingCollector::new(MaterialItem::Certificate, &self.location);
        found.check_dates(&self.certificate, side.certificate(), MaterialSeverity::Error, now);
        found.check_certificate(&self.certificate, side);
        found.check_order(self);
        if let Some(trust_anchors) = trust_anchors {
            found.check_completeness(self, trust_anchors, side);
        }
        found.item = MaterialItem::PrivateKey;
        found.location = &self.key.location;
        found.check_key(self);
        found.findings
    }
}

impl TrustAnchors {
    /// Findings about the trust anchors.
    pub fn findings(&self, now: SystemTime) -> Vec<MaterialFinding> {
        // One valid trust anchor is enough.
        let is_valid = |facts: &CertificateFacts| matches!(facts.validity(now), Validity::Current | Validity::EndsSoon);
        let severity =
            if self.certificates.iter().any(is_valid) { MaterialSeverity::Warning } else { MaterialSeverity::Error };
        let mut found = FindingCollector::new(MaterialItem::TrustAnchor(0), &self.location);
        for (index, anchor) in self.certificates.iter().enumerate() {
            found.item = MaterialItem::TrustAnchor(index);
            found.check_dates(anchor, "the CA certificate", severity, now);
            if let Some(bits) = self.der.get(index).and_then(rsa_bits).filter(|bits| *bits < RSA_BITS_MIN) {
                let subject = &anchor.subject;
                let sentence = format!(
                    "the CA certificate {subject} has an RSA key of {bits} bits; certificates that it signed are \
                     rejected"
                );
                let remedy = format!("create a new CA with at least {RSA_BITS_MIN} bits");
                found.push(MaterialSeverity::Warning, sentence, remedy);
            }
        }
        found.findings
    }
}

/// Findings about revocation lists of the same table as `trust_anchors`.
pub fn revocation_findings(
    lists: &[RevocationList],
    trust_anchors: &TrustAnchors,
    now: SystemTime,
) -> Vec<MaterialFinding> {
    let mut findings = Vec::new();
    for (index, list) in lists.iter().enumerate() {
        let mut found = FindingCollector::new(MaterialItem::RevocationList(index), &list.location);
        found.check_list(list, &trust_anchors.der, now);
        findings.append(&mut found.findings);
    }
    findings
}

/// The size of the key in a certificate, if it is an RSA key.
fn rsa_bits(der: &CertificateDer<'_>) -> Option<usize> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => Some(key.key_size()),
        _ => None,
    }
}

impl FindingCollector<'_> {
    /// `name` is the name of the certificate in messages, and `severity` that of a certificate that is not valid now.
    fn check_dates(&mut self, facts: &CertificateFacts, name: &str, severity: MaterialSeverity, now: SystemTime) {
        let subject = &facts.subject;
        match facts.validity(now) {
            Validity::Current => {}
            validity @ (Validity::EndsSoon | Validity::Expired) => {
                let severity = if validity == Validity::Expired { severity } else { MaterialSeverity::Warning };
                self.push_expiry(severity, format!("{name} {subject} {}", facts.expiry_text(now)), "renew it");
            }
            Validity::NotYet => {
                let sentence = format!("{name} {subject} is not valid before {}", date_text(facts.not_before));
                self.push(severity, sentence, "check the clocks of this host and of the CA");
            }
        }
    }

    fn check_certificate(&mut self, certificate: &CertificateFacts, side: TlsSide) {
        let (name, subject) = (side.certificate(), &certificate.subject);
        let usage = side.usage();
        if !certificate.allows(usage) {
            let usages = certificate.extended_key_usages.as_deref().unwrap_or_default().join(", ");
            let sentence = format!("{name} {subject} is for {usages} only, and {} it", side.rejected_by());
            self.push(MaterialSeverity::Error, sentence, format!("issue it with extendedKeyUsage {usage}"));
        }
        match side {
            TlsSide::Upstream => self.check_subject(certificate),
            TlsSide::Listener if certificate.names().is_empty() => {
                let sentence = format!("{name} {subject} has no subject alternative name, and most drivers reject it");
                self.push(
                    MaterialSeverity::Warning,
                    sentence,
                    "issue it with the names that clients use for this listener",
                );
            }
            TlsSide::Listener => {}
        }
    }

    fn check_subject(&mut self, certificate: &CertificateFacts) {
        let (name, subject) = (TlsSide::Upstream.certificate(), &certificate.subject);
        if !subject.is_readable_by_mongod() {
            let sentence = format!("the subject {subject} of {name} is not UTF-8, and mongod rejects it");
            self.push(MaterialSeverity::Error, sentence, "issue it with UTF8String values");
        }
        if subject.is_empty() {
            let sentence = format!("{name} has no subject, so mongod can have no $external user for it");
            self.push(MaterialSeverity::Warning, sentence, "issue it with a subject");
        }
    }

    fn check_order(&mut self, credentials: &Credentials) {
        let mut previous = &credentials.certificate;
        for (index, next) in credentials.chain.iter().enumerate() {
            if previous.issuer != next.subject {
                let sentence = format!(
                    "certificate {} of {} is {}, but the issuer of the certificate before it is {}",
                    index + 2,
                    self.location.file_or_key(),
                    next.subject,
                    previous.issuer
                );
                let remedy =
                    "order the file: the leaf certificate, then its issuer, then the issuer of that certificate";
                self.push(MaterialSeverity::Warning, sentence, remedy);
                return;
            }
            previous = next;
        }
    }

    /// Only a note: the peer may have the issuer's certificate, which the gateway does not need.
    fn check_completeness(&mut self, credentials: &Credentials, trust_anchors: &TrustAnchors, side: TlsSide) {
        let last = credentials.chain.last().unwrap_or(&credentials.certificate);
        let is_sent = credentials.certificates().any(|facts| facts.subject == last.issuer);
        if is_sent || trust_anchors.issuer_of(last).is_some() {
            return;
        }
        let (issuer, peer) = (&last.issuer, side.peer());
        let sentence = format!(
            "the chain ends below {issuer}, which is not among the trust anchors either; {peer} must have that CA \
             certificate"
        );
        let remedy = format!("if {issuer} is an intermediate CA, add its certificate to the chain");
        self.push(MaterialSeverity::Note, sentence, remedy);
    }

    fn check_key(&mut self, credentials: &Credentials) {
        let file = self.location.file_or_key();
        if credentials.key.is_world_readable {
            let sentence = format!("every user of this host can read the private key in {file}");
            self.push(MaterialSeverity::Warning, sentence, format!("chmod o= {file}"));
        }
        if let Some(password) = &credentials.key.unused_password {
            let sentence =
                format!("the private key is not encrypted; the password in {} is not used", password.file_or_key());
            self.push(MaterialSeverity::Note, sentence, format!("remove {}", password.key));
        }
    }

    fn check_list(&mut self, list: &RevocationList, trust_anchors: &[CertificateDer<'static>], now: SystemTime) {
        let issuer = &list.issuer;
        if let Some(due) = list.next_update.filter(|due| *due < now) {
            let sentence = format!(
                "the revocation list of {issuer} is out of date since {}: it still applies, but certificates revoked \
                 since then are accepted",
                date_text(due)
            );
            self.push(MaterialSeverity::Warning, sentence, "fetch the current list from the CA");
        }
        let parsed =
            trust_anchors.iter().filter_map(|der| X509Certificate::from_der(der).ok()).map(|(_, parsed)| parsed);
        let named: Vec<_> = parsed.filter(|anchor| list.is_issued_under_name_of(anchor)).collect();
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        if named.is_empty() {
            let sentence = format!(
                "the revocation list was issued by {issuer}, which is not among the trust anchors: it applies only if \
                 the peer sends the certificate of {issuer}"
            );
            let file = self.location.file_or_key();
            let remedy = format!("if {issuer} is not an intermediate CA, remove the list from {file}");
            self.push(MaterialSeverity::Note, sentence, remedy);
        } else if !named.iter().any(|anchor| list.is_signed_by(anchor, algorithms)) {
            let sentence = format!(
                "the revocation list of {issuer} is not signed by the CA certificate of that name, and has no effect"
            );
            self.push(MaterialSeverity::Warning, sentence, "update the revocation list or the CA certificate");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::ExtendedKeyUsagePurpose;

    use super::*;
    use crate::config::TlsFiles;
    use crate::tls::read_revocation_lists;
    use crate::tls::test_pki::{CertificateAuthority, Folder, IssuedCertificate};

    /// The start of 2030.
    const NOW_SECONDS: u64 = 1_893_456_000;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECONDS)
    }

    fn files(folder: &Folder, certificate: &IssuedCertificate, ca: &str) -> TlsFiles {
        let certificate_file = folder.write("own.pem", certificate.combined());
        std::fs::set_permissions(&certificate_file, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        TlsFiles {
            private_key_file: certificate_file.clone(),
            certificate_file,
            private_key_password_file: None,
            ca_file: folder.write("ca.pem", ca),
            partial_chain: false,
            crl_file: None,
        }
    }

    fn sentences(findings: &[MaterialFinding]) -> Vec<(MaterialSeverity, String)> {
        assert!(findings.iter().all(|finding| !finding.remedy.is_empty()));
        findings.iter().map(|finding| (finding.severity, finding.sentence.clone())).collect()
    }

    #[track_caller]
    fn check(
        side: TlsSide,
        certificate: &IssuedCertificate,
        ca: &CertificateAuthority,
        expected: &[(MaterialSeverity, &str)],
    ) {
        let folder = Folder::new();
        let files = files(&folder, certificate, &ca.pem);
        let trust_anchors = TrustAnchors::read("upstream.orders.tls", &files).unwrap();
        let credentials = Credentials::read("upstream.orders.tls", &files).unwrap();
        let found = sentences(&credentials.findings(side, Some(&trust_anchors), now()));
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for ((severity, sentence), (expected_severity, part)) in found.iter().zip(expected) {
            assert!(severity == expected_severity && sentence.contains(part), "{severity:?} {sentence}");
        }
    }

    #[test]
    fn problems_of_a_certificate_are_found() {
        use MaterialSeverity::{Error, Note, Warning};
        let acme = CertificateAuthority::new("Acme CA");
        let below = acme.intermediate("Below");
        let made = |change: fn(&mut rcgen::CertificateParams)| acme.issue_with("svc-a", &["a.test"], change);
        for (side, certificate, expected) in [
            (TlsSide::Upstream, acme.issue("svc-a", &[]), &[][..]),
            (TlsSide::Upstream, acme.issue_version_1("svc-a"), &[]),
            (TlsSide::Upstream, below.issue("svc-a", &[]).chained(&below), &[]),
            (
                TlsSide::Upstream,
                made(|params| params.not_after = rcgen::date_time_ymd(2029, 12, 22)),
                &[(
                    Error,
                    "the gateway's client certificate CN=svc-a,O=Acme expired 2029-12-22 00:00:00 UTC (10 days ago)",
                )],
            ),
            (
                TlsSide::Upstream,
                made(|params| params.not_after = rcgen::date_time_ymd(2030, 1, 11)),
                &[(
                    Warning,
                    "the gateway's client certificate CN=svc-a,O=Acme expires 2030-01-11 00:00:00 UTC (in 10 days)",
                )],
            ),
            (
                TlsSide::Listener,
                made(|params| params.not_before = rcgen::date_time_ymd(2031, 1, 1)),
                &[(Error, "is not valid before 2031-01-01")],
            ),
            (
                TlsSide::Upstream,
                made(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
                &[(Error, "is for serverAuth only, and mongod rejects it")],
            ),
            (
                TlsSide::Listener,
                made(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
                &[(Error, "is for clientAuth only, and clients reject it")],
            ),
            (TlsSide::Listener, acme.issue_version_1("gateway"), &[(Warning, "has no subject alternative name")]),
            (
                TlsSide::Upstream,
                below.issue("svc-a", &[]),
                &[(
                    Note,
                    "the chain ends below CN=Below,O=Acme, which is not among the trust anchors either; mongod must",
                )],
            ),
            (
                TlsSide::Upstream,
                below.issue("svc-a", &[]).chained(&acme).chained(&below),
                &[(Warning, "certificate 2 of ")],
            ),
        ] {
            check(side, &certificate, &acme, expected);
        }
    }

    #[test]
    fn a_world_readable_key_is_found_and_a_group_readable_key_is_not() {
        let (folder, acme) = (Folder::new(), CertificateAuthority::new("Acme CA"));
        let files = files(&folder, &acme.issue("svc-a", &[]), &acme.pem);
        for (mode, count) in [(0o600, 0), (0o640, 0), (0o644, 1), (0o604, 1)] {
            std::fs::set_permissions(&files.private_key_file, std::os::unix::fs::PermissionsExt::from_mode(mode))
                .unwrap();
            let findings =
                Credentials::read("upstream.orders.tls", &files).unwrap().findings(TlsSide::Upstream, None, now());
            assert_eq!(findings.len(), count, "{mode:o} {findings:?}");
            assert!(findings.iter().all(|finding| finding.remedy.starts_with("chmod o= ")));
        }
    }

    #[test]
    fn an_expired_ca_matters_less_if_another_is_valid() {
        let folder = Folder::new();
        let old =
            CertificateAuthority::new_with("Old CA", |params| params.not_after = rcgen::date_time_ymd(2029, 1, 1));
        let pair = old.issue("svc-a", &[]);
        let both = format!("{}{}", old.pem, CertificateAuthority::new("New CA").pem);
        for (text, severity) in [(&old.pem, MaterialSeverity::Error), (&both, MaterialSeverity::Warning)] {
            let trust_anchors = TrustAnchors::read("upstream.orders.tls", &files(&folder, &pair, text)).unwrap();
            let findings = trust_anchors.findings(now());
            assert_eq!(findings.len(), 1);
            assert_eq!((findings[0].severity, findings[0].item), (severity, MaterialItem::TrustAnchor(0)));
        }
    }

    #[test]
    fn a_ca_with_a_small_key_is_found() {
        use rustls::pki_types::pem::PemObject as _;
        for (text, count) in
            [(include_str!("test_certificates/small-ca.pem"), 1), (include_str!("test_certificates/old-ca.pem"), 0)]
        {
            let der = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
            let findings = TrustAnchors::from_certificates("x", vec![der]).unwrap().findings(now());
            let small = findings.iter().filter(|finding| finding.sentence.contains("an RSA key of 1024 bits"));
            assert_eq!((small.count(), findings.len()), (count, count), "{findings:?}");
        }
    }

    #[test]
    fn lists_that_are_out_of_date_or_without_effect_are_found() {
        let (folder, acme) = (Folder::new(), CertificateAuthority::new("Acme CA"));
        let files = files(&folder, &acme.issue("svc-a", &[]), &acme.pem);
        let trust_anchors = TrustAnchors::read("upstream.orders.tls", &files).unwrap();
        for (text, expected) in [
            (acme.revocation_list(&[], 2031), None),
            (acme.revocation_list(&[], 2029), Some((MaterialSeverity::Warning, "is out of date since 2029-01-01"))),
            (
                CertificateAuthority::new("Acme CA").revocation_list(&[], 2031),
                Some((MaterialSeverity::Warning, "is not signed by the CA certificate of that name")),
            ),
            (
                CertificateAuthority::new("Other CA").revocation_list(&[], 2031),
                Some((
                    MaterialSeverity::Note,
                    "the revocation list was issued by CN=Other CA,O=Acme, which is not among",
                )),
            ),
        ] {
            let file = folder.write("crl.pem", text);
            let lists = read_revocation_lists("upstream.orders.tls", Some(&file)).unwrap();
            let found = sentences(&revocation_findings(&lists, &trust_anchors, now()));
            match (found.as_slice(), expected) {
                ([], None) => {}
                ([(severity, sentence)], Some((expected, part))) => {
                    assert!(*severity == expected && sentence.contains(part), "{sentence}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
