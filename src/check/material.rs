//! The checks of the certificates, the key and the revocation lists of one table.
//!
//! `tls` decides what is wrong with them; this file only reports it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use super::chain::{Chain, IssuerSources, described};
use super::report::{
    About, CertificateReport, Finding, FindingKind, MaterialReport, RevocationListReport, Status, Step,
};
use crate::config::TlsFiles;
use crate::identity::date_text;
use crate::tls::{
    Credentials, KeyStorage, MaterialFinding, MaterialItem, MaterialSeverity, RevocationList, TlsSide, TrustAnchors,
    UpstreamTlsError, read_revocation_lists, revocation_findings,
};

/// The certificates, the key and the revocation lists of one table; `None` if they are not known.
pub(super) struct Material {
    pub(super) credentials: Option<Result<Credentials, UpstreamTlsError>>,
    pub(super) trust_anchors: Option<Result<TrustAnchors, UpstreamTlsError>>,
    pub(super) lists: Result<Vec<RevocationList>, UpstreamTlsError>,
}

impl Material {
    /// Reads the files of the table `section`.
    pub(super) fn read(section: &str, files: &TlsFiles) -> Self {
        Self {
            credentials: Some(Credentials::read(section, files).map_err(UpstreamTlsError::from)),
            trust_anchors: Some(TrustAnchors::read(section, files).map_err(UpstreamTlsError::from)),
            lists: read_revocation_lists(section, files.crl_file.as_deref()).map_err(UpstreamTlsError::from),
        }
    }
}

/// Collects the steps and the findings about one table.
pub(super) struct MaterialChecks<'a> {
    pub(super) steps: Vec<Step>,
    /// The user in `$external` that corresponds to the gateway's client certificate, exactly as mongod writes it.
    pub(super) external_user: Option<String>,
    about: About,
    side: TlsSide,
    now: SystemTime,
    findings: &'a mut Vec<Finding>,
}

impl<'a> MaterialChecks<'a> {
    pub(super) fn new(about: About, side: TlsSide, now: SystemTime, findings: &'a mut Vec<Finding>) -> Self {
        Self { steps: Vec::new(), external_user: None, about, side, now, findings }
    }

    /// Checks everything, even if one part cannot be used.
    pub(super) fn material(&mut self, material: &Material) -> MaterialReport {
        let mut report = MaterialReport::default();
        let usable = material.trust_anchors.as_ref().and_then(|trust_anchors| trust_anchors.as_ref().ok());
        match &material.credentials {
            Some(Ok(credentials)) => self.credentials(credentials, usable, &mut report),
            Some(Err(error)) => self.unusable(self.certificate_step(), error),
            None => {}
        }
        match &material.trust_anchors {
            Some(Ok(trust_anchors)) => self.trust_anchors(trust_anchors, &mut report),
            Some(Err(error)) => self.unusable("CA certificates", error),
            None => {}
        }
        match &material.lists {
            Ok(lists) => self.revocation_lists(lists, usable, &mut report),
            Err(error) => self.unusable("revocation lists", error),
        }
        report
    }

    pub(super) fn find(&mut self, severity: Status, sentence: String, remedy: String) {
        self.find_of(FindingKind::Configuration, severity, sentence, remedy);
    }

    pub(super) fn find_of(&mut self, kind: FindingKind, severity: Status, sentence: String, remedy: String) {
        let about = self.about.clone();
        self.findings.push(Finding { severity, kind, about, sentence, remedy });
    }

    fn credentials(
        &mut self,
        credentials: &Credentials,
        trust_anchors: Option<&TrustAnchors>,
        report: &mut MaterialReport,
    ) {
        let found = credentials.findings(self.side, trust_anchors, self.now);
        let certificate = &credentials.certificate;
        let sources = IssuerSources { sent: &credentials.chain, sent_as: "sent with it", trust_anchors };
        let chain = Chain::follow(certificate, &sources);
        report.certificate = Some(certificate.into());
        report.chain = chain.links.iter().skip(1).map(|(facts, _)| CertificateReport::from(*facts)).collect();
        let names = certificate.names().join(", ");
        let names = Some(format!("names {names}")).filter(|_| !names.is_empty());
        let lines = chain.lines(self.now).into_iter().chain(names).collect();
        let step = Step { name: self.certificate_step(), status: Status::Ok, lines };
        self.add_step(step, &found, MaterialItem::Certificate);
        self.add_step(Step::ok("private key", key_line(&credentials.key)), &found, MaterialItem::PrivateKey);
        if self.side == TlsSide::Upstream && !certificate.subject.is_empty() {
            self.external_user = Some(certificate.subject.as_str().to_owned());
            self.steps.push(Step::ok("user in $external", certificate.subject.to_string()));
        }
    }

    fn trust_anchors(&mut self, trust_anchors: &TrustAnchors, report: &mut MaterialReport) {
        let found = trust_anchors.findings(self.now);
        for (index, anchor) in trust_anchors.certificates.iter().enumerate() {
            let lines = [anchor.subject.to_string()].into_iter().chain(described(anchor, self.now)).collect();
            self.add_step(
                Step { name: "CA certificate", status: Status::Ok, lines },
                &found,
                MaterialItem::TrustAnchor(index),
            );
        }
        report.trust_anchors = trust_anchors.certificates.iter().map(CertificateReport::from).collect();
    }

    fn revocation_lists(
        &mut self,
        lists: &[RevocationList],
        trust_anchors: Option<&TrustAnchors>,
        report: &mut MaterialReport,
    ) {
        let found = trust_anchors.map(|trust_anchors| revocation_findings(lists, trust_anchors, self.now));
        for (index, list) in lists.iter().enumerate() {
            let step = Step::ok("revocation list", format!("of {}, {}", list.issuer, entries(list)));
            let issued = format!("issued {} ({})", date_text(list.this_update), distance(list.this_update, self.now));
            let due = |due| format!("next update due {} ({})", date_text(due), distance(due, self.now));
            let due = list.next_update.map_or_else(|| "has no date for the next update".to_owned(), due);
            let step = step.and(issued).and(due);
            self.add_step(step, found.as_deref().unwrap_or_default(), MaterialItem::RevocationList(index));
        }
        report.revocation_lists = lists.iter().map(RevocationListReport::from).collect();
    }

    /// Adds the findings about `item`, and `step` with the status of the worst of them. A note is added to the step
    /// only.
    fn add_step(&mut self, mut step: Step, found: &[MaterialFinding], item: MaterialItem) {
        for MaterialFinding { severity, sentence, remedy, .. } in found.iter().filter(|found| found.item == item) {
            let severity = match severity {
                MaterialSeverity::Note => {
                    step.lines.push(format!("note: {sentence}"));
                    continue;
                }
                MaterialSeverity::Warning => Status::Warning,
                MaterialSeverity::Error => Status::Error,
            };
            step.status = step.status.max(severity);
            self.find(severity, sentence.clone(), remedy.clone());
        }
        self.steps.push(step);
    }

    /// The name of the step about the certificate: the gateway's client certificate or the listener's server
    /// certificate.
    fn certificate_step(&self) -> &'static str {
        match self.side {
            TlsSide::Upstream => "client certificate",
            TlsSide::Listener => "listener certificate",
        }
    }

    fn unusable(&mut self, name: &'static str, error: &UpstreamTlsError) {
        self.steps.push(Step::error(name, error.to_string()));
        self.find(Status::Error, error.to_string(), error.remedy());
    }
}

fn key_line(key: &KeyStorage) -> String {
    let Some(file) = &key.location.file else { return "matches the certificate".to_owned() };
    let mode = fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode() & 0o7777);
    format!("matches the certificate; {} has mode {mode:04o}", file.display())
}

fn entries(list: &RevocationList) -> String {
    match list.len() {
        1 => "1 certificate revoked".to_owned(),
        count => format!("{count} certificates revoked"),
    }
}

/// For example `in 3 days`, `1 day ago` or `less than a day ago`.
fn distance(time: SystemTime, now: SystemTime) -> String {
    const DAY: Duration = Duration::from_hours(24);
    let days = |distance: Duration| match distance.as_secs() / DAY.as_secs() {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    };
    match time.duration_since(now) {
        Ok(left) => format!("in {}", days(left)),
        Err(past) => format!("{} ago", days(past.duration())),
    }
}
