//! What handshakes showed that rustls does not tell in its errors.
//!
//! Refuses to decide anything.

use std::sync::{Mutex, PoisonError};

use rustls::pki_types::CertificateDer;

use crate::identity::{CertificateFacts, DistinguishedName};

/// What the latest handshakes showed that rustls does not tell in its errors.
///
/// For sentences, never for decisions: with several handshakes at once it holds what the last of them showed. Touched
/// once per full handshake.
#[derive(Debug, Default)]
pub struct LastHandshake {
    refused: Mutex<Vec<CertificateDer<'static>>>,
    requested: Mutex<Option<Vec<Vec<u8>>>>,
}

/// A server's request for our certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    /// The authorities whose certificates it says it accepts; empty leaves it open.
    pub authorities: Vec<DistinguishedName>,
}

impl LastHandshake {
    /// The certificate that was refused last and what was sent with it, and forgets it.
    pub fn take_rejected(&self) -> Vec<CertificateFacts> {
        let refused = std::mem::take(&mut *self.refused.lock().unwrap_or_else(PoisonError::into_inner));
        refused.iter().filter_map(|der| CertificateFacts::from_der(der).ok()).collect()
    }

    /// The last request for our certificate, if a server made one.
    pub fn request(&self) -> Option<CertificateRequest> {
        let requested = self.requested.lock().unwrap_or_else(PoisonError::into_inner);
        let names = requested.as_ref()?;
        let authorities = names.iter().filter_map(|der| DistinguishedName::from_der(der)).collect();
        Some(CertificateRequest { authorities })
    }

    pub(super) fn record_rejected(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) {
        let chain = std::iter::once(end_entity).chain(intermediates);
        let chain = chain.map(|certificate| certificate.clone().into_owned()).collect();
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = chain;
    }

    pub(super) fn record_request(&self, authorities: &[&[u8]]) {
        let authorities = authorities.iter().map(|name| name.to_vec()).collect();
        *self.requested.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorities);
    }
}
