//! Why a listener rejects a client certificate, read from the error of the TLS handshake.

use std::fmt;

use rustls::{CertificateError, Error};

use super::certificate_defect::CertificateDefect;
use super::error_text::certificate_error_text;

/// Why a client certificate is rejected. `Display` completes a sentence about it and begins with "it".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientCertificateRejection {
    /// The chain does not end at a trust anchor of the listener. Also a wrong signature, which rustls reports in the
    /// same way for a certificate and for the handshake of a client without its key.
    UnknownCa,
    /// The certificate, or that of an issuer, has expired.
    Expired,
    /// The certificate, or that of an issuer, is not valid yet.
    NotYetValid,
    /// The certificate, or that of an issuer, is revoked.
    Revoked,
    /// The certificate may not be used by TLS clients.
    WrongUsage,
    /// The certificate is damaged, of version 1, or signed with a weak algorithm.
    Invalid,
}

/// The texts for one rejection.
struct RejectionExplanation {
    /// The value of the metric label.
    label: &'static str,
    /// For the client and the operator.
    sentence: &'static str,
    /// For the operator.
    remedy: &'static str,
}

impl ClientCertificateRejection {
    /// Every rejection.
    pub const ALL: [Self; 6] =
        [Self::UnknownCa, Self::Expired, Self::NotYetValid, Self::Revoked, Self::WrongUsage, Self::Invalid];

    /// The rejection that caused `error`; `None` if the handshake failed for another reason than the client
    /// certificate.
    pub fn of_tls(error: &Error) -> Option<Self> {
        let Error::InvalidCertificate(cause) = error else { return None };
        match CertificateDefect::of(cause) {
            // A certificate of ca_file that is no CA, for example.
            Some(CertificateDefect::Issuer(_)) => return Some(Self::UnknownCa),
            Some(CertificateDefect::KeyUsage | CertificateDefect::NetscapeType) => return Some(Self::WrongUsage),
            _ => {}
        }
        Some(match cause {
            // A bad signature means a CA certificate of the right name with another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownCa,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::Revoked => Self::Revoked,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Self::WrongUsage,
            _ => Self::Invalid,
        })
    }

    /// What is wrong with the certificate that caused `error`, which is of this kind. Names the cause where the kind
    /// alone does not.
    pub fn cause(self, error: &Error) -> String {
        match error {
            Error::InvalidCertificate(cause) if self == Self::Invalid || CertificateDefect::of(cause).is_some() => {
                certificate_error_text(cause)
            }
            _ => self.to_string(),
        }
    }

    fn explanation(self) -> RejectionExplanation {
        match self {
            Self::UnknownCa => RejectionExplanation {
                label: "unknown_ca",
                sentence: "it was not issued by a CA certificate of the listener's ca_file",
                remedy: "give the client a certificate that a CA in the listener's ca_file issued, with all \
                         intermediates, or add the client's CA certificate to that file",
            },
            Self::Expired => RejectionExplanation {
                label: "expired",
                sentence: "it, or the certificate of an issuer, has expired",
                remedy: "renew the client certificate, or the certificate of its CA",
            },
            Self::NotYetValid => RejectionExplanation {
                label: "not_yet_valid",
                sentence: "it, or the certificate of an issuer, is not valid yet",
                remedy: "check the clocks of this host and of the CA",
            },
            Self::Revoked => RejectionExplanation {
                label: "revoked",
                sentence: "it, or the certificate of an issuer, is revoked",
                remedy: "give the client a new certificate, or update the listener's crl_file",
            },
            Self::WrongUsage => RejectionExplanation {
                label: "wrong_usage",
                sentence: "its extendedKeyUsage does not allow TLS clients",
                remedy: "issue the client certificate with extendedKeyUsage clientAuth; keyUsage and nsCertType, if it \
                         has them, must allow TLS clients too",
            },
            Self::Invalid => RejectionExplanation {
                label: "invalid",
                sentence: "it cannot be verified",
                remedy: "issue the client certificate again without this defect; legacy_certificates = true accepts \
                         X.509 version 1",
            },
        }
    }

    /// The value of the metric label.
    pub fn label(self) -> &'static str {
        self.explanation().label
    }

    /// What the operator can do about it.
    pub fn remedy(self) -> &'static str {
        self.explanation().remedy
    }
}

impl fmt::Display for ClientCertificateRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.explanation().sentence)
    }
}
