//! What a check found, in the form that machines read; [`super::text`] has the one for people.

use serde::Serialize;

use crate::identity::{CertificateFacts, rfc3339};
use crate::tls::RevocationList;

/// Everything that a check found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// What it comes to.
    pub verdict: CheckVerdict,
    /// One per upstream, by name.
    pub upstreams: Vec<UpstreamReport>,
    /// One per listener with TLS, by name.
    pub listeners: Vec<ListenerReport>,
    /// The policy, if there is one.
    pub policy: Option<PolicyReport>,
    /// What is wrong or worth knowing, in the order in which it was met.
    pub findings: Vec<Finding>,
}

/// What a report comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckVerdict {
    /// Nothing is in the way.
    #[default]
    Ready,
    /// An upstream refused us, was refused by us, or cannot be reached.
    Refused,
    /// Files or keys cannot be used.
    BadConfiguration,
}

/// One upstream.
#[derive(Debug, Clone, Serialize)]
pub struct UpstreamReport {
    /// As configured.
    pub name: String,
    /// As configured.
    pub address: String,
    /// What our files hold.
    #[serde(flatten)]
    pub material: MaterialReport,
    /// The user in `$external` that mongod takes our certificate for.
    pub external_user: Option<String>,
    /// URIs of which mongod's certificate must have one.
    pub server_identities: Vec<String>,
    /// What was looked at without a connection.
    pub files: Vec<Step>,
    /// One per address of each server's name; none without a connection, or one without address if a name has none.
    pub connections: Vec<ConnectionReport>,
    /// What the servers are together, where there can be several and they were asked.
    pub set: Option<SetReport>,
    /// Those for some callers, in the order of the file.
    pub credentials: Vec<CredentialReport>,
}

/// A replica set or a sharded cluster.
#[derive(Debug, Clone, Serialize)]
pub struct SetReport {
    /// Of the replica set, where it is one and known.
    pub name: Option<String>,
    /// Where there is one.
    pub primary: Option<String>,
    /// All that are known.
    pub members: Vec<MemberReport>,
    /// What was looked at.
    pub steps: Vec<Step>,
}

/// One member.
#[derive(Debug, Clone, Serialize)]
pub struct MemberReport {
    /// As its set names it.
    pub name: String,
    /// As `mongate_upstream_members` names it.
    pub state: &'static str,
    /// Whether its set does not tell clients of it.
    pub hidden: bool,
    /// Why it cannot be used, if it cannot.
    pub problem: Option<String>,
    /// What clients are told in its place, by each listener.
    pub addresses: Vec<String>,
}

/// One `[[upstream.NAME.credential]]`.
#[derive(Debug, Clone, Serialize)]
pub struct CredentialReport {
    /// Its place in the file, counted from 1.
    pub place: usize,
    /// For whom it is.
    pub principals: Vec<String>,
    /// What our files hold.
    #[serde(flatten)]
    pub material: MaterialReport,
    /// The user in `$external` that mongod takes our certificate for.
    pub external_user: Option<String>,
    /// What was looked at without a connection.
    pub files: Vec<Step>,
    /// One per address of the name of one server; none without a connection.
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
    /// What our files hold.
    #[serde(flatten)]
    pub material: MaterialReport,
    /// What was looked at.
    pub files: Vec<Step>,
}

/// The policy.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyReport {
    /// `enforce` or `dry-run`.
    pub enforcement: &'static str,
    /// How many rules it has.
    pub rules: usize,
    /// Tells it from others, as `/status` does; `None` if it cannot be used.
    pub fingerprint: Option<String>,
    /// What was looked at.
    pub steps: Vec<Step>,
}

/// What the files of one table hold.
#[derive(Debug, Clone, Default, Serialize)]
pub struct MaterialReport {
    /// Our certificate, if it could be read.
    pub certificate: Option<CertificateReport>,
    /// The certificates above ours, up to its authority, as far as they are known here.
    pub chain: Vec<CertificateReport>,
    /// The authorities that we trust.
    pub authorities: Vec<CertificateReport>,
    /// What they have taken back.
    pub revocation_lists: Vec<RevocationListReport>,
}

/// One connection, as far as it came.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ConnectionReport {
    /// Where it went.
    pub address: Option<String>,
    /// What happened, in order; the last one failed if one did.
    pub steps: Vec<Step>,
    /// What the handshake agreed on.
    pub handshake: Option<HandshakeReport>,
    /// What the server showed, accepted or not.
    pub server_certificate: Option<CertificateReport>,
    /// What the server says it is.
    pub server: Option<ServerReport>,
    /// Whom mongod takes us for, where the gateway authenticates.
    pub user: Option<UserReport>,
}

/// A user of MongoDB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UserReport {
    /// In `$external`.
    pub name: String,
    /// As `read@shop`.
    pub roles: Vec<String>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its name, from a closed set.
    pub name: &'static str,
    /// How it went.
    pub status: Status,
    /// What was seen; the first line is enough for the hurried.
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

/// Something wrong, or worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is: `warning` or `error`.
    pub severity: Status,
    /// Where to look for the cause.
    pub kind: FindingKind,
    /// What it is about: `upstream` or `listener` with its name, or `policy` with a key.
    #[serde(flatten)]
    pub about: About,
    /// What is the case.
    pub sentence: String,
    /// What to do about it.
    pub remedy: String,
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// The upstream of this name.
    Upstream(String),
    /// The listener of this name.
    Listener(String),
    /// This key of the policy, as `policy.rule[2].to[1].commands`; counted from 1.
    Policy(String),
}

/// Where the cause of a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// In our files or keys.
    Configuration,
    /// Between us and the upstream.
    Upstream,
    /// Among the users of MongoDB: the upstream is reached, and does not take us for one.
    User,
}

/// What a handshake agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HandshakeReport {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// As IANA names it.
    pub cipher_suite: &'static str,
    /// Key exchange group.
    pub key_exchange: Option<&'static str>,
    /// Whether a second connection could take the session up; `None` if that was not tried.
    pub resumable: Option<bool>,
}

/// What mongod says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerReport {
    /// As `6.0.5`.
    pub version: Option<String>,
    /// `standalone`, `primary`, `secondary`, `mongos` or `other`.
    pub role: String,
    /// Of its replica set.
    pub set_name: Option<String>,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateReport {
    /// As mongod writes it.
    pub subject: String,
    /// As mongod writes it.
    pub issuer: String,
    /// DNS names, addresses, URIs.
    pub names: Vec<String>,
    /// Start of validity, by RFC 3339.
    pub not_before: String,
    /// End of validity, by RFC 3339.
    pub not_after: String,
    /// In hex.
    pub serial: String,
    /// 1 to 3.
    pub version: u32,
    /// As `RSA 2048` or `ECDSA P-256`.
    pub key: String,
    /// As `RSA and SHA-256`.
    pub signature: String,
    /// `serverAuth`, `clientAuth` and their like; `None` allows every use.
    pub extended_key_usages: Option<Vec<String>>,
}

/// A revocation list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RevocationListReport {
    /// Whose certificates it is about.
    pub issuer: String,
    /// When it was made, by RFC 3339.
    pub this_update: String,
    /// When the next one is due, by RFC 3339, if it says so.
    pub next_update: Option<String>,
    /// How many certificates it names.
    pub entries: usize,
}

impl Report {
    /// 0 if nothing is in the way, 78 if files or keys cannot be used, 69 if an upstream is not reachable or refused.
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            CheckVerdict::Ready => 0,
            CheckVerdict::Refused => 69,
            CheckVerdict::BadConfiguration => 78,
        }
    }

    /// The whole report as one JSON object, over several lines.
    pub fn to_json(&self) -> String {
        // Strings and numbers only: nothing in it can fail.
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
