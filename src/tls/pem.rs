//! PEM files to certificates and keys.
//!
//! The only file that reads PEM, and the only one that uses rustls-pemfile. Refuses to judge what it has read.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::SigningKey;

use super::problem::{MaterialError, Problem};
use crate::identity::CertificateFacts;

/// Bytes of a PEM file: a bundle of all public authorities has a quarter of it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A file, and the configuration key that named it.
#[derive(Clone)]
pub(super) struct Source<'a> {
    key: String,
    file: &'a Path,
}

/// One `BEGIN` to `END`.
struct Block<'a> {
    label: String,
    text: &'a str,
}

impl<'a> Source<'a> {
    /// The `key` of the table whose path is `section`, as `upstream.orders.tls`.
    pub(super) fn new(section: &str, key: &str, file: &'a Path) -> Self {
        Self { key: format!("{section}.{key}"), file }
    }

    pub(super) fn error(&self, problem: Problem) -> MaterialError {
        MaterialError { key: self.key.clone(), file: self.file.to_owned(), problem }
    }

    pub(super) fn damaged(&self, position: usize, label: &str) -> MaterialError {
        self.error(Problem::Damaged { position, label: label.to_owned() })
    }

    pub(super) fn certificates(&self) -> Result<Vec<(CertificateDer<'static>, CertificateFacts)>, MaterialError> {
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

    pub(super) fn private_key(&self) -> Result<Arc<dyn SigningKey>, MaterialError> {
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

fn labels(blocks: &[Block<'_>]) -> Vec<String> {
    // Enough for a sentence.
    blocks.iter().take(5).map(|block| crate::identity::printable(&block.label)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            let source = Source::new("upstream.orders.tls", "ca_file", Path::new("ca.pem"));
            for block in source.blocks(&text).into_iter().flatten() {
                let _ = (decode(&block), block.is_encrypted());
            }
        }
    }
}
