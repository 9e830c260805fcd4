//! The signed structure that certificates and revocation lists share: signed bytes, an algorithm and a signature.
//!
//! Splits DER only into the parts that are compared byte for byte. Signatures are verified with the algorithms of
//! rustls, so an algorithm that is too weak for rustls (MD5, SHA-1, small RSA keys) is rejected here as well.
//! [`rsa_pss`] adds what rustls does not verify.

use rustls::pki_types::SignatureVerificationAlgorithm;

use super::der::{BIT_STRING, DerValue, SEQUENCE, sequence, values, whole_bytes};
use super::rsa_pss;
use super::signature_problem::SignatureProblem;

/// The accepted signature algorithms.
pub(super) type Algorithms<'a> = &'a [&'a dyn SignatureVerificationAlgorithm];

/// A certificate or a revocation list, split into its parts.
#[derive(Debug)]
pub(super) struct SignedDer<'a> {
    /// The fields of the signed part, in their order.
    pub(super) fields: Vec<DerValue<'a>>,
    data: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> SignedDer<'a> {
    /// Splits `der`; `None` if it has another structure, or if the algorithm in the signed part differs from that of
    /// the signature.
    pub(super) fn from_der(der: &'a [u8]) -> Option<Self> {
        let mut parts = values(sequence(der)?);
        let (data, algorithm, signature) = (parts.next()??, parts.next()??, parts.next()??);
        if parts.next().is_some() || (data.tag, algorithm.tag, signature.tag) != (SEQUENCE, SEQUENCE, BIT_STRING) {
            return None;
        }
        let fields: Vec<_> = values(data.content).collect::<Option<_>>()?;
        // The algorithm is the first sequence among the fields of both structures.
        let inner = fields.iter().find(|field| field.tag == SEQUENCE)?;
        let signature = whole_bytes(signature)?;
        (inner.content == algorithm.content).then_some(Self {
            fields,
            data: data.whole,
            algorithm: algorithm.content,
            signature,
        })
    }

    /// The parts of a structure whose signed part does not repeat the algorithm; `None` if the signature has unused
    /// bits.
    pub(super) fn from_parts(data: DerValue<'a>, algorithm: DerValue<'a>, signature: DerValue<'a>) -> Option<Self> {
        let signature = whole_bytes(signature)?;
        Some(Self { fields: Vec::new(), data: data.whole, algorithm: algorithm.content, signature })
    }

    /// Verifies that the key `issuer`, a DER `SubjectPublicKeyInfo`, made the signature.
    pub(super) fn verify(&self, issuer: &[u8], algorithms: Algorithms<'_>) -> Result<(), SignatureProblem> {
        if rsa_pss::is_rsa_pss(self.algorithm) {
            let (kind, bits) = key_parts(issuer).ok_or(SignatureProblem::Key)?;
            return rsa_pss::verify(self.algorithm, kind, bits, self.data, self.signature);
        }
        let mut known =
            algorithms.iter().filter(|known| known.signature_alg_id().as_ref() == self.algorithm).peekable();
        if known.peek().is_none() {
            return Err(SignatureProblem::Algorithm);
        }
        verify_signature(issuer, known.copied(), self.data, self.signature)
    }
}

/// Verifies that `public_key`, a DER `SubjectPublicKeyInfo`, made `signature` over `message` with one of `algorithms`
/// that fits the type of the key.
pub(super) fn verify_signature<'a>(
    public_key: &[u8],
    algorithms: impl Iterator<Item = &'a dyn SignatureVerificationAlgorithm>,
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureProblem> {
    let (kind, bits) = key_parts(public_key).ok_or(SignatureProblem::Key)?;
    let mut problem = SignatureProblem::Key;
    for algorithm in algorithms.filter(|algorithm| algorithm.public_key_alg_id().as_ref() == kind) {
        if algorithm.verify_signature(bits, message, signature).is_ok() {
            return Ok(());
        }
        problem = SignatureProblem::Invalid;
    }
    Err(problem)
}

/// The algorithm and the bits of a public key.
pub(super) fn key_parts(public_key: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = values(sequence(public_key)?);
    match (parts.next()??, parts.next()??, parts.next()) {
        (kind @ DerValue { tag: SEQUENCE, .. }, bits @ DerValue { tag: BIT_STRING, .. }, None) => {
            Some((kind.content, whole_bytes(bits)?))
        }
        _ => None,
    }
}
