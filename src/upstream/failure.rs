//! Why a connection could not be made: the failure itself, without texts about it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};

use super::own_commands::OwnCommandError;
use super::server_error_codes::{
    AUTHENTICATION_FAILED, BAD_VALUE, COMMAND_NOT_FOUND, MECHANISM_UNAVAILABLE, PROTOCOL_ERROR, UNAUTHORIZED,
    USER_NOT_FOUND,
};
use crate::identity::CertificateFacts;
use crate::tls::{CertificateRequest, OcspDefect, UpstreamTlsError};

/// What failed.
#[derive(Debug)]
pub enum ConnectFailure {
    /// No client certificate is available yet: the SPIFFE Workload API has provided none.
    NoCertificate {
        /// The reason, if it is known.
        cause: Option<Arc<UpstreamTlsError>>,
    },
    /// The name has no address, or the resolver did not answer.
    NotResolvable {
        /// The error of the system's resolver.
        cause: io::Error,
    },
    /// No address accepted a TCP connection.
    Unreachable {
        /// Every address with its error.
        attempts: Vec<(SocketAddr, io::Error)>,
    },
    /// `connect_timeout` expired.
    TimedOut {
        /// The step that was running.
        phase: Phase,
        /// `connect_timeout`, which covers all steps together.
        limit: Duration,
    },
    /// The gateway rejected the server's certificate.
    ServerCertificate {
        /// Why.
        rejection: ServerCertificateRejection,
        /// The certificate, if it could be parsed.
        certificate: Option<Box<CertificateFacts>>,
    },
    /// The server does not speak TLS.
    NotTls {
        /// The error of the handshake: the connection was closed, or the server sent no TLS record.
        cause: io::Error,
    },
    /// The TLS handshake failed in another way.
    Handshake {
        /// The error of rustls or the socket.
        cause: io::Error,
    },
    /// The server closed the connection right after the handshake, or sent an alert about the gateway's client
    /// certificate.
    ClientCertificateRejected {
        /// The alert; mongod sends none.
        alert: Option<AlertDescription>,
        /// The server's request for a certificate.
        request: Option<CertificateRequest>,
    },
    /// One of the gateway's own commands failed on the new connection.
    Proof {
        /// Why.
        cause: OwnCommandError,
    },
    /// mongod did not authenticate the gateway's client certificate.
    Authentication {
        /// mongod's reply.
        cause: OwnCommandError,
    },
    /// mongod authenticated another user than the subject of the gateway's client certificate.
    WrongUser {
        /// The authenticated users as `user@database`; none, one or more.
        users: Vec<String>,
    },
    /// mongod treats the gateway's client certificate as that of a cluster member.
    ClusterMember,
    /// The connection of a monitor was lost.
    Lost {
        /// How.
        cause: OwnCommandError,
    },
}

/// A step of connecting. `Display` is followed by the name of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Name lookup.
    Resolve,
    /// TCP connect.
    Connect,
    /// TLS handshake.
    Handshake,
    /// The gateway's own commands.
    Proof,
    /// `authenticate`.
    Authentication,
}

/// Why a server's certificate is rejected.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerCertificateRejection {
    /// The chain does not end at a trust anchor.
    UnknownIssuer,
    /// The certificate has names, but not the expected one.
    NameMismatch,
    /// The certificate has no subject alternative name, and its common name is not used.
    NoNames,
    /// The certificate has no subject alternative name, and its common name is not the expected name.
    CommonNameMismatch,
    /// None of its URIs is an accepted identity.
    IdentityMismatch,
    /// The certificate, or that of an issuer, has expired.
    Expired,
    /// The certificate, or that of an issuer, is not valid yet.
    NotYetValid,
    /// The certificate of an issuer has expired, or is not valid yet.
    IssuerDates {
        /// That certificate.
        issuer: Box<CertificateFacts>,
        /// Whether it is a trust anchor; otherwise the server sent it, or it is an intermediate in `ca_file`.
        is_trust_anchor: bool,
    },
    /// The certificate, or that of an issuer, is revoked.
    Revoked,
    /// The stapled OCSP response, or the absence of one.
    Ocsp(OcspDefect),
    /// X.509 version 1 or 2, which has no subject alternative name.
    Version1,
    /// A CA certificate, which may not be used by a server.
    CaCertificate,
    /// Another error: a [`CertificateDefect`](crate::tls::CertificateDefect), or one of rustls.
    Invalid(CertificateError),
}

impl ConnectFailure {
    /// Whether the server works, and only the gateway's user does not.
    pub fn is_user_failure(&self) -> bool {
        match self {
            Self::Authentication { cause } => is_permanent(cause),
            Self::WrongUser { .. } | Self::ClusterMember => true,
            _ => false,
        }
    }

    /// Whether the server is reachable but rejects the gateway's client certificate or its user. It may accept others.
    pub fn is_identity_failure(&self) -> bool {
        self.is_user_failure() || matches!(self, Self::ClientCertificateRejected { .. })
    }

    /// Turns a TCP connection that took too long into an unreachable address.
    pub(super) fn at(self, address: SocketAddr) -> Self {
        match self {
            Self::TimedOut { .. } => Self::Unreachable { attempts: vec![(address, io::ErrorKind::TimedOut.into())] },
            other => other,
        }
    }

    /// How far the attempt to connect came.
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

/// Selects one failure for all addresses: that of the address where the attempt came furthest.
///
/// If no address accepted a TCP connection, the result names all of them. `failures` has one entry per address that was
/// tried.
pub(super) fn furthest(
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

/// Whether `authenticate` will fail in the same way the next time. A server that changes its state, or that cannot
/// reach the other members, replies with other codes.
fn is_permanent(cause: &OwnCommandError) -> bool {
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
