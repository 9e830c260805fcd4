//! What can be said about an upstream without connecting to it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use super::report::{CertificateReport, Finding, Kind, Severity, Status, Step, UpstreamReport, Validity, expiry};
use crate::config::{UpstreamConfig, Verify};
use crate::identity::{CertificateFacts, date_text};
use crate::tls::{Authorities, Credentials, MaterialError, parse_server_name};

/// Any permission for those who are neither owner nor group.
const OTHERS: u32 = 0o007;

pub(super) fn check(upstream: &UpstreamConfig, now: SystemTime, findings: &mut Vec<Finding>) -> UpstreamReport {
    let section = format!("upstream.{}.tls", upstream.name);
    let mut files = Files { upstream, section, now, findings, steps: Vec::new() };
    let certificate = files.credentials();
    let authorities = files.authorities();
    files.names();
    UpstreamReport {
        name: upstream.name.clone(),
        address: upstream.address.to_string(),
        certificate,
        authorities,
        files: files.steps,
        connections: Vec::new(),
    }
}

struct Files<'a> {
    upstream: &'a UpstreamConfig,
    /// Path of the table that names the files.
    section: String,
    now: SystemTime,
    findings: &'a mut Vec<Finding>,
    steps: Vec<Step>,
}

impl Files<'_> {
    fn credentials(&mut self) -> Option<CertificateReport> {
        let paths = self.upstream.tls.files()?;
        let credentials = match Credentials::read(&self.section, paths) {
            Ok(credentials) => credentials,
            Err(error) => {
                self.unusable("our certificate", &error);
                return None;
            }
        };
        let certificate = &credentials.certificate;
        let step = Step::ok("our certificate", format!("{} from {}", certificate.subject, certificate.issuer));
        let step = step.and(expiry(certificate, self.now));
        let names = certificate.names().join(", ");
        let step = if names.is_empty() { step } else { step.and(format!("names {names}")) };
        self.judged(step, |files| {
            files.judge_dates(certificate, "our certificate", Severity::Error);
            files.judge_certificate(certificate);
            files.judge_chain(&credentials, &paths.certificate_file);
        });
        self.private_key(&paths.private_key_file);
        Some(certificate.into())
    }

    fn private_key(&mut self, file: &Path) {
        self.judged(Step::ok("our private key", "belongs to the certificate"), |files| {
            let mode = fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode());
            if mode & OTHERS != 0 {
                let sentence = format!("every user of this host may open the private key in {}", file.display());
                files.find(Severity::Warning, sentence, format!("chmod o= {}", file.display()));
            }
        });
    }

    fn authorities(&mut self) -> Vec<CertificateReport> {
        let Some(files) = self.upstream.tls.files() else { return Vec::new() };
        let authorities = match Authorities::read(&self.section, files) {
            Ok(authorities) => authorities.certificates,
            Err(error) => {
                self.unusable("authorities", &error);
                return Vec::new();
            }
        };
        // One that still counts is enough.
        let usable = |facts| matches!(Validity::of(facts, self.now), Validity::Current | Validity::EndsSoon);
        let severity = if authorities.iter().any(usable) { Severity::Warning } else { Severity::Error };
        for authority in &authorities {
            let step = Step::ok("authority", authority.subject.to_string()).and(expiry(authority, self.now));
            self.judged(step, |files| files.judge_dates(authority, "the authority", severity));
        }
        authorities.iter().map(CertificateReport::from).collect()
    }

    fn names(&mut self) {
        let name = match parse_server_name(self.upstream) {
            Ok(name) => name.to_str().into_owned(),
            Err(error) => {
                self.steps.push(Step::failed("server name", error.to_string()));
                self.find(Severity::Error, error.to_string(), error.remedy());
                return;
            }
        };
        match self.upstream.tls.verify {
            Verify::Full => self.steps.push(Step::ok("server name", name)),
            Verify::Chain => {
                let step = Step::ok("server name", format!("{name}, sent but not checked (verify = \"chain\")"));
                self.judged(step, |files| {
                    let sentence = "every server with a certificate of these authorities is accepted".to_owned();
                    let remedy = format!("set upstream.{}.tls.verify to \"full\"", files.upstream.name);
                    files.find(Severity::Warning, sentence, remedy);
                });
            }
        }
    }

    fn judge_dates(&mut self, facts: &CertificateFacts, whose: &str, severity: Severity) {
        let subject = &facts.subject;
        let renew = || "renew it".to_owned();
        match Validity::of(facts, self.now) {
            Validity::Current => {}
            Validity::EndsSoon => {
                let sentence = format!("{whose} {subject} {}", expiry(facts, self.now));
                self.find(Severity::Warning, sentence, renew());
            }
            Validity::Expired => {
                let sentence = format!("{whose} {subject} {}", expiry(facts, self.now));
                self.find(severity, sentence, renew());
            }
            Validity::NotYet => {
                let sentence = format!("{whose} {subject} is not valid before {}", date_text(facts.not_before));
                self.find(severity, sentence, "check the clocks of this host and of the authority".to_owned());
            }
        }
    }

    fn judge_certificate(&mut self, certificate: &CertificateFacts) {
        let subject = &certificate.subject;
        if !certificate.allows("clientAuth") {
            let usages = certificate.extended_key_usages.as_deref().unwrap_or_default().join(", ");
            let sentence = format!("our certificate {subject} is for {usages} only, and mongod refuses it");
            self.find(Severity::Error, sentence, "issue it with extendedKeyUsage clientAuth".to_owned());
        }
        if !subject.is_readable_by_mongod() {
            let sentence = format!("the subject {subject} of our certificate is no UTF-8, and mongod refuses it");
            self.find(Severity::Error, sentence, "issue it with UTF8String values".to_owned());
        }
        if subject.is_empty() {
            let sentence = "our certificate has no subject, so mongod can have no $external user for it".to_owned();
            self.find(Severity::Warning, sentence, "issue it with a subject".to_owned());
        }
    }

    fn judge_chain(&mut self, credentials: &Credentials, file: &Path) {
        let mut previous = &credentials.certificate;
        for (index, next) in credentials.chain.iter().enumerate() {
            if previous.issuer != next.subject {
                let sentence = format!(
                    "certificate {} of {} is that of {}, not that of {} who issued the one before it",
                    index + 2,
                    file.display(),
                    next.subject,
                    previous.issuer
                );
                let remedy = "order the file: our certificate, then its issuer's, then that one's".to_owned();
                self.find(Severity::Warning, sentence, remedy);
                return;
            }
            previous = next;
        }
    }

    /// Adds `step` with the status of the worst finding that `judge` adds.
    fn judged(&mut self, mut step: Step, judge: impl FnOnce(&mut Self)) {
        let known = self.findings.len();
        judge(self);
        let added = self.findings.get(known..).unwrap_or_default();
        if !added.is_empty() {
            let failed = added.iter().any(|finding| finding.severity == Severity::Error);
            step.status = if failed { Status::Failed } else { Status::Warning };
        }
        self.steps.push(step);
    }

    fn unusable(&mut self, name: &'static str, error: &MaterialError) {
        self.steps.push(Step::failed(name, error.to_string()));
        self.find(Severity::Error, error.to_string(), error.remedy());
    }

    fn find(&mut self, severity: Severity, sentence: String, remedy: String) {
        let upstream = self.upstream.name.clone();
        self.findings.push(Finding { severity, kind: Kind::Configuration, upstream, sentence, remedy });
    }
}
