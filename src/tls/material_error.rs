//! What can be wrong with certificates and keys, in words for the operator.
//!
//! Every way in which a file can be wrong has a sentence of its own, with the configuration key that named the file.
//! Nothing of a key or a password is ever part of one.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::revocation::UnusableList;

/// Where something was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Path of the configuration key, as `upstream.orders.tls.ca_file`.
    pub key: String,
    /// The file that it names, if it is one.
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
    /// The file, or what stands in its place in a sentence.
    pub(super) fn place(&self) -> String {
        self.file.as_ref().map_or_else(|| self.key.clone(), |file| file.display().to_string())
    }

    /// The path of another key of the same table.
    pub(super) fn beside(&self, key: &str) -> String {
        let table = self.key.rsplit_once('.').map_or("", |(table, _)| table);
        format!("{table}.{key}")
    }
}

/// Material that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{location}: {problem}")]
pub struct MaterialError {
    /// Where it comes from.
    pub location: Location,
    /// What is wrong.
    #[source]
    pub problem: MaterialProblem,
}

/// What can be wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum MaterialProblem {
    /// Not there, not permitted, and what else a file system says.
    #[error("{}", unreadable(.0))]
    Unreadable(#[source] io::Error),
    /// A directory, a pipe, a device.
    #[error("this is not a file")]
    NotAFile,
    /// Over one mebibyte, or sixteen for revocation lists.
    #[error("the file is larger than {mebibytes} MiB, which {}", what_is_smaller(*.mebibytes))]
    TooLarge {
        /// What a file of this kind may have.
        mebibytes: u64,
    },
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
    /// Nothing, where certificates come in another way than by a file.
    #[error("there is no certificate")]
    Nothing,
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
    /// A certificate and a key, each where the other is looked for.
    #[error("the file holds a private key and no certificate, and {} holds the certificate: they are exchanged", key_file.display())]
    Exchanged {
        /// Where the certificate is.
        key_file: PathBuf,
    },
    /// A key under a password that is not named.
    #[error("the private key is encrypted, and no private_key_password_file is named")]
    Encrypted,
    /// A key in the form that OpenSSL wrote before PKCS#8.
    #[error("the private key is encrypted in OpenSSL's old form (Proc-Type: 4,ENCRYPTED), which is not read")]
    EncryptedTraditionally,
    /// PBES1, DES, RC2, or a damaged block.
    #[error("the private key is encrypted in a way that is not read (as DES, RC2 or Camellia), or damaged")]
    UnsupportedEncryption,
    /// What comes out is no key.
    #[error("the password in {} is not that of the private key", password_file.display())]
    WrongPassword {
        /// Where the password comes from.
        password_file: PathBuf,
    },
    /// A password file with nothing in it.
    #[error("the file is empty, where a password was expected")]
    EmptyPassword,
    /// A key that TLS here cannot sign with.
    #[error("the private key is of a kind or size that is not supported")]
    UnsupportedKey(#[source] rustls::Error),
    /// Certificate and key are not a pair.
    #[error("the private key does not belong to the certificate in {certificate}{}", elsewhere(*.position))]
    WrongKey {
        /// Where the certificate comes from.
        certificate: String,
        /// The certificate of that file that it does belong to, counted from 1; never 1.
        position: Option<usize>,
    },
    /// The authority's own key.
    #[error("the private key belongs to the certificate in ca_file ({subject}): it is the authority's, not our own")]
    AuthorityKey {
        /// Whose it is.
        subject: String,
    },
    /// Only certificates that may not sign others.
    #[error("no certificate of the file is that of an authority; the first is that of {subject}")]
    NoAuthority {
        /// Whose certificate stands first.
        subject: String,
    },
    /// Our own certificate where an authority's is looked for.
    #[error("this is our own certificate ({subject}), not that of an authority")]
    OwnCertificate {
        /// Whose it is.
        subject: String,
    },
    /// No `X509 CRL` block.
    #[error("the file holds no revocation list ({})", held(.holds))]
    NoRevocationList {
        /// Labels of the blocks that are there.
        holds: Vec<String>,
    },
    /// A revocation list that would be read wrongly.
    #[error("block {position} of the file, X509 CRL, {unusable}")]
    RevocationList {
        /// Counted from 1.
        position: usize,
        /// What is wrong with it.
        unusable: UnusableList,
    },
}

impl MaterialError {
    /// What to do about it, as a sentence for the operator.
    pub fn remedy(&self) -> String {
        let (key, file) = (&self.location.key, self.location.place());
        match &self.problem {
            MaterialProblem::Unreadable(cause) if cause.kind() == io::ErrorKind::NotFound => {
                "check the path; a relative one starts at the folder of the configuration file".to_owned()
            }
            MaterialProblem::Unreadable(_) => format!("let the user that mongate runs as read {file}"),
            MaterialProblem::NotAFile => format!("name a PEM file in {key}"),
            MaterialProblem::TooLarge { .. } => format!("name the PEM file itself in {key}"),
            MaterialProblem::Binary => format!(
                "convert it: openssl x509 -inform der -in {file} for a certificate, openssl pkey -inform der for a key, \
                 openssl crl -inform der for a revocation list, openssl pkcs12 -nodes for a .p12 or .pfx"
            ),
            MaterialProblem::Damaged { .. } => {
                format!("write {file} anew from its source; openssl x509, pkey or crl shows whether it is whole")
            }
            MaterialProblem::Nothing => format!("look at what {key} leads to"),
            MaterialProblem::NoCertificate { .. } => {
                format!("put the certificate in PEM form (BEGIN CERTIFICATE) into {file}")
            }
            MaterialProblem::NoPrivateKey { .. } => {
                format!("put the key in PEM form into {file}, or name its file in private_key_file")
            }
            MaterialProblem::SeveralPrivateKeys { .. } => format!("leave only the key of the certificate in {file}"),
            MaterialProblem::Exchanged { .. } => {
                format!(
                    "exchange {} and {}",
                    self.location.beside("certificate_file"),
                    self.location.beside("private_key_file")
                )
            }
            MaterialProblem::Encrypted => format!(
                "name a file with its password in {}, or decrypt the key and protect its file instead: openssl pkey -in {file} -out NEW",
                self.location.beside("private_key_password_file")
            ),
            MaterialProblem::EncryptedTraditionally => {
                format!("convert it, the password may stay: openssl pkcs8 -topk8 -v2 aes-256-cbc -in {file} -out NEW")
            }
            MaterialProblem::UnsupportedEncryption => format!(
                "encrypt it anew, the password may stay: openssl pkcs8 -topk8 -v2 aes-256-cbc -in {file} -out NEW \
                 (OpenSSL 3 reads the oldest forms with -provider legacy -provider default)"
            ),
            MaterialProblem::WrongPassword { .. } => format!(
                "write the right password into the file; it may end with one line end, and everything before it counts. \
                 openssl pkey -in {file} -noout asks for it"
            ),
            MaterialProblem::EmptyPassword => {
                format!("write the password into {file}, or leave {key} out if the key has none")
            }
            MaterialProblem::UnsupportedKey(_) => {
                "use an RSA key of 2048 to 8192 bits, an ECDSA key on P-256, P-384 or P-521, or Ed25519".to_owned()
            }
            MaterialProblem::WrongKey { position: Some(_), .. } => {
                "put our own certificate first in the file and those of its issuers behind it".to_owned()
            }
            MaterialProblem::WrongKey { position: None, .. } => {
                "use the key that the certificate was requested with; after a renewal, replace both".to_owned()
            }
            MaterialProblem::AuthorityKey { .. } => {
                "name the key that our own certificate was requested with, and take the authority's key off this host"
                    .to_owned()
            }
            MaterialProblem::NoAuthority { .. } | MaterialProblem::OwnCertificate { .. } => {
                format!("put the certificate of the authority that signed the other side's certificate into {file}")
            }
            MaterialProblem::NoRevocationList { .. } => {
                format!("put the revocation list in PEM form (BEGIN X509 CRL) into {file}")
            }
            MaterialProblem::RevocationList { .. } => {
                "give a complete list, signed by the authority that it is about; openssl crl -text shows what it is"
                    .to_owned()
            }
        }
    }
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

fn what_is_smaller(mebibytes: u64) -> &'static str {
    if mebibytes == 1 { "no certificate or key is" } else { "is not read" }
}
