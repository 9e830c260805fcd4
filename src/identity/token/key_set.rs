//! The keys of an issuer, from its JSON Web Key Set (JWKS).
//!
//! A set is used as far as it can be: a key that cannot verify tokens is left out with the reason, because issuers
//! publish keys for encryption next to those for signatures.
//!
//! Spec: RFC 7517; RFC 7518 § 6; SPIFFE Trust Domain and Bundle § 4.2 (`use`).

use std::collections::HashMap;
use std::fmt;

use jsonwebtoken::crypto::aws_lc;
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde_json::{Map, Value};

use super::json::{self, NotAnObject};
use crate::identity::refusal::shortened;

/// The largest accepted document in bytes. A key with a certificate chain has about 5 KiB.
pub const KEY_SET_BYTES_MAX: usize = 1024 * 1024;

/// Keys of one set.
const KEYS_MAX: usize = 256;

/// The longest `kid` in bytes.
const KID_BYTES_MAX: usize = 2048;

/// Bits of RSA keys: less is not secure, and more costs time on each token.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

const RSA_ALGORITHMS: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

/// The keys that can verify tokens of one issuer; never empty.
#[derive(Debug, Clone)]
pub struct KeySet {
    keys: HashMap<String, IssuerKey>,
    left_out: Vec<LeftOutKey>,
}

/// One key.
#[derive(Debug, Clone)]
pub(super) struct IssuerKey {
    pub(super) decoding: DecodingKey,
    /// What the key says, not what a token says: one algorithm, or all of an RSA key that names none.
    pub(super) algorithms: Vec<Algorithm>,
    /// For people: `RSA 2048 bits`.
    description: String,
}

/// A key that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOutKey {
    /// Its `kid`, shortened; `None` if it has none.
    pub kid: Option<String>,
    /// Why it is not used.
    pub reason: String,
}

/// Why a document is not a usable key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// More than [`KEY_SET_BYTES_MAX`].
    #[error("the key set has more than {KEY_SET_BYTES_MAX} bytes")]
    TooLong,
    /// The syntax is wrong.
    #[error("the key set cannot be read: {0}")]
    NotJson(#[from] NotAnObject),
    /// There is no array `keys`.
    #[error("the document has no array \"keys\", so it is not a JSON Web Key Set")]
    NotAKeySet,
    /// More than 256 keys.
    #[error("the key set has more than {KEYS_MAX} keys")]
    TooMany,
    /// No key can verify tokens.
    #[error("the key set has no key that can verify tokens{}", reasons(.0))]
    NoKey(Vec<LeftOutKey>),
}

impl KeySet {
    /// Reads a key set.
    pub fn from_json(document: &[u8]) -> Result<Self, KeySetError> {
        // jsonwebtoken chooses its cryptography at the first use, and panics if two were built in. This is before any
        // use, because a signature needs a key. An error means that it is chosen already.
        let _ = aws_lc::DEFAULT_PROVIDER.install_default();
        if document.len() > KEY_SET_BYTES_MAX {
            return Err(KeySetError::TooLong);
        }
        let document = json::object(document)?;
        let Some(Value::Array(listed)) = document.get("keys") else { return Err(KeySetError::NotAKeySet) };
        if listed.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let (mut keys, mut left_out) = (HashMap::new(), Vec::new());
        let mut twice: Vec<String> = Vec::new();
        for jwk in listed {
            let kid = jwk.get("kid").and_then(Value::as_str).unwrap_or_default();
            match key(jwk) {
                Ok(_) if twice.iter().any(|known| known == kid) => {}
                Ok(_) if keys.remove(kid).is_some() => twice.push(kid.to_owned()),
                Ok(key) => drop(keys.insert(kid.to_owned(), key)),
                Err(reason) => left_out.push(LeftOutKey { kid: (!kid.is_empty()).then(|| shortened(kid)), reason }),
            }
        }
        let is_twice = "several keys have this kid, so that no token can name one of them";
        left_out.extend(twice.iter().map(|kid| LeftOutKey { kid: Some(shortened(kid)), reason: is_twice.to_owned() }));
        if keys.is_empty() { Err(KeySetError::NoKey(left_out)) } else { Ok(Self { keys, left_out }) }
    }

    /// The number of keys.
    #[expect(clippy::len_without_is_empty, reason = "a set is never empty")]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is a key with this `kid`.
    pub fn has(&self, kid: &str) -> bool {
        self.keys.contains_key(kid)
    }

    /// The keys for people, each with its shortened `kid`, sorted: `k1 (RSA 2048 bits)`.
    pub fn descriptions(&self) -> Vec<String> {
        let mut shown: Vec<String> =
            self.keys.iter().map(|(kid, key)| format!("{} ({})", shortened(kid), key.description)).collect();
        shown.sort();
        shown
    }

    /// The keys that are not used.
    pub fn left_out(&self) -> &[LeftOutKey] {
        &self.left_out
    }

    pub(super) fn get(&self, kid: &str) -> Option<&IssuerKey> {
        self.keys.get(kid)
    }
}

impl fmt::Display for LeftOutKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kid {
            Some(kid) => write!(f, "{kid}: {}", self.reason),
            None => write!(f, "a key without kid: {}", self.reason),
        }
    }
}

/// At most four keys.
fn reasons(left_out: &[LeftOutKey]) -> String {
    let shown: Vec<String> = left_out.iter().take(4).map(ToString::to_string).collect();
    if shown.is_empty() { String::new() } else { format!(" ({})", shown.join("; ")) }
}

/// A key that can verify tokens, or why it cannot.
fn key(jwk: &Value) -> Result<IssuerKey, String> {
    let Value::Object(jwk) = jwk else { return Err("it is not a JSON object".to_owned()) };
    let kty = text(jwk, "kty")?.ok_or("it has no kty")?;
    if kty == "oct" {
        return Err("it is a shared secret (kty \"oct\"), with which every client could make tokens".to_owned());
    }
    match text(jwk, "use")? {
        None | Some("sig" | "jwt-svid") => {}
        Some(other) => return Err(format!("its use is {}, not sig", shortened(other))),
    }
    if let Some(operations) = jwk.get("key_ops") {
        let verifies = operations.as_array().is_some_and(|all| all.iter().any(|one| one == "verify"));
        if !verifies {
            return Err("its key_ops do not include verify".to_owned());
        }
    }
    if jwk.contains_key("d") || jwk.contains_key("k") {
        return Err("it is a private key; publish only the public part, and replace this key".to_owned());
    }
    match text(jwk, "kid")? {
        Some(kid) if !kid.is_empty() && kid.len() <= KID_BYTES_MAX => {}
        _ => return Err("it has no kid, or one that is empty or longer than 2048 bytes".to_owned()),
    }
    let (decoding, possible, description) = match kty {
        "RSA" => rsa(jwk)?,
        "EC" => elliptic(jwk)?,
        "OKP" => edwards(jwk)?,
        other => return Err(format!("its kty {} is not supported", shortened(other))),
    };
    let algorithms = match text(jwk, "alg")? {
        None => possible,
        Some(named) => {
            let named = possible.into_iter().filter(|one| format!("{one:?}") == named).collect::<Vec<_>>();
            if named.is_empty() {
                return Err("its alg is not one of its kty and curve".to_owned());
            }
            named
        }
    };
    Ok(IssuerKey { decoding, algorithms, description })
}

type ReadKey = (DecodingKey, Vec<Algorithm>, String);

fn rsa(jwk: &Map<String, Value>) -> Result<ReadKey, String> {
    let (n, e) = (required(jwk, "n")?, required(jwk, "e")?);
    let key = DecodingKey::from_rsa_components(n, e).map_err(|_| "its n or e is not base64url")?;
    let DecodingKeyKind::RsaModulusExponent { n, e } = key.kind() else { return Err("it cannot be read".to_owned()) };
    let significant = n.iter().position(|byte| *byte != 0).unwrap_or(n.len());
    let leading = n.get(significant).map_or(0, |byte| byte.leading_zeros() as usize);
    let bits = (n.len() - significant) * 8 - leading;
    if !RSA_BITS.contains(&bits) {
        let (min, max) = (RSA_BITS.start(), RSA_BITS.end());
        return Err(format!("its RSA key has {bits} bits; {min} to {max} are accepted"));
    }
    if e.len() > 8 || e.last().is_none_or(|last| last % 2 == 0) || e.iter().all(|byte| *byte == 0) || e == &[1] {
        return Err("its RSA exponent is not an odd number of at most 64 bits".to_owned());
    }
    Ok((key.clone(), RSA_ALGORITHMS.to_vec(), format!("RSA {bits} bits")))
}

fn elliptic(jwk: &Map<String, Value>) -> Result<ReadKey, String> {
    let curve = required(jwk, "crv")?;
    let (algorithm, point_bytes) = match curve {
        "P-256" => (Algorithm::ES256, 65),
        "P-384" => (Algorithm::ES384, 97),
        _ => return Err(format!("its curve {} is not supported; use P-256 or P-384", shortened(curve))),
    };
    let key = DecodingKey::from_ec_components(required(jwk, "x")?, required(jwk, "y")?)
        .map_err(|_| "its x or y is not base64url")?;
    if key.try_get_as_bytes().map_or(0, <[u8]>::len) != point_bytes {
        return Err(format!("its x and y are not a point of {curve}"));
    }
    Ok((key, vec![algorithm], format!("EC {curve}")))
}

fn edwards(jwk: &Map<String, Value>) -> Result<ReadKey, String> {
    let curve = required(jwk, "crv")?;
    if curve != "Ed25519" {
        return Err(format!("its curve {} is not supported; use Ed25519", shortened(curve)));
    }
    let key = DecodingKey::from_ed_components(required(jwk, "x")?).map_err(|_| "its x is not base64url")?;
    if key.try_get_as_bytes().map_or(0, <[u8]>::len) != 32 {
        return Err("its x is not a point of Ed25519".to_owned());
    }
    Ok((key, vec![Algorithm::EdDSA], "Ed25519".to_owned()))
}

fn required<'a>(jwk: &'a Map<String, Value>, member: &'static str) -> Result<&'a str, String> {
    text(jwk, member)?.ok_or_else(|| format!("it has no {member}"))
}

fn text<'a>(jwk: &'a Map<String, Value>, member: &'static str) -> Result<Option<&'a str>, String> {
    match jwk.get(member) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("its {member} is not a string")),
    }
}
