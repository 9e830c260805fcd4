//! Display names of the key and signature algorithms of certificates.
//!
//! Whether an algorithm is accepted is decided by the TLS verifiers.

use x509_parser::asn1_rs::Oid;
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

/// OIDs of key algorithms.
const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";
const ED25519: &str = "1.3.101.112";
const ED448: &str = "1.3.101.113";

const RSA_PSS: &str = "1.2.840.113549.1.1.10";
const DSA: &str = "1.2.840.10040.4.1";

const CURVES: &[(&str, &str)] = &[
    ("1.2.840.10045.3.1.7", "P-256"),
    ("1.3.132.0.34", "P-384"),
    ("1.3.132.0.35", "P-521"),
    ("1.2.840.10045.3.1.1", "P-192"),
    ("1.3.132.0.33", "P-224"),
    ("1.3.132.0.10", "secp256k1"),
    ("1.3.36.3.3.2.8.1.1.7", "brainpoolP256r1"),
    ("1.3.36.3.3.2.8.1.1.8", "brainpoolP256t1"),
    ("1.3.36.3.3.2.8.1.1.11", "brainpoolP384r1"),
    ("1.3.36.3.3.2.8.1.1.12", "brainpoolP384t1"),
    ("1.3.36.3.3.2.8.1.1.13", "brainpoolP512r1"),
    ("1.3.36.3.3.2.8.1.1.14", "brainpoolP512t1"),
];

const SIGNATURES: &[(&str, &str)] = &[
    ("1.2.840.113549.1.1.2", "RSA and MD2"),
    ("1.2.840.113549.1.1.4", "RSA and MD5"),
    ("1.2.840.113549.1.1.5", "RSA and SHA-1"),
    ("1.3.14.3.2.29", "RSA and SHA-1"),
    ("1.2.840.113549.1.1.14", "RSA and SHA-224"),
    ("1.2.840.113549.1.1.15", "RSA and SHA-512/224"),
    ("1.2.840.113549.1.1.16", "RSA and SHA-512/256"),
    ("2.16.840.1.101.3.4.3.14", "RSA and SHA3-256"),
    ("2.16.840.1.101.3.4.3.15", "RSA and SHA3-384"),
    ("2.16.840.1.101.3.4.3.16", "RSA and SHA3-512"),
    ("2.16.840.1.101.3.4.3.10", "ECDSA and SHA3-256"),
    ("2.16.840.1.101.3.4.3.11", "ECDSA and SHA3-384"),
    ("2.16.840.1.101.3.4.3.12", "ECDSA and SHA3-512"),
    ("1.2.840.10040.4.3", "DSA and SHA-1"),
    ("2.16.840.1.101.3.4.3.1", "DSA and SHA-224"),
    ("2.16.840.1.101.3.4.3.2", "DSA and SHA-256"),
    ("2.16.840.1.101.3.4.3.17", "ML-DSA-44"),
    ("2.16.840.1.101.3.4.3.18", "ML-DSA-65"),
    ("2.16.840.1.101.3.4.3.19", "ML-DSA-87"),
    ("1.2.156.10197.1.501", "SM2 and SM3"),
    ("1.2.643.7.1.1.3.2", "GOST R 34.10-2012"),
    (RSA_PSS, "RSA-PSS"),
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

const DIGESTS: &[(&str, &str)] = &[
    ("1.3.14.3.2.26", "SHA-1"),
    ("2.16.840.1.101.3.4.2.4", "SHA-224"),
    ("2.16.840.1.101.3.4.2.1", "SHA-256"),
    ("2.16.840.1.101.3.4.2.2", "SHA-384"),
    ("2.16.840.1.101.3.4.2.3", "SHA-512"),
];

/// `RSA 2048`, `ECDSA P-256`, `Ed25519`; the OID of an unknown algorithm.
pub(crate) fn key_text(key: &SubjectPublicKeyInfo<'_>) -> String {
    match key.algorithm.algorithm.to_id_string().as_str() {
        RSA => match key.parsed().map_or(0, |parsed| parsed.key_size()) {
            0 => "RSA".to_owned(),
            bits => format!("RSA {bits}"),
        },
        EC => format!("ECDSA {}", curve_text(&key.algorithm)),
        ED25519 => "Ed25519".to_owned(),
        ED448 => "Ed448".to_owned(),
        RSA_PSS => "RSA-PSS".to_owned(),
        DSA => "DSA".to_owned(),
        other => other.to_owned(),
    }
}

/// `RSA and SHA-256`; the OID of an unknown algorithm.
pub(crate) fn signature_text(algorithm: &AlgorithmIdentifier<'_>) -> String {
    let name = named(&algorithm.algorithm, SIGNATURES);
    let parameters = algorithm.parameters.as_ref().filter(|_| name == "RSA-PSS");
    match parameters.and_then(|parameters| RsaSsaPssParams::try_from(parameters).ok()) {
        Some(parameters) => format!("{name} and {}", named(parameters.hash_algorithm_oid(), DIGESTS)),
        None => name,
    }
}

fn curve_text(algorithm: &AlgorithmIdentifier<'_>) -> String {
    let curve = algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    curve.map_or_else(|| "on an unnamed curve".to_owned(), |curve| named(&curve, CURVES))
}

fn named(oid: &Oid<'_>, names: &[(&str, &str)]) -> String {
    let number = oid.to_id_string();
    names.iter().find(|(known, _)| *known == number).map_or(number.clone(), |(_, name)| (*name).to_owned())
}
