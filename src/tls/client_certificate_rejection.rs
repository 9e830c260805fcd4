//! Why a client's certificate was refused, told from the error of its handshake.

use std::fmt;
use std::io;

use rustls::{CertificateError, Error};

/// Why a client's certificate was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientCertificateRejection {
    /// No chain to one of the listener's authorities.
    UnknownAuthority,
    /// After its time, or that of an issuer.
    Expired,
    /// Before its time, or that of an issuer.
    NotYetValid,
    /// Taken back by its authority, or its issuer by that one's.
    Revoked,
    /// Not for clients.
    WrongUsage,
    /// Anything else: damaged, of version 1, wrongly signed, or without its key.
    Invalid,
}

impl ClientCertificateRejection {
    /// Every refusal.
    pub const ALL: [Self; 6] =
        [Self::UnknownAuthority, Self::Expired, Self::NotYetValid, Self::Revoked, Self::WrongUsage, Self::Invalid];

    /// [`Self::label`] of every refusal.
    pub const LABELS: [&'static str; 6] =
        ["unknown_ca", "expired", "not_yet_valid", "revoked", "wrong_usage", "invalid"];

    /// What a failed accept says; `None` if it failed for another reason than the client's certificate.
    pub fn of(failed: &io::Error) -> Option<Self> {
        Self::of_tls(failed.get_ref()?.downcast_ref()?)
    }

    /// As [`Self::of`], from the error of rustls itself.
    pub fn of_tls(error: &Error) -> Option<Self> {
        let Error::InvalidCertificate(cause) = error else { return None };
        Some(match cause {
            // An authority of the right name with another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::Revoked => Self::Revoked,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Self::WrongUsage,
            _ => Self::Invalid,
        })
    }

    /// The value of a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownAuthority => "unknown_ca",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::WrongUsage => "wrong_usage",
            Self::Invalid => "invalid",
        }
    }

    /// What the operator may do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::UnknownAuthority => {
                "give the client a certificate of an authority in the listener's ca_file, with all intermediates, or add its authority there"
            }
            Self::Expired => "renew the client's certificate, or that of its authority",
            Self::NotYetValid => "check the clocks of this host and of the authority",
            Self::Revoked => "give the client a new certificate, or bring the listener's crl_file up to date",
            Self::WrongUsage => "issue the client's certificate with extendedKeyUsage clientAuth",
            Self::Invalid => {
                "issue the client's certificate anew, as X.509 version 3 with a current signature algorithm; legacy_certificates = true takes version 1"
            }
        }
    }
}

impl fmt::Display for ClientCertificateRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownAuthority => "it comes from no authority of the listener's ca_file",
            Self::Expired => "it, or one above it, has expired",
            Self::NotYetValid => "it, or one above it, is not valid yet",
            Self::Revoked => "it, or one above it, is revoked",
            Self::WrongUsage => "it is not for clients (extendedKeyUsage)",
            Self::Invalid => "it cannot be verified",
        })
    }
}
