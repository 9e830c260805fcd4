//! Verifies the certificates of an upstream's servers: the chain, and then the name or identity.
//!
//! Verification cannot be switched off: every mode verifies the chain.

use rustls::CertificateError;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;

use super::certificate_defect::CertificateDefect;
use super::chain_verifier::{ChainVerifier, verify_signatures_with_chain};
use super::common_name;
use super::legacy_path;
use super::server_name::PeerName;
use crate::config::{UpstreamTlsConfig, Verify};
use crate::identity::CertificateFacts;

/// Verifies the chain, dates, purpose and revocation. Then checks the identity if `server_identities` is set, or else
/// the server name unless `verify = "chain"`.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    chain: ChainVerifier,
    verify: Verify,
    /// Normalised.
    identities: Vec<String>,
    server_name: PeerName,
}

impl ServerVerifier {
    pub(super) fn new(chain: ChainVerifier, config: &UpstreamTlsConfig, server_name: PeerName) -> Self {
        let identities = config.server_identities.iter().map(|uri| normalised(uri)).collect();
        Self { chain, verify: config.verify, identities, server_name }
    }

    fn check_names(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        match self.verify {
            _ if !self.identities.is_empty() => self.check_identity(end_entity),
            Verify::Full => self.check_server_name(end_entity, intermediates),
            Verify::Chain => Ok(()),
        }
    }

    fn check_identity(&self, end_entity: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let uris = CertificateFacts::from_der(end_entity).map(|facts| facts.uris).unwrap_or_default();
        if uris.iter().any(|uri| self.identities.contains(&normalised(uri))) {
            return Ok(());
        }
        Err(CertificateError::from(CertificateDefect::Identity).into())
    }

    fn check_server_name(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        if !self.chain.accepts_legacy || !common_name::is_only_name(end_entity) {
            return match self.server_name.parsed() {
                Some(server_name) => verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name),
                None => self.check_dns_names(end_entity),
            };
        }
        if !common_name::matches(end_entity, self.server_name.as_str()) {
            return Err(CertificateError::from(CertificateDefect::CommonName).into());
        }
        // webpki applies name constraints to names only, and not to a common name.
        match legacy_path::constrained_issuer(end_entity, intermediates, &self.chain.trust_anchors.der) {
            Some(issuer) => Err(CertificateError::from(CertificateDefect::Issuer(issuer)).into()),
            None => Ok(()),
        }
    }
}

impl ServerVerifier {
    /// Compares a name that rustls cannot represent with the DNS names of the certificate.
    fn check_dns_names(&self, end_entity: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let names = CertificateFacts::from_der(end_entity).map(|facts| facts.dns_names).unwrap_or_default();
        let is_name = |pattern: &String| common_name::matches_dns_name(pattern, self.server_name.as_str());
        if names.iter().any(is_name) { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let check_names = || self.check_names(end_entity, intermediates);
        self.chain.verify(end_entity, intermediates, now, check_names)?;
        Ok(ServerCertVerified::assertion())
    }

    verify_signatures_with_chain!();
}

/// A SPIFFE ID with scheme and trust domain in lower case; any other URI unchanged.
///
/// Spec: SPIFFE-ID § 2.
fn normalised(uri: &str) -> String {
    const SCHEME: &str = "spiffe://";
    match uri.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => {
            let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{SCHEME}{}{path}", domain.to_ascii_lowercase())
        }
        _ => uri.to_owned(),
    }
}
