//! Verifies the certificates of an upstream's servers: the chain, then the name or identity, and then the OCSP response
//! that the server staples.
//!
//! Verification cannot be switched off: every mode verifies the chain.

use rustls::CertificateError;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::certificate_defect::CertificateDefect;
use super::chain_verifier::{ChainVerifier, verify_signatures_with_chain};
use super::common_name;
use super::handshake_record::{Staple, record_staple};
use super::ocsp::{requires_staple, verify_staple};
use super::ocsp_defect::{OcspDefect, SignerDefect};
use super::path::VerifiedPath;
use super::server_name::PeerName;
use super::subject_names;
use crate::config::{Ocsp, UpstreamTlsConfig, Verify};
use crate::identity::CertificateFacts;

/// Verifies the chain, dates, purpose and revocation. Then checks the identity if `server_identities` is set, or else
/// the server name unless `verify = "chain"`.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    chain: ChainVerifier,
    verify: Verify,
    ocsp: Ocsp,
    /// Normalised.
    identities: Vec<String>,
    server_name: PeerName,
}

impl ServerVerifier {
    pub(super) fn new(chain: ChainVerifier, config: &UpstreamTlsConfig, server_name: PeerName) -> Self {
        let identities = config.server_identities.iter().map(|uri| normalised(uri)).collect();
        Self { chain, verify: config.verify, ocsp: config.ocsp, identities, server_name }
    }

    fn check_names(&self, end_entity: &CertificateDer<'_>, path: &VerifiedPath<'_>) -> Result<(), rustls::Error> {
        match self.verify {
            _ if !self.identities.is_empty() => self.check_identity(end_entity),
            Verify::Full => Ok(self.check_server_name(end_entity, path)?),
            Verify::Chain => Ok(()),
        }
    }

    /// Verifies what the server staples. Without a staple, the certificate must not require one.
    fn check_staple(
        &self,
        response: &[u8],
        end_entity: &CertificateDer<'_>,
        path: &VerifiedPath<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if self.ocsp == Ocsp::Off {
            return Ok(());
        }
        let rejected = |defect| CertificateError::from(CertificateDefect::Ocsp(defect));
        if response.is_empty() {
            if requires_staple(end_entity) {
                return Err(rejected(OcspDefect::Missing).into());
            }
            record_staple(Staple::Absent);
            return Ok(());
        }
        // A leaf certificate that is itself a trust anchor is alone on its path.
        let staple = path.certificates.get(1).ok_or(OcspDefect::NoIssuer).and_then(|issuer| {
            let staple = verify_staple(response, end_entity, issuer, now, self.chain.algorithms.all)?;
            match &staple.responder {
                Some(responder) if self.chain.is_revoked(responder, issuer) => {
                    Err(OcspDefect::Signer(SignerDefect::Revoked))
                }
                _ => Ok(staple),
            }
        });
        record_staple(Staple::Good { until: staple.map_err(rejected)?.until });
        Ok(())
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
    ) -> Result<(), CertificateError> {
        if !self.chain.accepts_legacy || !common_name::is_only_name(end_entity) {
            return subject_names::check_server_name(end_entity, &self.server_name);
        }
        if !common_name::matches(end_entity, self.server_name.as_str()) {
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
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.chain.verify(end_entity, intermediates, now, |path| {
            self.check_names(end_entity, path)?;
            self.check_staple(ocsp_response, end_entity, path, now)
        })?;
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
