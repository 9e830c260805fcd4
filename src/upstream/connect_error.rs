//! Why no connection could be made, told from what sockets and rustls report.
//!
//! The words for it are in `target.rs`.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error as TlsError};

use super::authentication::{AUTHENTICATION_FAILED, USER_NOT_FOUND};
use super::explain::target::Target;
use super::own_commands::OwnCommandError;
use crate::identity::CertificateFacts;
use crate::tls::{CertificateDefect, CertificateRequest, UpstreamTls, UpstreamTlsError};

/// What [`ConnectError::reason`] can be: the values of a metric's label.
pub const REASONS: [&str; 20] = [
    "no_certificate",
    "not_resolvable",
    "unreachable",
    "timed_out",
    "server_certificate_unknown_issuer",
    "server_certificate_name_mismatch",
    "server_certificate_no_names",
    "server_certificate_identity_mismatch",
    "server_certificate_expired",
    "server_certificate_not_yet_valid",
    "server_certificate_revoked",
    "server_certificate_version_1",
    "server_certificate_invalid",
    "not_tls",
    "handshake_failed",
    "client_certificate_refused",
    "ping_failed",
    "authentication_failed",
    "wrong_user",
    "cluster_member",
];

/// A connection that could not be made.
///
/// `Display` is fit for a client: it names peer, cause and certificate subjects, but no file. [`Self::remedy`] is for
/// the operator.
#[derive(Debug)]
pub struct ConnectError {
    target: Arc<Target>,
    address: Option<SocketAddr>,
    failure: Box<ConnectFailure>,
}

/// What failed.
#[derive(Debug)]
pub enum ConnectFailure {
    /// There is none to show yet: the SPIFFE Workload API has given none.
    NoCertificate {
        /// Why, if it is known.
        cause: Option<Arc<UpstreamTlsError>>,
    },
    /// The name has no address, or the resolver gave no answer.
    NotResolvable {
        /// From the system's resolver.
        cause: io::Error,
    },
    /// No address took a TCP connection.
    Unreachable {
        /// Every address with its own cause.
        attempts: Vec<(SocketAddr, io::Error)>,
    },
    /// The time for one connection was up.
    TimedOut {
        /// What was under way.
        phase: Phase,
        /// The time for everything together.
        limit: Duration,
    },
    /// We refused the server's certificate.
    ServerCertificate {
        /// Why.
        refusal: ServerCertificateRejection,
        /// The certificate, if it could be read.
        certificate: Option<Box<CertificateFacts>>,
    },
    /// What answers does not speak TLS.
    NotTls {
        /// From the handshake: closed without an answer, or something that is no TLS record.
        cause: io::Error,
    },
    /// The handshake failed in another way.
    Handshake {
        /// From rustls or the socket.
        cause: io::Error,
    },
    /// The server closed right after the handshake, or sent an alert about our certificate.
    ClientCertificateRejected {
        /// The alert; mongod sends none.
        alert: Option<AlertDescription>,
        /// Whose certificates the server said it accepts.
        request: Option<CertificateRequest>,
    },
    /// A command of our own got no good answer on the finished connection.
    Proof {
        /// Why.
        cause: OwnCommandError,
    },
    /// mongod did not authenticate our certificate.
    Authentication {
        /// Its answer.
        cause: OwnCommandError,
    },
    /// mongod authenticated somebody else than the subject of our certificate.
    WrongUser {
        /// Who that is; nobody, one or more, as `user@database`.
        users: Vec<String>,
    },
    /// Our certificate is, for mongod, that of a member of its cluster.
    ClusterMember,
    /// A connection of our own, on which the server told what it is, came to an end.
    Lost {
        /// How.
        cause: OwnCommandError,
    },
}

/// Steps of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Name lookup.
    Resolve,
    /// TCP.
    Connect,
    /// TLS.
    Handshake,
    /// Commands of our own.
    Proof,
    /// `authenticate`.
    Authentication,
}

/// Why a server's certificate was refused.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerCertificateRejection {
    /// No chain to one of our authorities.
    UnknownIssuer,
    /// It has names, but not the one that we asked for.
    NameMismatch,
    /// It has no names but the subject's common name, which does not count.
    NoNames,
    /// It has no names but the subject's common name, which counts here and is another.
    CommonNameMismatch,
    /// None of its URIs is one of those that are accepted.
    IdentityMismatch,
    /// After its time.
    Expired,
    /// Before its time.
    NotYetValid,
    /// Its authority took it back, or the certificate of an issuer.
    Revoked,
    /// X.509 version 1 or 2, which has no names at all.
    Version1,
    /// It is that of an authority, which may not be a server's.
    Authority,
    /// Anything else that rustls dislikes.
    Invalid(CertificateError),
}

impl ConnectError {
    pub(super) fn new(target: Arc<Target>, address: Option<SocketAddr>, failure: ConnectFailure) -> Self {
        Self { target, address, failure: Box::new(failure) }
    }

    pub(super) fn into_failure(self) -> ConnectFailure {
        *self.failure
    }

    /// What failed.
    pub fn failure(&self) -> &ConnectFailure {
        &self.failure
    }

    /// The address that it failed with, if it came to one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// One of [`REASONS`], or `monitor_lost`, which is no attempt to connect.
    pub fn reason(&self) -> &'static str {
        match self.failure() {
            ConnectFailure::NoCertificate { .. } => "no_certificate",
            ConnectFailure::NotResolvable { .. } => "not_resolvable",
            ConnectFailure::Unreachable { .. } => "unreachable",
            ConnectFailure::TimedOut { .. } => "timed_out",
            ConnectFailure::ServerCertificate { refusal, .. } => refusal.reason(),
            ConnectFailure::NotTls { .. } => "not_tls",
            ConnectFailure::Handshake { .. } => "handshake_failed",
            ConnectFailure::ClientCertificateRejected { .. } => "client_certificate_refused",
            ConnectFailure::Proof { .. } => "ping_failed",
            ConnectFailure::Authentication { .. } => "authentication_failed",
            ConnectFailure::WrongUser { .. } => "wrong_user",
            ConnectFailure::ClusterMember => "cluster_member",
            ConnectFailure::Lost { .. } => "monitor_lost",
        }
    }

    /// Whether a connection could not be made, in contrast to one of our own that has ended.
    pub fn is_attempt(&self) -> bool {
        !matches!(self.failure(), ConnectFailure::Lost { .. })
    }

    /// Whether the server is as it should be, and it is our user that is not.
    pub fn is_user_failure(&self) -> bool {
        match self.failure() {
            ConnectFailure::Authentication { cause } => is_final(cause),
            ConnectFailure::WrongUser { .. } | ConnectFailure::ClusterMember => true,
            _ => false,
        }
    }

    /// Whether the server is there, and does not take our certificate or its user; it may take others.
    pub fn is_identity_failure(&self) -> bool {
        self.is_user_failure() || matches!(self.failure(), ConnectFailure::ClientCertificateRejected { .. })
    }

    /// Code and name of the command error that a client gets.
    pub fn client_code(&self) -> (i32, &'static str) {
        match self.failure() {
            ConnectFailure::Authentication { .. } if !self.is_user_failure() => (6, "HostUnreachable"),
            ConnectFailure::Authentication { .. }
            | ConnectFailure::WrongUser { .. }
            | ConnectFailure::ClusterMember => (18, "AuthenticationFailed"),
            // Drivers try again after this one, and there may be a certificate soon.
            ConnectFailure::NoCertificate { .. }
            | ConnectFailure::NotResolvable { .. }
            | ConnectFailure::Unreachable { .. }
            | ConnectFailure::TimedOut { .. }
            | ConnectFailure::Proof { .. }
            | ConnectFailure::Lost { .. } => (6, "HostUnreachable"),
            ConnectFailure::ServerCertificate { .. }
            | ConnectFailure::NotTls { .. }
            | ConnectFailure::Handshake { .. }
            | ConnectFailure::ClientCertificateRejected { .. } => (141, "SSLHandshakeFailed"),
        }
    }

    /// What to do about it, for the operator: names files and configuration keys.
    pub fn remedy(&self) -> String {
        self.target.remedy(self.failure())
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.write_sentence(f, self.address, self.failure())
    }
}

impl StdError for ConnectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self.failure() {
            ConnectFailure::NotResolvable { cause } | ConnectFailure::NotTls { cause } => Some(cause),
            _ => None,
        }
    }
}

impl ServerCertificateRejection {
    fn reason(&self) -> &'static str {
        match self {
            Self::UnknownIssuer => "server_certificate_unknown_issuer",
            Self::NameMismatch | Self::CommonNameMismatch => "server_certificate_name_mismatch",
            Self::IdentityMismatch => "server_certificate_identity_mismatch",
            Self::NoNames => "server_certificate_no_names",
            Self::Expired => "server_certificate_expired",
            Self::NotYetValid => "server_certificate_not_yet_valid",
            Self::Revoked => "server_certificate_revoked",
            Self::Version1 => "server_certificate_version_1",
            Self::Authority | Self::Invalid(_) => "server_certificate_invalid",
        }
    }

    fn of(cause: CertificateError, certificate: Option<&CertificateFacts>) -> Self {
        match CertificateDefect::of(&cause) {
            Some(CertificateDefect::Version(_)) => return Self::Version1,
            Some(CertificateDefect::CommonName) => return Self::CommonNameMismatch,
            Some(CertificateDefect::Identity) => return Self::IdentityMismatch,
            Some(CertificateDefect::Issuer(_)) | None => {}
        }
        match cause {
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            // An authority of the right name with another key; without a certificate it would be the handshake's own.
            CertificateError::BadSignature if certificate.is_some() => Self::UnknownIssuer,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => match certificate {
                Some(facts) if facts.names().is_empty() => Self::NoNames,
                _ => Self::NameMismatch,
            },
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::Revoked => Self::Revoked,
            CertificateError::Other(_) if certificate.is_some_and(|facts| facts.is_ca) => Self::Authority,
            other => Self::Invalid(other),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "the name lookup for",
            Self::Connect => "the TCP connection to",
            Self::Handshake => "the TLS handshake with",
            Self::Proof => "the first command to",
            Self::Authentication => "the authentication with",
        })
    }
}

impl ConnectFailure {
    /// A TCP connection that took too long is one more unreachable address.
    pub(super) fn at(self, address: SocketAddr) -> Self {
        match self {
            Self::TimedOut { .. } => Self::Unreachable { attempts: vec![(address, io::ErrorKind::TimedOut.into())] },
            other => other,
        }
    }

    /// How far the connection came.
    fn progress(&self) -> u8 {
        match self {
            Self::NoCertificate { .. } | Self::NotResolvable { .. } | Self::Unreachable { .. } => 0,
            Self::NotTls { .. } | Self::TimedOut { .. } => 1,
            Self::Handshake { .. } | Self::ServerCertificate { .. } => 2,
            Self::ClientCertificateRejected { .. } | Self::Proof { .. } | Self::Lost { .. } => 3,
            Self::Authentication { .. } | Self::WrongUser { .. } | Self::ClusterMember => 4,
        }
    }
}

/// One failure for all addresses: that of the address where the connection came furthest.
///
/// If none took a TCP connection, it names all of them. `failures` has one entry per address that was tried.
pub(super) fn most_telling(
    failures: Vec<(SocketAddr, ConnectFailure)>,
    limit: Duration,
) -> (Option<SocketAddr>, ConnectFailure) {
    let mut attempts = Vec::new();
    let mut furthest: Option<(SocketAddr, ConnectFailure)> = None;
    for (address, failure) in failures {
        match failure {
            ConnectFailure::Unreachable { attempts: of_address } => attempts.extend(of_address),
            failure if furthest.as_ref().is_some_and(|(_, known)| known.progress() >= failure.progress()) => {}
            failure => furthest = Some((address, failure)),
        }
    }
    if let Some((address, failure)) = furthest {
        return (Some(address), failure);
    }
    if !attempts.is_empty() && attempts.iter().all(|(_, cause)| cause.kind() == io::ErrorKind::TimedOut) {
        return (None, ConnectFailure::TimedOut { phase: Phase::Connect, limit });
    }
    (None, ConnectFailure::Unreachable { attempts })
}

/// Whether the answer to `authenticate` will be the same the next time. A server that changes its part in the set, or that
/// cannot reach the others, has other codes.
fn is_final(cause: &OwnCommandError) -> bool {
    const BAD_VALUE: i32 = 2;
    const UNAUTHORIZED: i32 = 13;
    const PROTOCOL_ERROR: i32 = 17;
    const COMMAND_NOT_FOUND: i32 = 59;
    const MECHANISM_UNAVAILABLE: i32 = 334;
    let OwnCommandError::Refused { code, .. } = cause else { return false };
    matches!(
        *code,
        BAD_VALUE
            | USER_NOT_FOUND
            | UNAUTHORIZED
            | PROTOCOL_ERROR
            | AUTHENTICATION_FAILED
            | COMMAND_NOT_FOUND
            | MECHANISM_UNAVAILABLE
    )
}

/// What a failed handshake means.
pub(super) fn of_handshake(cause: io::Error, tls: &UpstreamTls) -> ConnectFailure {
    match tls_error(&cause) {
        Some(TlsError::InvalidCertificate(refused)) => {
            let certificate = tls.last_handshake.take_rejected().into_iter().next();
            let refusal = ServerCertificateRejection::of(refused.clone(), certificate.as_ref());
            ConnectFailure::ServerCertificate { refusal, certificate: certificate.map(Box::new) }
        }
        Some(TlsError::InvalidMessage(_)) => ConnectFailure::NotTls { cause },
        Some(TlsError::AlertReceived(alert)) if is_about_certificate(*alert) => {
            ConnectFailure::ClientCertificateRejected { alert: Some(*alert), request: tls.last_handshake.request() }
        }
        // A mongod without TLS closes, and resets if it had not read all of our hello.
        None if is_closed(&cause) => ConnectFailure::NotTls { cause },
        _ => ConnectFailure::Handshake { cause },
    }
}

/// What a command of our own that failed right after the handshake means.
pub(super) fn of_proof(cause: OwnCommandError, tls: &UpstreamTls) -> ConnectFailure {
    let OwnCommandError::Closed(broken) = &cause else { return ConnectFailure::Proof { cause } };
    match tls_error(broken) {
        Some(TlsError::AlertReceived(alert)) if is_about_certificate(*alert) => {
            ConnectFailure::ClientCertificateRejected { alert: Some(*alert), request: tls.last_handshake.request() }
        }
        None if is_closed(broken) => {
            ConnectFailure::ClientCertificateRejected { alert: None, request: tls.last_handshake.request() }
        }
        _ => ConnectFailure::Proof { cause },
    }
}

fn tls_error(cause: &io::Error) -> Option<&TlsError> {
    cause.get_ref()?.downcast_ref()
}

fn is_closed(cause: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(cause.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            // A certificate, or the proof that we have its key, with a wrong signature.
            | AlertDescription::DecryptError
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_metrics_lists_every_reason() {
        let page = include_str!("../../docs/metrics.md");
        for reason in REASONS {
            assert!(page.contains(&format!("`{reason}`")), "{reason} is not in docs/metrics.md");
        }
    }
}
