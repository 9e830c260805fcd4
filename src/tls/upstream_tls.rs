//! The TLS configuration of one upstream: a rustls client configuration for one certificate set.
//!
//! A configuration never changes. A new certificate set needs a new configuration, because a resumed session keeps the
//! identity that it was made with.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, HandshakeKind, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};

use super::chain_verifier::{ChainRules, ChainVerifier};
use super::credentials::Credentials;
use super::crypto::{upstream_provider, versions_from};
use super::finding::{MaterialFinding, TlsSide};
use super::handshake_record::{HandshakeRecord, record_request};
use super::inspect::material_findings;
use super::path::CertificatePurpose;
use super::revocation::RevocationList;
use super::revocation_files::read_revocation_lists;
use super::server_name::{PeerName, parse_server_name, section_of};
use super::server_verifier::ServerVerifier;
use super::session_store::ResumableConfig;
use super::stream::TlsStream;
use super::trust_anchors::TrustAnchors;
use super::upstream_tls_error::UpstreamTlsError;
use super::workload::WorkloadSet;
use crate::config::{EndpointConfig, TlsVersion, WorkloadApi};

/// How long sessions are resumed before a server has to show its certificate again.
const RESUMPTION_TIME: Duration = Duration::from_hours(1);

/// The TLS configuration of one upstream, and the certificate set that it was made from.
#[derive(Debug, Clone)]
pub struct UpstreamTls {
    /// For every connection to this upstream, with the sessions to resume.
    config: Arc<ResumableConfig>,
    /// The SNI name, and the name that is verified.
    pub server_name: PeerName,
    /// The gateway's client certificate.
    pub credentials: Credentials,
    /// The trust anchors for mongod's certificate.
    pub trust_anchors: TrustAnchors,
    /// Revocation lists for mongod's certificate.
    pub revocation_lists: Arc<[RevocationList]>,
}

impl UpstreamTls {
    /// Reads the files of an upstream and makes its configuration.
    ///
    /// Blocks until the file system answers.
    pub fn load(upstream: &EndpointConfig) -> Result<Self, UpstreamTlsError> {
        let no_files = || UpstreamTlsError::NoFiles { upstream: upstream.name.clone() };
        let files = upstream.tls.files().ok_or_else(no_files)?;
        let credentials = Credentials::read(&upstream.certificate_section, files)?;
        let section = section_of(upstream);
        let trust_anchors = TrustAnchors::read(&section, files)?;
        let revocation_lists = read_revocation_lists(&section, files.crl_file.as_deref())?;
        Self::assemble(upstream, credentials, trust_anchors, revocation_lists)
    }

    /// Makes the configuration of an upstream from a certificate set of the SPIFFE Workload API, and from `ca_file` and
    /// `crl_file` where they are set.
    ///
    /// Blocks until the file system answers.
    pub fn from_workload(
        upstream: &EndpointConfig,
        agent: &WorkloadApi,
        set: &WorkloadSet,
    ) -> Result<Self, UpstreamTlsError> {
        let section = section_of(upstream);
        let credentials = set.credentials(upstream)?;
        let trust_anchors = match &agent.ca_file {
            Some(ca_file) => TrustAnchors::read_ca_file(&section, ca_file, agent.partial_chain)?,
            None => set.trust_anchors(upstream)?,
        };
        let revocation_lists = read_revocation_lists(&section, agent.crl_file.as_deref())?;
        Self::assemble(upstream, credentials, trust_anchors, revocation_lists)
    }

    /// Makes a configuration from material that has been read, whatever source is configured.
    pub fn assemble(
        upstream: &EndpointConfig,
        credentials: Credentials,
        trust_anchors: TrustAnchors,
        revocation_lists: Vec<RevocationList>,
    ) -> Result<Self, UpstreamTlsError> {
        let provider = Arc::new(upstream_provider());
        let server_name = parse_server_name(upstream)?;
        let revocation_lists: Arc<[_]> = revocation_lists.into();
        let rules = ChainRules {
            trust_anchors: trust_anchors.clone(),
            revocation_lists: Arc::clone(&revocation_lists),
            accepts_legacy: upstream.tls.legacy_certificates,
        };
        let verifier = ServerVerifier::new(
            ChainVerifier::new(rules, CertificatePurpose::Server, &provider),
            &upstream.tls,
            server_name.clone(),
        );
        let key = Arc::clone(&credentials.certified_key);
        let resolver = ClientCertificateResolver { key };
        let config = client_config(provider, upstream.tls.min_version, verifier, resolver)?;
        let config = Arc::new(ResumableConfig::new(config, RESUMPTION_TIME));
        Ok(Self { config, server_name, credentials, trust_anchors, revocation_lists })
    }

    /// The same certificate set for another server of the upstream, without sessions to resume.
    pub fn for_endpoint(&self, endpoint: &EndpointConfig) -> Result<Self, UpstreamTlsError> {
        let lists = self.revocation_lists.to_vec();
        Self::assemble(endpoint, self.credentials.clone(), self.trust_anchors.clone(), lists)
    }

    /// Makes a TLS handshake on `socket`, which nothing else may use: see [`TlsStream::connect`]. Also returns what the
    /// server showed, whether the handshake succeeded or not.
    pub async fn connect<S>(&self, socket: S) -> (io::Result<TlsStream<S>>, HandshakeRecord)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = TlsStream::connect(self.config.current(), self.server_name.for_handshake(), socket);
        // A handshake is large. Everything that connects would be as large.
        let (result, mut record) = Box::pin(HandshakeRecord::of(handshake)).await;
        if let Ok(stream) = &result {
            match stream.session().facts().handshake_kind() {
                Some(HandshakeKind::Resumed) => record.set_requested(self.config.requested()),
                _ => self.config.set_requested(record.requested().cloned()),
            }
        }
        (result, record)
    }

    /// Warnings about the certificate set.
    pub fn findings(&self, now: SystemTime) -> Vec<MaterialFinding> {
        material_findings(TlsSide::Upstream, &self.credentials, &self.trust_anchors, &self.revocation_lists, now)
    }

    /// Whether both were made from the same certificates, key and revocation lists, so that neither needs to replace
    /// the other.
    pub fn is_same_material(&self, other: &Self) -> bool {
        self.credentials.has_same_chain(&other.credentials)
            && self.trust_anchors.has_same_certificates(&other.trust_anchors)
            && self.revocation_lists == other.revocation_lists
    }
}

/// Checks what is configured in addition to a SPIFFE agent: the server name, `ca_file` and `crl_file`.
///
/// Blocks until the file system answers.
pub fn check_workload_config(upstream: &EndpointConfig, agent: &WorkloadApi) -> Result<(), UpstreamTlsError> {
    let section = section_of(upstream);
    parse_server_name(upstream)?;
    if let Some(ca_file) = &agent.ca_file {
        TrustAnchors::read_ca_file(&section, ca_file, agent.partial_chain)?;
    }
    read_revocation_lists(&section, agent.crl_file.as_deref())?;
    Ok(())
}

fn client_config(
    provider: Arc<CryptoProvider>,
    min_version: TlsVersion,
    verifier: ServerVerifier,
    resolver: ClientCertificateResolver,
) -> Result<ClientConfig, rustls::Error> {
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions_from(min_version))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(resolver));
    Ok(config)
}

/// Always sends the gateway's client certificate, whatever CAs the server names, as OpenSSL does: mongod then logs why
/// it rejects the certificate. Also sends certificates of version 1, which the builder of rustls rejects.
#[derive(Debug)]
struct ClientCertificateResolver {
    key: Arc<CertifiedKey>,
}

impl ResolvesClientCert for ClientCertificateResolver {
    fn resolve(&self, root_hint_subjects: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        record_request(root_hint_subjects);
        Some(Arc::clone(&self.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
