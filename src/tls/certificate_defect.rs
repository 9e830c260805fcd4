//! Defects of a peer's certificate that rustls has no error for.

use std::sync::Arc;

use rustls::{CertificateError, OtherError};

use super::ocsp_defect::OcspDefect;
use crate::identity::DistinguishedName;

/// What [`CertificateError::Other`] contains when a check of the gateway itself rejects a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateDefect {
    /// X.509 version 1 or 2, and `legacy_certificates` is off.
    #[error("it is an X.509 version {0} certificate")]
    Version(u32),
    /// The certificate has no subject alternative name, and its common name is not the expected server name.
    #[error("its common name is not the expected server name")]
    CommonName,
    /// None of its URIs is in `server_identities`.
    #[error("it has none of the accepted identities")]
    Identity,
    /// Its issuer may not sign it: the issuer is no CA, is not for this use, or is too deep in the chain.
    #[error("its issuer {0} may not sign it")]
    Issuer(DistinguishedName),
    /// The basic constraints mark it as a CA certificate.
    #[error("it is a CA certificate (CA:TRUE)")]
    CaCertificate,
    /// Its `keyUsage` does not permit the use as a leaf certificate of TLS.
    #[error("its keyUsage does not allow TLS")]
    KeyUsage,
    /// Its `nsCertType` (an extension of Netscape) does not permit the use as a leaf certificate of this side of TLS.
    #[error("its nsCertType does not allow this use")]
    NetscapeType,
    /// No path ends at a trust anchor within the limit.
    #[error("its chain has more than {limit} intermediates, which is the limit")]
    TooManyIntermediates {
        /// The limit.
        limit: usize,
    },
    /// A certificate of the chain has a critical extension that the gateway does not know.
    #[error("the certificate {subject} has a critical extension that is not supported ({extension})")]
    CriticalExtension {
        /// Subject of that certificate.
        subject: DistinguishedName,
        /// Its object identifier.
        extension: String,
    },
    /// A certificate of the chain is signed with an algorithm that is weak or not supported.
    #[error("the certificate {subject} is signed with {algorithm}, which is not accepted")]
    Signature {
        /// Subject of that certificate.
        subject: DistinguishedName,
        /// The algorithm.
        algorithm: String,
    },
    /// The key of an issuer is weak, or of a type that is not supported.
    #[error("the key of its issuer {subject} is {key}, which is not accepted")]
    Key {
        /// Subject of the issuer.
        subject: DistinguishedName,
        /// Type and size of the key.
        key: String,
    },
    /// A name of a certificate of the chain is outside of the name constraints of an issuer.
    #[error("the name constraints of the issuer {issuer} do not permit the names of the certificate {subject}")]
    NameConstraint {
        /// Subject of the certificate with the names.
        subject: DistinguishedName,
        /// The issuer with the name constraints.
        issuer: DistinguishedName,
    },
    /// Names and name constraints are too many to be compared.
    #[error("the certificate {subject} has too many names for the name constraints of the issuer {issuer}")]
    TooManyNames {
        /// Subject of the certificate with the names.
        subject: DistinguishedName,
        /// The issuer with the name constraints.
        issuer: DistinguishedName,
    },
    /// The chain requires an explicit policy, and no policy is valid for all of its certificates.
    #[error("its chain requires a certificate policy (policyConstraints), and none is valid for the whole chain")]
    Policies,
    /// Its stapled OCSP response, or the absence of one.
    #[error("{0}")]
    Ocsp(OcspDefect),
}

impl CertificateDefect {
    /// The defect that `error` contains; `None` for an error of rustls.
    pub fn of(error: &CertificateError) -> Option<&Self> {
        match error {
            CertificateError::Other(OtherError(cause)) => cause.downcast_ref(),
            _ => None,
        }
    }
}

impl From<CertificateDefect> for CertificateError {
    fn from(defect: CertificateDefect) -> Self {
        Self::Other(OtherError(Arc::new(defect)))
    }
}
