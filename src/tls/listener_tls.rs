//! What speaks TLS towards the clients of one listener.
//!
//! A client's certificate is judged in the handshake, and a bad one ends it with the alert that says why. Whether there must
//! be one is not: a client without gets through, so that it can be told in words that it understands.
//!
//! Refuses to take sessions up again: each connection shows its certificate, and each is judged.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};

use super::chain_verifier::ChainVerifier;
use super::credentials::Credentials;
use super::inspect::{MaterialFinding, TlsSide, revocation_findings};
use super::last_handshake::LastHandshake;
use super::legacy_path::Purpose;
use super::material_error::MaterialError;
use super::revocation::{RevocationList, read_revocation_lists};
use super::trust_anchors::TrustAnchors;
use super::upstream_tls::versions_from;
use crate::config::ListenerTlsConfig;

/// Everything that a TLS connection of one listener needs.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    /// For every connection of this listener.
    pub config: Arc<ServerConfig>,
    /// Who we are.
    pub credentials: Credentials,
    /// Whose clients we take.
    pub authorities: TrustAnchors,
    /// What the authorities have taken back.
    pub revocation_lists: Arc<[RevocationList]>,
    /// Which client certificate was refused last.
    pub last_handshake: Arc<LastHandshake>,
    verifier: Arc<Verifier>,
}

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenerTlsError {
    /// A file that cannot be used.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// rustls refuses the authorities.
    #[error("client certificates cannot be verified")]
    Verifier(#[from] VerifierBuilderError),
    /// rustls refuses the combination.
    #[error("TLS cannot be set up")]
    Unusable(#[from] rustls::Error),
}

impl ListenerTlsError {
    /// What to do about it, as a sentence for the operator.
    pub fn remedy(&self) -> String {
        match self {
            Self::Material(error) => error.remedy(),
            Self::Verifier(_) | Self::Unusable(_) => "this is a defect of mongate: please report it".to_owned(),
        }
    }
}

impl ListenerTls {
    /// Reads the files of the listener `name` and makes its configuration.
    pub fn load(name: &str, listener: &ListenerTlsConfig) -> Result<Self, ListenerTlsError> {
        let section = format!("listener.{name}.tls");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let credentials = Credentials::read(&section, &listener.files)?;
        let authorities = TrustAnchors::read(&section, &listener.files)?;
        let revocation_lists: Arc<[_]> = read_revocation_lists(&section, listener.files.crl_file.as_deref())?.into();
        let trust = ChainVerifier {
            authorities: authorities.clone(),
            revocation_lists: Arc::clone(&revocation_lists),
            algorithms: provider.signature_verification_algorithms,
            purpose: Purpose::Client,
            takes_legacy: listener.legacy_certificates,
        };
        let last_handshake = Arc::new(LastHandshake::default());
        let verifier = Arc::new(Verifier::new(trust, &last_handshake, &provider)?);
        // Takes version 1 certificates, which rustls's usual way in refuses; we only show it.
        let resolver = SingleCertAndKey::from(Arc::clone(&credentials.certified_key));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions_from(listener.min_version))?
            .with_client_cert_verifier(Arc::clone(&verifier) as Arc<dyn ClientCertVerifier>)
            .with_cert_resolver(Arc::new(resolver));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), credentials, authorities, revocation_lists, last_handshake, verifier })
    }

    /// Whether a client that showed `chain` in a handshake at `time`, its own certificate first, would get through with
    /// what counts now.
    pub fn would_take(&self, chain: &[CertificateDer<'_>], time: SystemTime) -> bool {
        let Some((end_entity, intermediates)) = chain.split_first() else { return false };
        let time = UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        self.verifier.verify_client_cert(end_entity, intermediates, time).is_ok()
    }

    /// What is doubtful about all of it.
    pub fn findings(&self, now: SystemTime) -> Vec<MaterialFinding> {
        let mut findings = self.credentials.findings(TlsSide::Listener, Some(&self.authorities), now);
        findings.extend(self.authorities.findings(now));
        findings.extend(revocation_findings(&self.revocation_lists, &self.authorities, now));
        findings
    }

    /// Whether both were made from the same certificates, key and revocation lists, so that one need not replace the other.
    pub fn is_same_material(&self, other: &Self) -> bool {
        self.credentials.is_same(&other.credentials) && self.judges_alike(other)
    }

    /// Whether both, of the same listener, take the same clients.
    pub fn judges_alike(&self, other: &Self) -> bool {
        self.authorities.der == other.authorities.der && self.revocation_lists == other.revocation_lists
    }
}

#[derive(Debug)]
struct Verifier {
    /// What judges certificates of version 3; knows no revocation lists. `None` where nobody may sign any.
    modern: Option<Arc<dyn ClientCertVerifier>>,
    /// Whose certificates clients are asked for.
    subjects: Vec<DistinguishedName>,
    trust: ChainVerifier,
    last_handshake: Arc<LastHandshake>,
}

impl Verifier {
    fn new(
        trust: ChainVerifier,
        last_handshake: &Arc<LastHandshake>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let roots = &trust.authorities.roots;
        let modern = if roots.is_empty() {
            None
        } else {
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
            Some(builder.allow_unauthenticated().build()?)
        };
        let mut all = RootCertStore::empty();
        all.add_parsable_certificates(trust.authorities.der.iter().cloned());
        Ok(Self { modern, subjects: all.subjects(), trust, last_handshake: Arc::clone(last_handshake) })
    }
}

impl ClientCertVerifier for Verifier {
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
        let modern = || match &self.modern {
            Some(modern) => modern.verify_client_cert(end_entity, intermediates, now).map(|_| ()),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        self.trust
            .judge(end_entity, intermediates, now, modern)
            .inspect_err(|_| self.last_handshake.record_rejected(end_entity, intermediates))?;
        Ok(ClientCertVerified::assertion())
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
