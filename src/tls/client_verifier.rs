//! Verifies the certificates of a listener's clients.
//!
//! A client without a certificate passes the handshake: the gateway rejects it afterwards with a MongoDB error, which a
//! client can read.

use rustls::DistinguishedName;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::chain_verifier::{ChainVerifier, verify_signatures_with_chain};

/// Verifies the chain, dates, purpose and revocation. Names are not checked.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    chain: ChainVerifier,
    /// Subjects of the trust anchors, which are sent with the certificate request.
    subjects: Vec<DistinguishedName>,
}

impl ClientVerifier {
    pub(super) fn new(chain: ChainVerifier) -> Self {
        let subject = |der: &CertificateDer<'_>| {
            let (_, parsed) = X509Certificate::from_der(der).ok()?;
            Some(DistinguishedName::from(parsed.subject().as_raw().to_vec()))
        };
        Self { subjects: chain.trust_anchors.der.iter().filter_map(subject).collect(), chain }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.chain.verify(end_entity, intermediates, now, |_| Ok(()))?;
        Ok(ClientCertVerified::assertion())
    }

    verify_signatures_with_chain!();
}
