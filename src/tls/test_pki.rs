//! Certificates, files and TLS servers for the tests of this crate. Compiled for tests only.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SigningKey as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::config::{
    Deployment, EndpointConfig, HostPort, MaterialSource, Ocsp, PoolConfig, PoolMode, SendProxy, TlsFiles, TlsVersion,
    UpstreamConfig, UpstreamTlsConfig, Verify,
};

/// A CA with its key.
pub(crate) struct CertificateAuthority {
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    params: CertificateParams,
}

/// A certificate with its key, and the certificates that are sent with it.
pub(crate) struct IssuedCertificate {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
    pub(crate) key_der: Vec<u8>,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

impl CertificateAuthority {
    pub(crate) fn new(common_name: &str) -> Self {
        Self::new_with(common_name, |_| {})
    }

    pub(crate) fn new_with(common_name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(common_name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self::of(certificate.der().clone(), params, key)
    }

    /// A root with this key.
    pub(crate) fn new_for(key: KeyPair, common_name: &str) -> Self {
        let params = ca_params(common_name);
        let certificate = params.self_signed(&key).unwrap();
        Self::of(certificate.der().clone(), params, key)
    }

    /// Another certificate of the same root, with the same key.
    pub(crate) fn renewed(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = self.params.clone();
        params.serial_number = Some(2.into());
        change(&mut params);
        params.self_signed(self.key()).unwrap().der().clone()
    }

    /// A CA that issues with the same key under another name, without a certificate of that name.
    pub(crate) fn renamed(&self, common_name: &str) -> Self {
        let key = KeyPair::try_from(self.key().serialize_der()).unwrap();
        Self::of(self.der.clone(), ca_params(common_name), key)
    }

    /// A certificate of this CA for the key of `other`.
    pub(crate) fn cross_sign(&self, other: &Self) -> CertificateDer<'static> {
        other.params.signed_by(other.key(), &self.issuer).unwrap().der().clone()
    }

    /// A root of version 1, as `openssl x509 -req -signkey` makes it: it has no CA field.
    pub(crate) fn new_version_1(common_name: &str) -> Self {
        let mut ca = Self::new(common_name);
        ca.der = version_1(&ca.der, ca.issuer.key());
        ca.pem = pem("CERTIFICATE", &ca.der);
        ca
    }

    fn of(der: CertificateDer<'static>, params: CertificateParams, key: KeyPair) -> Self {
        Self { pem: pem("CERTIFICATE", &der), der, issuer: Issuer::new(params.clone(), key), params }
    }

    pub(crate) fn issue(&self, common_name: &str, names: &[&str]) -> IssuedCertificate {
        self.issue_with(common_name, names, |_| {})
    }

    pub(crate) fn issue_with(
        &self,
        common_name: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> IssuedCertificate {
        self.issue_for(&KeyPair::generate().unwrap(), common_name, names, change)
    }

    pub(crate) fn issue_for(
        &self,
        key: &KeyPair,
        common_name: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> IssuedCertificate {
        let mut params = named(common_name, names);
        change(&mut params);
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        IssuedCertificate::new(certificate.der().clone(), key)
    }

    /// An intermediate CA below this CA.
    pub(crate) fn intermediate(&self, common_name: &str) -> Self {
        self.intermediate_with(common_name, |_| {})
    }

    pub(crate) fn intermediate_with(&self, common_name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(common_name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self::of(certificate.der().clone(), params, key)
    }

    /// A certificate of version 1, as `openssl x509 -req` makes it: without version, SAN and extensions.
    pub(crate) fn issue_version_1(&self, common_name: &str) -> IssuedCertificate {
        self.issue_version_1_for(&KeyPair::generate().unwrap(), common_name, |_| {})
    }

    pub(crate) fn issue_version_1_for(
        &self,
        key: &KeyPair,
        common_name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> IssuedCertificate {
        let pair = self.issue_for(key, common_name, &[], change);
        let der = version_1(&pair.der, self.issuer.key());
        IssuedCertificate::new(der, key)
    }

    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub(crate) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    /// A revocation list that contains `revoked`. The next update is due in the year `until`.
    pub(crate) fn revocation_list(&self, revoked: &[&CertificateDer<'_>], until: i32) -> String {
        let revoked_certs = revoked.iter().map(|der| rcgen::RevokedCertParams {
            serial_number: serial(der).into(),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(until, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// A revocation list as `openssl ca -gencrl` makes it: of version 1, without extensions.
    pub(crate) fn revocation_list_version_1(&self, revoked: &[&CertificateDer<'_>], until: i32) -> String {
        use rustls::pki_types::CertificateRevocationListDer;
        let list = self.revocation_list(revoked, until);
        let list = CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap();
        let fields = der_children(der_parts(der_parts(&list).0).0);
        let kept: Vec<&[u8]> = fields[1..].iter().copied().filter(|field| field[0] != 0xa0).collect();
        pem("X509 CRL", &signed(&kept.concat(), fields[1], self.issuer.key()))
    }
}

/// Converts a certificate to version 1, and signs it with `issuer`.
pub(crate) fn version_1(version_3: &CertificateDer<'_>, issuer: &KeyPair) -> CertificateDer<'static> {
    let (certificate, _) = der_parts(version_3);
    let fields = der_children(der_parts(certificate).0);
    signed(&fields[1..7].concat(), fields[2], issuer).into()
}

/// `fields` as a sequence, signed with `key`.
pub(crate) fn signed(fields: &[u8], algorithm: &[u8], key: &KeyPair) -> Vec<u8> {
    let data = der_sequence(fields);
    let signature = key.sign(&data).unwrap();
    let bits = der_value(0x03, &[&[0], signature.as_slice()].concat());
    der_sequence(&[data.as_slice(), algorithm, &bits].concat())
}

/// The serial number of a certificate.
fn serial(der: &CertificateDer<'_>) -> Vec<u8> {
    let fields = der_children(der_parts(der_parts(der).0).0);
    let field = fields.into_iter().find(|field| field[0] == 0x02).unwrap();
    der_parts(field).0.to_vec()
}

fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = named(common_name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl IssuedCertificate {
    pub(crate) fn new(der: CertificateDer<'static>, key: &KeyPair) -> Self {
        Self {
            certificate_pem: pem("CERTIFICATE", &der),
            key_pem: key.serialize_pem(),
            key_der: key.serialize_der(),
            der,
            chain: Vec::new(),
        }
    }

    /// The certificate, its chain and the key as one PEM text.
    pub(crate) fn combined(&self) -> String {
        let chain: String = self.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        format!("{}{chain}{}", self.certificate_pem, self.key_pem)
    }

    /// Adds the certificate of `ca` to the chain.
    pub(crate) fn chained(mut self, ca: &CertificateAuthority) -> Self {
        self.chain.push(ca.der.clone());
        self
    }

    /// A server with this certificate. With `clients`, it requires client certificates of that CA.
    pub(crate) fn server(
        &self,
        clients: Option<&CertificateAuthority>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions).unwrap();
        let builder = match clients {
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add(ca.der.clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        Arc::new(builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(self.certified_key()))))
    }

    /// What a handshake sends and signs with, whatever the version of the certificate.
    pub(crate) fn certified_key(&self) -> rustls::sign::CertifiedKey {
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap();
        rustls::sign::CertifiedKey::new(
            std::iter::once(&self.der).chain(&self.chain).cloned().collect(),
            rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap(),
        )
    }
}

/// A temporary folder, removed when the value is dropped.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// An upstream `orders` with this client certificate and these CA certificates in PEM format.
    pub(crate) fn upstream(&self, port: u16, client: &IssuedCertificate, ca: &str) -> EndpointConfig {
        let certificate_file = self.write("client.pem", client.combined());
        EndpointConfig {
            name: "orders".to_owned(),
            certificate_section: "upstream.orders.tls".to_owned(),
            authentication: None,
            address: HostPort { host: "127.0.0.1".to_owned(), port },
            connect_timeout: Duration::from_secs(10),
            tcp_keepalive: Some(Duration::from_mins(2)),
            send_proxy: SendProxy::Off,
            tls: UpstreamTlsConfig {
                source: MaterialSource::Files(TlsFiles {
                    private_key_file: certificate_file.clone(),
                    certificate_file,
                    private_key_password_file: None,
                    ca_file: self.write("ca.pem", ca),
                    partial_chain: false,
                    crl_file: None,
                }),
                server_name: None,
                verify: Verify::Full,
                server_identities: Vec::new(),
                ocsp: Ocsp::Staple,
                legacy_certificates: false,
                min_version: TlsVersion::V1_2,
            },
        }
    }
}

/// An upstream with one server.
pub(crate) fn upstream_of(endpoint: &EndpointConfig) -> UpstreamConfig {
    UpstreamConfig {
        name: endpoint.name.clone(),
        deployment: Deployment::Single(endpoint.address.clone()),
        connect_timeout: endpoint.connect_timeout,
        tcp_keepalive: endpoint.tcp_keepalive,
        send_proxy: endpoint.send_proxy,
        warm_connections: 0,
        warm_connections_max: 0,
        pool: PoolConfig {
            mode: PoolMode::Off,
            max_connections: 100,
            idle_timeout: Duration::from_mins(5),
            wait_timeout: Duration::from_secs(10),
        },
        certificate_recycle_after: Duration::from_mins(10),
        tls: endpoint.tls.clone(),
        authentication: endpoint.authentication,
        credentials: Vec::new(),
    }
}

/// The files of `upstream`, to be modified.
pub(crate) fn files_of(upstream: &mut EndpointConfig) -> &mut TlsFiles {
    match &mut upstream.tls.source {
        MaterialSource::Files(files) => files,
        MaterialSource::WorkloadApi(_) => unreachable!("the test's upstream has files"),
    }
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (index, group) in der.chunks(3).enumerate() {
        if index % 16 == 0 {
            text.push('\n');
        }
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for position in 0..4 {
            let index = (bits >> (18 - 6 * position)) as usize & 63;
            text.push(if position <= group.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    format!("-----BEGIN {label}-----{text}\n-----END {label}-----\n")
}

/// The content of the first DER value, and what follows it.
pub(crate) fn der_parts(der: &[u8]) -> (&[u8], &[u8]) {
    let (header, length) = match der[1] {
        short @ 0..=0x7f => (2, usize::from(short)),
        0x81 => (3, usize::from(der[2])),
        _ => (4, usize::from(u16::from_be_bytes([der[2], der[3]]))),
    };
    (&der[header..header + length], &der[header + length..])
}

/// The consecutive DER values in `content`, headers included.
pub(crate) fn der_children(mut content: &[u8]) -> Vec<&[u8]> {
    let mut children = Vec::new();
    while !content.is_empty() {
        let (_, rest) = der_parts(content);
        children.push(&content[..content.len() - rest.len()]);
        content = rest;
    }
    children
}

pub(crate) fn der_sequence(content: &[u8]) -> Vec<u8> {
    der_value(0x30, content)
}

pub(crate) fn der_value(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    let header = match (high, low) {
        (0, 0..0x80) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [header.as_slice(), content].concat()
}

fn named(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Acme");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}
