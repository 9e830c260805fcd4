//! What the last TLS handshakes showed and rustls does not report in its errors.
//!
//! Only for error messages and reports; no decision depends on it.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use crate::identity::{CertificateFacts, DistinguishedName};

/// What the last TLS handshakes showed and rustls does not report in its errors.
///
/// If several handshakes run at once, it contains what the last of them showed. Its locks are taken once per full
/// handshake.
#[derive(Debug, Default)]
pub struct LastHandshake {
    rejected: Mutex<Vec<CertificateDer<'static>>>,
    requested: Mutex<Option<Vec<Vec<u8>>>>,
    staple: Mutex<Option<Staple>>,
}

/// The OCSP response that a server stapled to a certificate that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staple {
    /// None.
    Absent,
    /// The certificate is good.
    Good {
        /// The next update.
        until: SystemTime,
    },
}

/// A server's request for a client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    /// The CAs whose certificates the server accepts; empty if it names none.
    pub acceptable_cas: Vec<DistinguishedName>,
}

impl LastHandshake {
    /// Returns the chain that was rejected last, leaf certificate first, and forgets it.
    pub fn take_rejected(&self) -> Vec<CertificateFacts> {
        let rejected = std::mem::take(&mut *self.rejected.lock().unwrap_or_else(PoisonError::into_inner));
        rejected.iter().filter_map(|der| CertificateFacts::from_der(der).ok()).collect()
    }

    /// The last request for the gateway's client certificate, if a server made one.
    pub fn request(&self) -> Option<CertificateRequest> {
        let requested = self.requested.lock().unwrap_or_else(PoisonError::into_inner);
        let names = requested.as_ref()?;
        let acceptable_cas = names.iter().filter_map(|der| DistinguishedName::from_der(der)).collect();
        Some(CertificateRequest { acceptable_cas })
    }

    /// What was stapled to the last certificate that was accepted; `None` before the first, and where `ocsp` is off.
    pub fn staple(&self) -> Option<Staple> {
        *self.staple.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record_staple(&self, staple: Staple) {
        *self.staple.lock().unwrap_or_else(PoisonError::into_inner) = Some(staple);
    }

    pub(super) fn record_rejected(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) {
        let chain = std::iter::once(end_entity).chain(intermediates);
        let chain = chain.map(|certificate| certificate.clone().into_owned()).collect();
        *self.rejected.lock().unwrap_or_else(PoisonError::into_inner) = chain;
    }

    pub(super) fn record_request(&self, acceptable_cas: &[&[u8]]) {
        let names = acceptable_cas.iter().map(|name| name.to_vec()).collect();
        *self.requested.lock().unwrap_or_else(PoisonError::into_inner) = Some(names);
    }
}
