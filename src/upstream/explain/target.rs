//! The words for a failed connection: a sentence that may reach a client, and a remedy for the operator's log.
//!
//! The sentence names peer, cause and certificate subjects, and no file of this host; the remedy names files and
//! configuration keys.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use rustls::Error as TlsError;

use super::super::authentication::USER_NOT_FOUND;
use super::super::connect_error::{ConnectFailure, Phase, ServerCertificateRejection};
use super::super::own_commands::OwnCommandError;
use crate::config::{EndpointConfig, HostPort, MaterialSource};
use crate::identity::{CertificateFacts, DistinguishedName, Validity, date_text, printable};
use crate::tls::{CertificateDefect, CertificateRequest, UpstreamTls, UpstreamTlsError};

/// The parts of the configuration that sentences name.
#[derive(Debug)]
pub(in crate::upstream) struct Target {
    pub(in crate::upstream) upstream: String,
    pub(in crate::upstream) address: HostPort,
    server_name: String,
    certificate_place: String,
    authorities_place: String,
    identities: Vec<String>,
    /// `None` as long as there is none.
    certificate: Option<CertificateFacts>,
    /// Of our certificate and of those sent with it.
    issuers: Vec<DistinguishedName>,
    authorities: Vec<DistinguishedName>,
}

impl Target {
    pub(in crate::upstream) fn new(upstream: &EndpointConfig, tls: Option<&UpstreamTls>) -> Self {
        let ours = || tls.into_iter().flat_map(|tls| tls.credentials.certificates());
        let authorities = tls.into_iter().flat_map(|tls| &tls.trust_anchors.certificates);
        let server_name = upstream.tls.server_name.as_ref().unwrap_or(&upstream.address.host);
        let (certificate_place, authorities_place) = match &upstream.tls.source {
            MaterialSource::Files(files) => {
                (files.certificate_file.display().to_string(), files.ca_file.display().to_string())
            }
            MaterialSource::WorkloadApi(agent) => {
                let socket = format!("unix:{}", agent.socket.display());
                let authorities = agent.ca_file.as_ref().map(|file| file.display().to_string());
                let handed_out = || format!("not set, so that those of the agent at {socket} count");
                (socket.clone(), authorities.unwrap_or_else(handed_out))
            }
        };
        Self {
            upstream: upstream.name.clone(),
            address: upstream.address.clone(),
            server_name: server_name.strip_suffix('.').unwrap_or(server_name).to_owned(),
            certificate_place,
            authorities_place,
            identities: upstream.tls.server_identities.clone(),
            certificate: ours().next().cloned(),
            issuers: ours().map(|facts| facts.issuer.clone()).collect(),
            authorities: authorities.map(|facts| facts.subject.clone()).collect(),
        }
    }

    pub(in crate::upstream) fn write_sentence(
        &self,
        f: &mut fmt::Formatter<'_>,
        address: Option<SocketAddr>,
        failure: &ConnectFailure,
    ) -> fmt::Result {
        let peer = self.peer(address);
        match failure {
            ConnectFailure::NoCertificate { cause } => {
                write!(f, "there is no certificate to show to {peer} yet: ")?;
                match cause.as_deref() {
                    None => write!(f, "the SPIFFE Workload API has not answered"),
                    Some(UpstreamTlsError::Workload(cause)) => write!(f, "{cause}"),
                    Some(_) => write!(f, "the one that the SPIFFE Workload API gave cannot be used"),
                }
            }
            ConnectFailure::NotResolvable { .. } => write!(f, "the name {} cannot be resolved", self.address.host),
            ConnectFailure::Unreachable { attempts } => {
                write!(f, "{} cannot be reached: ", self.address)?;
                for (index, (address, cause)) in attempts.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    let cause = in_words(cause);
                    if address.to_string() == self.address.to_string() {
                        write!(f, "{separator}{cause}")?;
                    } else {
                        write!(f, "{separator}{address}: {cause}")?;
                    }
                }
                Ok(())
            }
            ConnectFailure::TimedOut { phase, limit } => {
                write!(f, "{phase} {peer} was not done within {}", humantime::format_duration(*limit))
            }
            ConnectFailure::ServerCertificate { refusal, certificate } => {
                write!(f, "the certificate of {peer} was refused: ")?;
                self.write_refusal(f, refusal, certificate.as_deref())
            }
            ConnectFailure::NotTls { cause }
                if cause.get_ref().is_some_and(<dyn StdError + Send + Sync>::is::<TlsError>) =>
            {
                write!(f, "{peer} does not speak TLS: it answered with something else")
            }
            ConnectFailure::NotTls { .. } => {
                write!(f, "{peer} does not speak TLS with us: it closed the connection instead of answering our hello")
            }
            ConnectFailure::Handshake { cause } => write!(f, "the TLS handshake with {peer} failed: {cause}"),
            ConnectFailure::ClientCertificateRejected { alert, .. } => {
                write!(f, "mongod at {peer} refused our client certificate")?;
                if let Some(certificate) = &self.certificate {
                    write!(f, " (subject {})", certificate.subject)?;
                }
                alert.map_or(Ok(()), |alert| write!(f, ": alert {alert:?}"))
            }
            ConnectFailure::Proof { cause } => write!(f, "{peer} does not answer as a mongod: {cause}"),
            ConnectFailure::Authentication { cause } => {
                write!(f, "mongod at {peer} did not authenticate upstream {} as {}: ", self.upstream, self.user())?;
                match cause {
                    OwnCommandError::Refused { code, code_name, errmsg } => write!(f, "{errmsg} ({code_name}, {code})"),
                    other => write!(f, "{other}"),
                }
            }
            ConnectFailure::WrongUser { users } if users.is_empty() => {
                write!(
                    f,
                    "mongod at {peer} says that it authenticated {}, and then that nobody is authenticated",
                    self.user()
                )
            }
            ConnectFailure::WrongUser { users } => {
                write!(f, "mongod at {peer} authenticated {} instead of {}", users.join(" and "), self.user())
            }
            ConnectFailure::ClusterMember => write!(
                f,
                "mongod at {peer} takes the certificate of upstream {} ({}) for that of a member of its cluster, which may do everything",
                self.upstream,
                self.user()
            ),
            ConnectFailure::Lost { cause } => write!(f, "{peer} does not tell any more what it is: {cause}"),
        }
    }

    /// What to do about it, for the operator: names files and configuration keys.
    pub(in crate::upstream) fn remedy(&self, failure: &ConnectFailure) -> String {
        let key = |name: &str| format!("upstream.{}.{name}", self.upstream);
        match failure {
            ConnectFailure::NoCertificate { cause: None } => {
                format!("look into the agent at {}, or raise {}", self.certificate_place, key("connect_timeout"))
            }
            ConnectFailure::NoCertificate { cause: Some(cause) } => match **cause {
                UpstreamTlsError::Workload(_) => cause.remedy(),
                _ => format!("{cause}; {}", cause.remedy()),
            },
            ConnectFailure::NotResolvable { .. } => {
                format!("check {} and the name service of this host", key("address"))
            }
            ConnectFailure::Unreachable { attempts }
                if attempts.iter().any(|(_, cause)| is_out_of_descriptors(cause)) =>
            {
                "raise the limit of open files (ulimit -n, LimitNOFILE), or lower max_connections: a client takes two"
                    .to_owned()
            }
            ConnectFailure::Unreachable { .. } => format!(
                "check that mongod runs and listens there (net.bindIp, net.port), that no firewall is between, and {}",
                key("address")
            ),
            ConnectFailure::TimedOut { phase: Phase::Resolve, .. } => {
                format!("check the name service of this host, or raise {}", key("connect_timeout"))
            }
            ConnectFailure::TimedOut { phase: Phase::Connect, .. } => {
                format!("check routes and firewalls to {}, or raise {}", self.address, key("connect_timeout"))
            }
            ConnectFailure::TimedOut { .. } => format!(
                "something accepts connections at {} and does not answer: check that it is mongod and not overloaded, or raise {}",
                self.address,
                key("connect_timeout")
            ),
            ConnectFailure::ServerCertificate { refusal, certificate } => {
                self.server_certificate_remedy(refusal, certificate.as_deref())
            }
            ConnectFailure::NotTls { .. } => format!(
                "check {}, that mongod runs with net.tls.mode requireTLS (or preferTLS), that both sides share a TLS version ({}, and net.tls.disabledProtocols), and that mongod is not at its connection limit (net.maxIncomingConnections)",
                key("address"),
                key("tls.min_version")
            ),
            ConnectFailure::Handshake { .. } => format!(
                "check that both sides share a TLS version ({}, and net.tls.disabledProtocols of mongod), and look into mongod's log",
                key("tls.min_version")
            ),
            ConnectFailure::ClientCertificateRejected { request, .. } => {
                self.client_certificate_remedy(request.as_ref())
            }
            ConnectFailure::Authentication { cause } => self.authentication_remedy(cause),
            ConnectFailure::WrongUser { .. } => format!(
                "look into mongod's log for how it maps certificates to users; the certificate is {}",
                self.certificate_place
            ),
            ConnectFailure::ClusterMember => format!(
                "use a certificate whose O, OU or DC differs from those of mongod's own; ours is {}",
                self.certificate_place
            ),
            ConnectFailure::Proof { .. } | ConnectFailure::Lost { .. } => {
                format!("check that {} is a mongod or mongos, and look into its log", self.address)
            }
        }
    }

    /// The user in `$external` that our certificate is for.
    fn user(&self) -> String {
        self.certificate.as_ref().map(|certificate| certificate.subject.to_string()).unwrap_or_default()
    }

    fn authentication_remedy(&self, cause: &OwnCommandError) -> String {
        match cause {
            OwnCommandError::Refused { code: USER_NOT_FOUND, .. } => format!(
                "create the user: db.getSiblingDB(\"$external\").runCommand({{createUser: {}, roles: [{{role: \"read\", db: \"DATABASE\"}}]}}), with the roles that it is to have; the certificate is {}",
                in_quotes(&self.user()),
                self.certificate_place
            ),
            OwnCommandError::Refused { .. } => format!(
                "check that MONGODB-X509 is among mongod's authenticationMechanisms, and look into its log; the certificate is {}",
                self.certificate_place
            ),
            _ => format!("look into the log of mongod at {}", self.address),
        }
    }

    /// The name as configured, and the address that it stood for where that is more.
    fn peer(&self, address: Option<SocketAddr>) -> String {
        let name = &self.address;
        match address {
            Some(address) if address.to_string() != name.to_string() => format!("{name} ({address})"),
            _ => name.to_string(),
        }
    }

    fn write_refusal(
        &self,
        f: &mut fmt::Formatter<'_>,
        refusal: &ServerCertificateRejection,
        certificate: Option<&CertificateFacts>,
    ) -> fmt::Result {
        let subject = certificate.map(|facts| facts.subject.to_string()).unwrap_or_default();
        let date = |pick: fn(&CertificateFacts) -> SystemTime| {
            certificate.map(|facts| date_text(pick(facts))).unwrap_or_default()
        };
        let issuer = || certificate.map(|facts| facts.issuer.to_string()).unwrap_or_default();
        match refusal {
            ServerCertificateRejection::UnknownIssuer if self.knows_issuer_of(certificate) => write!(
                f,
                "it names {} as its issuer, but our authority of that name did not sign it (subject {subject})",
                issuer()
            ),
            ServerCertificateRejection::UnknownIssuer => {
                write!(f, "it comes from {}, which is not among our authorities (subject {subject})", issuer())
            }
            ServerCertificateRejection::NameMismatch => {
                let names = certificate.map(CertificateFacts::names).unwrap_or_default().join(", ");
                write!(f, "it is for {names}, not for {} (subject {subject})", self.server_name)
            }
            ServerCertificateRejection::NoNames => {
                write!(
                    f,
                    "it has no subject alternative name, so it is not for {} (subject {subject})",
                    self.server_name
                )
            }
            ServerCertificateRejection::Expired if is_current(certificate) => {
                write!(f, "the certificate of {}, or of one above it, has expired (subject {subject})", issuer())
            }
            ServerCertificateRejection::NotYetValid if is_current(certificate) => {
                write!(f, "the certificate of {}, or of one above it, is not valid yet (subject {subject})", issuer())
            }
            ServerCertificateRejection::Expired => {
                write!(f, "it expired on {} (subject {subject})", date(|facts| facts.not_after))
            }
            ServerCertificateRejection::NotYetValid => {
                write!(f, "it is not valid before {} (subject {subject})", date(|facts| facts.not_before))
            }
            ServerCertificateRejection::CommonNameMismatch => write!(
                f,
                "it has no subject alternative name, and its common name is not {} (subject {subject})",
                self.server_name
            ),
            ServerCertificateRejection::IdentityMismatch => match certificate.map(uris).unwrap_or_default() {
                none if none.is_empty() => write!(f, "it has no URI among its names (subject {subject})"),
                uris => write!(f, "it is for {uris}, which is not accepted (subject {subject})"),
            },
            ServerCertificateRejection::Revoked => {
                write!(f, "it is revoked, or the certificate of an issuer is (subject {subject})")
            }
            ServerCertificateRejection::Version1 => {
                let version = certificate.map_or(1, |facts| facts.version);
                write!(f, "it is an X.509 version {version} certificate, which has no names (subject {subject})")
            }
            ServerCertificateRejection::Authority => {
                write!(f, "it is that of an authority (CA:TRUE), which may not be a server's too (subject {subject})")
            }
            ServerCertificateRejection::Invalid(cause) if let Some(rejection) = CertificateDefect::of(cause) => {
                write!(f, "{rejection} (subject {subject})")
            }
            ServerCertificateRejection::Invalid(cause) => write!(f, "{cause} (subject {subject})"),
        }
    }

    fn knows_issuer_of(&self, certificate: Option<&CertificateFacts>) -> bool {
        certificate.is_some_and(|facts| self.authorities.contains(&facts.issuer))
    }

    fn server_certificate_remedy(
        &self,
        refusal: &ServerCertificateRejection,
        certificate: Option<&CertificateFacts>,
    ) -> String {
        let key = |name: &str| format!("upstream.{}.tls.{name}", self.upstream);
        match refusal {
            ServerCertificateRejection::UnknownIssuer if self.knows_issuer_of(certificate) => format!(
                "the authority was made anew under its old name: bring {} ({}) up to date with mongod's",
                key("ca_file"),
                self.authorities_place,
            ),
            ServerCertificateRejection::UnknownIssuer => format!(
                "put the authority that signed it into {} ({}), which has now: {}; if intermediates are missing, mongod must send them",
                key("ca_file"),
                self.authorities_place,
                listed(&self.authorities),
            ),
            ServerCertificateRejection::NameMismatch => {
                let first = certificate.and_then(|facts| facts.names().into_iter().next()).unwrap_or_default();
                if first.contains("://") {
                    return format!("set {} to [\"{first}\"], or give mongod a certificate with the name {}", key("server_identities"), self.server_name);
                }
                format!(
                    "set {} to one of its names (as \"{first}\"), or give mongod a certificate with the name {}; verify = \"chain\" leaves names unchecked",
                    key("server_name"),
                    self.server_name
                )
            }
            ServerCertificateRejection::NoNames | ServerCertificateRejection::Version1 => format!(
                "issue it anew with its name, as X.509 version 3: openssl x509 -req -in REQUEST -CA CA -CAkey CA-KEY -CAcreateserial -days 365 -out NEW \
                 -extfile <(echo subjectAltName={}); or set {} = true to take this kind of certificate",
                alternative_name(&self.server_name),
                key("legacy_certificates")
            ),
            ServerCertificateRejection::CommonNameMismatch => format!(
                "set {} to its common name, or issue it anew for {}; verify = \"chain\" leaves names unchecked",
                key("server_name"),
                self.server_name
            ),
            ServerCertificateRejection::IdentityMismatch => format!(
                "add one of its URIs to {}, or give mongod a certificate with one of: {}",
                key("server_identities"),
                self.identities.join(", ")
            ),
            ServerCertificateRejection::Revoked => format!(
                "give mongod a new certificate (net.tls.certificateKeyFile), or bring {} up to date",
                key("crl_file")
            ),
            ServerCertificateRejection::Expired if is_current(certificate) => format!(
                "renew the certificate of the authority: with the same key and name, what it has signed stays good; then bring {} up to date, and mongod's files",
                key("ca_file")
            ),
            ServerCertificateRejection::Expired => {
                "renew mongod's certificate (net.tls.certificateKeyFile); if it is new already, restart mongod or run rotateCertificates".to_owned()
            }
            ServerCertificateRejection::NotYetValid => "check the clocks of this host and of the authority".to_owned(),
            ServerCertificateRejection::Authority => format!(
                "issue a certificate for the server with it: openssl x509 -req -in REQUEST -CA CA -CAkey CA-KEY -CAcreateserial -days 365 -out NEW \
                 -extfile <(echo subjectAltName={}); or, where it stands in {} itself, set {} = true",
                alternative_name(&self.server_name),
                key("ca_file"),
                key("legacy_certificates")
            ),
            ServerCertificateRejection::Invalid(_) => {
                "give mongod a certificate that a TLS server may use (serverAuth, a current signature algorithm)".to_owned()
            }
        }
    }

    fn client_certificate_remedy(&self, request: Option<&CertificateRequest>) -> String {
        // A server refuses what it was shown.
        let Some(certificate) = &self.certificate else { return String::new() };
        let mut remedy = Vec::new();
        if !certificate.allows("clientAuth") {
            remedy.push(
                "the certificate may not be used by clients: issue it with extendedKeyUsage clientAuth".to_owned(),
            );
        }
        if certificate.not_after < SystemTime::now() {
            remedy.push(format!("the certificate expired on {}: renew it", date_text(certificate.not_after)));
        }
        if !certificate.subject.is_readable_by_mongod() {
            remedy.push("mongod cannot read the subject: issue it with UTF8String values".to_owned());
        }
        let accepted = request.map(|request| request.acceptable_cas.as_slice()).unwrap_or_default();
        if !accepted.is_empty() && !self.issuers.iter().any(|issuer| accepted.contains(issuer)) {
            remedy.push(format!(
                "mongod accepts certificates of {}, ours comes from {}: use a certificate of the former, or add the latter to mongod's net.tls.CAFile, or put its certificate behind ours in the file if one of the former signed it",
                listed(accepted),
                certificate.issuer
            ));
        }
        if remedy.is_empty() {
            remedy.push(format!(
                "check that mongod's net.tls.CAFile has {} itself, not another of that name, and that its net.tls.CRLFile does not name the certificate",
                certificate.issuer
            ));
        }
        remedy.push(format!(
            "the certificate is {}, and mongod's log has the reason under id 23255 or 23256",
            self.certificate_place
        ));
        remedy.join("; ")
    }
}

/// Whether its dates are in order, so that it must be those of a certificate above it that are not.
fn is_current(certificate: Option<&CertificateFacts>) -> bool {
    certificate.is_some_and(|facts| matches!(facts.validity(SystemTime::now()), Validity::Current | Validity::EndsSoon))
}

/// URIs among the names of a certificate, for a sentence.
fn uris(certificate: &CertificateFacts) -> String {
    certificate.uris.iter().map(|uri| printable(uri)).collect::<Vec<_>>().join(", ")
}

/// As openssl takes it.
fn alternative_name(name: &str) -> String {
    let kind = if name.parse::<IpAddr>().is_ok() { "IP" } else { "DNS" };
    format!("{kind}:{name}")
}

/// As JavaScript has it.
fn in_quotes(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Why an address was not reached; whose fault it is where it is ours.
fn in_words(cause: &io::Error) -> String {
    if is_out_of_descriptors(cause) {
        "the gateway has too many open files".to_owned()
    } else {
        cause.kind().to_string()
    }
}

/// The standard library has no kind for it.
fn is_out_of_descriptors(cause: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(cause.raw_os_error(), Some(ENFILE | EMFILE))
}

/// The first few of `names`, for a sentence.
fn listed(names: &[DistinguishedName]) -> String {
    const SHOWN_MAX: usize = 5;
    let shown = names.iter().take(SHOWN_MAX).map(ToString::to_string).collect::<Vec<_>>().join(" | ");
    match names.len().checked_sub(SHOWN_MAX) {
        Some(more @ 1..) => format!("{shown} and {more} more"),
        _ => shown,
    }
}
