//! Why a certificate was refused, where rustls has no word for it.

use std::sync::Arc;

use rustls::{CertificateError, OtherError};

use crate::identity::DistinguishedName;

/// What [`CertificateError::Other`] holds when our own rules refused a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateDefect {
    /// X.509 version 1 or 2, and `legacy_certificates` is off.
    #[error("it is an X.509 version {0} certificate")]
    Version(u32),
    /// It has no names, and its common name is not the one that we asked for.
    #[error("its common name is another")]
    CommonName,
    /// It has none of the names in `server_identities`.
    #[error("it has none of the identities that are accepted")]
    Identity,
    /// It is signed by a certificate that may not sign it: no authority, not for this use, too deep below its own issuer,
    /// or with limits that are not understood here.
    #[error("its issuer {0} may not sign it")]
    Issuer(DistinguishedName),
}

impl CertificateDefect {
    /// What `error` holds, if it is one of ours.
    pub fn of(error: &CertificateError) -> Option<&Self> {
        match error {
            CertificateError::Other(OtherError(cause)) => cause.downcast_ref(),
            _ => None,
        }
    }
}

impl From<CertificateDefect> for CertificateError {
    fn from(rejection: CertificateDefect) -> Self {
        Self::Other(OtherError(Arc::new(rejection)))
    }
}
