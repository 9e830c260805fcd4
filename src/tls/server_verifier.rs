//! Verifies the certificates of an upstream's servers: the chain, and then the name or identity.
//!
//! Verification cannot be switched off: every mode verifies the chain.

use rustls::CertificateError;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::certificate_defect::CertificateDefect;
use super::chain_verifier::{ChainVerifier, verify_signatures_with_chain};
use super::common_name;
use super::path::VerifiedPath;
use super::subject_names;
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
}

impl ServerVerifier {
    pub(super) fn new(chain: ChainVerifier, config: &UpstreamTlsConfig) -> Self {
        let identities = config.server_identities.iter().map(|uri| normalised(uri)).collect();
        Self { chain, verify: config.verify, identities }
    }

    fn check_names(
        &self,
        end_entity: &CertificateDer<'_>,
        path: &VerifiedPath<'_>,
        server_name: &ServerName<'_>,
    ) -> Result<(), rustls::Error> {
        match self.verify {
            _ if !self.identities.is_empty() => self.check_identity(end_entity),
            Verify::Full => Ok(self.check_server_name(end_entity, path, server_name)?),
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
        path: &VerifiedPath<'_>,
        server_name: &ServerName<'_>,
    ) -> Result<(), CertificateError> {
        if !self.chain.accepts_legacy || !common_name::is_only_name(end_entity) {
            return subject_names::check_server_name(end_entity, server_name);
        }
        if !common_name::matches(end_entity, server_name) {
            return Err(CertificateDefect::CommonName.into());
        }
        // Name constraints apply to names only, and not to a common name.
        match &path.constrained_issuer {
            Some(issuer) => Err(CertificateDefect::Issuer(issuer.clone()).into()),
            None => Ok(()),
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.chain.verify(end_entity, intermediates, now, |path| self.check_names(end_entity, path, server_name))?;
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
