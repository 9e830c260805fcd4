//! What speaks TLS towards an upstream: one rustls configuration for one set of certificates.
//!
//! The cryptography is named here and never taken from a process-wide default. A configuration is never changed: new
//! certificates make a new one, since a resumed session keeps the identity it was made with.
//!
//! Refuses to skip verification: every mode checks the chain.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion,
};

use super::certificate_defect::CertificateDefect;
use super::chain_verifier::ChainVerifier;
use super::common_name;
use super::credentials::Credentials;
use super::inspect::{MaterialFinding, TlsSide, revocation_findings};
use super::last_handshake::LastHandshake;
use super::legacy_path;
use super::legacy_path::Purpose;
use super::material_error::MaterialError;
use super::revocation::{RevocationList, read_revocation_lists};
use super::trust_anchors::TrustAnchors;
use super::workload::WorkloadError;
use crate::config::{EndpointConfig, TlsVersion, Verify};
use crate::identity::CertificateFacts;

/// Sessions kept for resumption. All go to one upstream; TLS 1.3 uses each ticket once.
const RESUMPTION_SESSIONS: usize = 256;

/// Everything that a TLS connection to one upstream needs.
#[derive(Debug, Clone)]
pub struct UpstreamTls {
    /// For every connection to this upstream; holds the sessions to resume.
    pub config: Arc<ClientConfig>,
    /// SNI, and the name that is verified.
    pub server_name: ServerName<'static>,
    /// Who we are.
    pub credentials: Credentials,
    /// Whom we trust.
    pub authorities: TrustAnchors,
    /// What the authorities have taken back.
    pub revocation_lists: Arc<[RevocationList]>,
    /// What handshakes showed.
    pub last_handshake: Arc<LastHandshake>,
}

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamTlsError {
    /// A file that cannot be used.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// An agent that gives nothing, or nothing of use.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// They come from elsewhere.
    #[error("upstream.{upstream}.tls: the certificate comes from the SPIFFE Workload API, not from files")]
    NoFiles {
        /// Name of the upstream.
        upstream: String,
    },
    /// A name that no certificate can have.
    #[error("{key}: {value:?} is neither a DNS name nor an IP address")]
    ServerName {
        /// Path of the configuration key.
        key: String,
        /// As configured.
        value: String,
    },
    /// rustls refuses the combination.
    #[error("TLS cannot be set up")]
    Unusable(#[from] rustls::Error),
}

impl UpstreamTlsError {
    /// What to do about it, as a sentence for the operator.
    pub fn remedy(&self) -> String {
        match self {
            Self::Material(error) => error.remedy(),
            Self::Workload(error) => error.remedy(),
            Self::NoFiles { .. } => "set certificate_file and ca_file in its table".to_owned(),
            Self::ServerName { .. } => "set server_name to a name that stands in mongod's certificate".to_owned(),
            Self::Unusable(_) => "this is a defect of mongate: please report it".to_owned(),
        }
    }
}

impl UpstreamTls {
    /// Reads the files of an upstream and makes its configuration.
    pub fn load(upstream: &EndpointConfig) -> Result<Self, UpstreamTlsError> {
        let no_files = || UpstreamTlsError::NoFiles { upstream: upstream.name.clone() };
        let files = upstream.tls.files().ok_or_else(no_files)?;
        let credentials = Credentials::read(&upstream.certificate_section, files)?;
        let section = section_of(upstream);
        let authorities = TrustAnchors::read(&section, files)?;
        let revocation_lists = read_revocation_lists(&section, files.crl_file.as_deref())?;
        Self::assemble(upstream, credentials, authorities, revocation_lists)
    }

    /// Makes a configuration from material that is read already, whatever the configured source is.
    pub fn assemble(
        upstream: &EndpointConfig,
        credentials: Credentials,
        authorities: TrustAnchors,
        revocation_lists: Vec<RevocationList>,
    ) -> Result<Self, UpstreamTlsError> {
        let provider = Arc::new(provider());
        let server_name = parse_server_name(upstream)?;
        let last_handshake = Arc::new(LastHandshake::default());
        let revocation_lists: Arc<[_]> = revocation_lists.into();
        let trust = ChainVerifier {
            authorities: authorities.clone(),
            revocation_lists: Arc::clone(&revocation_lists),
            algorithms: provider.signature_verification_algorithms,
            purpose: Purpose::Server,
            takes_legacy: upstream.tls.legacy_certificates,
        };
        let verifier = Verifier {
            trust,
            verify: upstream.tls.verify,
            identities: upstream.tls.server_identities.iter().map(|uri| normal_form(uri)).collect(),
            last_handshake: Arc::clone(&last_handshake),
        };
        let resolver =
            Resolver { key: Arc::clone(&credentials.certified_key), last_handshake: Arc::clone(&last_handshake) };
        let config = client_config(provider, upstream.tls.min_version, verifier, resolver)?;
        Ok(Self { config: Arc::new(config), server_name, credentials, authorities, revocation_lists, last_handshake })
    }

    /// The same certificates for another server of the upstream, with no session to resume.
    pub fn for_endpoint(&self, endpoint: &EndpointConfig) -> Result<Self, UpstreamTlsError> {
        let lists = self.revocation_lists.to_vec();
        Self::assemble(endpoint, self.credentials.clone(), self.authorities.clone(), lists)
    }

    /// What is doubtful about all of it.
    pub fn findings(&self, now: SystemTime) -> Vec<MaterialFinding> {
        let mut findings = self.credentials.findings(TlsSide::Upstream, Some(&self.authorities), now);
        findings.extend(self.authorities.findings(now));
        findings.extend(revocation_findings(&self.revocation_lists, &self.authorities, now));
        findings
    }

    /// Whether both were made from the same certificates, key and revocation lists, so that one need not replace the other.
    pub fn is_same_material(&self, other: &Self) -> bool {
        self.credentials.is_same(&other.credentials)
            && self.authorities.der == other.authorities.der
            && self.revocation_lists == other.revocation_lists
    }
}

/// The path of the table that names whom an upstream's connections trust.
pub(super) fn section_of(upstream: &EndpointConfig) -> String {
    format!("upstream.{}.tls", upstream.name)
}

/// The name that an upstream's certificate must have: `server_name`, or else the host of the address.
///
/// A dot at the end of a DNS name is left out: certificates have none.
pub fn parse_server_name(upstream: &EndpointConfig) -> Result<ServerName<'static>, UpstreamTlsError> {
    let (key, value) = match &upstream.tls.server_name {
        Some(name) => ("tls.server_name", name),
        None => ("address", &upstream.address.host),
    };
    let name = value.strip_suffix('.').unwrap_or(value).to_owned();
    ServerName::try_from(name).map_err(|_| UpstreamTlsError::ServerName {
        key: format!("upstream.{}.{key}", upstream.name),
        value: value.clone(),
    })
}

/// AES-128 before AES-256, as Go and Envoy have it: a third fewer rounds for each byte, and as far out of reach. mongod takes
/// the first that it allows.
fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let is_aes_128 = |suite: CipherSuite| {
        matches!(
            suite,
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    };
    provider.cipher_suites.sort_by_key(|suite| (suite.tls13().is_none(), !is_aes_128(suite.suite())));
    provider
}

fn client_config(
    provider: Arc<CryptoProvider>,
    min_version: TlsVersion,
    verifier: Verifier,
    resolver: Resolver,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions_from(min_version))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(resolver));
    config.resumption = Resumption::in_memory_sessions(RESUMPTION_SESSIONS);
    Ok(config)
}

/// All versions that are not older than `oldest`.
pub(super) fn versions_from(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static ALL: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    match oldest {
        TlsVersion::V1_2 => &ALL,
        TlsVersion::V1_3 => &ALL[..1],
    }
}

/// Always our one certificate, whatever the server asks for, as OpenSSL does: mongod then says what it dislikes in its
/// own log. Takes version 1 certificates, which rustls's usual way in refuses.
#[derive(Debug)]
struct Resolver {
    key: Arc<CertifiedKey>,
    last_handshake: Arc<LastHandshake>,
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, root_hint_subjects: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.last_handshake.record_request(root_hint_subjects);
        Some(Arc::clone(&self.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Chain, dates, purpose and revocation always; then one of the identities where some are configured, else the name
/// unless `verify = "chain"`.
#[derive(Debug)]
struct Verifier {
    trust: ChainVerifier,
    verify: Verify,
    /// In their normal form.
    identities: Vec<String>,
    last_handshake: Arc<LastHandshake>,
}

impl Verifier {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        self.trust.judge(end_entity, intermediates, now, || {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let (roots, algorithms) = (&self.trust.authorities.roots, self.trust.algorithms.all);
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)
        })?;
        match self.verify {
            _ if !self.identities.is_empty() => self.check_identity(end_entity),
            Verify::Full => self.check_name(end_entity, intermediates, server_name),
            Verify::Chain => Ok(()),
        }
    }

    fn check_identity(&self, end_entity: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let uris = CertificateFacts::from_der(end_entity).map(|facts| facts.uris).unwrap_or_default();
        if uris.iter().any(|uri| self.identities.contains(&normal_form(uri))) {
            return Ok(());
        }
        Err(CertificateError::from(CertificateDefect::Identity).into())
    }

    fn check_name(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
    ) -> Result<(), rustls::Error> {
        if !self.trust.takes_legacy || !common_name::is_all_there_is(end_entity) {
            return verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name);
        }
        if !common_name::is_for(end_entity, server_name) {
            return Err(CertificateError::from(CertificateDefect::CommonName).into());
        }
        // webpki holds names to these constraints, and knows no common name.
        match legacy_path::constrained_issuer(end_entity, intermediates, &self.trust.authorities.der) {
            Some(issuer) => Err(CertificateError::from(CertificateDefect::Issuer(issuer)).into()),
            None => Ok(()),
        }
    }
}

/// A SPIFFE id with scheme and trust domain in lower case; any other URI as it is.
///
/// Spec: SPIFFE-ID § 2.
fn normal_form(uri: &str) -> String {
    const SCHEME: &str = "spiffe://";
    match uri.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => {
            let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{SCHEME}{}{path}", domain.to_ascii_lowercase())
        }
        _ => uri.to_owned(),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, server_name, now)
            .inspect_err(|_| self.last_handshake.record_rejected(end_entity, intermediates))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}
