//! A leaf certificate with its chain and its private key.
//!
//! Expiry is not checked here: the gateway must be able to start with an expired certificate that is about to be
//! replaced.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

use super::material_error::{Location, MaterialError, MaterialProblem};
use super::pem::{MaterialFile, PrivateKey};
use crate::config::TlsFiles;
use crate::identity::{CertificateFacts, public_key_bits};

/// Read permission for users other than the owner and the group. Group access is fine: Kubernetes grants it to
/// `fsGroup`.
const READ_BY_OTHERS: u32 = 0o004;

/// A leaf certificate with its chain and its private key. The key belongs to the certificate.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// What a handshake sends and signs with.
    pub certified_key: Arc<CertifiedKey>,
    /// The leaf certificate.
    pub certificate: CertificateFacts,
    /// The certificates after it, in the order of the file.
    pub chain: Vec<CertificateFacts>,
    /// Where certificate and chain were read from.
    pub location: Location,
    /// How the private key is stored.
    pub key: KeyStorage,
}

/// How a private key is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStorage {
    /// Where it was read from.
    pub location: Location,
    /// Whether every user of this host may read its file.
    pub is_world_readable: bool,
    /// The password file, if the key is not encrypted and needs none.
    pub unused_password: Option<Location>,
}

/// A certificate and its contents.
pub(super) type Certificate = (CertificateDer<'static>, CertificateFacts);

impl Credentials {
    /// The leaf certificate and its chain.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateFacts> {
        std::iter::once(&self.certificate).chain(&self.chain)
    }

    /// Reads certificate and key. `section` is the path of the table that names the files, as `upstream.orders.tls`.
    pub fn read(section: &str, files: &TlsFiles) -> Result<Self, MaterialError> {
        let certificate_file = MaterialFile::new(section, "certificate_file", &files.certificate_file);
        // If one file contains both, the operator may have set only certificate_file, so messages name that key.
        let key_file = if files.private_key_file == files.certificate_file {
            certificate_file.clone()
        } else {
            MaterialFile::new(section, "private_key_file", &files.private_key_file)
        };
        let password = files
            .private_key_password_file
            .as_ref()
            .map(|file| MaterialFile::new(section, "private_key_password_file", file));
        let certificates = certificate_file.certificates().map_err(|error| detect_swapped(error, &key_file))?;
        let PrivateKey { signing_key, was_encrypted } = key_file.private_key(password.as_ref())?;
        let ca_key = || find_ca_of(&MaterialFile::new(section, "ca_file", &files.ca_file), signing_key.as_ref());
        check_pair(&certificates, signing_key.as_ref(), &certificate_file.location()).map_err(|problem| {
            key_file.error(ca_key().filter(|_| is_in_no_certificate(&problem)).unwrap_or(problem))
        })?;
        let unused_password = password.filter(|_| !was_encrypted).map(|source| source.location());
        let is_world_readable = is_readable_by_others(&files.private_key_file);
        let key = KeyStorage { location: key_file.location(), is_world_readable, unused_password };
        Ok(Self::assembled(certificates, signing_key, certificate_file.location(), key))
    }

    /// Uses a DER chain and key that do not come from files, leaf certificate first. `key` is the path of the
    /// configuration key that names their source.
    ///
    /// Makes the same checks as for files: the certificates can be parsed, the key is supported, and it belongs to the
    /// first certificate.
    pub fn from_parts(
        key: &str,
        chain: Vec<CertificateDer<'static>>,
        private_key: &PrivateKeyDer<'static>,
    ) -> Result<Self, MaterialError> {
        let location = Location { key: key.to_owned(), file: None };
        let error = |problem| MaterialError { location: location.clone(), problem };
        let certificates = read_facts(chain).map_err(error)?;
        let signing_key =
            any_supported_type(private_key).map_err(|cause| error(MaterialProblem::UnsupportedKey(cause)))?;
        check_pair(&certificates, signing_key.as_ref(), &location).map_err(error)?;
        let key = KeyStorage { location: location.clone(), is_world_readable: false, unused_password: None };
        Ok(Self::assembled(certificates, signing_key, location, key))
    }

    /// Whether both have the same certificates in the same order. The key is then the same too: it belongs to the leaf.
    pub fn has_same_chain(&self, other: &Self) -> bool {
        self.certified_key.cert == other.certified_key.cert
    }

    /// `certificates` is not empty.
    fn assembled(
        certificates: Vec<Certificate>,
        signing_key: Arc<dyn SigningKey>,
        location: Location,
        key: KeyStorage,
    ) -> Self {
        let (chain, mut facts): (Vec<_>, Vec<_>) = certificates.into_iter().unzip();
        let certificate = facts.remove(0);
        let certified_key = Arc::new(CertifiedKey::new(chain, signing_key));
        Self { certified_key, certificate, chain: facts, location, key }
    }
}

/// Parses DER certificates; an empty chain is an error.
pub(super) fn read_facts(chain: Vec<CertificateDer<'static>>) -> Result<Vec<Certificate>, MaterialProblem> {
    let mut certificates = Vec::with_capacity(chain.len());
    for (index, der) in chain.into_iter().enumerate() {
        let Ok(facts) = CertificateFacts::from_der(&der) else {
            return Err(MaterialProblem::Damaged { position: index + 1, label: "CERTIFICATE".to_owned() });
        };
        certificates.push((der, facts));
    }
    if certificates.is_empty() { Err(MaterialProblem::Nothing) } else { Ok(certificates) }
}

/// Checks that `key` belongs to the first of `certificates`, which were read from `location`.
fn check_pair(certificates: &[Certificate], key: &dyn SigningKey, location: &Location) -> Result<(), MaterialProblem> {
    let position = match certificates.iter().position(|(_, facts)| is_pair(facts, key)) {
        Some(0) => return Ok(()),
        Some(index) => Some(index + 1),
        None => None,
    };
    Err(MaterialProblem::WrongKey { certificate: location.file_or_key(), position })
}

/// Whether the key belongs to no certificate of the file.
fn is_in_no_certificate(problem: &MaterialProblem) -> bool {
    matches!(problem, MaterialProblem::WrongKey { position: None, .. })
}

/// The CA certificate in `ca_file` that `key` belongs to.
fn find_ca_of(ca_file: &MaterialFile<'_>, key: &dyn SigningKey) -> Option<MaterialProblem> {
    let cas = ca_file.certificates().ok()?;
    let (_, owner) = cas.iter().find(|(_, facts)| is_pair(facts, key))?;
    Some(MaterialProblem::CaKey { subject: owner.subject.to_string() })
}

/// Replaces the error if the certificate's file contains the key, and the key's file the certificate.
fn detect_swapped(error: MaterialError, key_file: &MaterialFile<'_>) -> MaterialError {
    let holds_key = match &error.problem {
        MaterialProblem::NoCertificate { labels } => labels.iter().any(|label| label.ends_with("PRIVATE KEY")),
        _ => false,
    };
    if holds_key && key_file.certificates().is_ok() {
        let key_file = key_file.file().to_owned();
        return MaterialError { problem: MaterialProblem::Swapped { key_file }, ..error };
    }
    error
}

fn is_pair(certificate: &CertificateFacts, key: &dyn SigningKey) -> bool {
    // rustls's own comparison does not read certificates of version 1.
    key.public_key().and_then(|spki| public_key_bits(&spki)).is_some_and(|bits| bits == certificate.public_key)
}

fn is_readable_by_others(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & READ_BY_OTHERS != 0)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use pkcs8::EncryptedPrivateKeyInfoRef;
    use pkcs8::der::Encode as _;
    use pkcs8::der::asn1::OctetStringRef;
    use pkcs8::pkcs5::pbes2::{EncryptionScheme, Kdf, Parameters, Pbkdf2Params, Pbkdf2Prf, Salt, ScryptParams};
    use pkcs8::pkcs5::scrypt::Params;
    use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};

    use super::*;
    use crate::tls::TrustAnchors;
    use crate::tls::test_pki::{
        CertificateAuthority, Folder, IssuedCertificate, der_children, der_parts, files_of, pem,
    };

    /// A key that is encrypted in the traditional format of OpenSSL.
    const TRADITIONAL: &str = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
                               DEK-Info: AES-256-CBC,00\n\nAAAA\n\
                               -----END RSA PRIVATE KEY-----\n";

    /// Reads `certificate` and `key` from two files; without a key, everything from one.
    fn read(certificate: impl AsRef<[u8]>, key: Option<&str>) -> Result<Credentials, String> {
        let folder = Folder::new();
        let ca = CertificateAuthority::new("Acme CA");
        let mut upstream = folder.upstream(1, &ca.issue("unused", &[]), &ca.pem);
        let files = files_of(&mut upstream);
        files.certificate_file = folder.write("c.pem", certificate);
        files.private_key_file = match key {
            Some(key) => folder.write("k.pem", key),
            None => files.certificate_file.clone(),
        };
        let folder = format!("{}/", folder.path().display());
        Credentials::read("upstream.orders.tls", files).map_err(|error| {
            assert!(!error.remedy().is_empty());
            error.to_string().replace(&folder, "")
        })
    }

    fn client() -> IssuedCertificate {
        CertificateAuthority::new("Acme CA").issue("svc-a", &[])
    }

    fn self_signed(key: &KeyPair) -> String {
        rcgen::CertificateParams::default().self_signed(key).unwrap().pem()
    }

    /// The key in a PKCS#8 envelope.
    fn inner_key(pkcs8: &[u8]) -> &[u8] {
        der_parts(der_children(der_parts(pkcs8).0)[2]).0
    }

    #[test]
    fn certificate_and_key_are_found_in_any_order_and_among_other_text() {
        let IssuedCertificate { certificate_pem, key_pem, .. } = client();
        let ca = CertificateAuthority::new("Acme CA").pem;
        let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        for (certificate, key) in [
            (format!("{certificate_pem}{key_pem}"), None),
            (format!("{key_pem}{certificate_pem}"), None),
            (format!("{certificate_pem}{ca}{key_pem}"), None),
            (format!("{certificate_pem}{key_pem}").replace('\n', "\r\n"), None),
            (format!("Bag Attributes\n  name: ü\n{parameters}{key_pem}subject=x\n{certificate_pem}"), None),
            (certificate_pem.clone(), Some(key_pem.as_str())),
            (format!("{certificate_pem}{TRADITIONAL}"), Some(key_pem.as_str())),
            (format!("{certificate_pem}{ca}"), Some(key_pem.as_str())),
        ] {
            let credentials = read(&certificate, key).unwrap();
            assert_eq!(credentials.certificate.subject.as_str(), "CN=svc-a,O=Acme");
            assert_eq!(credentials.chain.len(), certificate.matches("BEGIN CERTIFICATE").count() - 1);
            assert_eq!(credentials.certified_key.cert.len(), credentials.chain.len() + 1);
        }
        assert!(read(format!("{certificate_pem}\u{fffd}{key_pem}").replace('\u{fffd}', "\r"), None).is_ok());
    }

    #[test]
    fn keys_are_read_in_all_three_formats() {
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
        let ca = CertificateAuthority::new("Acme CA");
        let client = ca.issue_version_1("old");
        let credentials = read(client.combined(), None).unwrap();
        assert_eq!(credentials.certificate.version, 1);
        let wrong = read(&client.certificate_pem, Some(&ca.issue("other", &[]).key_pem)).unwrap_err();
        assert_eq!(
            wrong,
            "upstream.orders.tls.private_key_file: k.pem: the private key does not belong to the certificate in c.pem"
        );
    }

    #[test]
    fn every_unusable_file_has_its_own_message() {
        let IssuedCertificate { certificate_pem, key_pem, key_der, der, .. } = client();
        let ca = CertificateAuthority::new("Acme CA").pem;
        let encrypted = pem("ENCRYPTED PRIVATE KEY", &key_der);
        let torn = &certificate_pem[..certificate_pem.len() / 2];
        let request = pem("CERTIFICATE REQUEST", &der);
        let one = "upstream.orders.tls.certificate_file: c.pem: ";
        let two = "upstream.orders.tls.private_key_file: k.pem: ";
        for (certificate, key, start, expected) in [
            (String::new(), None, one, "the file contains no certificate (it contains no PEM block)"),
            ("hello".to_owned(), None, one, "the file contains no certificate (it contains no PEM block)"),
            (key_pem.clone(), None, one, "the file contains no certificate (it contains: PRIVATE KEY)"),
            (request, None, one, "the file contains no certificate (it contains: CERTIFICATE REQUEST)"),
            (certificate_pem.clone(), None, one, "the file contains no private key (it contains: CERTIFICATE)"),
            (torn.to_owned(), None, one, "block 1 (CERTIFICATE) is damaged"),
            (pem("CERTIFICATE", b"junk"), None, one, "block 1 (CERTIFICATE) is damaged"),
            (format!("{key_pem}{torn}"), None, one, "block 2 (CERTIFICATE) is damaged"),
            ("-----BEGIN CERTIFICATE".to_owned(), None, one, "block 1 (without a label) is damaged"),
            (certificate_pem.replace("MII", "M!I"), None, one, "block 1 (CERTIFICATE) is damaged"),
            (
                format!("{certificate_pem}{key_pem}{key_pem}"),
                None,
                one,
                "the file contains 2 private keys; only one can belong to the certificate",
            ),
            (
                format!("{certificate_pem}{encrypted}"),
                None,
                one,
                "the private key is encrypted, and private_key_password_file is not set",
            ),
            (
                certificate_pem.clone(),
                Some(encrypted.as_str()),
                two,
                "the private key is encrypted, and private_key_password_file is not set",
            ),
            (
                certificate_pem.clone(),
                Some(TRADITIONAL),
                two,
                "the private key is encrypted in OpenSSL's traditional format (Proc-Type: 4,ENCRYPTED), which is not \
                 supported",
            ),
            (certificate_pem.clone(), Some(""), two, "the file contains no private key (it contains no PEM block)"),
            (
                certificate_pem.clone(),
                Some(certificate_pem.as_str()),
                two,
                "the file contains no private key (it contains: CERTIFICATE)",
            ),
            (
                certificate_pem.clone(),
                Some(pem("PRIVATE KEY", b"junk").as_str()),
                two,
                "the private key has an unsupported type or size",
            ),
            (
                certificate_pem.clone(),
                Some(client().key_pem.as_str()),
                two,
                "the private key does not belong to the certificate in c.pem",
            ),
            (
                format!("{ca}{certificate_pem}"),
                Some(key_pem.as_str()),
                two,
                "the private key does not belong to the certificate in c.pem, but to certificate 2 of that file",
            ),
            ("x".repeat(1024 * 1024 + 1), None, one, "the file is larger than the limit of 1 MiB"),
        ] {
            assert_eq!(read(&certificate, key).unwrap_err(), format!("{start}{expected}"));
        }
        assert_eq!(read(&der, None).unwrap_err(), format!("{one}the file is binary (DER or PKCS#12), not PEM text"));
    }

    /// Reads a certificate and an encrypted key, with a password file if `password` is its contents.
    fn read_encrypted(certificate: &str, key: &str, password: Option<&str>) -> Result<Credentials, MaterialError> {
        let folder = Folder::new();
        let files = TlsFiles {
            certificate_file: folder.write("c.pem", certificate),
            private_key_file: folder.write("k.pem", key),
            private_key_password_file: password.map(|text| folder.write("password", text)),
            ca_file: folder.path().join("ca.pem"),
            partial_chain: false,
            crl_file: None,
        };
        Credentials::read("upstream.orders.tls", &files)
    }

    fn encrypted(key: &[u8], kdf: Kdf, encryption: EncryptionScheme) -> String {
        let parameters = Parameters { kdf, encryption };
        let data = parameters.encrypt("sesame", key).unwrap();
        let info = EncryptedPrivateKeyInfoRef {
            encryption_algorithm: parameters.into(),
            encrypted_data: OctetStringRef::new(&data).unwrap(),
        };
        pem("ENCRYPTED PRIVATE KEY", &info.to_der().unwrap())
    }

    fn pbkdf2(prf: Pbkdf2Prf) -> Kdf {
        Pbkdf2Params { salt: Salt::new([7; 8]).unwrap(), iteration_count: 2048, key_length: None, prf }.into()
    }

    #[test]
    fn an_encrypted_key_is_read_whatever_tool_wrote_it() {
        let IssuedCertificate { certificate_pem, key_der, .. } = client();
        let scrypt = ScryptParams::from_params_and_salt(Params::new(4, 8, 1).unwrap(), &[7; 16]).unwrap();
        for key in [
            // OpenSSL 3 and 1.1; 1.0.2 with -v2; PKCS#8 of others.
            encrypted(&key_der, pbkdf2(Pbkdf2Prf::HmacWithSha256), EncryptionScheme::Aes256Cbc { iv: [9; 16] }),
            encrypted(&key_der, pbkdf2(Pbkdf2Prf::HmacWithSha1), EncryptionScheme::DesEde3Cbc { iv: [9; 8] }),
            encrypted(&key_der, pbkdf2(Pbkdf2Prf::HmacWithSha512), EncryptionScheme::Aes128Cbc { iv: [9; 16] }),
            encrypted(&key_der, scrypt.into(), EncryptionScheme::Aes192Cbc { iv: [9; 16] }),
        ] {
            for password in ["sesame", "sesame\n", "sesame\r\n"] {
                let credentials = read_encrypted(&certificate_pem, &key, Some(password)).unwrap();
                assert_eq!(credentials.certificate.subject.as_str(), "CN=svc-a,O=Acme");
                assert_eq!(credentials.key.unused_password, None);
            }
            for password in ["sesam", "sesame\n\n", "sesame ", "0sesame", "Sesame"] {
                let error = read_encrypted(&certificate_pem, &key, Some(password)).unwrap_err();
                assert!(matches!(error.problem, MaterialProblem::WrongPassword { .. }), "{password:?}: {error}");
                assert!(!format!("{error:?} {error} {}", error.remedy()).contains("esam"), "{error:?}");
            }
        }
    }

    #[test]
    fn each_problem_of_an_encrypted_key_has_its_own_message() {
        let IssuedCertificate { certificate_pem, key_der, key_pem, .. } = client();
        let kdf = pbkdf2(Pbkdf2Prf::HmacWithSha256);
        let key = encrypted(&key_der, kdf.clone(), EncryptionScheme::Aes256Cbc { iv: [9; 16] });
        let garbage = encrypted(b"no key at all", kdf, EncryptionScheme::Aes256Cbc { iv: [9; 16] });
        // pbeWithMD5AndDES-CBC, the default of OpenSSL before 1.1.
        let pbes1 = [
            &[0x30, 0x2f, 0x30, 0x1b, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x03][..],
            &[0x30, 0x0e, 0x04, 0x08, 1, 2, 3, 4, 5, 6, 7, 8, 0x02, 0x02, 0x08, 0x00, 0x04, 0x10],
            &[0; 16],
        ]
        .concat();
        for (key, password, sentence, remedy) in [
            (&key, None, "private_key_password_file is not set", "upstream.orders.tls.private_key_password_file"),
            (&key, Some(""), "the file is empty; it must contain a password", "write the password into"),
            (&key, Some("\n"), "the file is empty; it must contain a password", "write the password into"),
            (&garbage, Some("sesame"), "is not the password of the private key", "write the correct password"),
            (
                &pem("ENCRYPTED PRIVATE KEY", &pbes1),
                Some("sesame"),
                "such as DES, RC2 or Camellia",
                "openssl pkcs8 -topk8 -v2 aes-256-cbc",
            ),
            (&pem("ENCRYPTED PRIVATE KEY", b"junk"), Some("sesame"), "is damaged, or", "openssl pkcs8"),
            (&TRADITIONAL.to_owned(), Some("sesame"), "Proc-Type: 4,ENCRYPTED", "openssl pkcs8 -topk8 -v2 aes-256-cbc"),
        ] {
            let error = read_encrypted(&certificate_pem, key, password).unwrap_err();
            assert!(error.to_string().contains(sentence), "{error}");
            assert!(error.remedy().contains(remedy), "{}", error.remedy());
        }
        let unencrypted = read_encrypted(&certificate_pem, &key_pem, Some("sesame")).unwrap();
        let location = unencrypted.key.unused_password.unwrap();
        assert_eq!(location.key, "upstream.orders.tls.private_key_password_file");
    }

    #[test]
    fn files_that_are_mixed_up_are_recognised() {
        let acme = CertificateAuthority::new("Acme CA");
        let client = acme.issue("svc-a", &[]);
        let folder = Folder::new();
        let file = |name, content: &str| folder.write(name, content);
        let (certificate, key) = (file("c.pem", &client.certificate_pem), file("k.pem", &client.key_pem));
        let (ca, ca_key) = (file("ca.pem", &acme.pem), file("ca.key", &acme.key().serialize_pem()));
        let both = file("both.pem", &client.combined());
        let read = |certificate_file: &PathBuf, private_key_file: &PathBuf, ca_file: &PathBuf| {
            let files = TlsFiles {
                certificate_file: certificate_file.clone(),
                private_key_file: private_key_file.clone(),
                private_key_password_file: None,
                ca_file: ca_file.clone(),
                partial_chain: false,
                crl_file: None,
            };
            let error = match Credentials::read("listener.shop.tls", &files) {
                Err(error) => error,
                Ok(_) => TrustAnchors::read("listener.shop.tls", &files).unwrap_err(),
            };
            error.to_string().replace(&format!("{}/", folder.path().display()), "")
        };
        for (found, expected) in [
            (
                read(&key, &certificate, &ca),
                "listener.shop.tls.certificate_file: k.pem: the file contains a private key and no certificate, and \
                 c.pem contains the certificate: the two files are swapped",
            ),
            (
                read(&certificate, &ca_key, &ca),
                "listener.shop.tls.private_key_file: ca.key: the private key belongs to the CA certificate in ca_file \
                 (CN=Acme CA,O=Acme), not to a leaf certificate",
            ),
            (
                read(&both, &both, &both),
                "listener.shop.tls.ca_file: both.pem: this is the certificate of certificate_file (CN=svc-a,O=Acme), \
                 not a CA certificate",
            ),
            (
                read(&both, &both, &certificate),
                "listener.shop.tls.ca_file: c.pem: this is the certificate of certificate_file (CN=svc-a,O=Acme), \
                 not a CA certificate",
            ),
            (
                read(&both, &both, &key),
                "listener.shop.tls.ca_file: k.pem: the file contains no certificate (it contains: PRIVATE KEY)",
            ),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn each_unreadable_file_has_its_own_message() {
        let folder = Folder::new();
        let mut upstream = folder.upstream(1, &client(), "");
        let mut check = |file: PathBuf, expected: &str, remedy: &str| {
            let files = files_of(&mut upstream);
            files.certificate_file = file;
            let error = Credentials::read("upstream.orders.tls", files).unwrap_err();
            assert_eq!(error.problem.to_string(), expected);
            assert!(error.remedy().starts_with(remedy), "{}", error.remedy());
        };
        check(folder.path().join("absent.pem"), "the file does not exist", "check the path");
        check(
            folder.path().to_owned(),
            "this is not a regular file",
            "set upstream.orders.tls.certificate_file to a PEM file",
        );
        check(
            PathBuf::from("/dev/zero"),
            "this is not a regular file",
            "set upstream.orders.tls.certificate_file to a PEM file",
        );
        check(folder.write("x", "").join("y"), "the file cannot be read: not a directory", "check the path");
        let circle = folder.path().join("circle");
        std::os::unix::fs::symlink(&circle, &circle).unwrap();
        check(circle, "the file cannot be read: too many levels of symbolic links", "correct the symbolic links");
    }
}
