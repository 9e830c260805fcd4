//! Defects of a peer's certificate that rustls has no error for.

use std::sync::Arc;

use rustls::{CertificateError, OtherError};

use super::ocsp::OcspDefect;
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
    /// Its issuer may not sign it: the issuer is no CA, is not for this use, is too deep in the chain, or has
    /// constraints that the gateway does not evaluate.
    #[error("its issuer {0} may not sign it")]
    Issuer(DistinguishedName),
    /// Its stapled OCSP response, or the absence of one.
    #[error("{0}")]
    Ocsp(OcspDefect),
}

impl CertificateDefect {
    /// The defect that `error` contains; `None` for an error of rustls or webpki.
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
