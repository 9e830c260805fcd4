//! Errors of certificates, keys and revocation lists.
//!
//! Each error names the configuration key and the file, has its own sentence, and comes with a remedy. No text contains
//! any part of a key or password.

use std::fmt;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

/// Where something was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Path of the configuration key, as `upstream.orders.tls.ca_file`.
    pub key: String,
    /// The file that the key names; `None` if the key names something else.
    pub file: Option<PathBuf>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}: {}", self.key, file.display()),
            None => f.write_str(&self.key),
        }
    }
}

impl Location {
    /// The path of the file, or of the key if there is no file.
    pub(super) fn file_or_key(&self) -> String {
        self.file.as_ref().map_or_else(|| self.key.clone(), |file| file.display().to_string())
    }

    /// The path of another key of the same table.
    pub(super) fn sibling_key(&self, key: &str) -> String {
        let table = self.key.rsplit_once('.').map_or("", |(table, _)| table);
        format!("{table}.{key}")
    }
}

/// A certificate, key or revocation list that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{location}: {problem}")]
pub struct MaterialError {
    /// Where it was read from.
    pub location: Location,
    /// What is wrong with it.
    #[source]
    pub problem: MaterialProblem,
}

/// What is wrong with a file, or with what another source provided.
#[derive(Debug, thiserror::Error)]
pub enum MaterialProblem {
    /// The file does not exist or cannot be read.
    #[error("{}", unreadable(.0))]
    Unreadable(#[source] io::Error),
    /// A directory, a pipe or a device.
    #[error("this is not a regular file")]
    NotAFile,
    /// Larger than any file of its kind.
    #[error("the file is larger than the limit of {mebibytes} MiB")]
    TooLarge {
        /// The limit: 1 MiB, or 16 MiB for revocation lists.
        mebibytes: u64,
    },
    /// DER or PKCS#12.
    #[error("the file is binary (DER or PKCS#12), not PEM text")]
    Binary,
    /// A PEM block that cannot be decoded, or does not contain what its label says.
    #[error("block {position} ({label}) is damaged")]
    Damaged {
        /// Counted from 1.
        position: usize,
        /// The text after `BEGIN`.
        label: String,
    },
    /// A source other than a file provided no certificates.
    #[error("there is no certificate")]
    Nothing,
    /// The file has no `CERTIFICATE` block.
    #[error("the file contains no certificate ({})", contents(.labels))]
    NoCertificate {
        /// Labels of its PEM blocks.
        labels: Vec<String>,
    },
    /// The file has no block with a private key.
    #[error("the file contains no private key ({})", contents(.labels))]
    NoPrivateKey {
        /// Labels of its PEM blocks.
        labels: Vec<String>,
    },
    /// The file has more than one private key.
    #[error("the file contains {count} private keys; only one can belong to the certificate")]
    SeveralPrivateKeys {
        /// At least 2.
        count: usize,
    },
    /// The file for the certificate contains the key, and the file for the key contains the certificate.
    #[error(
        "the file contains a private key and no certificate, and {} contains the certificate: the two files are \
         swapped",
        key_file.display()
    )]
    Swapped {
        /// The file that contains the certificate.
        key_file: PathBuf,
    },
    /// The key is encrypted, and no password is configured.
    #[error("the private key is encrypted, and private_key_password_file is not set")]
    Encrypted,
    /// The key is encrypted in the format that OpenSSL used before PKCS#8.
    #[error(
        "the private key is encrypted in OpenSSL's traditional format (Proc-Type: 4,ENCRYPTED), which is not supported"
    )]
    EncryptedTraditionally,
    /// PBES1, DES, RC2, or a damaged block.
    #[error("the private key is damaged, or encrypted with an unsupported algorithm (such as DES, RC2 or Camellia)")]
    UnsupportedEncryption,
    /// Decryption does not result in a key.
    #[error("the password in {} is not the password of the private key", password_file.display())]
    WrongPassword {
        /// The file that contains the password.
        password_file: PathBuf,
    },
    /// An empty password file.
    #[error("the file is empty; it must contain a password")]
    EmptyPassword,
    /// A key that rustls cannot sign with.
    #[error("the private key has an unsupported type or size")]
    UnsupportedKey(#[source] rustls::Error),
    /// Certificate and key do not belong together.
    #[error("the private key does not belong to the certificate in {certificate}{}", other_position(*.position))]
    WrongKey {
        /// Where the certificate was read from.
        certificate: String,
        /// The certificate of that file that the key belongs to, counted from 1; never 1.
        position: Option<usize>,
    },
    /// The key of a CA certificate.
    #[error("the private key belongs to the CA certificate in ca_file ({subject}), not to a leaf certificate")]
    CaKey {
        /// Subject of the CA certificate.
        subject: String,
    },
    /// None of the certificates can be a trust anchor.
    #[error("there is no CA certificate among the certificates; the first one is {subject}")]
    NoTrustAnchor {
        /// Subject of the first certificate.
        subject: String,
    },
    /// None of the CA certificates is self-signed, and `partial_chain` is off.
    #[error("the file contains only intermediate CA certificates; the first one is {subject}, issued by {issuer}")]
    OnlyIntermediates {
        /// Subject of the first certificate.
        subject: String,
        /// Its issuer.
        issuer: String,
    },
    /// The leaf certificate, where CA certificates are expected.
    #[error("this is the certificate of certificate_file ({subject}), not a CA certificate")]
    OwnCertificate {
        /// Subject of the certificate.
        subject: String,
    },
    /// The file has no `X509 CRL` block.
    #[error("the file contains no revocation list ({})", contents(.labels))]
    NoRevocationList {
        /// Labels of its PEM blocks.
        labels: Vec<String>,
    },
    /// A revocation list that cannot be evaluated correctly.
    #[error("block {position} (X509 CRL) {unusable}")]
    RevocationList {
        /// Counted from 1.
        position: usize,
        /// What is wrong with it.
        unusable: UnusableList,
    },
}

/// Why a revocation list cannot be used. `Display` completes a sentence about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnusableList {
    /// The bytes are not a revocation list.
    #[error("is damaged")]
    Damaged,
    /// It contains only the changes to another list.
    #[error("is a delta CRL, which is not supported")]
    Delta,
    /// It contains certificates of other issuers than its signer.
    #[error("is an indirect CRL, which is not supported")]
    Indirect,
    /// It has a critical extension that the gateway cannot evaluate.
    #[error("has an unknown critical extension")]
    UnknownExtension,
}

impl MaterialError {
    /// What the operator can do about it.
    pub fn remedy(&self) -> String {
        let (key, file) = (&self.location.key, self.location.file_or_key());
        match &self.problem {
            MaterialProblem::Unreadable(cause) if cause.kind() == io::ErrorKind::NotFound => {
                "check the path; a relative path starts at the directory of the configuration file".to_owned()
            }
            MaterialProblem::Unreadable(cause) => unreadable_remedy(cause, &file),
            MaterialProblem::NotAFile => format!("set {key} to a PEM file"),
            MaterialProblem::TooLarge { .. } => format!("set {key} to the PEM file itself"),
            MaterialProblem::Binary => format!(
                "convert it to PEM: openssl x509 -inform der -in {file} (certificate), openssl pkey -inform der (key), \
                 openssl crl -inform der (revocation list), openssl pkcs12 -nodes (.p12 or .pfx)"
            ),
            MaterialProblem::Damaged { .. } => {
                format!("write {file} again from its source; openssl x509, pkey or crl shows whether it is complete")
            }
            MaterialProblem::Nothing => format!("check the source that {key} names"),
            MaterialProblem::NoCertificate { .. } => {
                format!("put the certificate into {file} in PEM format (BEGIN CERTIFICATE)")
            }
            MaterialProblem::NoPrivateKey { .. } => {
                format!("put the private key into {file} in PEM format, or set private_key_file to its file")
            }
            MaterialProblem::SeveralPrivateKeys { .. } => {
                format!("leave only the private key of the certificate in {file}")
            }
            MaterialProblem::Swapped { .. } => {
                format!(
                    "swap {} and {}",
                    self.location.sibling_key("certificate_file"),
                    self.location.sibling_key("private_key_file")
                )
            }
            MaterialProblem::Encrypted => format!(
                "set {} to a file that contains the password, or decrypt the key and protect its file instead: \
                 openssl pkey -in {file} -out NEW",
                self.location.sibling_key("private_key_password_file")
            ),
            MaterialProblem::EncryptedTraditionally => format!(
                "convert it to PKCS#8, the password can stay: openssl pkcs8 -topk8 -v2 aes-256-cbc -in {file} -out NEW"
            ),
            MaterialProblem::UnsupportedEncryption => format!(
                "encrypt it again, the password can stay: openssl pkcs8 -topk8 -v2 aes-256-cbc -in {file} -out NEW \
                 (OpenSSL 3 reads the oldest formats with -provider legacy -provider default)"
            ),
            MaterialProblem::WrongPassword { .. } => format!(
                "write the correct password into the file; one trailing line end is ignored, every other character \
                 counts. openssl pkey -in {file} -noout asks for the password"
            ),
            MaterialProblem::EmptyPassword => {
                format!("write the password into {file}, or remove {key} if the private key has no password")
            }
            MaterialProblem::UnsupportedKey(_) => {
                "use an RSA key of 2048 to 8192 bits, an ECDSA key on P-256, P-384 or P-521, or an Ed25519 key"
                    .to_owned()
            }
            MaterialProblem::WrongKey { position: Some(_), .. } => {
                "put the leaf certificate first in the file, and the certificates of its issuers after it".to_owned()
            }
            MaterialProblem::WrongKey { position: None, .. } => {
                "use the key that the certificate was requested with; after a renewal, replace both files".to_owned()
            }
            MaterialProblem::CaKey { .. } => {
                "use the key that the leaf certificate was requested with, and remove the \
                                              CA's private key from this host"
                    .to_owned()
            }
            MaterialProblem::NoTrustAnchor { .. } | MaterialProblem::OwnCertificate { .. } => {
                format!("put the certificate of the CA that signed the peer's certificate into {file}")
            }
            MaterialProblem::OnlyIntermediates { subject, issuer } => format!(
                "add the certificate of {issuer} to {file}, or set {} = true to trust {subject} itself",
                self.location.sibling_key("partial_chain")
            ),
            MaterialProblem::NoRevocationList { .. } => {
                format!("put the revocation list (CRL) into {file} in PEM format (BEGIN X509 CRL)")
            }
            MaterialProblem::RevocationList { .. } => {
                "use a complete CRL that is signed by the issuer of its certificates; openssl crl -text shows its \
                 contents"
                    .to_owned()
            }
        }
    }
}

fn unreadable(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::NotFound => "the file does not exist".to_owned(),
        _ => format!("the file cannot be read: {}", system_sentence(cause)),
    }
}

/// The sentence of the operating system, without the number that Rust adds, such as "too many open files".
fn system_sentence(cause: &io::Error) -> String {
    let text = cause.to_string();
    let sentence = text.split(" (os error").next().unwrap_or(&text);
    let mut characters = sentence.chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}

fn unreadable_remedy(cause: &io::Error, file: &str) -> String {
    match cause.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE) => {
            "raise the limit of open files (ulimit -n, LimitNOFILE), or lower max_connections".to_owned()
        }
        Some(Errno::LOOP) => format!("correct the symbolic links of {file}: they lead back to themselves"),
        Some(Errno::NOTDIR) => format!("check the path {file}: a part of it is not a directory"),
        Some(Errno::NAMETOOLONG) => "use a shorter path".to_owned(),
        Some(Errno::ACCESS | Errno::PERM) => {
            format!("allow the user that mongate runs as to read {file}, and to search its directories")
        }
        _ => format!("check the file system of {file}, and the permissions of the user that mongate runs as"),
    }
}

fn contents(labels: &[String]) -> String {
    if labels.is_empty() {
        "it contains no PEM block".to_owned()
    } else {
        format!("it contains: {}", labels.join(", "))
    }
}

fn other_position(position: Option<usize>) -> String {
    position.map(|position| format!(", but to certificate {position} of that file")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_has_its_own_sentence_and_remedy() {
        let location = Location { key: "upstream.orders.tls.ca_file".to_owned(), file: Some(PathBuf::from("ca.pem")) };
        for (errno, sentence, remedy) in [
            (Errno::MFILE, "too many open files", "raise the limit of open files"),
            (Errno::NFILE, "too many open files in system", "raise the limit of open files"),
            (Errno::LOOP, "too many levels of symbolic links", "correct the symbolic links of ca.pem"),
            (Errno::NOTDIR, "not a directory", "check the path ca.pem"),
            (Errno::NAMETOOLONG, "file name too long", "use a shorter path"),
            (Errno::ACCESS, "permission denied", "allow the user that mongate runs as to read ca.pem"),
            (Errno::IO, "input/output error", "check the file system of ca.pem"),
        ] {
            let problem = MaterialProblem::Unreadable(errno.into());
            let error = MaterialError { location: location.clone(), problem };
            assert_eq!(error.problem.to_string(), format!("the file cannot be read: {sentence}"));
            assert!(error.remedy().starts_with(remedy), "{}", error.remedy());
        }
    }
}
