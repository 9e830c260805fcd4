//! A temporary PKI in a directory of its own: two CAs, and valid and invalid certificates.
//!
//! rcgen creates it in milliseconds. Nothing is written into the repository. What rcgen cannot create is in
//! `openssl.rs`: X.509 version 1, encrypted keys, and the PKCS#1 and SEC1 formats.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::{NamedTempFile, TempDir};

use super::scratch;

/// The names in every valid server certificate.
pub const SERVER_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Two CAs, and the directory of all files of this PKI. Dropping it removes the directory.
#[derive(Debug)]
pub struct Pki {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
    stranger: CertifiedIssuer<'static, KeyPair>,
}

/// The properties of a certificate to issue. The default is a valid client certificate.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// `CN`. The subject also has `O=mongate kit`, and an `OU` that differs between clients and servers, as mongod
    /// requires.
    pub common_name: &'static str,
    /// DNS names and IP addresses of the SAN. Those that start with `spiffe://` become URI names.
    pub names: Vec<&'static str>,
    /// Extended key usage.
    pub usage: Usage,
    /// Validity period.
    pub validity: Validity,
    /// Type of the key.
    pub key: KeyKind,
    /// Issuer.
    pub issuer: SignedBy,
}

/// Extended key usage of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// `serverAuth`.
    Server,
    /// `clientAuth`.
    Client,
    /// Both.
    Both,
    /// No extended key usage: every use is allowed.
    Unrestricted,
}

/// Validity period of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Now, and for decades.
    Current,
    /// The year 2020 only.
    Expired,
    /// From the year 2090 on.
    NotYet,
    /// From one hour ago until this duration from now.
    For(Duration),
}

/// Types of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA with 2,048 bits, which is slower to generate.
    Rsa,
}

/// Issuer of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedBy {
    /// The CA that both sides trust.
    Authority,
    /// The CA that neither side trusts.
    Stranger,
    /// Self-signed.
    Itself,
}

/// The part of a combined file that comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// Certificate, then key.
    Certificate,
    /// Key, then certificate.
    Key,
}

/// An issued certificate with its key (PKCS#8), and the directory for their files.
#[derive(Debug)]
pub struct Issued {
    directory: PathBuf,
    file_stem: String,
    /// The certificate in PEM.
    pub certificate_pem: String,
    /// The key in PEM.
    pub key_pem: String,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    serial: u64,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            common_name: "client",
            names: Vec::new(),
            usage: Usage::Client,
            validity: Validity::Current,
            key: KeyKind::P256,
            issuer: SignedBy::Authority,
        }
    }
}

impl Wanted {
    /// A valid server certificate for the loopback names and addresses.
    pub fn server() -> Self {
        Self { common_name: "mongod", names: SERVER_NAMES.to_vec(), usage: Usage::Both, ..Self::default() }
    }
}

impl Pki {
    /// Creates both CAs and writes their certificates.
    pub fn new() -> anyhow::Result<Self> {
        Self::in_directory(scratch::directory("pki")?)
    }

    /// As [`Pki::new`], in a directory of the caller.
    pub fn in_directory(directory: TempDir) -> anyhow::Result<Self> {
        let pki = Self { directory, authority: authority("kit authority")?, stranger: authority("kit stranger")? };
        fs::write(pki.ca_file(), pki.authority.pem())?;
        fs::write(pki.stranger_ca_file(), pki.stranger.pem())?;
        Ok(pki)
    }

    /// The directory of all files of this PKI.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// PEM file of the CA that both sides trust.
    pub fn ca_file(&self) -> PathBuf {
        self.directory().join("ca.pem")
    }

    /// PEM file of the CA that neither side trusts.
    pub fn stranger_ca_file(&self) -> PathBuf {
        self.directory().join("stranger-ca.pem")
    }

    /// The certificate of the CA that both sides trust.
    pub fn ca_der(&self) -> CertificateDer<'static> {
        self.authority.der().clone()
    }

    /// Issues a certificate. `file_stem` must be unique; it is the prefix of its files.
    pub fn issue(&self, file_stem: &str, wanted: &Wanted) -> anyhow::Result<Issued> {
        static SERIALS: AtomicU64 = AtomicU64::new(1);
        let key = generate_key(wanted.key)?;
        let mut params = wanted.params()?;
        let serial = SERIALS.fetch_add(1, Ordering::Relaxed);
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = match wanted.issuer {
            SignedBy::Authority => params.signed_by(&key, &self.authority)?,
            SignedBy::Stranger => params.signed_by(&key, &self.stranger)?,
            SignedBy::Itself => params.self_signed(&key)?,
        };
        Ok(Issued {
            directory: self.directory().to_owned(),
            file_stem: file_stem.to_owned(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
            serial,
        })
    }

    /// Writes a CRL of the trusted CA with these certificates.
    pub fn revoke(&self, file_stem: &str, revoked: &[&Issued]) -> anyhow::Result<PathBuf> {
        let yesterday = SystemTime::now() - Duration::from_hours(24);
        let entry = |issued: &&Issued| RevokedCertParams {
            serial_number: SerialNumber::from(issued.serial),
            revocation_time: yesterday.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: yesterday.into(),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.directory().join(format!("{file_stem}-crl.pem"));
        fs::write(&path, list.signed_by(&self.authority)?.pem()?)?;
        Ok(path)
    }
}

impl Issued {
    /// Writes certificate and key to one file, as for mongod's `certificateKeyFile`.
    pub fn combined(&self, first: First) -> anyhow::Result<PathBuf> {
        let (name, text) = match first {
            First::Certificate => ("combined", format!("{}{}", self.certificate_pem, self.key_pem)),
            First::Key => ("key-first", format!("{}{}", self.key_pem, self.certificate_pem)),
        };
        self.write(name, &text)
    }

    /// Writes certificate and key to two files, and returns their paths in this order.
    pub fn split(&self) -> anyhow::Result<(PathBuf, PathBuf)> {
        Ok((self.write("certificate", &self.certificate_pem)?, self.write("key", &self.key_pem)?))
    }

    /// Certificate and key for rustls.
    pub fn der(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        (self.certificate.clone(), PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone())))
    }

    /// Writes a file atomically: tests share a PKI, and the gateway of another test may be reading the file.
    fn write(&self, form: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.directory.join(format!("{}-{form}.pem", self.file_stem));
        let mut file = NamedTempFile::new_in(&self.directory)?;
        file.write_all(text.as_bytes())?;
        file.persist(&path)?;
        Ok(path)
    }
}

impl Wanted {
    fn params(&self) -> anyhow::Result<CertificateParams> {
        let mut params = CertificateParams::default();
        let unit = if self.usage == Usage::Client { "clients" } else { "servers" };
        params.distinguished_name = distinguished_name(self.common_name, unit);
        for name in &self.names {
            params.subject_alt_names.push(alternative_name(name)?);
        }
        // As SPIRE does, and its clients require.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match self.usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Unrestricted => Vec::new(),
        };
        (params.not_before, params.not_after) = match self.validity {
            Validity::Current => (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1)),
            Validity::Expired => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
            Validity::NotYet => (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1)),
            Validity::For(time) => {
                let now = SystemTime::now();
                ((now - Duration::from_hours(1)).into(), (now + time).into())
            }
        };
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

fn authority(common_name: &str) -> anyhow::Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(common_name, "authorities");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1));
    Ok(CertifiedIssuer::self_signed(params, generate_key(KeyKind::P256)?)?)
}

fn distinguished_name(common_name: &str, unit: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "mongate kit");
    name.push(DnType::OrganizationalUnitName, unit);
    name.push(DnType::CommonName, common_name);
    name
}

fn alternative_name(name: &str) -> anyhow::Result<SanType> {
    Ok(match name.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) if name.starts_with("spiffe://") => SanType::URI(name.try_into()?),
        Err(_) => SanType::DnsName(name.try_into()?),
    })
}

fn generate_key(kind: KeyKind) -> anyhow::Result<KeyPair> {
    Ok(KeyPair::generate_for(match kind {
        KeyKind::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        KeyKind::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        KeyKind::Ed25519 => &rcgen::PKCS_ED25519,
        KeyKind::Rsa => &rcgen::PKCS_RSA_SHA256,
    })?)
}
