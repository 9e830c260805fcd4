//! What is doubtful about material that can be used.
//!
//! What keeps the gateway from starting is an error of the readers; here is what they let pass and an operator should know:
//! dates, uses, order, permissions. The same findings are logged at the start and shown by `mongate check`. Pure: reads no
//! file and no clock.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::credentials::Credentials;
use super::material_error::Location;
use super::revocation::RevocationList;
use super::trust_anchors::TrustAnchors;
use crate::identity::{CertificateFacts, Validity, date_text};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MaterialSeverity {
    /// May well be right; worth knowing when something does not work.
    Note,
    /// Works, or works for now.
    Warning,
    /// The other side will refuse it.
    Error,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaterialItem {
    /// Our certificate or its chain.
    Certificate,
    /// Our key.
    PrivateKey,
    /// One of the authorities, counted from 0.
    Authority(usize),
    /// One of the revocation lists, counted from 0.
    RevocationList(usize),
}

/// Something doubtful.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaterialFinding {
    /// How much it matters.
    pub severity: MaterialSeverity,
    /// What it is about.
    pub concern: MaterialItem,
    /// Where that comes from.
    pub location: Location,
    /// Whether it is that a certificate ends or has ended, which grows worse with time.
    pub is_about_expiry: bool,
    /// What is the case.
    pub sentence: String,
    /// What to do about it.
    pub remedy: String,
}

/// Which side of TLS we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsSide {
    /// A client of mongod.
    Upstream,
    /// A server for our clients.
    Listener,
}

impl TlsSide {
    fn usage(self) -> &'static str {
        match self {
            Self::Upstream => "clientAuth",
            Self::Listener => "serverAuth",
        }
    }

    fn refused_by(self) -> &'static str {
        match self {
            Self::Upstream => "mongod refuses",
            Self::Listener => "clients refuse",
        }
    }
}

impl Credentials {
    /// What is doubtful about them; `authorities` are those of the same table, if they could be read.
    pub fn findings(&self, side: TlsSide, authorities: Option<&TrustAnchors>, now: SystemTime) -> Vec<MaterialFinding> {
        let mut found =
            FindingCollector { findings: Vec::new(), concern: MaterialItem::Certificate, location: &self.location };
        found.dates(&self.certificate, "our certificate", MaterialSeverity::Error, now);
        found.certificate(&self.certificate, side);
        found.order(self);
        if let Some(authorities) = authorities {
            found.completeness(self, authorities, side);
        }
        found.concern = MaterialItem::PrivateKey;
        found.location = &self.key.location;
        found.key(self);
        found.findings
    }
}

impl TrustAnchors {
    /// What is doubtful about them.
    pub fn findings(&self, now: SystemTime) -> Vec<MaterialFinding> {
        // One that still counts is enough.
        let usable = |facts: &CertificateFacts| matches!(facts.validity(now), Validity::Current | Validity::EndsSoon);
        let severity =
            if self.certificates.iter().any(usable) { MaterialSeverity::Warning } else { MaterialSeverity::Error };
        let mut found =
            FindingCollector { findings: Vec::new(), concern: MaterialItem::Authority(0), location: &self.location };
        for (index, authority) in self.certificates.iter().enumerate() {
            found.concern = MaterialItem::Authority(index);
            found.dates(authority, "the authority", severity, now);
            if let Some(bits) = self.der.get(index).and_then(rsa_bits).filter(|bits| *bits < RSA_BITS_MIN) {
                found.small_key(authority, bits);
            }
        }
        found.findings
    }
}

/// What is doubtful about revocation lists of the same table as `authorities`.
pub fn revocation_findings(
    lists: &[RevocationList],
    authorities: &TrustAnchors,
    now: SystemTime,
) -> Vec<MaterialFinding> {
    let mut findings = Vec::new();
    for (index, list) in lists.iter().enumerate() {
        let concern = MaterialItem::RevocationList(index);
        let mut found = FindingCollector { findings: Vec::new(), concern, location: &list.location };
        found.list(list, &authorities.der, now);
        findings.append(&mut found.findings);
    }
    findings
}

/// Signatures with smaller keys are refused.
const RSA_BITS_MIN: usize = 2048;

/// Bits of the key of a certificate, if it is one of RSA.
fn rsa_bits(der: &CertificateDer<'_>) -> Option<usize> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => Some(key.key_size()),
        _ => None,
    }
}

/// Findings as they are made, and what they are about.
struct FindingCollector<'a> {
    findings: Vec<MaterialFinding>,
    concern: MaterialItem,
    location: &'a Location,
}

impl FindingCollector<'_> {
    fn push(&mut self, severity: MaterialSeverity, sentence: String, remedy: impl Into<String>) {
        let (concern, location) = (self.concern, self.location.clone());
        let remedy = remedy.into();
        self.findings.push(MaterialFinding { severity, concern, location, is_about_expiry: false, sentence, remedy });
    }

    fn dates(&mut self, facts: &CertificateFacts, whose: &str, severity: MaterialSeverity, now: SystemTime) {
        let subject = &facts.subject;
        match facts.validity(now) {
            Validity::Current => {}
            validity @ (Validity::EndsSoon | Validity::Expired) => {
                let severity = if validity == Validity::Expired { severity } else { MaterialSeverity::Warning };
                self.push(severity, format!("{whose} {subject} {}", facts.expiry_text(now)), "renew it");
                if let Some(finding) = self.findings.last_mut() {
                    finding.is_about_expiry = true;
                }
            }
            Validity::NotYet => {
                let sentence = format!("{whose} {subject} is not valid before {}", date_text(facts.not_before));
                self.push(severity, sentence, "check the clocks of this host and of the authority");
            }
        }
    }

    fn small_key(&mut self, authority: &CertificateFacts, bits: usize) {
        let subject = &authority.subject;
        let sentence =
            format!("the authority {subject} has an RSA key of {bits} bits, and what it has signed is refused");
        self.push(
            MaterialSeverity::Warning,
            sentence,
            format!("make a new authority with {RSA_BITS_MIN} bits or more"),
        );
    }

    fn certificate(&mut self, certificate: &CertificateFacts, side: TlsSide) {
        let subject = &certificate.subject;
        let (usage, refused_by) = (side.usage(), side.refused_by());
        if !certificate.allows(usage) {
            let usages = certificate.extended_key_usages.as_deref().unwrap_or_default().join(", ");
            let sentence = format!("our certificate {subject} is for {usages} only, and {refused_by} it");
            self.push(MaterialSeverity::Error, sentence, format!("issue it with extendedKeyUsage {usage}"));
        }
        match side {
            TlsSide::Upstream => self.subject(certificate),
            TlsSide::Listener if certificate.names().is_empty() => {
                let sentence =
                    format!("our certificate {subject} has no subject alternative name, and most drivers refuse it");
                self.push(
                    MaterialSeverity::Warning,
                    sentence,
                    "issue it with the names by which clients reach this listener",
                );
            }
            TlsSide::Listener => {}
        }
    }

    fn subject(&mut self, certificate: &CertificateFacts) {
        let subject = &certificate.subject;
        if !subject.is_readable_by_mongod() {
            let sentence = format!("the subject {subject} of our certificate is no UTF-8, and mongod refuses it");
            self.push(MaterialSeverity::Error, sentence, "issue it with UTF8String values");
        }
        if subject.is_empty() {
            let sentence = "our certificate has no subject, so mongod can have no $external user for it".to_owned();
            self.push(MaterialSeverity::Warning, sentence, "issue it with a subject");
        }
    }

    fn order(&mut self, credentials: &Credentials) {
        let mut previous = &credentials.certificate;
        for (index, next) in credentials.chain.iter().enumerate() {
            if previous.issuer != next.subject {
                let sentence = format!(
                    "certificate {} of {} is that of {}, not that of {} who issued the one before it",
                    index + 2,
                    self.location.place(),
                    next.subject,
                    previous.issuer
                );
                let remedy = "order the file: our certificate, then its issuer's, then that one's";
                self.push(MaterialSeverity::Warning, sentence, remedy);
                return;
            }
            previous = next;
        }
    }

    /// Only a note: the other side may well have the issuer, and we need not know it.
    fn completeness(&mut self, credentials: &Credentials, authorities: &TrustAnchors, side: TlsSide) {
        let last = credentials.chain.last().unwrap_or(&credentials.certificate);
        let is_sent = credentials.certificates().any(|facts| facts.subject == last.issuer);
        if is_sent || authorities.issuer_of(last).is_some() {
            return;
        }
        let other_side = match side {
            TlsSide::Upstream => "mongod",
            TlsSide::Listener => "every client",
        };
        let sentence = format!(
            "the chain ends below {}, who is not among our authorities either: {other_side} must have that certificate itself",
            last.issuer
        );
        let remedy = format!("if {} is not an authority that it has, add its certificate to the chain", last.issuer);
        self.push(MaterialSeverity::Note, sentence, remedy);
    }

    fn key(&mut self, credentials: &Credentials) {
        let place = self.location.place();
        if credentials.key.is_world_readable {
            let sentence = format!("every user of this host may open the private key in {place}");
            self.push(MaterialSeverity::Warning, sentence, format!("chmod o= {place}"));
        }
        if let Some(password) = &credentials.key.unused_password {
            let sentence =
                format!("the private key is not encrypted, and has no need of the password in {}", password.place());
            self.push(MaterialSeverity::Note, sentence, format!("leave {} out", password.key));
        }
    }

    fn list(&mut self, list: &RevocationList, authorities: &[CertificateDer<'static>], now: SystemTime) {
        let issuer = &list.issuer;
        if let Some(due) = list.next_update.filter(|due| *due < now) {
            let sentence = format!(
                "the revocation list of {issuer} should have been replaced on {}: it still counts, but what was revoked since is accepted",
                date_text(due)
            );
            self.push(MaterialSeverity::Warning, sentence, "fetch the current list from the authority");
        }
        let parsed = authorities.iter().filter_map(|der| X509Certificate::from_der(der).ok()).map(|(_, parsed)| parsed);
        let named: Vec<_> = parsed.filter(|authority| list.is_about(authority)).collect();
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        if named.is_empty() {
            let sentence = format!(
                "the revocation list is that of {issuer}, who is not among the authorities: it counts only where the other side sends its certificate"
            );
            self.push(
                MaterialSeverity::Note,
                sentence,
                format!("if that is not an intermediate, leave the list out of {}", self.location.place()),
            );
        } else if !named.iter().any(|authority| list.is_signed_by(authority, algorithms)) {
            let sentence = format!(
                "the revocation list of {issuer} is not signed by our authority of that name, and has no effect"
            );
            self.push(MaterialSeverity::Warning, sentence, "bring list and authority up to date");
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

    fn files(folder: &Folder, pair: &IssuedCertificate, authorities: &str) -> TlsFiles {
        let certificate_file = folder.write("own.pem", pair.combined());
        std::fs::set_permissions(&certificate_file, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        TlsFiles {
            private_key_file: certificate_file.clone(),
            certificate_file,
            private_key_password_file: None,
            ca_file: folder.write("ca.pem", authorities),
            crl_file: None,
        }
    }

    fn told(findings: &[MaterialFinding]) -> Vec<(MaterialSeverity, String)> {
        assert!(findings.iter().all(|finding| !finding.remedy.is_empty()));
        findings.iter().map(|finding| (finding.severity, finding.sentence.clone())).collect()
    }

    #[track_caller]
    fn check(
        side: TlsSide,
        pair: &IssuedCertificate,
        authority: &CertificateAuthority,
        expected: &[(MaterialSeverity, &str)],
    ) {
        let folder = Folder::new();
        let files = files(&folder, pair, &authority.pem);
        let authorities = TrustAnchors::read("upstream.orders.tls", &files).unwrap();
        let credentials = Credentials::read("upstream.orders.tls", &files).unwrap();
        let found = told(&credentials.findings(side, Some(&authorities), now()));
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for ((severity, sentence), (expected_severity, part)) in found.iter().zip(expected) {
            assert!(severity == expected_severity && sentence.contains(part), "{severity:?} {sentence}");
        }
    }

    #[test]
    fn what_is_doubtful_about_a_certificate_is_found() {
        use MaterialSeverity::{Error, Note, Warning};
        let acme = CertificateAuthority::new("Acme CA");
        let below = acme.intermediate("Below");
        let made = |change: fn(&mut rcgen::CertificateParams)| acme.issue_with("svc-a", &["a.test"], change);
        for (side, pair, expected) in [
            (TlsSide::Upstream, acme.issue("svc-a", &[]), &[][..]),
            (TlsSide::Upstream, acme.issue_version_1("svc-a"), &[]),
            (TlsSide::Upstream, below.issue("svc-a", &[]).chained(&below), &[]),
            (
                TlsSide::Upstream,
                made(|params| params.not_after = rcgen::date_time_ymd(2029, 12, 22)),
                &[(Error, "our certificate CN=svc-a,O=Acme expired 2029-12-22 00:00:00 UTC (10 days ago)")],
            ),
            (
                TlsSide::Upstream,
                made(|params| params.not_after = rcgen::date_time_ymd(2030, 1, 11)),
                &[(Warning, "our certificate CN=svc-a,O=Acme expires 2030-01-11 00:00:00 UTC (in 10 days)")],
            ),
            (
                TlsSide::Listener,
                made(|params| params.not_before = rcgen::date_time_ymd(2031, 1, 1)),
                &[(Error, "is not valid before 2031-01-01")],
            ),
            (
                TlsSide::Upstream,
                made(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
                &[(Error, "is for serverAuth only, and mongod refuses it")],
            ),
            (
                TlsSide::Listener,
                made(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
                &[(Error, "is for clientAuth only, and clients refuse it")],
            ),
            (TlsSide::Listener, acme.issue_version_1("gateway"), &[(Warning, "has no subject alternative name")]),
            (
                TlsSide::Upstream,
                below.issue("svc-a", &[]),
                &[(Note, "the chain ends below CN=Below,O=Acme, who is not among our authorities either: mongod must")],
            ),
            (
                TlsSide::Upstream,
                below.issue("svc-a", &[]).chained(&acme).chained(&below),
                &[(Warning, "certificate 2 of ")],
            ),
        ] {
            check(side, &pair, &acme, expected);
        }
    }

    #[test]
    fn a_key_that_everyone_may_read_is_found_and_one_of_the_group_is_not() {
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
    fn an_authority_past_its_time_matters_less_while_another_counts() {
        let folder = Folder::new();
        let old =
            CertificateAuthority::new_with("Old CA", |params| params.not_after = rcgen::date_time_ymd(2029, 1, 1));
        let pair = old.issue("svc-a", &[]);
        let both = format!("{}{}", old.pem, CertificateAuthority::new("New CA").pem);
        for (text, severity) in [(&old.pem, MaterialSeverity::Error), (&both, MaterialSeverity::Warning)] {
            let authorities = TrustAnchors::read("upstream.orders.tls", &files(&folder, &pair, text)).unwrap();
            let findings = authorities.findings(now());
            assert_eq!(findings.len(), 1);
            assert_eq!((findings[0].severity, findings[0].concern), (severity, MaterialItem::Authority(0)));
        }
    }

    #[test]
    fn an_authority_with_a_small_key_is_found() {
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
    fn lists_that_are_old_or_without_effect_are_found() {
        let (folder, acme) = (Folder::new(), CertificateAuthority::new("Acme CA"));
        let files = files(&folder, &acme.issue("svc-a", &[]), &acme.pem);
        let authorities = TrustAnchors::read("upstream.orders.tls", &files).unwrap();
        for (text, expected) in [
            (acme.revocation_list(&[], 2031), None),
            (
                acme.revocation_list(&[], 2029),
                Some((MaterialSeverity::Warning, "should have been replaced on 2029-01-01")),
            ),
            (
                CertificateAuthority::new("Acme CA").revocation_list(&[], 2031),
                Some((MaterialSeverity::Warning, "is not signed by our authority of that name")),
            ),
            (
                CertificateAuthority::new("Other CA").revocation_list(&[], 2031),
                Some((MaterialSeverity::Note, "the revocation list is that of CN=Other CA,O=Acme, who is not among")),
            ),
        ] {
            let file = folder.write("crl.pem", text);
            let lists = read_revocation_lists("upstream.orders.tls", Some(&file)).unwrap();
            let found = told(&revocation_findings(&lists, &authorities, now()));
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
