//! PEM files to a checked chain and key, and to the authorities that a server's certificate may come from.
//!
//! The only file that reads PEM, and the only one that uses rustls-pemfile. Every way in which a file can be wrong has a
//! sentence of its own, with the configuration key that named the file. Whether a certificate is expired is not decided
//! here: it would keep the gateway from starting with a certificate that is about to be replaced.

use std::fs;
use std::io;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

use crate::config::TlsFiles;
use crate::identity::{CertificateFacts, public_key_bits};

/// Bytes of a PEM file: a bundle of all public authorities has a quarter of it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Our certificate, its chain and its key, known to belong together.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// What the handshake sends and signs with.
    pub certified_key: Arc<CertifiedKey>,
    /// Our certificate.
    pub certificate: CertificateFacts,
    /// What follows it in the file, in that order.
    pub chain: Vec<CertificateFacts>,
}

/// The certificates that a server's chain may end at.
#[derive(Debug, Clone)]
pub struct Authorities {
    /// As rustls takes them; not empty.
    pub roots: Arc<RootCertStore>,
    /// The same, to be read.
    pub certificates: Vec<CertificateFacts>,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {}: {problem}", file.display())]
pub struct MaterialError {
    /// Path of the configuration key, as `upstream.orders.tls.ca_file`.
    pub key: String,
    /// The file that it names.
    pub file: PathBuf,
    /// What is wrong.
    #[source]
    pub problem: Problem,
}

/// What can be wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Not there, not permitted, and what else a file system says.
    #[error("{}", unreadable(.0))]
    Unreadable(#[source] io::Error),
    /// A directory, a pipe, a device.
    #[error("this is not a file")]
    NotAFile,
    /// Over one mebibyte.
    #[error("the file is larger than 1 MiB, which no certificate or key is")]
    TooLarge,
    /// DER or PKCS#12.
    #[error("the file is binary (DER or PKCS#12), not PEM text")]
    Binary,
    /// A block that cannot be decoded or is not what its first line says.
    #[error("block {position} of the file, {label}, is damaged")]
    Damaged {
        /// Counted from 1.
        position: usize,
        /// What stands after `BEGIN`.
        label: String,
    },
    /// No `CERTIFICATE` block.
    #[error("the file holds no certificate ({})", held(.holds))]
    NoCertificate {
        /// Labels of the blocks that are there.
        holds: Vec<String>,
    },
    /// No block with a key.
    #[error("the file holds no private key ({})", held(.holds))]
    NoPrivateKey {
        /// Labels of the blocks that are there.
        holds: Vec<String>,
    },
    /// More than one key.
    #[error("the file holds {count} private keys, and only one can belong to the certificate")]
    SeveralPrivateKeys {
        /// At least 2.
        count: usize,
    },
    /// A key under a passphrase.
    #[error("the private key is encrypted")]
    Encrypted,
    /// A key that TLS here cannot sign with.
    #[error("the private key is of a kind or size that is not supported")]
    UnsupportedKey(#[source] rustls::Error),
    /// Certificate and key are not a pair.
    #[error("the private key does not belong to the certificate in {}{}", certificate_file.display(), elsewhere(*.position))]
    WrongKey {
        /// Where the certificate comes from.
        certificate_file: PathBuf,
        /// The certificate of that file that it does belong to, counted from 1; never 1.
        position: Option<usize>,
    },
    /// Only certificates that may not sign others.
    #[error("no certificate of the file is that of an authority; the first is that of {subject}")]
    NoAuthority {
        /// Whose certificate stands first.
        subject: String,
    },
}

impl Credentials {
    /// Our certificate, then those sent with it.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateFacts> {
        std::iter::once(&self.certificate).chain(&self.chain)
    }

    /// Reads the certificate and key of `upstream.NAME.tls`.
    pub fn read(upstream: &str, files: &TlsFiles) -> Result<Self, MaterialError> {
        let certificate_source = Source::new(upstream, "certificate_file", &files.certificate_file);
        // Where one file holds both, the operator may never have written the other key.
        let key_source = if files.private_key_file == files.certificate_file {
            certificate_source.clone()
        } else {
            Source::new(upstream, "private_key_file", &files.private_key_file)
        };
        let certificates = certificate_source.certificates()?;
        let signing_key = key_source.private_key()?;
        let wrong_key = |position| {
            let certificate_file = files.certificate_file.clone();
            key_source.error(Problem::WrongKey { certificate_file, position })
        };
        match certificates.iter().position(|(_, facts)| is_pair(facts, signing_key.as_ref())) {
            Some(0) => {}
            Some(index) => return Err(wrong_key(Some(index + 1))),
            None => return Err(wrong_key(None)),
        }
        let (chain, facts): (Vec<_>, Vec<_>) = certificates.into_iter().unzip();
        let mut facts = facts.into_iter();
        // Never empty: a certificate matched the key.
        let Some(certificate) = facts.next() else { return Err(wrong_key(None)) };
        let certified_key = Arc::new(CertifiedKey::new(chain, signing_key));
        Ok(Self { certified_key, certificate, chain: facts.collect() })
    }
}

impl Authorities {
    /// Reads the authorities of `upstream.NAME.tls`.
    ///
    /// Takes certificates that may sign others (version 1 cannot say so and is taken), and self-issued ones, which lets a
    /// server's own certificate stand for itself. Others in the file are passed over: rustls would let them sign.
    pub fn read(upstream: &str, files: &TlsFiles) -> Result<Self, MaterialError> {
        let source = Source::new(upstream, "ca_file", &files.ca_file);
        let mut roots = RootCertStore::empty();
        let mut taken = Vec::new();
        let mut first_subject = None;
        for (index, (der, facts)) in source.certificates()?.into_iter().enumerate() {
            first_subject.get_or_insert_with(|| facts.subject.to_string());
            if facts.is_ca || facts.version < 3 || facts.is_self_issued() {
                roots.add(der).map_err(|_| source.damaged(index + 1, "CERTIFICATE"))?;
                taken.push(facts);
            }
        }
        if taken.is_empty() {
            let subject = first_subject.unwrap_or_default();
            return Err(source.error(Problem::NoAuthority { subject }));
        }
        Ok(Self { roots: Arc::new(roots), certificates: taken })
    }

    /// The authority that `certificate` names as its issuer.
    pub fn issuer_of(&self, certificate: &CertificateFacts) -> Option<&CertificateFacts> {
        self.certificates.iter().find(|authority| authority.subject == certificate.issuer)
    }
}

impl MaterialError {
    /// What to do about it, as a sentence for the operator.
    pub fn remedy(&self) -> String {
        let file = self.file.display();
        match &self.problem {
            Problem::Unreadable(cause) if cause.kind() == io::ErrorKind::NotFound => {
                "check the path; a relative one starts at the folder of the configuration file".to_owned()
            }
            Problem::Unreadable(_) => format!("let the user that mongate runs as read {file}"),
            Problem::NotAFile => format!("name a PEM file in {}", self.key),
            Problem::TooLarge => format!("name the PEM file with the certificate or key itself in {}", self.key),
            Problem::Binary => format!(
                "convert it: openssl x509 -inform der -in {file} for a certificate, openssl pkey -inform der for a key, \
                 openssl pkcs12 -nodes for a .p12 or .pfx"
            ),
            Problem::Damaged { .. } => {
                format!("write {file} anew from its source; openssl x509 or openssl pkey shows whether it is whole")
            }
            Problem::NoCertificate { .. } => format!("put the certificate in PEM form (BEGIN CERTIFICATE) into {file}"),
            Problem::NoPrivateKey { .. } => {
                format!("put the key in PEM form into {file}, or name its file in private_key_file")
            }
            Problem::SeveralPrivateKeys { .. } => format!("leave only the key of the certificate in {file}"),
            Problem::Encrypted => {
                format!("decrypt it, and protect the file instead: openssl pkey -in {file} -out client.key")
            }
            Problem::UnsupportedKey(_) => {
                "use an RSA key of 2048 to 8192 bits, an ECDSA key on P-256, P-384 or P-521, or Ed25519".to_owned()
            }
            Problem::WrongKey { position: Some(_), .. } => {
                "put our own certificate first in the file and those of its issuers behind it".to_owned()
            }
            Problem::WrongKey { position: None, .. } => {
                "use the key that the certificate was requested with; after a renewal, replace both".to_owned()
            }
            Problem::NoAuthority { .. } => {
                format!("put the certificate of the authority that signed mongod's certificate into {file}")
            }
        }
    }
}

/// A file, and the configuration key that named it.
#[derive(Clone)]
struct Source<'a> {
    key: String,
    file: &'a Path,
}

/// One `BEGIN` to `END`.
struct Block<'a> {
    label: String,
    text: &'a str,
}

impl<'a> Source<'a> {
    fn new(upstream: &str, key: &str, file: &'a Path) -> Self {
        Self { key: format!("upstream.{upstream}.tls.{key}"), file }
    }

    fn error(&self, problem: Problem) -> MaterialError {
        MaterialError { key: self.key.clone(), file: self.file.to_owned(), problem }
    }

    fn damaged(&self, position: usize, label: &str) -> MaterialError {
        self.error(Problem::Damaged { position, label: label.to_owned() })
    }

    fn certificates(&self) -> Result<Vec<(CertificateDer<'static>, CertificateFacts)>, MaterialError> {
        let text = self.read()?;
        let blocks = self.blocks(&text)?;
        let mut certificates = Vec::new();
        for (index, block) in blocks.iter().enumerate().filter(|(_, block)| block.label == "CERTIFICATE") {
            let damaged = || self.damaged(index + 1, &block.label);
            let Some(rustls_pemfile::Item::X509Certificate(der)) = decode(block) else { return Err(damaged()) };
            let facts = CertificateFacts::from_der(&der).map_err(|_| damaged())?;
            certificates.push((der, facts));
        }
        if certificates.is_empty() {
            return Err(self.error(Problem::NoCertificate { holds: labels(&blocks) }));
        }
        Ok(certificates)
    }

    fn private_key(&self) -> Result<Arc<dyn SigningKey>, MaterialError> {
        let text = self.read()?;
        let blocks = self.blocks(&text)?;
        let keys: Vec<_> =
            blocks.iter().enumerate().filter(|(_, block)| block.label.ends_with("PRIVATE KEY")).collect();
        let (index, block) = match keys.as_slice() {
            [] => return Err(self.error(Problem::NoPrivateKey { holds: labels(&blocks) })),
            [key] => *key,
            _ => return Err(self.error(Problem::SeveralPrivateKeys { count: keys.len() })),
        };
        if block.is_encrypted() {
            return Err(self.error(Problem::Encrypted));
        }
        let der = match decode(block) {
            Some(rustls_pemfile::Item::Pkcs8Key(der)) => PrivateKeyDer::from(der),
            Some(rustls_pemfile::Item::Pkcs1Key(der)) => PrivateKeyDer::from(der),
            Some(rustls_pemfile::Item::Sec1Key(der)) => PrivateKeyDer::from(der),
            _ => return Err(self.damaged(index + 1, &block.label)),
        };
        any_supported_type(&der).map_err(|cause| self.error(Problem::UnsupportedKey(cause)))
    }

    fn read(&self) -> Result<String, MaterialError> {
        let unreadable = |cause| self.error(Problem::Unreadable(cause));
        // Asked before opening: opening a pipe waits for its writer.
        if !fs::metadata(self.file).map_err(unreadable)?.is_file() {
            return Err(self.error(Problem::NotAFile));
        }
        let mut bytes = Vec::new();
        let file = fs::File::open(self.file).map_err(unreadable)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(self.error(Problem::TooLarge));
        }
        // Both binary forms start with a sequence; text around PEM blocks may be in any encoding.
        match bytes.first() {
            Some(0x30) if !bytes.windows(10).any(|window| window == b"-----BEGIN") => Err(self.error(Problem::Binary)),
            _ => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// Cuts a file at its `BEGIN` and `END` lines. What stands between blocks is ignored, as OpenSSL does; a block of an
    /// unknown kind, or under a passphrase, does not spoil the others.
    fn blocks<'t>(&self, text: &'t str) -> Result<Vec<Block<'t>>, MaterialError> {
        let mut blocks = Vec::new();
        let mut rest = text;
        while let Some((start, label)) = next_begin(rest) {
            let end_line = format!("-----END {label}-----");
            let Some(length) = rest.get(start..).and_then(|block| block.find(&end_line)) else {
                return Err(self.damaged(blocks.len() + 1, label));
            };
            let (block, after) = rest.split_at(start + length + end_line.len());
            blocks.push(Block { label: label.to_owned(), text: block.get(start..).unwrap_or_default() });
            rest = after;
        }
        Ok(blocks)
    }
}

impl Block<'_> {
    fn is_encrypted(&self) -> bool {
        self.label == "ENCRYPTED PRIVATE KEY"
            || self.text.lines().any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED"))
    }
}

/// Where the next `-----BEGIN LABEL-----` starts, and its label.
fn next_begin(text: &str) -> Option<(usize, &str)> {
    const BEGIN: &str = "-----BEGIN ";
    let start = text.find(BEGIN)?;
    let label = text.get(start + BEGIN.len()..)?;
    let end = label.find('\n').unwrap_or(label.len());
    let label = label.get(..end)?.trim_end().strip_suffix("-----").unwrap_or("without a label");
    Some((start, label))
}

fn decode(block: &Block<'_>) -> Option<rustls_pemfile::Item> {
    let (item, _) = rustls_pemfile::read_one_from_slice(block.text.as_bytes()).ok()??;
    Some(item)
}

fn is_pair(certificate: &CertificateFacts, key: &dyn SigningKey) -> bool {
    // Compared by hand: rustls's own comparison does not read version 1 certificates.
    key.public_key().and_then(|spki| public_key_bits(&spki)).is_some_and(|bits| bits == certificate.public_key)
}

fn labels(blocks: &[Block<'_>]) -> Vec<String> {
    // Enough for a sentence.
    blocks.iter().take(5).map(|block| crate::identity::printable(&block.label)).collect()
}

fn unreadable(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::NotFound => "the file does not exist".to_owned(),
        kind => format!("the file cannot be read: {kind}"),
    }
}

fn held(labels: &[String]) -> String {
    if labels.is_empty() { "it has no PEM block".to_owned() } else { format!("it has: {}", labels.join(", ")) }
}

fn elsewhere(position: Option<usize>) -> String {
    position.map(|position| format!(", but to certificate {position} of that file")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};

    use super::*;
    use crate::tls::test_pki::{Authority, Folder, Pair, der_children, der_parts, files_of, pem};

    /// Reads `certificate` and `key` from two files; without a key, everything from one.
    fn read(certificate: impl AsRef<[u8]>, key: Option<&str>) -> Result<Credentials, String> {
        let folder = Folder::new();
        let authority = Authority::new("Acme CA");
        let mut upstream = folder.upstream(1, &authority.issue("unused", &[]), &authority.pem);
        let files = files_of(&mut upstream);
        files.certificate_file = folder.write("c.pem", certificate);
        files.private_key_file = match key {
            Some(key) => folder.write("k.pem", key),
            None => files.certificate_file.clone(),
        };
        let folder = format!("{}/", folder.path().display());
        Credentials::read("orders", files).map_err(|error| {
            assert!(!error.remedy().is_empty());
            error.to_string().replace(&folder, "")
        })
    }

    fn read_authorities(ca: impl AsRef<[u8]>) -> Result<Authorities, String> {
        let folder = Folder::new();
        let mut upstream = folder.upstream(1, &Authority::new("Acme CA").issue("unused", &[]), "");
        let files = files_of(&mut upstream);
        files.ca_file = folder.write("ca.pem", ca);
        let folder = format!("{}/", folder.path().display());
        Authorities::read("orders", files).map_err(|error| error.to_string().replace(&folder, ""))
    }

    fn client() -> Pair {
        Authority::new("Acme CA").issue("svc-a", &[])
    }

    fn self_signed(key: &KeyPair) -> String {
        rcgen::CertificateParams::default().self_signed(key).unwrap().pem()
    }

    /// What stands in a PKCS#8 envelope.
    fn inner_key(pkcs8: &[u8]) -> &[u8] {
        der_parts(der_children(der_parts(pkcs8).0)[2]).0
    }

    #[test]
    fn certificate_and_key_are_found_in_any_order_and_with_anything_around() {
        let Pair { certificate_pem, key_pem, .. } = client();
        let authority = Authority::new("Acme CA").pem;
        let encrypted = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x,y\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        for (certificate, key) in [
            (format!("{certificate_pem}{key_pem}"), None),
            (format!("{key_pem}{certificate_pem}"), None),
            (format!("{certificate_pem}{authority}{key_pem}"), None),
            (format!("{certificate_pem}{key_pem}").replace('\n', "\r\n"), None),
            (format!("Bag Attributes\n  name: ü\n{parameters}{key_pem}subject=x\n{certificate_pem}"), None),
            (certificate_pem.clone(), Some(key_pem.as_str())),
            (format!("{certificate_pem}{encrypted}"), Some(key_pem.as_str())),
            (format!("{certificate_pem}{authority}"), Some(key_pem.as_str())),
        ] {
            let credentials = read(&certificate, key).unwrap();
            assert_eq!(credentials.certificate.subject.as_str(), "CN=svc-a,O=Acme");
            assert_eq!(credentials.chain.len(), certificate.matches("BEGIN CERTIFICATE").count() - 1);
            assert_eq!(credentials.certified_key.cert.len(), credentials.chain.len() + 1);
        }
        assert!(read(format!("{certificate_pem}\u{fffd}{key_pem}").replace('\u{fffd}', "\r"), None).is_ok());
    }

    #[test]
    fn keys_are_read_in_all_three_forms() {
        let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let p256 = KeyPair::generate().unwrap();
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        for (pair, key) in [
            (&rsa, rsa.serialize_pem()),
            (&rsa, pem("RSA PRIVATE KEY", inner_key(rsa.serialized_der()))),
            (&p256, p256.serialize_pem()),
            (&p256, pem("EC PRIVATE KEY", inner_key(p256.serialized_der()))),
            (&p384, pem("EC PRIVATE KEY", inner_key(p384.serialized_der()))),
            (&ed25519, ed25519.serialize_pem()),
        ] {
            read(self_signed(pair), Some(&key)).unwrap();
        }
    }

    #[test]
    fn a_version_1_certificate_is_compared_with_its_key() {
        let authority = Authority::new("Acme CA");
        let client = authority.issue_version_1("old");
        let credentials = read(client.combined(), None).unwrap();
        assert_eq!(credentials.certificate.version, 1);
        let wrong = read(&client.certificate_pem, Some(&authority.issue("other", &[]).key_pem)).unwrap_err();
        assert_eq!(
            wrong,
            "upstream.orders.tls.private_key_file: k.pem: the private key does not belong to the certificate in c.pem"
        );
    }

    #[test]
    fn every_bad_file_has_its_own_sentence() {
        let Pair { certificate_pem, key_pem, key_der, der, .. } = client();
        let authority = Authority::new("Acme CA").pem;
        let encrypted = pem("ENCRYPTED PRIVATE KEY", &key_der);
        let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        let torn = &certificate_pem[..certificate_pem.len() / 2];
        let request = pem("CERTIFICATE REQUEST", &der);
        let one = "upstream.orders.tls.certificate_file: c.pem: ";
        let two = "upstream.orders.tls.private_key_file: k.pem: ";
        for (certificate, key, start, expected) in [
            (String::new(), None, one, "the file holds no certificate (it has no PEM block)"),
            ("hello".to_owned(), None, one, "the file holds no certificate (it has no PEM block)"),
            (key_pem.clone(), None, one, "the file holds no certificate (it has: PRIVATE KEY)"),
            (request, None, one, "the file holds no certificate (it has: CERTIFICATE REQUEST)"),
            (certificate_pem.clone(), None, one, "the file holds no private key (it has: CERTIFICATE)"),
            (torn.to_owned(), None, one, "block 1 of the file, CERTIFICATE, is damaged"),
            (pem("CERTIFICATE", b"junk"), None, one, "block 1 of the file, CERTIFICATE, is damaged"),
            (format!("{key_pem}{torn}"), None, one, "block 2 of the file, CERTIFICATE, is damaged"),
            ("-----BEGIN CERTIFICATE".to_owned(), None, one, "block 1 of the file, without a label, is damaged"),
            (certificate_pem.replace("MII", "M!I"), None, one, "block 1 of the file, CERTIFICATE, is damaged"),
            (
                format!("{certificate_pem}{key_pem}{key_pem}"),
                None,
                one,
                "the file holds 2 private keys, and only one can belong to the certificate",
            ),
            (format!("{certificate_pem}{encrypted}"), None, one, "the private key is encrypted"),
            (certificate_pem.clone(), Some(encrypted.as_str()), two, "the private key is encrypted"),
            (certificate_pem.clone(), Some(legacy), two, "the private key is encrypted"),
            (certificate_pem.clone(), Some(""), two, "the file holds no private key (it has no PEM block)"),
            (
                certificate_pem.clone(),
                Some(certificate_pem.as_str()),
                two,
                "the file holds no private key (it has: CERTIFICATE)",
            ),
            (
                certificate_pem.clone(),
                Some(pem("PRIVATE KEY", b"junk").as_str()),
                two,
                "the private key is of a kind or size that is not supported",
            ),
            (
                certificate_pem.clone(),
                Some(client().key_pem.as_str()),
                two,
                "the private key does not belong to the certificate in c.pem",
            ),
            (
                format!("{authority}{certificate_pem}"),
                Some(key_pem.as_str()),
                two,
                "the private key does not belong to the certificate in c.pem, but to certificate 2 of that file",
            ),
            ("x".repeat(1024 * 1024 + 1), None, one, "the file is larger than 1 MiB, which no certificate or key is"),
        ] {
            assert_eq!(read(&certificate, key).unwrap_err(), format!("{start}{expected}"));
        }
        assert_eq!(read(&der, None).unwrap_err(), format!("{one}the file is binary (DER or PKCS#12), not PEM text"));
    }

    #[test]
    fn what_is_no_readable_file_is_told_apart() {
        let folder = Folder::new();
        let mut upstream = folder.upstream(1, &client(), "");
        let mut check = |file: PathBuf, expected: &str, remedy: &str| {
            let files = files_of(&mut upstream);
            files.certificate_file = file;
            let error = Credentials::read("orders", files).unwrap_err();
            assert_eq!(error.problem.to_string(), expected);
            assert!(error.remedy().starts_with(remedy), "{}", error.remedy());
        };
        check(folder.path().join("absent.pem"), "the file does not exist", "check the path");
        check(folder.path().to_owned(), "this is not a file", "name a PEM file");
        check(PathBuf::from("/dev/zero"), "this is not a file", "name a PEM file");
        check(folder.write("x", "").join("y"), "the file cannot be read: not a directory", "let the user");
    }

    #[test]
    fn authorities_are_certificates_that_may_sign_or_stand_for_themselves() {
        let acme = Authority::new("Acme CA");
        let leaf = acme.issue("mongod", &["mongo"]).certificate_pem;
        let pinned = self_signed(&KeyPair::generate().unwrap());
        let old = acme.issue_version_1("old root").certificate_pem;
        for (ca, count) in [
            (acme.pem.clone(), 1),
            (format!("{}{}", acme.pem, Authority::new("Other CA").pem), 2),
            (format!("{leaf}{}", acme.pem), 1),
            (pinned, 1),
            (old, 1),
        ] {
            let authorities = read_authorities(ca).unwrap();
            assert_eq!((authorities.roots.len(), authorities.certificates.len()), (count, count));
        }
    }

    #[test]
    fn files_without_an_authority_are_refused() {
        let client = client();
        let start = "upstream.orders.tls.ca_file: ca.pem: ";
        for (ca, expected) in [
            (String::new(), "the file holds no certificate (it has no PEM block)"),
            (client.key_pem, "the file holds no certificate (it has: PRIVATE KEY)"),
            (
                client.certificate_pem,
                "no certificate of the file is that of an authority; the first is that of CN=svc-a,O=Acme",
            ),
        ] {
            assert_eq!(read_authorities(ca).unwrap_err(), format!("{start}{expected}"));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_cut_into_blocks_or_refused(
            pieces in proptest::collection::vec(
                prop::sample::select(vec![
                    "-----BEGIN ", "-----END ", "-----", "CERTIFICATE", "PRIVATE KEY", "\n", "\r", "é", "MIIB", "Proc-Type: 4,ENCRYPTED",
                ]),
                0..40,
            ),
        ) {
            let text = pieces.concat();
            let source = Source::new("orders", "ca_file", Path::new("ca.pem"));
            for block in source.blocks(&text).into_iter().flatten() {
                let _ = (decode(&block), block.is_encrypted());
            }
        }
    }
}
