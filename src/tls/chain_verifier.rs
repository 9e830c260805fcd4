//! Verifies the certificate chain of a peer: the steps that both sides of TLS share.
//!
//! [`path`] validates the chain, whatever the version of its certificates. Revocation lists apply to all of them. Names
//! are not checked here: only the caller knows which name it expects.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::handshake_record::record_rejected;
use super::path::{
    self, CertificateOrigin, CertificatePurpose, InitialPolicies, PathAnchors, PathCertificate, PathContext,
    VerifiedPath,
};
use super::revocation::{RevocationList, check_revocation};
use super::rsa_pss;
use super::signed_der::{key_parts, verify_signature};
use super::trust_anchors::TrustAnchors;

/// Verifies the certificate chains of the peers of one upstream or listener, and their handshake signatures.
#[derive(Debug)]
pub(super) struct ChainVerifier {
    pub(super) trust_anchors: TrustAnchors,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    /// `legacy_certificates`.
    pub(super) accepts_legacy: bool,
    anchors: PathAnchors,
    purpose: CertificatePurpose,
    revocation_lists: Arc<[RevocationList]>,
}

/// What a chain verifier is made from.
pub(super) struct ChainRules {
    pub(super) trust_anchors: TrustAnchors,
    pub(super) revocation_lists: Arc<[RevocationList]>,
    /// `legacy_certificates`.
    pub(super) accepts_legacy: bool,
}

impl ChainVerifier {
    /// Verifies the chains of peers that use their certificates for `purpose`.
    pub(super) fn new(rules: ChainRules, purpose: CertificatePurpose, provider: &CryptoProvider) -> Self {
        let ChainRules { trust_anchors, revocation_lists, accepts_legacy } = rules;
        let algorithms = provider.signature_verification_algorithms;
        let anchors = PathAnchors::new(&trust_anchors.der, &trust_anchors.intermediates_der);
        Self { trust_anchors, algorithms, accepts_legacy, anchors, purpose, revocation_lists }
    }

    /// Verifies a chain, and then the rest with `check_more`: names, for example. A rejected chain is recorded for
    /// the [`HandshakeRecord`](super::HandshakeRecord).
    pub(super) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        check_more: impl FnOnce(&VerifiedPath<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let context = PathContext {
            intermediates,
            anchors: &self.anchors,
            algorithms: self.algorithms.all,
            purpose: self.purpose,
            accepts_legacy: self.accepts_legacy,
            now,
            policies: InitialPolicies::default(),
        };
        let verified = path::verify(end_entity, &context).map_err(Error::from);
        verified
            .and_then(|path| {
                self.check_revocation(end_entity, intermediates, &path)?;
                check_more(&path)
            })
            .inspect_err(|_| record_rejected(end_entity, intermediates))
    }

    /// Checks every certificate that the peer sent, and every certificate of `path` that has an issuer: a trust anchor
    /// has one with `partial_chain`.
    fn check_revocation(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        path: &VerifiedPath<'_>,
    ) -> Result<(), Error> {
        // Most setups have no lists. Every handshake comes here, and looking for roots parses certificates.
        if self.revocation_lists.is_empty() {
            return Ok(());
        }
        // A root is in no list. Its own list may contain its serial number, which then is that of another certificate:
        // `openssl` makes roots and leaf certificates with the number 1.
        let is_root = |der: &CertificateDer<'_>| {
            PathCertificate::from_der(der, CertificateOrigin::TrustAnchor).is_some_and(|ca| ca.is_self_signed())
        };
        let from_ca_file = path.certificates.iter().skip(1).filter(|der| !intermediates.contains(*der));
        let from_ca_file = from_ca_file.filter(|der| !is_root(der));
        let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).chain(from_ca_file).collect();
        Ok(check_revocation(&self.revocation_lists, &chain, &self.trust_anchors.der, self.algorithms.all)?)
    }

    /// Whether a revocation list contains `certificate`, which `issuer` has issued.
    pub(super) fn is_revoked(&self, certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
        let chain = [certificate, issuer];
        check_revocation(&self.revocation_lists, &chain, &self.trust_anchors.der, self.algorithms.all).is_err()
    }

    /// The signature schemes to offer. Keys that are only for RSASSA-PSS have schemes of their own.
    pub(super) fn supported_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.algorithms.supported_schemes();
        schemes.extend(rsa_pss::PSS_KEY_SCHEMES);
        schemes
    }

    /// Verifies that the peer has the key of `certificate`, in TLS 1.2.
    pub(super) fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = public_key(certificate)?;
        if let Some(verified) = verify_pss_key(message, &key, signature) {
            return verified;
        }
        // A signature scheme of TLS 1.2 does not fix the curve: try each of its algorithms that fits the key.
        let schemes = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signature.scheme);
        let Some((_, algorithms)) = schemes else {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        };
        verify_signature(&key, algorithms.iter().copied(), message, signature.signature())
            .map_err(|_| CertificateError::BadSignature)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// Verifies that the peer has the key of `certificate`, in TLS 1.3.
    pub(super) fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = public_key(certificate)?;
        if let Some(verified) = verify_pss_key(message, &key, signature) {
            return verified;
        }
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

/// The key of a certificate of any version. rustls does not read certificates of version 1, nor those with a critical
/// extension that only [`path`] evaluates.
fn public_key(certificate: &CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'static>, CertificateError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    Ok(parsed.public_key().raw.to_vec().into())
}

/// Verifies a handshake signature of a scheme for keys that are only for RSASSA-PSS; `None` for other schemes.
fn verify_pss_key(
    message: &[u8],
    key: &SubjectPublicKeyInfoDer<'_>,
    signature: &DigitallySignedStruct,
) -> Option<Result<HandshakeSignatureValid, Error>> {
    if !rsa_pss::PSS_KEY_SCHEMES.contains(&signature.scheme) {
        return None;
    }
    let verified = key_parts(key).is_some_and(|(kind, bits)| {
        // A key of type rsaEncryption has its own schemes.
        rsa_pss::is_rsa_pss(kind)
            && rsa_pss::verify_handshake(signature.scheme, kind, bits, message, signature.signature()).is_ok()
    });
    Some(verified.then(HandshakeSignatureValid::assertion).ok_or_else(|| CertificateError::BadSignature.into()))
}

/// The methods that both verifier traits of rustls require, forwarded to the field `chain`.
macro_rules! verify_signatures_with_chain {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            self.chain.verify_tls12_signature(message, certificate, signature)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            self.chain.verify_tls13_signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.chain.supported_schemes()
        }
    };
}
pub(super) use verify_signatures_with_chain;
