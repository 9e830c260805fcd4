//! What speaks TLS towards an upstream: one rustls configuration for one set of certificates.
//!
//! The cryptography is named here and never taken from a process-wide default. A configuration is never changed: new
//! certificates make a new one, since a resumed session keeps the identity it was made with.
//!
//! Refuses to skip verification: every mode checks the chain.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::authorities::Authorities;
use super::credentials::Credentials;
use super::problem::MaterialError;
use crate::config::{TlsVersion, UpstreamConfig, Verify};
use crate::identity::{CertificateFacts, DistinguishedName};

/// Sessions kept for resumption. All go to one upstream; TLS 1.3 uses each ticket once.
const RESUMPTION_SESSIONS: usize = 256;

/// Everything that a TLS connection to one upstream needs.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// For every connection to this upstream; holds the sessions to resume.
    pub config: Arc<ClientConfig>,
    /// SNI, and the name that is verified.
    pub server_name: ServerName<'static>,
    /// Who we are.
    pub credentials: Credentials,
    /// Whom we trust.
    pub authorities: Authorities,
    /// What handshakes showed.
    pub witness: Arc<Witness>,
}

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    /// A file that cannot be used.
    #[error(transparent)]
    Material(#[from] MaterialError),
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

impl ClientTlsError {
    /// What to do about it, as a sentence for the operator.
    pub fn remedy(&self) -> String {
        match self {
            Self::Material(error) => error.remedy(),
            Self::NoFiles { .. } => "set certificate_file and ca_file in its table".to_owned(),
            Self::ServerName { .. } => "set server_name to a name that stands in mongod's certificate".to_owned(),
            Self::Unusable(_) => "this is a defect of mongate: please report it".to_owned(),
        }
    }
}

impl ClientTls {
    /// Reads the files of an upstream and makes its configuration.
    pub fn load(upstream: &UpstreamConfig) -> Result<Self, ClientTlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let section = format!("upstream.{}.tls", upstream.name);
        let no_files = || ClientTlsError::NoFiles { upstream: upstream.name.clone() };
        let files = upstream.tls.files().ok_or_else(no_files)?;
        let credentials = Credentials::read(&section, files)?;
        let authorities = Authorities::read(&section, files)?;
        let server_name = parse_server_name(upstream)?;
        let witness = Arc::new(Witness::default());
        let verifier = Verifier {
            roots: Arc::clone(&authorities.roots),
            algorithms: provider.signature_verification_algorithms,
            verify: upstream.tls.verify,
            witness: Arc::clone(&witness),
        };
        let resolver = Resolver { key: Arc::clone(&credentials.certified_key), witness: Arc::clone(&witness) };
        let config = client_config(provider, upstream.tls.min_version, verifier, resolver)?;
        Ok(Self { config: Arc::new(config), server_name, credentials, authorities, witness })
    }
}

/// The name that an upstream's certificate must have: `server_name`, or else the host of the address.
///
/// A dot at the end of a DNS name is left out: certificates have none.
pub fn parse_server_name(upstream: &UpstreamConfig) -> Result<ServerName<'static>, ClientTlsError> {
    let (key, value) = match &upstream.tls.server_name {
        Some(name) => ("tls.server_name", name),
        None => ("address", &upstream.address.host),
    };
    let name = value.strip_suffix('.').unwrap_or(value).to_owned();
    ServerName::try_from(name).map_err(|_| ClientTlsError::ServerName {
        key: format!("upstream.{}.{key}", upstream.name),
        value: value.clone(),
    })
}

/// What the latest handshakes of one upstream showed that rustls does not tell in its errors.
///
/// For sentences, never for decisions: with several handshakes at once it holds what the last of them showed. Touched
/// once per full handshake.
#[derive(Debug, Default)]
pub struct Witness {
    refused: Mutex<Vec<CertificateDer<'static>>>,
    requested: Mutex<Option<Vec<Vec<u8>>>>,
}

/// A server's request for our certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    /// The authorities whose certificates it says it accepts; empty leaves it open.
    pub authorities: Vec<DistinguishedName>,
}

impl Witness {
    /// The server certificate that was refused last and what was sent with it, and forgets it.
    pub fn take_refused(&self) -> Vec<CertificateFacts> {
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

    fn record_refused(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) {
        let chain = std::iter::once(end_entity).chain(intermediates);
        let chain = chain.map(|certificate| certificate.clone().into_owned()).collect();
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = chain;
    }

    fn record_request(&self, authorities: &[&[u8]]) {
        let authorities = authorities.iter().map(|name| name.to_vec()).collect();
        *self.requested.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorities);
    }
}

fn client_config(
    provider: Arc<CryptoProvider>,
    min_version: TlsVersion,
    verifier: Verifier,
    resolver: Resolver,
) -> Result<ClientConfig, rustls::Error> {
    let versions: &[&rustls::SupportedProtocolVersion] = match min_version {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(resolver));
    config.resumption = Resumption::in_memory_sessions(RESUMPTION_SESSIONS);
    Ok(config)
}

/// Always our one certificate, whatever the server asks for, as OpenSSL does: mongod then says what it dislikes in its
/// own log. Takes version 1 certificates, which rustls's usual way in refuses.
#[derive(Debug)]
struct Resolver {
    key: Arc<CertifiedKey>,
    witness: Arc<Witness>,
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, root_hint_subjects: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.witness.record_request(root_hint_subjects);
        Some(Arc::clone(&self.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Chain, dates and purpose always; the name unless `verify = "chain"`.
#[derive(Debug)]
struct Verifier {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    verify: Verify,
    witness: Arc<Witness>,
}

impl Verifier {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        match self.verify {
            Verify::Full => verify_server_name(&certificate, server_name),
            Verify::Chain => Ok(()),
        }
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
            .inspect_err(|_| self.witness.record_refused(end_entity, intermediates))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
