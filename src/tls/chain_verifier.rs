//! Whose certificates count: the judgement that both sides of TLS share.
//!
//! webpki judges certificates of version 3; what it does not read is judged here only where `legacy_certificates` says so.
//! Revocation lists count for both. Refuses to look at names: those are for the side that knows whom it asked for.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::certificate_defect::CertificateDefect;
use super::legacy_path::{self, PathContext, Purpose};
use super::revocation::{self, RevocationList};
use super::signed_der::verify_signature;
use super::trust_anchors::TrustAnchors;
use crate::identity::CertificateFacts;

/// What the certificates of the other side are judged by.
#[derive(Debug)]
pub(super) struct ChainVerifier {
    pub(super) authorities: TrustAnchors,
    pub(super) revocation_lists: Arc<[RevocationList]>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) purpose: Purpose,
    /// `legacy_certificates`.
    pub(super) takes_legacy: bool,
}

impl ChainVerifier {
    /// Judges a chain; `modern` is webpki's part of it.
    pub(super) fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        modern: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        match CertificateFacts::from_der(end_entity) {
            Ok(facts) if facts.version < 3 && !self.takes_legacy => {
                return Err(CertificateError::from(CertificateDefect::Version(facts.version)).into());
            }
            Ok(facts) if facts.version < 3 => legacy_path::verify(end_entity, &self.ground(intermediates, now))?,
            Ok(facts)
                if (self.takes_legacy || !facts.is_ca) && legacy_path::is_ours(end_entity, &self.authorities.der) =>
            {
                legacy_path::verify_own(end_entity, &facts, &self.ground(intermediates, now))?;
            }
            _ => modern()?,
        }
        let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).collect();
        revocation::check(&self.revocation_lists, &chain, &self.authorities.der, self.algorithms.all)?;
        Ok(())
    }

    fn ground<'a>(&'a self, intermediates: &'a [CertificateDer<'a>], now: UnixTime) -> PathContext<'a> {
        PathContext {
            intermediates,
            authorities: &self.authorities.der,
            algorithms: self.algorithms.all,
            purpose: self.purpose,
            now,
        }
    }

    /// That the other side has the key of `certificate`, in TLS 1.2.
    pub(super) fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some(key) = self.legacy_key(certificate) else {
            return rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms);
        };
        // A scheme of TLS 1.2 leaves the curve open: each algorithm that it may be, as far as the key is of its kind.
        let schemes = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signature.scheme);
        let Some((_, algorithms)) = schemes else {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        };
        verify_signature(&key, algorithms.iter().copied(), message, signature.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// That the other side has the key of `certificate`, in TLS 1.3.
    pub(super) fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.legacy_key(certificate) {
            Some(key) => verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms),
            None => rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms),
        }
    }

    /// The key of a certificate that webpki does not read.
    fn legacy_key(&self, certificate: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
        if !self.takes_legacy {
            return None;
        }
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        (parsed.version().0 < 2).then(|| parsed.public_key().raw.to_vec().into())
    }
}
