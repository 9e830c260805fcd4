//! The closed sets that label values come from.
//!
//! A variant of [`ConnectionOutcome`], [`ClientHandshake`], [`Direction`] or [`Recycling`] is also an index into the
//! counters that are kept for it.

use std::time::Duration;

/// How a client connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionOutcome {
    /// The connection was usable. Either side closed it, or the gateway did because of its age or a drain.
    Completed,
    /// The client sent no bytes, or none before a drain.
    Probe,
    /// The gateway rejected the client: `max_connections` was reached, or the listener does not accept this client.
    Rejected,
    /// No upstream connection was available, or it was lost.
    UpstreamFailed,
    /// The client sent something that is not the MongoDB wire protocol, or a part of it that the gateway refuses.
    ProtocolError,
}

impl ConnectionOutcome {
    /// In the order of declaration, so that a variant is its own index.
    pub(super) const ALL: [Self; 5] =
        [Self::Completed, Self::Probe, Self::Rejected, Self::UpstreamFailed, Self::ProtocolError];

    /// The value of the label and of the log field.
    pub fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Probe => "probe",
            Self::Rejected => "rejected",
            Self::UpstreamFailed => "upstream_failed",
            Self::ProtocolError => "protocol_error",
        }
    }
}

/// The outcome of a client's TLS handshake, including the verification of its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientHandshake {
    /// The client is accepted.
    Ok,
    /// The client sent no certificate, and the listener requires one.
    NoCertificate,
    /// The certificate chain ends at no trust anchor of the listener.
    UnknownCa,
    /// The certificate, or that of an issuer, has expired.
    Expired,
    /// The certificate, or that of an issuer, is not valid yet.
    NotYetValid,
    /// The certificate, or that of an issuer, is revoked.
    Revoked,
    /// The certificate may not be used by TLS clients.
    WrongUsage,
    /// The certificate, or the proof that the client has its key, is invalid in another way.
    Invalid,
    /// The SPIFFE ID in the certificate is malformed.
    InvalidSpiffeId,
    /// The SPIFFE ID belongs to another trust domain.
    ForeignTrustDomain,
    /// The client did not use TLS where TLS is required.
    NotTls,
    /// The client rejected the listener's server certificate.
    RefusedByClient,
    /// The client sent more bytes than a handshake may have.
    TooLong,
    /// The client sent no valid TLS, or closed the connection.
    Failed,
    /// The handshake was not finished in time.
    TimedOut,
}

impl ClientHandshake {
    /// In the order of declaration, so that a variant is its own index.
    pub const ALL: [Self; 15] = [
        Self::Ok,
        Self::NoCertificate,
        Self::UnknownCa,
        Self::Expired,
        Self::NotYetValid,
        Self::Revoked,
        Self::WrongUsage,
        Self::Invalid,
        Self::InvalidSpiffeId,
        Self::ForeignTrustDomain,
        Self::NotTls,
        Self::RefusedByClient,
        Self::TooLong,
        Self::Failed,
        Self::TimedOut,
    ];

    /// The value of the label and of the log field.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoCertificate => "no_certificate",
            Self::UnknownCa => "unknown_ca",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::WrongUsage => "wrong_usage",
            Self::Invalid => "invalid",
            Self::InvalidSpiffeId => "invalid_spiffe_id",
            Self::ForeignTrustDomain => "foreign_trust_domain",
            Self::NotTls => "not_tls",
            Self::RefusedByClient => "refused_by_client",
            Self::TooLong => "too_long",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
        }
    }

    /// The outcome with this label; [`Self::Invalid`] if no outcome has it.
    pub fn of_label(label: &str) -> Self {
        Self::ALL.into_iter().find(|outcome| outcome.label() == label).unwrap_or(Self::Invalid)
    }
}

/// The direction of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to mongod.
    ToUpstream,
    /// From mongod to the client.
    ToClient,
}

impl Direction {
    /// The value of the label and of the log field.
    pub fn label(self) -> &'static str {
        match self {
            Self::ToUpstream => "to_upstream",
            Self::ToClient => "to_client",
        }
    }
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandOutcome {
    /// Answered with `ok: 1` after this time.
    Ok(Duration),
    /// Answered with an error after this time.
    Error(Duration),
    /// Refused by the gateway, and never forwarded.
    Denied,
    /// Forwarded; the client asked for no reply.
    Unacknowledged,
}

/// How a connection left a certificate set that is no longer in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recycling {
    /// Its upstream connection was replaced, unnoticed by the client.
    Moved,
    /// It was closed.
    Closed,
}

impl Recycling {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Closed => "closed",
        }
    }
}

/// The use of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateRole {
    /// The gateway's client certificate, shown to an upstream.
    UpstreamClient,
    /// A trust anchor for the servers of an upstream.
    UpstreamCa,
    /// A listener's server certificate, shown to clients.
    Listener,
    /// A trust anchor for the clients of a listener.
    ListenerCa,
}

impl CertificateRole {
    /// The value of the label and of the log field.
    pub fn label(self) -> &'static str {
        match self {
            Self::UpstreamClient => "upstream_client",
            Self::UpstreamCa => "upstream_ca",
            Self::Listener => "listener",
            Self::ListenerCa => "listener_ca",
        }
    }
}

/// What was reloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// A certificate set.
    Certificates,
    /// The policy.
    Policy,
}

impl Reloaded {
    /// The value of the label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Certificates => "certificates",
            Self::Policy => "policy",
        }
    }
}
