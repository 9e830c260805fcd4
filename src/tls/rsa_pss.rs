//! Signatures of the algorithm RSASSA-PSS with a salt of any length, and keys that are only for this algorithm.
//!
//! rustls verifies only signatures whose salt is as long as the digest, and only with keys of type `rsaEncryption`.
//! Microsoft's CA (AD CS) uses a salt of 20 bytes, and OpenSSL the longest one that fits. The cryptography is that of
//! aws-lc-rs, as in rustls. SHA-1 is not accepted, and the mask must use the digest of the signature.
//!
//! Spec: RFC 4055 § 3.

use aws_lc_rs::rsa::RsaPssSaltLength;
use aws_lc_rs::signature::{
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, VerificationAlgorithm,
};
use rustls::SignatureScheme;

use super::der::{INTEGER, OBJECT_ID, SEQUENCE, only_value, values};
use super::signature_problem::SignatureProblem;

/// `rsaEncryption`, 1.2.840.113549.1.1.1
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// `id-mgf1`, 1.2.840.113549.1.1.8
const MGF1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08];
/// `id-RSASSA-PSS`, 1.2.840.113549.1.1.10
const RSASSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
/// `id-sha256`, 2.16.840.1.101.3.4.2.1, without its last byte.
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// `rsa_pss_pss_sha256`, `rsa_pss_pss_sha384` and `rsa_pss_pss_sha512` of RFC 8446 § 4.2.3.
pub(super) const PSS_KEY_SCHEMES: [SignatureScheme; 3] =
    [SignatureScheme::Unknown(0x0809), SignatureScheme::Unknown(0x080a), SignatureScheme::Unknown(0x080b)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Digest {
    Sha256,
    Sha384,
    Sha512,
}

impl Digest {
    fn verification(self) -> RsaParameters {
        match self {
            Self::Sha256 => RSA_PSS_2048_8192_SHA256,
            Self::Sha384 => RSA_PSS_2048_8192_SHA384,
            Self::Sha512 => RSA_PSS_2048_8192_SHA512,
        }
    }

    fn bytes(self) -> u16 {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Reads an `AlgorithmIdentifier`.
    fn from_der(der: &[u8]) -> Option<Self> {
        let (id, parameters) = algorithm(only_value(der, SEQUENCE)?)?;
        match id.strip_prefix(SHA2)? {
            _ if !matches!(parameters, [] | [5, 0]) => None,
            [1] => Some(Self::Sha256),
            [2] => Some(Self::Sha384),
            [3] => Some(Self::Sha512),
            _ => None,
        }
    }
}

/// `RSASSA-PSS-params`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parameters {
    digest: Digest,
    salt_bytes: u16,
}

impl Parameters {
    /// `None` if they are malformed or not supported.
    fn from_der(der: &[u8]) -> Option<Self> {
        let (mut digest, mut mask_digest, mut salt_bytes) = (None, None, 20);
        let mut last = 0;
        for part in values(only_value(der, SEQUENCE)?) {
            let part = part?;
            if part.tag <= last {
                return None;
            }
            last = part.tag;
            match part.tag {
                0xa0 => digest = Some(Digest::from_der(part.content)?),
                0xa1 => {
                    let (id, parameters) = algorithm(only_value(part.content, SEQUENCE)?)?;
                    mask_digest = Some(Digest::from_der(parameters)?).filter(|_| id == MGF1);
                }
                0xa2 => {
                    salt_bytes = match only_value(part.content, INTEGER)? {
                        [short @ 0..0x80] => u16::from(*short),
                        [high @ 0..0x80, low] => u16::from_be_bytes([*high, *low]),
                        _ => return None,
                    }
                }
                0xa3 if only_value(part.content, INTEGER)? == [1] => {}
                _ => return None,
            }
        }
        // The default of both digests is SHA-1.
        digest.filter(|_| digest == mask_digest).map(|digest| Self { digest, salt_bytes })
    }
}

/// The object identifier and the parameters of the content of an `AlgorithmIdentifier`.
fn algorithm(content: &[u8]) -> Option<(&[u8], &[u8])> {
    let id = values(content).next()??;
    Some((id.content, content.get(id.whole.len()..)?)).filter(|_| id.tag == OBJECT_ID)
}

/// Whether an `AlgorithmIdentifier` with this content names RSASSA-PSS.
pub(super) fn is_rsa_pss(content: &[u8]) -> bool {
    algorithm(content).is_some_and(|(id, _)| id == RSASSA_PSS)
}

/// Verifies a signature of a certificate or revocation list. `signature_algorithm` and `key_algorithm` are the contents
/// of the `AlgorithmIdentifier`s of the signature and of the key, `key` the bits of the key.
pub(super) fn verify(
    signature_algorithm: &[u8],
    key_algorithm: &[u8],
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureProblem> {
    let parameters = algorithm(signature_algorithm).and_then(|(_, parameters)| Parameters::from_der(parameters));
    verify_with(parameters.ok_or(SignatureProblem::Algorithm)?, key_algorithm, key, message, signature)
}

/// Verifies the signature of a handshake, made with a key that is only for RSASSA-PSS.
pub(super) fn verify_handshake(
    scheme: SignatureScheme,
    key_algorithm: &[u8],
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureProblem> {
    let [sha256, sha384, sha512] = PSS_KEY_SCHEMES;
    let digest = match scheme {
        scheme if scheme == sha256 => Digest::Sha256,
        scheme if scheme == sha384 => Digest::Sha384,
        scheme if scheme == sha512 => Digest::Sha512,
        _ => return Err(SignatureProblem::Algorithm),
    };
    verify_with(Parameters { digest, salt_bytes: digest.bytes() }, key_algorithm, key, message, signature)
}

fn verify_with(
    parameters: Parameters,
    key_algorithm: &[u8],
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureProblem> {
    let is_allowed = match algorithm(key_algorithm).ok_or(SignatureProblem::Key)? {
        (RSA_ENCRYPTION, [5, 0]) | (RSASSA_PSS, []) => true,
        // The parameters of a key restrict it to one digest and to a shortest salt.
        (RSASSA_PSS, restrictions) => {
            let restrictions = Parameters::from_der(restrictions).ok_or(SignatureProblem::Key)?;
            restrictions.digest == parameters.digest && restrictions.salt_bytes <= parameters.salt_bytes
        }
        _ => return Err(SignatureProblem::Key),
    };
    if !is_allowed {
        return Err(SignatureProblem::Invalid);
    }
    let verification =
        parameters.digest.verification().with_pss_salt_length(RsaPssSaltLength::Custom(parameters.salt_bytes));
    verification.verify_sig(key, message, signature).map_err(|_| SignatureProblem::Invalid)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{KeyPair as _, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaSignatureEncoding};

    use super::*;
    use crate::tls::test_pki::der_value;

    fn sequence(parts: &[&[u8]]) -> Vec<u8> {
        der_value(SEQUENCE, &parts.concat())
    }

    fn digest(last: u8) -> Vec<u8> {
        sequence(&[&[OBJECT_ID, 9], SHA2, &[last, 5, 0]])
    }

    fn mask(digest: &[u8]) -> Vec<u8> {
        sequence(&[&[OBJECT_ID, 9], MGF1, digest])
    }

    /// The content of an `AlgorithmIdentifier`.
    fn identifier(id: &[u8], parameters: &[u8]) -> Vec<u8> {
        [&[OBJECT_ID, 9], id, parameters].concat()
    }

    fn parameters(hash: &[u8], mask_hash: &[u8], more: &[u8]) -> Vec<u8> {
        sequence(&[&der_value(0xa0, hash), &der_value(0xa1, &mask(mask_hash)), more])
    }

    #[test]
    fn parameters_are_read_strictly() {
        let (sha256, sha512) = (digest(1), digest(3));
        let salt = [0xa2, 3, INTEGER, 1, 32];
        let read = |der: &[u8]| Parameters::from_der(der);
        let expected = |salt_bytes| Some(Parameters { digest: Digest::Sha256, salt_bytes });
        assert_eq!(read(&parameters(&sha256, &sha256, &salt)), expected(32));
        // 20 bytes are the default of the salt.
        assert_eq!(read(&parameters(&sha256, &sha256, &[])), expected(20));
        assert_eq!(read(&parameters(&sha256, &sha256, &[0xa2, 4, INTEGER, 2, 0, 222])), expected(222));
        assert_eq!(read(&parameters(&sha256, &sha256, &[0xa3, 3, INTEGER, 1, 1])), expected(20));
        let sha1 = sequence(&[&[OBJECT_ID, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0]]);
        for (case, der) in [
            ("all defaults: SHA-1", sequence(&[])),
            ("SHA-1", parameters(&sha1, &sha1, &salt)),
            ("another digest for the mask", parameters(&sha256, &sha512, &salt)),
            ("a trailer of another value", parameters(&sha256, &sha256, &[0xa3, 3, INTEGER, 1, 2])),
            ("a negative salt", parameters(&sha256, &sha256, &[0xa2, 3, INTEGER, 1, 0xff])),
            ("a field twice", parameters(&sha256, &sha256, &[salt, salt].concat())),
            ("an unknown field", parameters(&sha256, &sha256, &[0xa4, 3, INTEGER, 1, 1])),
            ("bytes after it", [parameters(&sha256, &sha256, &salt), vec![0]].concat()),
        ] {
            assert_eq!(read(&der), None, "{case}");
        }
    }

    #[test]
    fn a_handshake_is_signed_with_the_scheme_of_the_key() {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let sign = |encoding: &'static RsaSignatureEncoding| {
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign(encoding, &SystemRandom::new(), b"transcript", &mut signature).unwrap();
            signature
        };
        let bits = key.public_key().as_ref();
        let signatures = [sign(&RSA_PSS_SHA256), sign(&RSA_PSS_SHA384), sign(&RSA_PSS_SHA512)];
        let free = identifier(RSASSA_PSS, &[]);
        for (scheme, by) in PSS_KEY_SCHEMES.into_iter().zip(0..) {
            for (signed, signature) in signatures.iter().enumerate() {
                let verified = verify_handshake(scheme, &free, bits, b"transcript", signature).is_ok();
                assert_eq!(verified, signed == by, "{scheme:?}");
                assert!(verify_handshake(scheme, &free, bits, b"other", signature).is_err());
            }
        }
        let [sha256, ..] = PSS_KEY_SCHEMES;
        let restricted = |last: u8, salt: u8| {
            let parameters = parameters(&digest(last), &digest(last), &[0xa2, 3, INTEGER, 1, salt]);
            let kind = identifier(RSASSA_PSS, &parameters);
            verify_handshake(sha256, &kind, bits, b"transcript", &signatures[0])
        };
        assert_eq!(restricted(1, 32), Ok(()));
        assert_eq!(restricted(1, 33), Err(SignatureProblem::Invalid));
        assert_eq!(restricted(2, 32), Err(SignatureProblem::Invalid));
        let other = verify_handshake(SignatureScheme::ED25519, &free, bits, b"transcript", &signatures[0]);
        assert_eq!(other, Err(SignatureProblem::Algorithm));
        let ec = identifier(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 0, 0], &[]);
        let other = verify_handshake(sha256, &ec, bits, b"transcript", &signatures[0]);
        assert_eq!(other, Err(SignatureProblem::Key));
    }
}
