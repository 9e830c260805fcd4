//! The closed sets that label values come from.

use std::time::Duration;

/// How a client connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionOutcome {
    /// It carried traffic, or could have; either side closed it, or the gateway did for its age or at the end.
    Completed,
    /// The client sent no byte, or none before a drain.
    Probe,
    /// The gateway did not take it: `max_connections` was reached, or the client is not one that its listener takes.
    Rejected,
    /// There was no upstream to put it on, or the upstream was lost.
    UpstreamFailed,
    /// What the client sent is not MongoDB's protocol, or a part of it that is refused.
    ProtocolError,
}

/// What came of a client's TLS handshake, the judgement on its certificate included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientHandshake {
    /// The client is let in.
    Ok,
    /// It showed no certificate.
    NoCertificate,
    /// Its certificate comes from no authority of the listener.
    UnknownCa,
    /// Its certificate has ended.
    Expired,
    /// Its certificate has not begun.
    NotYetValid,
    /// Its authority has revoked the certificate.
    Revoked,
    /// Its certificate is not for clients.
    WrongUsage,
    /// Its certificate, or the proof that it owns it, is not acceptable otherwise.
    Invalid,
    /// Its SPIFFE id is none.
    InvalidSpiffeId,
    /// Its SPIFFE id is of another trust domain.
    ForeignTrustDomain,
    /// It spoke no TLS where TLS is required.
    NotTls,
    /// It does not accept the listener's certificate.
    RefusedByClient,
    /// What it sent is no TLS that is spoken here, or it closed.
    Failed,
    /// It did not finish in time.
    TimedOut,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to mongod.
    ToUpstream,
    /// From mongod to the client.
    ToClient,
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandOutcome {
    /// Answered with `ok: 1` after this time.
    Ok(Duration),
    /// Answered with an error after this time.
    Error(Duration),
    /// Refused by the gateway; it never went upstream.
    Denied,
    /// The client asked for no reply.
    Unacknowledged,
}
/// How a connection left a certificate set that is no longer in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recycling {
    /// Its upstream connection was exchanged; the client did not notice.
    Moved,
    /// It was closed.
    Closed,
}

/// What a certificate is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateRole {
    /// Shown to an upstream.
    UpstreamClient,
    /// Verifies an upstream.
    UpstreamCa,
    /// Shown to the clients of a listener.
    Listener,
    /// Verifies the clients of a listener.
    ListenerCa,
}

impl ConnectionOutcome {
    /// In the order of their declaration, so that a variant is its own index.
    pub(super) const ALL: [Self; 5] =
        [Self::Completed, Self::Probe, Self::Rejected, Self::UpstreamFailed, Self::ProtocolError];

    /// The word in labels and log lines.
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

impl Recycling {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Closed => "closed",
        }
    }
}

impl ClientHandshake {
    /// In the order of their declaration, so that a variant is its own index.
    pub const ALL: [Self; 14] = [
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
        Self::Failed,
        Self::TimedOut,
    ];

    /// The word in labels and log lines.
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
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
        }
    }

    /// The outcome of that word; [`Self::Invalid`] for a word that is none.
    pub fn of_label(label: &str) -> Self {
        Self::ALL.into_iter().find(|outcome| outcome.label() == label).unwrap_or(Self::Invalid)
    }
}

impl Direction {
    /// The word in labels and log lines.
    pub fn label(self) -> &'static str {
        match self {
            Self::ToUpstream => "to_upstream",
            Self::ToClient => "to_client",
        }
    }
}

impl CertificateRole {
    /// The word in labels and log lines.
    pub fn label(self) -> &'static str {
        match self {
            Self::UpstreamClient => "upstream_client",
            Self::UpstreamCa => "upstream_ca",
            Self::Listener => "listener",
            Self::ListenerCa => "listener_ca",
        }
    }
}
