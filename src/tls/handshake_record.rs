//! What the peer showed in one TLS handshake and rustls does not report, neither in its errors nor afterwards.
//!
//! Only for error messages and reports; no decision depends on it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use crate::identity::{CertificateFacts, DistinguishedName};

tokio::task_local! {
    /// The record of the handshake that runs now.
    ///
    /// All connections of a [`ClientConfig`](rustls::ClientConfig) share its verifier and its resolver, and rustls
    /// resumes no session with others. They cannot belong to one handshake, but rustls calls them while that handshake
    /// is polled.
    static RECORD: RefCell<HandshakeRecord>;
}

/// What the peer showed in one handshake. A handshake that resumes a session shows nothing.
#[derive(Debug, Clone, Default)]
pub struct HandshakeRecord {
    rejected: Vec<CertificateDer<'static>>,
    requested: Option<RequestedNames>,
    staple: Option<Staple>,
}

/// The DER names in a certificate request.
pub(super) type RequestedNames = Arc<[Vec<u8>]>;

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

impl HandshakeRecord {
    /// Runs a handshake, and returns its record as well. Cancel safe if `handshake` is.
    pub async fn of<T>(handshake: impl Future<Output = T>) -> (T, Self) {
        let recorded = async {
            let result = handshake.await;
            (result, RECORD.with(RefCell::take))
        };
        RECORD.scope(RefCell::default(), recorded).await
    }

    /// The chain that was rejected, leaf certificate first, without certificates that cannot be parsed. Empty if none
    /// was rejected.
    pub fn rejected(&self) -> Vec<CertificateFacts> {
        self.rejected.iter().filter_map(|der| CertificateFacts::from_der(der).ok()).collect()
    }

    /// The server's request for the gateway's client certificate, if it made one. For a resumed session, that of the
    /// handshake that began the session.
    pub fn request(&self) -> Option<CertificateRequest> {
        let names = self.requested.as_ref()?;
        let acceptable_cas = names.iter().filter_map(|der| DistinguishedName::from_der(der)).collect();
        Some(CertificateRequest { acceptable_cas })
    }

    /// What was stapled to the certificate, if it was accepted; `None` where `ocsp` is off.
    pub fn staple(&self) -> Option<Staple> {
        self.staple
    }

    pub(super) fn requested(&self) -> Option<&RequestedNames> {
        self.requested.as_ref()
    }

    pub(super) fn set_requested(&mut self, names: Option<RequestedNames>) {
        self.requested = names;
    }
}

/// Records what a server stapled to its certificate.
pub(super) fn record_staple(staple: Staple) {
    record(|record| record.staple = Some(staple));
}

/// Records a chain that was rejected.
pub(super) fn record_rejected(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) {
    let chain = || std::iter::once(end_entity).chain(intermediates);
    record(|record| record.rejected = chain().map(|certificate| certificate.clone().into_owned()).collect());
}

/// Records a certificate request.
pub(super) fn record_request(acceptable_cas: &[&[u8]]) {
    record(|record| record.requested = Some(acceptable_cas.iter().map(|name| name.to_vec()).collect()));
}

/// Does nothing outside [`HandshakeRecord::of`]: the handshakes of listeners have no record.
fn record(change: impl FnOnce(&mut HandshakeRecord)) {
    // The only error is that there is no record.
    let _ = RECORD.try_with(|record| change(&mut record.borrow_mut()));
}
