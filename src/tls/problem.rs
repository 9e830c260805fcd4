//! What can be wrong with certificates and keys, in words for the operator.
//!
//! Every way in which a file can be wrong has a sentence of its own, with the configuration key that named the file.
//! Nothing of a key or a password is ever part of one.

use std::io;
use std::path::PathBuf;

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
