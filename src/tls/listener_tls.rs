//! The TLS configuration of one listener: a rustls server configuration for one certificate set.
//!
//! A bad client certificate ends the handshake with the alert that names the reason. Sessions are never resumed: every
//! connection shows its certificate, and every certificate is verified.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::SingleCertAndKey;

use super::chain_verifier::{ChainRules, ChainVerifier};
use super::client_verifier::ClientVerifier;
use super::credentials::Credentials;
use super::crypto::versions_from;
use super::finding::{MaterialFinding, TlsSide};
use super::inspect::material_findings;
use super::material_error::MaterialError;
use super::path::CertificatePurpose;
use super::revocation::RevocationList;
use super::revocation_files::read_revocation_lists;
use super::trust_anchors::TrustAnchors;
use crate::config::ListenerTlsConfig;

/// The TLS configuration of one listener, and the certificate set that it was made from.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    /// For every connection of this listener.
    pub config: Arc<ServerConfig>,
    /// The listener's server certificate.
    pub credentials: Credentials,
    /// The trust anchors for client certificates.
    pub trust_anchors: TrustAnchors,
    /// Revocation lists for client certificates.
    pub revocation_lists: Arc<[RevocationList]>,
    /// Whether a client has to leave when its certificate expires.
    pub closes_expired_clients: bool,
    verifier: Arc<ClientVerifier>,
}

/// Why the TLS configuration of a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenerTlsError {
    /// A certificate, key or revocation list cannot be used.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// rustls rejected the configuration.
    #[error("TLS cannot be configured")]
    Unusable(#[from] rustls::Error),
}

impl ListenerTlsError {
    /// What the operator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Material(error) => error.remedy(),
            Self::Unusable(_) => "this is a bug in mongate: please report it".to_owned(),
        }
    }
}

impl ListenerTls {
    /// Reads the files of the listener `name` and makes its configuration.
    ///
    /// Blocks until the file system answers.
    pub fn load(name: &str, listener: &ListenerTlsConfig) -> Result<Self, ListenerTlsError> {
        let section = format!("listener.{name}.tls");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let credentials = Credentials::read(&section, &listener.files)?;
        let trust_anchors = TrustAnchors::read(&section, &listener.files)?;
        let revocation_lists: Arc<[_]> = read_revocation_lists(&section, listener.files.crl_file.as_deref())?.into();
        let rules = ChainRules {
            trust_anchors: trust_anchors.clone(),
            revocation_lists: Arc::clone(&revocation_lists),
            accepts_legacy: listener.legacy_certificates,
        };
        let verifier = Arc::new(ClientVerifier::new(ChainVerifier::new(rules, CertificatePurpose::Client, &provider)));
        // Also sends certificates of version 1, which the builder of rustls rejects.
        let resolver = SingleCertAndKey::from(Arc::clone(&credentials.certified_key));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions_from(listener.min_version))?
            .with_client_cert_verifier(Arc::clone(&verifier) as Arc<dyn ClientCertVerifier>)
            .with_cert_resolver(Arc::new(resolver));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            config: Arc::new(config),
            credentials,
            trust_anchors,
            revocation_lists,
            closes_expired_clients: listener.close_expired_clients,
            verifier,
        })
    }

    /// Whether a client that showed `chain` in a handshake at `time`, leaf certificate first, would be accepted with
    /// this certificate set.
    pub fn would_accept(&self, chain: &[CertificateDer<'_>], time: SystemTime) -> bool {
        let Some((end_entity, intermediates)) = chain.split_first() else { return false };
        let time = UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        self.verifier.verify_client_cert(end_entity, intermediates, time).is_ok()
    }

    /// Warnings about the certificate set.
    pub fn findings(&self, now: SystemTime) -> Vec<MaterialFinding> {
        material_findings(TlsSide::Listener, &self.credentials, &self.trust_anchors, &self.revocation_lists, now)
    }

    /// Whether both were made from the same certificates, key and revocation lists, so that neither needs to replace
    /// the other.
    pub fn is_same_material(&self, other: &Self) -> bool {
        self.credentials.has_same_chain(&other.credentials) && self.accepts_same_clients(other)
    }

    /// Whether both, of the same listener, accept the same clients.
    pub fn accepts_same_clients(&self, other: &Self) -> bool {
        self.trust_anchors.has_same_certificates(&other.trust_anchors)
            && self.revocation_lists == other.revocation_lists
    }
}
