//! What can be said about an upstream without connecting to it.

use std::time::SystemTime;

use super::report::{CertificateReport, Finding, Kind, Severity, Status, Step, UpstreamReport};
use crate::config::{TlsFiles, UpstreamConfig, Verify};
use crate::identity::date_text;
use crate::tls::{
    self, Authorities, Concern, Credentials, MaterialError, MaterialFinding, RevocationList, Side, parse_server_name,
    read_revocation_lists, revocation_findings,
};

pub(super) fn check(upstream: &UpstreamConfig, now: SystemTime, findings: &mut Vec<Finding>) -> UpstreamReport {
    let mut report = UpstreamReport {
        name: upstream.name.clone(),
        address: upstream.address.to_string(),
        certificate: None,
        authorities: Vec::new(),
        files: Vec::new(),
        connections: Vec::new(),
    };
    let mut files = Files { upstream, now, findings, steps: Vec::new() };
    if let Some(paths) = upstream.tls.files() {
        (report.certificate, report.authorities) = files.material(paths);
    }
    files.names();
    report.files = files.steps;
    report
}

struct Files<'a> {
    upstream: &'a UpstreamConfig,
    now: SystemTime,
    findings: &'a mut Vec<Finding>,
    steps: Vec<Step>,
}

impl Files<'_> {
    fn material(&mut self, paths: &TlsFiles) -> (Option<CertificateReport>, Vec<CertificateReport>) {
        let section = format!("upstream.{}.tls", self.upstream.name);
        let credentials = Credentials::read(&section, paths);
        let authorities = Authorities::read(&section, paths);
        let lists = read_revocation_lists(&section, paths.crl_file.as_deref());
        let mut certificate = None;
        match &credentials {
            Ok(credentials) => {
                self.credentials(credentials, authorities.as_ref().ok());
                certificate = Some(CertificateReport::from(&credentials.certificate));
            }
            Err(error) => self.unusable("our certificate", error),
        }
        match &authorities {
            Ok(authorities) => self.authorities(authorities),
            Err(error) => self.unusable("authorities", error),
        }
        match (&lists, &authorities) {
            (Ok(lists), Ok(authorities)) => self.revocation_lists(lists, authorities),
            (Ok(_), Err(_)) => {}
            (Err(error), _) => self.unusable("revocation lists", error),
        }
        let authorities = authorities.map(|authorities| authorities.certificates).unwrap_or_default();
        (certificate, authorities.iter().map(CertificateReport::from).collect())
    }

    fn credentials(&mut self, credentials: &Credentials, authorities: Option<&Authorities>) {
        let found = credentials.findings(Side::Upstream, authorities, self.now);
        let certificate = &credentials.certificate;
        let step = Step::ok("our certificate", format!("{} from {}", certificate.subject, certificate.issuer));
        let step = step.and(certificate.expiry_text(self.now));
        let names = certificate.names().join(", ");
        let step = if names.is_empty() { step } else { step.and(format!("names {names}")) };
        self.judged(step, &found, Concern::Certificate);
        self.judged(Step::ok("our private key", "belongs to the certificate"), &found, Concern::PrivateKey);
    }

    fn authorities(&mut self, authorities: &Authorities) {
        let found = authorities.findings(self.now);
        for (index, authority) in authorities.certificates.iter().enumerate() {
            let step = Step::ok("authority", authority.subject.to_string()).and(authority.expiry_text(self.now));
            self.judged(step, &found, Concern::Authority(index));
        }
    }

    fn revocation_lists(&mut self, lists: &[RevocationList], authorities: &Authorities) {
        let found = revocation_findings(lists, authorities, self.now);
        for (index, list) in lists.iter().enumerate() {
            let revoked = match list.len() {
                1 => "1 certificate".to_owned(),
                count => format!("{count} certificates"),
            };
            let step = Step::ok("revocation list", format!("{revoked} of {}", list.issuer));
            let step = step.and(format!("made {}", date_text(list.this_update)));
            self.judged(step, &found, Concern::RevocationList(index));
        }
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
                let mut step = Step::ok("server name", format!("{name}, sent but not checked (verify = \"chain\")"));
                step.status = Status::Warning;
                self.steps.push(step);
                let sentence = "every server with a certificate of these authorities is accepted".to_owned();
                let remedy = format!("set upstream.{}.tls.verify to \"full\"", self.upstream.name);
                self.find(Severity::Warning, sentence, remedy);
            }
        }
    }

    /// Adds `step` with the status of the worst finding about `concern`, and those findings.
    fn judged(&mut self, mut step: Step, found: &[MaterialFinding], concern: Concern) {
        for finding in found.iter().filter(|finding| finding.concern == concern) {
            let severity = match finding.severity {
                tls::Severity::Note => {
                    step = step.and(format!("note: {}", finding.sentence));
                    continue;
                }
                tls::Severity::Warning => Severity::Warning,
                tls::Severity::Error => Severity::Error,
            };
            match severity {
                Severity::Error => step.status = Status::Failed,
                Severity::Warning if step.status != Status::Failed => step.status = Status::Warning,
                Severity::Warning => {}
            }
            self.find(severity, finding.sentence.clone(), finding.remedy.clone());
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
