//! Reads certificates, private keys and revocation lists from PEM files.
//!
//! Memory with a key or a password is wiped when it is dropped. This is the only file that reads PEM, and the only one
//! that uses rustls-pemfile. It does not decide whether the contents may be used.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use pkcs8::{EncryptedPrivateKeyInfoRef, pkcs5};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use rustls_pemfile::Item;
use zeroize::{Zeroize as _, Zeroizing};

use super::material_error::{Location, MaterialError, MaterialProblem, UnusableList};
use crate::identity::CertificateFacts;

/// The largest PEM file: a bundle of all public CAs has a quarter of this size.
const FILE_MEBIBYTES_MAX: u64 = 1;

/// The largest file with revocation lists: one list with a hundred thousand entries.
pub(super) const LISTS_MEBIBYTES_MAX: u64 = 16;

/// A file, and the configuration key that names it.
#[derive(Clone)]
pub(super) struct MaterialFile<'a> {
    key: String,
    file: &'a Path,
}

/// A private key that rustls can sign with.
pub(super) struct PrivateKey {
    pub(super) signing_key: Arc<dyn SigningKey>,
    /// Whether a password was needed to read it.
    pub(super) was_encrypted: bool,
}

/// One PEM block, from `BEGIN` to `END`.
struct Block<'a> {
    label: String,
    text: &'a str,
}

impl<'a> MaterialFile<'a> {
    /// The file that `key` of the table `section` names, as `upstream.orders.tls`.
    pub(super) fn new(section: &str, key: &str, file: &'a Path) -> Self {
        Self { key: format!("{section}.{key}"), file }
    }

    pub(super) fn file(&self) -> &Path {
        self.file
    }

    /// For messages.
    pub(super) fn location(&self) -> Location {
        Location { key: self.key.clone(), file: Some(self.file.to_owned()) }
    }

    pub(super) fn error(&self, problem: MaterialProblem) -> MaterialError {
        MaterialError { location: self.location(), problem }
    }

    pub(super) fn damaged(&self, position: usize, label: &str) -> MaterialError {
        self.error(MaterialProblem::Damaged { position, label: label.to_owned() })
    }

    /// The certificates of the file in their order; never empty.
    pub(super) fn certificates(&self) -> Result<Vec<(CertificateDer<'static>, CertificateFacts)>, MaterialError> {
        let text = self.read()?;
        let blocks = self.blocks(&text)?;
        let mut certificates = Vec::new();
        for (index, block) in blocks.iter().enumerate().filter(|(_, block)| block.label == "CERTIFICATE") {
            let damaged = || self.damaged(index + 1, &block.label);
            let Some(Item::X509Certificate(der)) = decode(block.text) else { return Err(damaged()) };
            let facts = CertificateFacts::from_der(&der).map_err(|_| damaged())?;
            certificates.push((der, facts));
        }
        if certificates.is_empty() {
            return Err(self.error(MaterialProblem::NoCertificate { labels: labels(&blocks) }));
        }
        Ok(certificates)
    }

    /// The only private key of the file, decrypted with the password in the file `password` if it is encrypted.
    pub(super) fn private_key(&self, password: Option<&MaterialFile<'_>>) -> Result<PrivateKey, MaterialError> {
        let text = self.read()?;
        let blocks = self.blocks(&text)?;
        let keys: Vec<_> =
            blocks.iter().enumerate().filter(|(_, block)| block.label.ends_with("PRIVATE KEY")).collect();
        let (index, block) = match keys.as_slice() {
            [] => return Err(self.error(MaterialProblem::NoPrivateKey { labels: labels(&blocks) })),
            [key] => *key,
            _ => return Err(self.error(MaterialProblem::SeveralPrivateKeys { count: keys.len() })),
        };
        let damaged = || self.damaged(index + 1, &block.label);
        let encryption = block.encryption();
        let mut der = match encryption {
            Encryption::None => key_of(block).ok_or_else(damaged)?,
            Encryption::Traditional => return Err(self.error(MaterialProblem::EncryptedTraditionally)),
            Encryption::Pkcs8 => {
                let password = password.ok_or_else(|| self.error(MaterialProblem::Encrypted))?;
                self.decrypt(&block.encrypted().ok_or_else(damaged)?, password)?
            }
        };
        let key = any_supported_type(&der).map_err(|cause| self.error(MaterialProblem::UnsupportedKey(cause)));
        der.zeroize();
        Ok(PrivateKey { signing_key: key?, was_encrypted: encryption != Encryption::None })
    }

    fn decrypt(&self, der: &[u8], password: &MaterialFile<'_>) -> Result<PrivateKeyDer<'static>, MaterialError> {
        let wrong = || self.error(MaterialProblem::WrongPassword { password_file: password.file.to_owned() });
        let key = EncryptedPrivateKeyInfoRef::try_from(der)
            .map_err(|_| self.error(MaterialProblem::UnsupportedEncryption))?;
        let document = key.decrypt(password.password()?.as_slice()).map_err(|cause| match cause {
            pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::DecryptFailed) | pkcs8::Error::Asn1(_) => wrong(),
            _ => self.error(MaterialProblem::UnsupportedEncryption),
        })?;
        // A wrong password can by chance result in bytes with valid padding.
        pkcs8::PrivateKeyInfoRef::try_from(document.as_bytes()).map_err(|_| wrong())?;
        Ok(PrivatePkcs8KeyDer::from(document.as_bytes().to_vec()).into())
    }

    /// The contents of the file without one trailing line end.
    fn password(&self) -> Result<Zeroizing<Vec<u8>>, MaterialError> {
        let mut password = self.bytes(FILE_MEBIBYTES_MAX)?;
        for line_end in [b'\n', b'\r'] {
            if password.last() == Some(&line_end) {
                password.pop();
            }
        }
        if password.is_empty() { Err(self.error(MaterialProblem::EmptyPassword)) } else { Ok(password) }
    }

    /// The revocation lists of the file in their order; never empty. `parse` reads the DER of one list.
    pub(super) fn revocation_lists<T>(
        &self,
        parse: impl Fn(&[u8]) -> Result<T, UnusableList>,
    ) -> Result<Vec<T>, MaterialError> {
        let text = self.text(LISTS_MEBIBYTES_MAX)?;
        let blocks = self.blocks(&text)?;
        let mut lists = Vec::new();
        for (index, block) in blocks.iter().enumerate().filter(|(_, block)| block.label == "X509 CRL") {
            let position = index + 1;
            let Some(Item::Crl(der)) = decode(block.text) else { return Err(self.damaged(position, &block.label)) };
            let unusable = |unusable| self.error(MaterialProblem::RevocationList { position, unusable });
            lists.push(parse(&der).map_err(unusable)?);
        }
        if lists.is_empty() {
            return Err(self.error(MaterialProblem::NoRevocationList { labels: labels(&blocks) }));
        }
        Ok(lists)
    }

    fn read(&self) -> Result<Zeroizing<String>, MaterialError> {
        self.text(FILE_MEBIBYTES_MAX)
    }

    fn text(&self, mebibytes_max: u64) -> Result<Zeroizing<String>, MaterialError> {
        let mut bytes = self.bytes(mebibytes_max)?;
        // DER and PKCS#12 start with a sequence. Text around PEM blocks may be in any encoding.
        if bytes.first() == Some(&0x30) && !bytes.windows(10).any(|window| window == b"-----BEGIN") {
            return Err(self.error(MaterialProblem::Binary));
        }
        let text = String::from_utf8(std::mem::take(&mut *bytes))
            .unwrap_or_else(|error| String::from_utf8_lossy(&Zeroizing::new(error.into_bytes())).into_owned());
        Ok(Zeroizing::new(text))
    }

    fn bytes(&self, mebibytes_max: u64) -> Result<Zeroizing<Vec<u8>>, MaterialError> {
        read_file(self.file, mebibytes_max).map_err(|problem| self.error(problem))
    }

    /// Splits a file at its `BEGIN` and `END` lines. Text between blocks is ignored, as OpenSSL does. A block with an
    /// unknown label or with encryption does not affect the others.
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

/// The encryption of a PEM block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    None,
    Pkcs8,
    /// With `Proc-Type: 4,ENCRYPTED`: RFC 1421, with a key derivation of OpenSSL's own.
    Traditional,
}

/// The contents of a file of at most `mebibytes_max` MiB; wiped when dropped.
pub(super) fn read_file(file: &Path, mebibytes_max: u64) -> Result<Zeroizing<Vec<u8>>, MaterialProblem> {
    // Checked before opening the file: opening a pipe waits for its writer.
    let metadata = fs::metadata(file).map_err(MaterialProblem::Unreadable)?;
    if !metadata.is_file() {
        return Err(MaterialProblem::NotAFile);
    }
    let bytes_max = mebibytes_max * 1024 * 1024;
    let too_large = MaterialProblem::TooLarge { mebibytes: mebibytes_max };
    if metadata.len() > bytes_max {
        return Err(too_large);
    }
    // Enough capacity for the whole file: growing would leave copies behind.
    let length = usize::try_from(metadata.len()).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(length + 1));
    let file = fs::File::open(file).map_err(MaterialProblem::Unreadable)?;
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(MaterialProblem::Unreadable)?;
    if bytes.len() as u64 > bytes_max { Err(too_large) } else { Ok(bytes) }
}

impl Block<'_> {
    fn encryption(&self) -> Encryption {
        let has_header = |line: &str| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED");
        match self.label.as_str() {
            ENCRYPTED => Encryption::Pkcs8,
            _ if self.text.lines().any(has_header) => Encryption::Traditional,
            _ => Encryption::None,
        }
    }

    /// The DER of an encrypted block. rustls-pemfile skips its label, so the block is decoded with another label.
    fn encrypted(&self) -> Option<Vec<u8>> {
        match decode(&self.text.replace(ENCRYPTED, "PRIVATE KEY"))? {
            Item::Pkcs8Key(der) => Some(der.secret_pkcs8_der().to_vec()),
            _ => None,
        }
    }
}

const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

fn key_of(block: &Block<'_>) -> Option<PrivateKeyDer<'static>> {
    match decode(block.text)? {
        Item::Pkcs8Key(der) => Some(der.into()),
        Item::Pkcs1Key(der) => Some(der.into()),
        Item::Sec1Key(der) => Some(der.into()),
        _ => None,
    }
}

/// The position of the next `-----BEGIN LABEL-----`, and its label.
fn next_begin(text: &str) -> Option<(usize, &str)> {
    const BEGIN: &str = "-----BEGIN ";
    let start = text.find(BEGIN)?;
    let label = text.get(start + BEGIN.len()..)?;
    let end = label.find('\n').unwrap_or(label.len());
    let label = label.get(..end)?.trim_end().strip_suffix("-----").unwrap_or("without a label");
    Some((start, label))
}

fn decode(block: &str) -> Option<Item> {
    let (item, _) = rustls_pemfile::read_one_from_slice(block.as_bytes()).ok()??;
    Some(item)
}

fn labels(blocks: &[Block<'_>]) -> Vec<String> {
    // Enough for a message.
    blocks.iter().take(5).map(|block| crate::identity::printable(&block.label)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_split_into_blocks_or_is_an_error(
            pieces in proptest::collection::vec(
                prop::sample::select(vec![
                    "-----BEGIN ", "-----END ", "-----", "CERTIFICATE", "PRIVATE KEY", "\n", "\r", "é", "MIIB",
                    "Proc-Type: 4,ENCRYPTED",
                ]),
                0..40,
            ),
        ) {
            let text = pieces.concat();
            let source = MaterialFile::new("upstream.orders.tls", "ca_file", Path::new("ca.pem"));
            for block in source.blocks(&text).into_iter().flatten() {
                let _ = (decode(block.text), block.encryption(), block.encrypted());
            }
        }
    }
}
