//! Verifies the certificate chain of a peer: the steps that both sides of TLS share.
//!
//! webpki verifies certificates of version 3. Certificates that webpki cannot read are verified by [`legacy_path`], and
//! only if `legacy_certificates` is set. Revocation lists apply to both. Names are not checked here: only the caller
//! knows which name it expects.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::certificate_defect::CertificateDefect;
use super::last_handshake::{LastHandshake, Staple};
use super::legacy_path::{self, PathContext};
use super::path_certificate::CertificatePurpose;
use super::revocation::{RevocationList, check_revocation};
use super::signed_der::verify_signature;
use super::trust_anchors::TrustAnchors;
use crate::identity::CertificateFacts;

/// Verifies the certificate chains of the peers of one upstream or listener, and their handshake signatures.
#[derive(Debug)]
pub(super) struct ChainVerifier {
    pub(super) trust_anchors: TrustAnchors,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    /// `legacy_certificates`.
    pub(super) accepts_legacy: bool,
    revocation_lists: Arc<[RevocationList]>,
    peers: Peers,
    last_handshake: Arc<LastHandshake>,
}

/// What a chain verifier is made from.
pub(super) struct ChainRules {
    pub(super) trust_anchors: TrustAnchors,
    pub(super) revocation_lists: Arc<[RevocationList]>,
    /// `legacy_certificates`.
    pub(super) accepts_legacy: bool,
    pub(super) last_handshake: Arc<LastHandshake>,
}

/// Whose chains are verified.
#[derive(Debug)]
enum Peers {
    /// TLS servers.
    Servers,
    /// TLS clients, with webpki's verifier for them; `None` if no trust anchor may sign certificates.
    Clients(Option<Arc<dyn ClientCertVerifier>>),
}

impl ChainVerifier {
    /// Verifies the chains of servers.
    pub(super) fn of_servers(rules: ChainRules, provider: &CryptoProvider) -> Self {
        Self::new(rules, Peers::Servers, provider)
    }

    /// Verifies the chains of clients.
    pub(super) fn of_clients(rules: ChainRules, provider: &Arc<CryptoProvider>) -> Result<Self, VerifierBuilderError> {
        let roots = &rules.trust_anchors.roots;
        let webpki = if roots.is_empty() {
            None
        } else {
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
            Some(builder.allow_unauthenticated().build()?)
        };
        Ok(Self::new(rules, Peers::Clients(webpki), provider))
    }

    fn new(rules: ChainRules, peers: Peers, provider: &CryptoProvider) -> Self {
        let ChainRules { trust_anchors, revocation_lists, accepts_legacy, last_handshake } = rules;
        let algorithms = provider.signature_verification_algorithms;
        Self { trust_anchors, algorithms, accepts_legacy, revocation_lists, peers, last_handshake }
    }

    /// Verifies a chain, and then the rest, such as its names, with `check_more`. A rejected chain is recorded in [`LastHandshake`].
    pub(super) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        check_more: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.verify_path(end_entity, intermediates, now)
            .and_then(|()| self.check_revocation(end_entity, intermediates))
            .and_then(|()| check_more())
            .inspect_err(|_| self.last_handshake.record_rejected(end_entity, intermediates))
    }

    /// Verifies that the chain ends at a trust anchor, with its dates, signatures and purpose.
    fn verify_path(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let anchors = &self.trust_anchors.der;
        let context = PathContext {
            intermediates,
            trust_anchors: anchors,
            algorithms: self.algorithms.all,
            purpose: self.purpose(),
            now,
        };
        match CertificateFacts::from_der(end_entity) {
            Ok(facts) if facts.version < 3 && !self.accepts_legacy => {
                Err(CertificateError::from(CertificateDefect::Version(facts.version)).into())
            }
            Ok(facts) if facts.version < 3 => Ok(legacy_path::verify(end_entity, &context)?),
            Ok(facts) if (self.accepts_legacy || !facts.is_ca) && legacy_path::is_trust_anchor(end_entity, anchors) => {
                Ok(legacy_path::verify_pinned(end_entity, &facts, &context)?)
            }
            _ => self.verify_with_webpki(end_entity, intermediates, now),
        }
    }

    fn verify_with_webpki(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        match &self.peers {
            Peers::Servers => {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                let (roots, algorithms) = (&self.trust_anchors.roots, self.algorithms.all);
                verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)
            }
            Peers::Clients(Some(webpki)) => webpki.verify_client_cert(end_entity, intermediates, now).map(|_| ()),
            Peers::Clients(None) => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn check_revocation(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).collect();
        Ok(check_revocation(&self.revocation_lists, &chain, &self.trust_anchors.der, self.algorithms.all)?)
    }

    /// Whether a revocation list contains `certificate`, which `issuer` has issued.
    pub(super) fn is_revoked(&self, certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
        let chain = [certificate, issuer];
        check_revocation(&self.revocation_lists, &chain, &self.trust_anchors.der, self.algorithms.all).is_err()
    }

    /// Records what a server stapled, for reports.
    pub(super) fn record_staple(&self, staple: Staple) {
        self.last_handshake.record_staple(staple);
    }

    fn purpose(&self) -> CertificatePurpose {
        match self.peers {
            Peers::Servers => CertificatePurpose::Server,
            Peers::Clients(_) => CertificatePurpose::Client,
        }
    }

    /// Verifies that the peer has the key of `certificate`, in TLS 1.2.
    pub(super) fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some(key) = self.legacy_key(certificate) else {
            return rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms);
        };
        // A signature scheme of TLS 1.2 does not fix the curve: try each of its algorithms that fits the key.
        let schemes = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signature.scheme);
        let Some((_, algorithms)) = schemes else {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        };
        verify_signature(&key, algorithms.iter().copied(), message, signature.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// Verifies that the peer has the key of `certificate`, in TLS 1.3.
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

    /// The key of a certificate that webpki cannot read; `None` for other certificates.
    fn legacy_key(&self, certificate: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
        if !self.accepts_legacy {
            return None;
        }
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        (parsed.version().0 < 2).then(|| parsed.public_key().raw.to_vec().into())
    }
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
            self.chain.algorithms.supported_schemes()
        }
    };
}
pub(super) use verify_signatures_with_chain;
