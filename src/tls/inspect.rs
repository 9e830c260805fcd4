//! What is doubtful about material that can be used.
//!
//! What keeps the gateway from starting is an error of the readers; here is what they let pass and an operator should know:
//! dates, uses, order, permissions. The same findings are logged at the start and shown by `mongate check`. Pure: reads no
//! file and no clock.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::authorities::Authorities;
use super::credentials::Credentials;
use super::problem::Location;
use super::revocation::RevocationList;
use crate::identity::{CertificateFacts, Validity, date_text};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// May well be right; worth knowing when something does not work.
    Note,
    /// Works, or works for now.
    Warning,
    /// The other side will refuse it.
    Error,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concern {
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
    pub severity: Severity,
    /// What it is about.
    pub concern: Concern,
    /// Where that comes from.
    pub location: Location,
    /// What is the case.
    pub sentence: String,
    /// What to do about it.
    pub remedy: String,
}

/// Which side of TLS we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A client of mongod.
    Upstream,
    /// A server for our clients.
    Listener,
}

impl Side {
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
    pub fn findings(&self, side: Side, authorities: Option<&Authorities>, now: SystemTime) -> Vec<MaterialFinding> {
        let mut found = Found { findings: Vec::new(), concern: Concern::Certificate, location: &self.location };
        found.dates(&self.certificate, "our certificate", Severity::Error, now);
        found.certificate(&self.certificate, side);
        found.order(self);
        if let Some(authorities) = authorities {
            found.completeness(self, authorities, side);
        }
        found.concern = Concern::PrivateKey;
        found.location = &self.key.location;
        found.key(self);
        found.findings
    }
}

impl Authorities {
    /// What is doubtful about them.
    pub fn findings(&self, now: SystemTime) -> Vec<MaterialFinding> {
        // One that still counts is enough.
        let usable = |facts: &CertificateFacts| matches!(facts.validity(now), Validity::Current | Validity::EndsSoon);
        let severity = if self.certificates.iter().any(usable) { Severity::Warning } else { Severity::Error };
        let mut found = Found { findings: Vec::new(), concern: Concern::Authority(0), location: &self.location };
        for (index, authority) in self.certificates.iter().enumerate() {
            found.concern = Concern::Authority(index);
            found.dates(authority, "the authority", severity, now);
        }
        found.findings
    }
}

/// What is doubtful about revocation lists of the same table as `authorities`.
pub fn revocation_findings(
    lists: &[RevocationList],
    authorities: &Authorities,
    now: SystemTime,
) -> Vec<MaterialFinding> {
    let mut findings = Vec::new();
    for (index, list) in lists.iter().enumerate() {
        let concern = Concern::RevocationList(index);
        let mut found = Found { findings: Vec::new(), concern, location: &list.location };
        found.list(list, &authorities.der, now);
        findings.append(&mut found.findings);
    }
    findings
}

/// Findings as they are made, and what they are about.
struct Found<'a> {
    findings: Vec<MaterialFinding>,
    concern: Concern,
    location: &'a Location,
}

impl Found<'_> {
    fn push(&mut self, severity: Severity, sentence: String, remedy: impl Into<String>) {
        let (concern, location) = (self.concern, self.location.clone());
        self.findings.push(MaterialFinding { severity, concern, location, sentence, remedy: remedy.into() });
    }

    fn dates(&mut self, facts: &CertificateFacts, whose: &str, severity: Severity, now: SystemTime) {
        let subject = &facts.subject;
        match facts.validity(now) {
            Validity::Current => {}
            Validity::EndsSoon => {
                self.push(Severity::Warning, format!("{whose} {subject} {}", facts.expiry_text(now)), "renew it");
            }
            Validity::Expired => {
                self.push(severity, format!("{whose} {subject} {}", facts.expiry_text(now)), "renew it");
            }
            Validity::NotYet => {
                let sentence = format!("{whose} {subject} is not valid before {}", date_text(facts.not_before));
                self.push(severity, sentence, "check the clocks of this host and of the authority");
            }
        }
    }

    fn certificate(&mut self, certificate: &CertificateFacts, side: Side) {
        let subject = &certificate.subject;
        let (usage, refused_by) = (side.usage(), side.refused_by());
        if !certificate.allows(usage) {
            let usages = certificate.extended_key_usages.as_deref().unwrap_or_default().join(", ");
            let sentence = format!("our certificate {subject} is for {usages} only, and {refused_by} it");
            self.push(Severity::Error, sentence, format!("issue it with extendedKeyUsage {usage}"));
        }
        match side {
            Side::Upstream => self.subject(certificate),
            Side::Listener if certificate.names().is_empty() => {
                let sentence =
                    format!("our certificate {subject} has no subject alternative name, and most drivers refuse it");
                self.push(Severity::Warning, sentence, "issue it with the names by which clients reach this listener");
            }
            Side::Listener => {}
        }
    }

    fn subject(&mut self, certificate: &CertificateFacts) {
        let subject = &certificate.subject;
        if !subject.is_readable_by_mongod() {
            let sentence = format!("the subject {subject} of our certificate is no UTF-8, and mongod refuses it");
            self.push(Severity::Error, sentence, "issue it with UTF8String values");
        }
        if subject.is_empty() {
            let sentence = "our certificate has no subject, so mongod can have no $external user for it".to_owned();
            self.push(Severity::Warning, sentence, "issue it with a subject");
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
                self.push(Severity::Warning, sentence, remedy);
                return;
            }
            previous = next;
        }
    }

    /// Only a note: the other side may well have the issuer, and we need not know it.
    fn completeness(&mut self, credentials: &Credentials, authorities: &Authorities, side: Side) {
        let last = credentials.chain.last().unwrap_or(&credentials.certificate);
        let is_sent = credentials.certificates().any(|facts| facts.subject == last.issuer);
        if is_sent || authorities.issuer_of(last).is_some() {
            return;
        }
        let other_side = match side {
            Side::Upstream => "mongod",
            Side::Listener => "every client",
        };
        let sentence = format!(
            "the chain ends below {}, who is not among our authorities either: {other_side} must have that certificate itself",
            last.issuer
        );
        let remedy = format!("if {} is not an authority that it has, add its certificate to the chain", last.issuer);
        self.push(Severity::Note, sentence, remedy);
    }

    fn key(&mut self, credentials: &Credentials) {
        let place = self.location.place();
        if credentials.key.is_open {
            let sentence = format!("every user of this host may open the private key in {place}");
            self.push(Severity::Warning, sentence, format!("chmod o= {place}"));
        }
        if let Some(password) = &credentials.key.idle_password {
            let sentence =
                format!("the private key is not encrypted, and has no need of the password in {}", password.place());
            self.push(Severity::Note, sentence, format!("leave {} out", password.key));
        }
    }

    fn list(&mut self, list: &RevocationList, authorities: &[CertificateDer<'static>], now: SystemTime) {
        let issuer = &list.issuer;
        if let Some(due) = list.next_update.filter(|due| *due < now) {
            let sentence = format!(
                "the revocation list of {issuer} should have been replaced on {}: it still counts, but what was revoked since is accepted",
                date_text(due)
            );
            self.push(Severity::Warning, sentence, "fetch the current list from the authority");
        }
        let parsed = authorities.iter().filter_map(|der| X509Certificate::from_der(der).ok()).map(|(_, parsed)| parsed);
        let named: Vec<_> = parsed.filter(|authority| list.is_about(authority)).collect();
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        if named.is_empty() {
            let sentence = format!(
                "the revocation list is that of {issuer}, who is not among the authorities: it counts only where the other side sends its certificate"
            );
            self.push(
                Severity::Note,
                sentence,
                format!("if that is not an intermediate, leave the list out of {}", self.location.place()),
            );
        } else if !named.iter().any(|authority| list.is_signed_by(authority, algorithms)) {
            let sentence = format!(
                "the revocation list of {issuer} is not signed by our authority of that name, and has no effect"
            );
            self.push(Severity::Warning, sentence, "bring list and authority up to date");
        }
    }
}
