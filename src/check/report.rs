//! The report of a check. Its JSON form is derived from the types here; [`text`](super::text) has the text form.

use serde::Serialize;

use crate::config::{ConfigError, Warning};
use crate::identity::{CertificateFacts, rfc3339};
use crate::tls::RevocationList;

/// The report of a check.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The overall result.
    pub verdict: CheckVerdict,
    /// One per upstream, sorted by name.
    pub upstreams: Vec<UpstreamReport>,
    /// One per listener with TLS, sorted by name.
    pub listeners: Vec<ListenerReport>,
    /// The issuers of tokens, in the order of the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub token_issuers: Vec<TokenIssuerReport>,
    /// The token of `--token-file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenReport>,
    /// The policy, if there is one.
    pub policy: Option<PolicyReport>,
    /// All errors and warnings, in the order in which they were found.
    pub findings: Vec<Finding>,
}

/// The overall result of a check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckVerdict {
    /// No error.
    #[default]
    Ready,
    /// An upstream cannot be reached, or one side rejected the other one.
    Refused,
    /// The configuration, or a file that it names, cannot be used.
    BadConfiguration,
}

/// One upstream.
#[derive(Debug, Clone, Serialize)]
pub struct UpstreamReport {
    /// As configured.
    pub name: String,
    /// As configured.
    pub address: String,
    /// The certificates, keys and lists of the upstream.
    #[serde(flatten)]
    pub material: MaterialReport,
    /// The user in `$external` that corresponds to the gateway's client certificate.
    pub external_user: Option<String>,
    /// URIs; the server's certificate must have one of them.
    pub server_identities: Vec<String>,
    /// The steps that need no connection.
    pub files: Vec<Step>,
    /// One per address of each server's name; empty for an offline check. If a name has no address, one without
    /// address.
    pub connections: Vec<ConnectionReport>,
    /// The replica set or the sharded cluster, if the upstream has members and they were asked.
    pub set: Option<SetReport>,
    /// The credentials for some callers, in the order of the file.
    pub credentials: Vec<CredentialReport>,
}

/// A replica set or a sharded cluster.
#[derive(Debug, Clone, Serialize)]
pub struct SetReport {
    /// The name of the replica set, if known.
    pub name: Option<String>,
    /// The primary, if there is one.
    pub primary: Option<String>,
    /// All known members.
    pub members: Vec<MemberReport>,
    /// The steps about the members.
    pub steps: Vec<Step>,
}

/// One member.
#[derive(Debug, Clone, Serialize)]
pub struct MemberReport {
    /// The name that the set uses.
    pub name: String,
    /// The state, as in `mongate_upstream_members`.
    pub state: &'static str,
    /// Whether the set hides the member from clients.
    pub hidden: bool,
    /// Why the member cannot be used, if it cannot.
    pub problem: Option<String>,
    /// The addresses that clients receive instead of the member's own, from each listener.
    pub addresses: Vec<String>,
}

/// One `[[upstream.NAME.credential]]`.
#[derive(Debug, Clone, Serialize)]
pub struct CredentialReport {
    /// Its number in the file, from 1.
    pub place: usize,
    /// The principals of the callers that use it.
    pub principals: Vec<String>,
    /// The certificate and the key.
    #[serde(flatten)]
    pub material: MaterialReport,
    /// The user in `$external` that corresponds to the certificate.
    pub external_user: Option<String>,
    /// The steps that need no connection.
    pub files: Vec<Step>,
    /// One per address of the name of one server; empty for an offline check.
    pub connections: Vec<ConnectionReport>,
}

/// One listener with TLS.
#[derive(Debug, Clone, Serialize)]
pub struct ListenerReport {
    /// As configured.
    pub name: String,
    /// As configured.
    pub address: String,
    /// `permissive` or `strict`.
    pub mode: &'static str,
    /// The certificates, keys and lists of the listener.
    #[serde(flatten)]
    pub material: MaterialReport,
    /// The steps about the files.
    pub files: Vec<Step>,
}

/// One `[[token_issuer]]`.
#[derive(Debug, Clone, Serialize)]
pub struct TokenIssuerReport {
    /// Its `issuer`, or `spiffe://` and its trust domain.
    pub issuer: String,
    /// The file or the address of its keys.
    pub keys_from: String,
    /// As configured.
    pub audiences: Vec<String>,
    /// The steps about the keys.
    pub steps: Vec<Step>,
}

/// A token.
#[derive(Debug, Clone, Serialize)]
pub struct TokenReport {
    /// The principal, if the token is accepted.
    pub principal: Option<String>,
    /// One step for each thing that is verified.
    pub steps: Vec<Step>,
}

/// The policy.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyReport {
    /// `enforce` or `dry-run`.
    pub enforcement: &'static str,
    /// The number of rules.
    pub rules: usize,
    /// The fingerprint, as in `/status`; `None` if the policy cannot be used.
    pub fingerprint: Option<String>,
    /// The steps about the policy.
    pub steps: Vec<Step>,
}

/// The content of the files of one table.
#[derive(Debug, Clone, Default, Serialize)]
pub struct MaterialReport {
    /// The gateway's client certificate or the listener's server certificate, if it could be read.
    pub certificate: Option<CertificateReport>,
    /// The issuers of the certificate up to the trust anchor, as far as their certificates are known.
    pub chain: Vec<CertificateReport>,
    /// The trust anchors.
    #[serde(rename = "authorities")]
    pub trust_anchors: Vec<CertificateReport>,
    /// The revocation lists (CRLs).
    pub revocation_lists: Vec<RevocationListReport>,
}

/// One connection.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ConnectionReport {
    /// The address of the server, if the name has one.
    pub address: Option<String>,
    /// The steps in their order. If a step fails, it is the last one.
    pub steps: Vec<Step>,
    /// The parameters that the TLS handshake negotiated.
    pub handshake: Option<HandshakeReport>,
    /// The certificate of the server, accepted or not.
    pub server_certificate: Option<CertificateReport>,
    /// The server, according to its reply to hello.
    pub server: Option<ServerReport>,
    /// The user as which the gateway is authenticated, if it authenticates.
    pub user: Option<UserReport>,
}

/// A user of MongoDB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UserReport {
    /// The name in `$external`.
    pub name: String,
    /// The roles, for example `read@shop`.
    pub roles: Vec<String>,
}

/// One step of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The name, from a closed set.
    pub name: &'static str,
    /// The result.
    pub status: Status,
    /// Details; the first line is the most important one.
    pub lines: Vec<String>,
}

/// The status of a step, and the severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// No problem. Only a step has this status, never a finding.
    Ok,
    /// It works, but the operator should look at it.
    Warning,
    /// It does not work.
    Error,
}

/// An error or a warning, with its remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is: `warning` or `error`.
    pub severity: Status,
    /// Where the cause is.
    pub kind: FindingKind,
    /// The subject: `upstream` or `listener` with its name, `policy` or `key` with a key, or `file` with a path.
    #[serde(flatten)]
    pub about: About,
    /// What is wrong.
    pub sentence: String,
    /// What to do about it.
    pub remedy: String,
}

/// The subject of a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// The upstream of this name.
    Upstream(String),
    /// The listener of this name.
    Listener(String),
    /// This key of the configuration, for example `admin.address`.
    Key(String),
    /// This file, which is the configuration.
    File(String),
    /// This key of the policy, for example `policy.rule[2].to[1].commands`; indexes start at 1.
    Policy(String),
}

/// Where the cause of a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// In the configuration, or in a file that it names.
    Configuration,
    /// Between the gateway and the upstream.
    Upstream,
    /// Among the users of MongoDB: the server is reachable, but does not authenticate the gateway.
    User,
}

/// The parameters that a TLS handshake negotiated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HandshakeReport {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The name that IANA gives it.
    pub cipher_suite: &'static str,
    /// The key exchange group.
    pub key_exchange: Option<&'static str>,
    /// Whether a second connection could resume the session; `None` if that was not tried.
    pub resumable: Option<bool>,
}

/// A server, according to its reply to hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerReport {
    /// For example `6.0.5`.
    pub version: Option<String>,
    /// `standalone`, `primary`, `secondary`, `mongos` or `other`.
    pub role: String,
    /// The name of its replica set.
    pub set_name: Option<String>,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateReport {
    /// In the format of mongod (RFC 2253).
    pub subject: String,
    /// In the format of mongod (RFC 2253).
    pub issuer: String,
    /// The SANs: DNS names, addresses and URIs.
    pub names: Vec<String>,
    /// The start of validity, in RFC 3339 format.
    pub not_before: String,
    /// The end of validity, in RFC 3339 format.
    pub not_after: String,
    /// In hexadecimal digits.
    pub serial: String,
    /// The X.509 version, 1 to 3.
    pub version: u32,
    /// For example `RSA 2048` or `ECDSA P-256`.
    pub key: String,
    /// For example `RSA and SHA-256`.
    pub signature: String,
    /// For example `serverAuth` and `clientAuth`; `None` allows every use.
    pub extended_key_usages: Option<Vec<String>>,
}

/// A revocation list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RevocationListReport {
    /// The CA that issued the list.
    pub issuer: String,
    /// When the list was issued, in RFC 3339 format.
    pub this_update: String,
    /// When the next list is due, in RFC 3339 format, if the list says so.
    pub next_update: Option<String>,
    /// The number of revoked certificates.
    pub entries: usize,
}

impl Finding {
    /// A setting that is allowed but probably a mistake.
    pub(super) fn warning_about_key(warning: Warning) -> Self {
        let Warning { key, sentence } = warning;
        let (sentence, remedy) = split_remedy(&sentence);
        Self { severity: Status::Warning, kind: FindingKind::Configuration, about: About::Key(key), sentence, remedy }
    }
}

/// Separates what is wrong from what to do about it, at the last semicolon.
fn split_remedy(sentence: &str) -> (String, String) {
    match sentence.rsplit_once("; ") {
        Some((sentence, remedy)) => (sentence.to_owned(), remedy.to_owned()),
        None => (sentence.to_owned(), "correct it".to_owned()),
    }
}

impl Report {
    /// The report about a configuration that cannot be read: only findings.
    pub fn of_unreadable(error: &ConfigError) -> Self {
        let finding = |about, sentence: &str| {
            let (sentence, remedy) = split_remedy(sentence);
            Finding { severity: Status::Error, kind: FindingKind::Configuration, about, sentence, remedy }
        };
        let findings = match error {
            ConfigError::Invalid { problems, .. } => problems
                .iter()
                .map(|problem| {
                    let value = problem.value.as_ref().map(|value| format!("= {value} ")).unwrap_or_default();
                    let sentence = format!("{value}({}): {}", problem.origin, problem.sentence);
                    finding(About::Key(problem.key.clone()), &sentence)
                })
                .collect(),
            ConfigError::NotFound { looked_for } => {
                let files: Vec<_> = looked_for.iter().map(|file| file.display().to_string()).collect();
                vec![finding(About::File(files.join(", ")), &error.to_string())]
            }
            ConfigError::Unreadable { file, .. } | ConfigError::Syntax { file, .. } => {
                vec![finding(About::File(file.display().to_string()), &error.to_string())]
            }
        };
        Self { verdict: CheckVerdict::BadConfiguration, findings, ..Self::default() }
    }

    /// The errors, one line each: what is wrong, and the remedy.
    pub fn errors(&self) -> impl Iterator<Item = String> {
        let errors = self.findings.iter().filter(|finding| finding.severity == Status::Error);
        errors.map(|finding| match &finding.about {
            // The sentence continues the key.
            About::Policy(key) | About::Key(key) => format!("{key} {}; {}", finding.sentence, finding.remedy),
            _ => format!("{}; {}", finding.sentence, finding.remedy),
        })
    }

    /// 0 without errors, 78 if the configuration or a file cannot be used, 69 if an upstream cannot be used.
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            CheckVerdict::Ready => 0,
            CheckVerdict::Refused => 69,
            CheckVerdict::BadConfiguration => 78,
        }
    }

    /// The whole report as one JSON object, over several lines.
    pub fn to_json(&self) -> String {
        // Only strings and numbers, which cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    pub(super) fn conclude(&mut self) {
        let has = |kind| self.findings.iter().any(|finding| finding.kind == kind && finding.severity == Status::Error);
        self.verdict = match () {
            () if has(FindingKind::Configuration) => CheckVerdict::BadConfiguration,
            () if has(FindingKind::Upstream) || has(FindingKind::User) => CheckVerdict::Refused,
            () => CheckVerdict::Ready,
        };
    }
}

impl Step {
    pub(super) fn done(name: &'static str) -> Self {
        Self { name, status: Status::Ok, lines: Vec::new() }
    }

    pub(super) fn ok(name: &'static str, line: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, lines: vec![line.into()] }
    }

    pub(super) fn warning(name: &'static str, line: impl Into<String>) -> Self {
        Self { name, status: Status::Warning, lines: vec![line.into()] }
    }

    pub(super) fn error(name: &'static str, line: impl Into<String>) -> Self {
        Self { name, status: Status::Error, lines: vec![line.into()] }
    }

    pub(super) fn and(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }
}

impl Status {
    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl From<&CertificateFacts> for CertificateReport {
    fn from(facts: &CertificateFacts) -> Self {
        Self {
            subject: facts.subject.to_string(),
            issuer: facts.issuer.to_string(),
            names: facts.names(),
            not_before: rfc3339(facts.not_before),
            not_after: rfc3339(facts.not_after),
            serial: facts.serial.clone(),
            version: facts.version,
            key: facts.key.clone(),
            signature: facts.signature.clone(),
            extended_key_usages: facts.extended_key_usages.clone(),
        }
    }
}

impl From<&RevocationList> for RevocationListReport {
    fn from(list: &RevocationList) -> Self {
        Self {
            issuer: list.issuer.to_string(),
            this_update: rfc3339(list.this_update),
            next_update: list.next_update.map(rfc3339),
            entries: list.len(),
        }
    }
}
