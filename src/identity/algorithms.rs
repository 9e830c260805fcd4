//! Display names of the key and signature algorithms of certificates.
//!
//! Whether an algorithm is accepted is decided by the TLS verifiers.

use x509_parser::asn1_rs::Oid;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

/// OIDs of key algorithms.
const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";
const ED25519: &str = "1.3.101.112";
const ED448: &str = "1.3.101.113";

const CURVES: [(&str, &str); 3] =
    [("1.2.840.10045.3.1.7", "P-256"), ("1.3.132.0.34", "P-384"), ("1.3.132.0.35", "P-521")];

const SIGNATURES: [(&str, &str); 13] = [
    ("1.2.840.113549.1.1.4", "RSA and MD5"),
    ("1.2.840.113549.1.1.5", "RSA and SHA-1"),
    ("1.2.840.113549.1.1.10", "RSA-PSS"),
    ("1.2.840.113549.1.1.11", "RSA and SHA-256"),
    ("1.2.840.113549.1.1.12", "RSA and SHA-384"),
    ("1.2.840.113549.1.1.13", "RSA and SHA-512"),
    ("1.2.840.10045.4.1", "ECDSA and SHA-1"),
    ("1.2.840.10045.4.3.1", "ECDSA and SHA-224"),
    ("1.2.840.10045.4.3.2", "ECDSA and SHA-256"),
    ("1.2.840.10045.4.3.3", "ECDSA and SHA-384"),
    ("1.2.840.10045.4.3.4", "ECDSA and SHA-512"),
    (ED25519, "Ed25519"),
    (ED448, "Ed448"),
];

/// `RSA 2048`, `ECDSA P-256`, `Ed25519`; the OID of an unknown algorithm.
pub(super) fn key_text(key: &SubjectPublicKeyInfo<'_>) -> String {
    match key.algorithm.algorithm.to_id_string().as_str() {
        RSA => match key.parsed().map_or(0, |parsed| parsed.key_size()) {
            0 => "RSA".to_owned(),
            bits => format!("RSA {bits}"),
        },
        EC => format!("ECDSA {}", curve_text(&key.algorithm)),
        ED25519 => "Ed25519".to_owned(),
        ED448 => "Ed448".to_owned(),
        other => other.to_owned(),
    }
}

/// `RSA and SHA-256`; the OID of an unknown algorithm.
pub(super) fn signature_text(algorithm: &AlgorithmIdentifier<'_>) -> String {
    named(&algorithm.algorithm, &SIGNATURES)
}

fn curve_text(algorithm: &AlgorithmIdentifier<'_>) -> String {
    let curve = algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    curve.map_or_else(|| "on an unnamed curve".to_owned(), |curve| named(&curve, &CURVES))
}

fn named(oid: &Oid<'_>, names: &[(&str, &str)]) -> String {
    let number = oid.to_id_string();
    names.iter().find(|(known, _)| *known == number).map_or(number.clone(), |(_, name)| (*name).to_owned())
}
