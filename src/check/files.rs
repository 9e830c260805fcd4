//! What can be said about an upstream without connecting to it.

use std::time::SystemTime;

use super::report::{CertificateReport, Finding, Kind, Severity, Status, Step, UpstreamReport};
use crate::config::{MaterialSource, TlsFiles, UpstreamConfig, Verify, WorkloadApi};
use crate::identity::date_text;
use crate::tls::{
    self, Authorities, ClientTlsError, Concern, Credentials, MaterialFinding, RevocationList, Side, WorkloadError,
    WorkloadSet, parse_server_name, read_revocation_lists, revocation_findings,
};

/// What an agent answered, if it was asked.
pub(super) type HandedOut = Option<Result<WorkloadSet, WorkloadError>>;

pub(super) fn check(
    upstream: &UpstreamConfig,
    handed_out: &HandedOut,
    now: SystemTime,
    findings: &mut Vec<Finding>,
) -> UpstreamReport {
    let mut report = UpstreamReport {
        name: upstream.name.clone(),
        address: upstream.address.to_string(),
        certificate: None,
        authorities: Vec::new(),
        files: Vec::new(),
        connections: Vec::new(),
    };
    let mut files = Files { upstream, now, findings, steps: Vec::new() };
    let material = match &upstream.tls.source {
        MaterialSource::Files(paths) => Material::read(upstream, paths),
        MaterialSource::WorkloadApi(agent) => files.agent(agent, handed_out),
    };
    (report.certificate, report.authorities) = files.material(material);
    files.names();
    report.files = files.steps;
    report
}

/// Certificates as far as they could be had; `None` is not known.
struct Material {
    credentials: Option<Result<Credentials, ClientTlsError>>,
    authorities: Option<Result<Authorities, ClientTlsError>>,
    lists: Result<Vec<RevocationList>, ClientTlsError>,
}

impl Material {
    fn read(upstream: &UpstreamConfig, paths: &TlsFiles) -> Self {
        let section = format!("upstream.{}.tls", upstream.name);
        Self {
            credentials: Some(Credentials::read(&section, paths).map_err(ClientTlsError::from)),
            authorities: Some(Authorities::read(&section, paths).map_err(ClientTlsError::from)),
            lists: read_revocation_lists(&section, paths.crl_file.as_deref()).map_err(ClientTlsError::from),
        }
    }
}

struct Files<'a> {
    upstream: &'a UpstreamConfig,
    now: SystemTime,
    findings: &'a mut Vec<Finding>,
    steps: Vec<Step>,
}

impl Files<'_> {
    fn material(&mut self, material: Material) -> (Option<CertificateReport>, Vec<CertificateReport>) {
        let Material { credentials, authorities, lists } = material;
        let known = authorities.as_ref().and_then(|authorities| authorities.as_ref().ok());
        let mut certificate = None;
        match &credentials {
            Some(Ok(credentials)) => {
                self.credentials(credentials, known);
                certificate = Some(CertificateReport::from(&credentials.certificate));
            }
            Some(Err(error)) => self.unusable("our certificate", error),
            None => {}
        }
        match &authorities {
            Some(Ok(authorities)) => self.authorities(authorities),
            Some(Err(error)) => self.unusable("authorities", error),
            None => {}
        }
        match (&lists, known) {
            (Ok(lists), Some(authorities)) => self.revocation_lists(lists, authorities),
            (Ok(_), None) => {}
            (Err(error), _) => self.unusable("revocation lists", error),
        }
        (certificate, known.iter().flat_map(|known| &known.certificates).map(CertificateReport::from).collect())
    }

    /// What there is from an agent and from the files beside it.
    fn agent(&mut self, agent: &WorkloadApi, handed_out: &HandedOut) -> Material {
        let set = match handed_out {
            Some(Ok(set)) => {
                let id = set.spiffe_id().unwrap_or_default();
                self.steps.push(Step::ok("workload api", format!("{id} from unix:{}", agent.socket.display())));
                Some(set)
            }
            Some(Err(error)) => {
                self.steps.push(Step::failed("workload api", error.to_string()));
                // Nothing is wrong with the configuration as such: agents start and are told of workloads at any time.
                self.find_of(Kind::Upstream, Severity::Error, error.to_string(), error.remedy());
                None
            }
            None => {
                let line = format!("unix:{} is not asked without a connection", agent.socket.display());
                self.steps.push(Step::ok("workload api", line));
                None
            }
        };
        let section = format!("upstream.{}.tls", self.upstream.name);
        let authorities = match &agent.ca_file {
            Some(ca_file) => Some(Authorities::read_file(&section, ca_file).map_err(ClientTlsError::from)),
            None => set.map(|set| set.authorities(self.upstream)),
        };
        Material {
            credentials: set.map(|set| set.credentials(self.upstream)),
            authorities,
            lists: read_revocation_lists(&section, agent.crl_file.as_deref()).map_err(ClientTlsError::from),
        }
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

    fn unusable(&mut self, name: &'static str, error: &ClientTlsError) {
        self.steps.push(Step::failed(name, error.to_string()));
        self.find(Severity::Error, error.to_string(), error.remedy());
    }

    fn find(&mut self, severity: Severity, sentence: String, remedy: String) {
        self.find_of(Kind::Configuration, severity, sentence, remedy);
    }

    fn find_of(&mut self, kind: Kind, severity: Severity, sentence: String, remedy: String) {
        let upstream = self.upstream.name.clone();
        self.findings.push(Finding { severity, kind, upstream, sentence, remedy });
    }
}
