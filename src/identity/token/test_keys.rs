//! Keys that sign tokens, the key sets (JWKS) that publish them, and tokens with any header and claims.
//!
//! The unit tests here and the test kit of `tests/` share this file. It uses none of the code that it tests.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// A key of an issuer, with its key id.
pub struct TokenKey {
    pub kid: String,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

impl TokenKey {
    /// A new RSA key of 2048 bits.
    pub fn rsa(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()) }
    }

    /// A new key on the curve P-256.
    pub fn ec(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { kid: kid.to_owned(), pair: Pair::Ec(pair) }
    }

    /// The usual algorithm of the key.
    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(_) => "ES256",
        }
    }

    /// The public key.
    pub fn jwk(&self) -> Value {
        match &self.pair {
            Pair::Rsa(pair) => {
                let key = pair.public_key();
                let n = key.modulus().big_endian_without_leading_zero();
                let e = key.exponent().big_endian_without_leading_zero();
                json!({ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid, "n": encoded(n), "e": encoded(e) })
            }
            Pair::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                let (x, y) = (encoded(x), encoded(y));
                json!({ "kty": "EC", "use": "sig", "crv": "P-256", "kid": self.kid, "x": x, "y": y })
            }
        }
    }

    /// The public key in DER: what an attacker takes for a shared secret.
    pub fn public_der(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair) => {
                let der: aws_lc_rs::encoding::PublicKeyX509Der<'_> =
                    aws_lc_rs::encoding::AsDer::as_der(pair.public_key()).unwrap();
                der.as_ref().to_vec()
            }
            Pair::Ec(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    /// A token with the usual header.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.algorithm(), "kid": self.kid }), claims)
    }

    /// A token with any header, signed with this key as `alg` says where that fits, and else with the usual algorithm.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let signed = signed_part(&header.to_string(), &claims.to_string());
        self.sign(&signed, header["alg"].as_str().unwrap_or_default())
    }

    /// A token from the bytes of header and claims.
    pub fn token_of_text(&self, header: &str, claims: &str) -> String {
        self.sign(&signed_part(header, claims), self.algorithm())
    }

    fn sign(&self, signed: &str, algorithm: &str) -> String {
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let padding: &dyn aws_lc_rs::signature::RsaEncoding =
                    if algorithm == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{signed}.{}", encoded(&signature))
    }
}

/// A token that is signed with a shared secret.
pub fn hs256_token(secret: &[u8], header: &Value, claims: &Value) -> String {
    let signed = signed_part(&header.to_string(), &claims.to_string());
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", encoded(tag.as_ref()))
}

/// A token without a signature.
pub fn unsigned_token(header: &Value, claims: &Value) -> String {
    format!("{}.", signed_part(&header.to_string(), &claims.to_string()))
}

/// The key set of some keys.
pub fn key_set<'a>(keys: impl IntoIterator<Item = &'a TokenKey>) -> Value {
    json!({ "keys": keys.into_iter().map(TokenKey::jwk).collect::<Vec<_>>() })
}

/// What Kubernetes puts into the token of a service account, given as namespace and name. The token is valid for `life`
/// seconds from `start` on, in seconds since 1970.
pub fn kubernetes_claims(
    issuer: &str,
    audience: &str,
    (namespace, account): (&str, &str),
    start: u64,
    life: u64,
) -> Value {
    json!({
        "aud": [audience], "exp": start + life, "iat": start, "nbf": start, "iss": issuer,
        "jti": encoded(&digest::digest(&digest::SHA256, start.to_string().as_bytes()).as_ref()[..8]),
        "kubernetes.io": {
            "namespace": namespace,
            "pod": { "name": format!("{account}-0"), "uid": "5f4dcc3b" },
            "serviceaccount": { "name": account, "uid": "0cc175b9" },
        },
        "sub": format!("system:serviceaccount:{namespace}:{account}"),
    })
}

fn signed_part(header: &str, claims: &str) -> String {
    format!("{}.{}", encoded(header.as_bytes()), encoded(claims.as_bytes()))
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
