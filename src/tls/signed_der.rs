//! What certificates and revocation lists have in common: signed bytes, an algorithm, a signature.
//!
//! Here for what webpki does not read, X.509 version 1 above all. Takes DER apart only down to what is compared byte for
//! byte; dates, names and extensions are x509-parser's. Refuses cryptography of its own: signatures are checked by the
//! algorithms that rustls was given, so that what is too weak for it (MD5, SHA-1, small RSA keys) is too weak here.

use rustls::CertificateError;
use rustls::pki_types::SignatureVerificationAlgorithm;
use x509_parser::asn1_rs::{Any, FromDer};

/// The algorithms that count.
pub(super) type Algorithms<'a> = &'a [&'a dyn SignatureVerificationAlgorithm];

/// One DER value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DerValue<'a> {
    /// Its first byte.
    pub(super) tag: u8,
    /// Without header.
    pub(super) content: &'a [u8],
    /// With header.
    pub(super) whole: &'a [u8],
}

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const SEQUENCE: u8 = 0x30;

/// The values that stand one behind the other in `content`; `None` in place of one that is no DER, which is the last.
pub(super) fn values(mut content: &[u8]) -> impl Iterator<Item = Option<DerValue<'_>>> {
    std::iter::from_fn(move || {
        let tag = *content.first()?;
        let Some((value, rest)) = first_value(content, tag) else {
            content = &[];
            return Some(None);
        };
        content = rest;
        Some(Some(value))
    })
}

fn first_value(input: &[u8], tag: u8) -> Option<(DerValue<'_>, &[u8])> {
    let (rest, any) = Any::from_der(input).ok()?;
    let whole = input.get(..input.len().checked_sub(rest.len())?)?;
    Some((DerValue { tag, content: any.data, whole }, rest))
}

/// The content of `der`, if it is a sequence with nothing behind it.
fn sequence(der: &[u8]) -> Option<&[u8]> {
    match first_value(der, *der.first()?)? {
        (DerValue { tag: SEQUENCE, content, .. }, []) => Some(content),
        _ => None,
    }
}

/// A certificate or a revocation list.
#[derive(Debug)]
pub(super) struct SignedDer<'a> {
    /// The fields of what is signed, in their order.
    pub(super) fields: Vec<DerValue<'a>>,
    data: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> SignedDer<'a> {
    /// Takes `der` apart; `None` if it is not of that shape, or says inside that another algorithm signed it than outside.
    pub(super) fn from_der(der: &'a [u8]) -> Option<Self> {
        let mut parts = values(sequence(der)?);
        let (data, algorithm, signature) = (parts.next()??, parts.next()??, parts.next()??);
        if parts.next().is_some() || (data.tag, algorithm.tag, signature.tag) != (SEQUENCE, SEQUENCE, BIT_STRING) {
            return None;
        }
        let fields: Vec<_> = values(data.content).collect::<Option<_>>()?;
        // In both kinds it is the first sequence of the fields.
        let inner = fields.iter().find(|field| field.tag == SEQUENCE)?;
        let signature = whole_bytes(signature)?;
        (inner.content == algorithm.content).then_some(Self {
            fields,
            data: data.whole,
            algorithm: algorithm.content,
            signature,
        })
    }

    /// Whether the key of `issuer`, a DER `SubjectPublicKeyInfo`, made the signature.
    pub(super) fn verify(&self, issuer: &[u8], algorithms: Algorithms<'_>) -> Result<(), CertificateError> {
        let mut known =
            algorithms.iter().filter(|known| known.signature_alg_id().as_ref() == self.algorithm).peekable();
        if known.peek().is_none() {
            return Err(CertificateError::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: self.algorithm.to_vec(),
                supported_algorithms: algorithms.iter().map(|known| known.signature_alg_id()).collect(),
            });
        }
        verify_signature(issuer, known.copied(), self.data, self.signature)
    }
}

/// Whether the key `public_key`, a DER `SubjectPublicKeyInfo`, made `signature` over `message`, by one of `algorithms`
/// that is for keys of its kind.
pub(super) fn verify_signature<'a>(
    public_key: &[u8],
    algorithms: impl Iterator<Item = &'a dyn SignatureVerificationAlgorithm>,
    message: &[u8],
    signature: &[u8],
) -> Result<(), CertificateError> {
    let (kind, bits) = key_parts(public_key).ok_or(CertificateError::BadEncoding)?;
    for algorithm in algorithms.filter(|algorithm| algorithm.public_key_alg_id().as_ref() == kind) {
        if algorithm.verify_signature(bits, message, signature).is_ok() {
            return Ok(());
        }
    }
    Err(CertificateError::BadSignature)
}

/// The algorithm of a key and its bits.
fn key_parts(public_key: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = values(sequence(public_key)?);
    match (parts.next()??, parts.next()??, parts.next()) {
        (kind @ DerValue { tag: SEQUENCE, .. }, bits @ DerValue { tag: BIT_STRING, .. }, None) => {
            Some((kind.content, whole_bytes(bits)?))
        }
        _ => None,
    }
}

/// A bit string of whole bytes.
fn whole_bytes(bits: DerValue<'_>) -> Option<&[u8]> {
    match bits.content.split_first()? {
        (0, bytes) => Some(bytes),
        _ => None,
    }
}
