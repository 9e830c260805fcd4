//! The files of one table: what each of them holds, and what is doubtful about it.
//!
//! Judges nothing: what is wrong with certificates, keys and lists is for `tls` to say.

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

/// Certificates, key and lists of one table as far as they could be had; `None` is not known.
pub(super) struct Material {
    pub(super) credentials: Option<Result<Credentials, UpstreamTlsError>>,
    pub(super) authorities: Option<Result<TrustAnchors, UpstreamTlsError>>,
    pub(super) lists: Result<Vec<RevocationList>, UpstreamTlsError>,
}

impl Material {
    /// Reads the files of a table, whose path is `section`.
    pub(super) fn read(section: &str, files: &TlsFiles) -> Self {
        Self {
            credentials: Some(Credentials::read(section, files).map_err(UpstreamTlsError::from)),
            authorities: Some(TrustAnchors::read(section, files).map_err(UpstreamTlsError::from)),
            lists: read_revocation_lists(section, files.crl_file.as_deref()).map_err(UpstreamTlsError::from),
        }
    }
}

/// Where what is seen and found about one table is collected.
pub(super) struct MaterialChecks<'a> {
    /// What was looked at.
    pub(super) steps: Vec<Step>,
    /// The user in `$external` that mongod takes our certificate for, byte for byte as mongod writes it.
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

    /// Looks at everything, whatever is wrong with one of them.
    pub(super) fn material(&mut self, material: &Material) -> MaterialReport {
        let mut report = MaterialReport::default();
        let known = material.authorities.as_ref().and_then(|authorities| authorities.as_ref().ok());
        match &material.credentials {
            Some(Ok(credentials)) => self.credentials(credentials, known, &mut report),
            Some(Err(error)) => self.unusable("our certificate", error),
            None => {}
        }
        match &material.authorities {
            Some(Ok(authorities)) => self.authorities(authorities, &mut report),
            Some(Err(error)) => self.unusable("authorities", error),
            None => {}
        }
        match &material.lists {
            Ok(lists) => self.revocation_lists(lists, known, &mut report),
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
        authorities: Option<&TrustAnchors>,
        report: &mut MaterialReport,
    ) {
        let found = credentials.findings(self.side, authorities, self.now);
        let certificate = &credentials.certificate;
        let above = IssuerSources { sent: &credentials.chain, sent_as: "sent with it", authorities };
        let chain = Chain::climb(certificate, &above);
        report.certificate = Some(certificate.into());
        report.chain = chain.links.iter().skip(1).map(|(facts, _)| CertificateReport::from(*facts)).collect();
        let names = certificate.names().join(", ");
        let names = Some(format!("names {names}")).filter(|_| !names.is_empty());
        let lines = chain.lines(self.now).into_iter().chain(names).collect();
        self.judged(Step { name: "our certificate", status: Status::Ok, lines }, &found, MaterialItem::Certificate);
        self.judged(Step::ok("our private key", key_line(&credentials.key)), &found, MaterialItem::PrivateKey);
        if self.side == TlsSide::Upstream && !certificate.subject.is_empty() {
            self.external_user = Some(certificate.subject.as_str().to_owned());
            self.steps.push(Step::ok("user in $external", certificate.subject.to_string()));
        }
    }

    fn authorities(&mut self, authorities: &TrustAnchors, report: &mut MaterialReport) {
        let found = authorities.findings(self.now);
        for (index, authority) in authorities.certificates.iter().enumerate() {
            let lines = [authority.subject.to_string()].into_iter().chain(described(authority, self.now)).collect();
            self.judged(
                Step { name: "authority", status: Status::Ok, lines },
                &found,
                MaterialItem::TrustAnchor(index),
            );
        }
        report.authorities = authorities.certificates.iter().map(CertificateReport::from).collect();
    }

    fn revocation_lists(
        &mut self,
        lists: &[RevocationList],
        authorities: Option<&TrustAnchors>,
        report: &mut MaterialReport,
    ) {
        let found = authorities.map(|authorities| revocation_findings(lists, authorities, self.now));
        for (index, list) in lists.iter().enumerate() {
            let step = Step::ok("revocation list", format!("of {}, {}", list.issuer, entries(list)));
            let made = format!("made {} ({})", date_text(list.this_update), distance(list.this_update, self.now));
            let due = list.next_update.map(|due| format!("next due {} ({})", date_text(due), distance(due, self.now)));
            let step = step.and(made).and(due.unwrap_or_else(|| "does not say when the next is due".to_owned()));
            self.judged(step, found.as_deref().unwrap_or_default(), MaterialItem::RevocationList(index));
        }
        report.revocation_lists = lists.iter().map(RevocationListReport::from).collect();
    }

    /// Adds `step` with the status of the worst of the findings about `item`, and these; what may well be right stands
    /// in the step only.
    fn judged(&mut self, mut step: Step, found: &[MaterialFinding], item: MaterialItem) {
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

    fn unusable(&mut self, name: &'static str, error: &UpstreamTlsError) {
        self.steps.push(Step::error(name, error.to_string()));
        self.find(Status::Error, error.to_string(), error.remedy());
    }
}

fn key_line(key: &KeyStorage) -> String {
    let Some(file) = &key.location.file else { return "belongs to the certificate".to_owned() };
    let mode = fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode() & 0o7777);
    format!("belongs to the certificate; {} has mode {mode:04o}", file.display())
}

fn entries(list: &RevocationList) -> String {
    match list.len() {
        1 => "1 certificate revoked".to_owned(),
        count => format!("{count} certificates revoked"),
    }
}

/// `in 3 days`, `1 day ago`, `less than a day ago`.
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
