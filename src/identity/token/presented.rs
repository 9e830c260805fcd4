//! A token as the client sent it: split, decoded and bounded, but not verified.
//!
//! Spec: RFC 7515 § 3.1, § 4.1; RFC 7519 § 4.1.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::Value;

use super::claim::Claims;
use super::json;
use super::problem::TokenProblem;

/// The longest token in bytes. Those of Kubernetes have about 1 KiB, those with many groups 10 KiB.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// The longest `kid`, `iss`, `sub` and audience in bytes.
const NAME_BYTES_MAX: usize = 2048;

/// Audiences of one token, as the JWT-SVID profile of the `spiffe` crate has it.
const AUDIENCES_MAX: usize = 32;

/// A token that is not verified: nothing in it is true yet.
pub(super) struct Presented<'a> {
    /// The whole token.
    pub(super) text: &'a str,
    /// The algorithm of the header; one of a public key.
    pub(super) algorithm: Algorithm,
    pub(super) kid: String,
    pub(super) typ: Option<String>,
    /// Whether the header has other members than `alg`, `kid` and `typ`.
    pub(super) has_other_header_members: bool,
    pub(super) claims: Claims,
}

/// The registered claims that every token must have, and `nbf`.
pub(super) struct RegisteredClaims {
    pub(super) subject: String,
    pub(super) audiences: Vec<String>,
    /// Seconds since 1970.
    pub(super) expires: u64,
    /// Seconds since 1970.
    pub(super) not_before: Option<u64>,
}

impl<'a> Presented<'a> {
    /// Reads a token. ASCII whitespace around it is ignored: drivers send the contents of a file unchanged.
    pub(super) fn parse(token: &'a str) -> Result<Self, TokenProblem> {
        let text = token.trim_matches(|c: char| c.is_ascii_whitespace());
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenProblem::TooLong { max: TOKEN_BYTES_MAX });
        }
        let parts: Vec<&str> = text.splitn(4, '.').collect();
        let [header, claims, signature] = parts.as_slice() else { return Err(TokenProblem::NotCompact) };
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenProblem::NotCompact);
        let (header, claims, _) = (decoded(header)?, decoded(claims)?, decoded(signature)?);
        let header = json::object(&header).map_err(TokenProblem::Header)?;
        let claims = json::object(&claims).map_err(TokenProblem::Claims)?;
        // Extensions that have to be understood (RFC 7515 § 4.1.11). The gateway understands none.
        if header.contains_key("crit") {
            return Err(TokenProblem::HeaderMember("the member crit, whose extensions this gateway does not know"));
        }
        let kid = match header.get("kid") {
            Some(Value::String(kid)) if !kid.is_empty() && kid.len() <= NAME_BYTES_MAX => kid.clone(),
            Some(_) => return Err(TokenProblem::HeaderMember("a kid that is not a string of 1 to 2048 bytes")),
            None => return Err(TokenProblem::HeaderMember("no kid, so that its key is not known")),
        };
        let typ = match header.get("typ") {
            None => None,
            Some(Value::String(typ)) => Some(typ.clone()),
            Some(_) => return Err(TokenProblem::HeaderMember("a typ that is not a string")),
        };
        Ok(Self {
            text,
            algorithm: algorithm(header.get("alg"))?,
            kid,
            typ,
            has_other_header_members: header.keys().any(|name| !matches!(name.as_str(), "alg" | "kid" | "typ")),
            claims,
        })
    }

    /// A claim that is a short string; `None` if it is absent.
    pub(super) fn name(&self, claim: &'static str) -> Result<Option<&str>, TokenProblem> {
        match self.claims.get(claim) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() && text.len() <= NAME_BYTES_MAX => Ok(Some(text)),
            Some(_) => Err(TokenProblem::WrongType { claim, expected: "a string of 1 to 2048 bytes" }),
        }
    }

    /// The claims that every token must have.
    pub(super) fn registered(&self) -> Result<RegisteredClaims, TokenProblem> {
        let missing = |claim: &str| TokenProblem::MissingClaim { claim: claim.to_owned() };
        Ok(RegisteredClaims {
            subject: self.name("sub")?.ok_or_else(|| missing("sub"))?.to_owned(),
            audiences: self.audiences()?.ok_or_else(|| missing("aud"))?,
            expires: self.date("exp")?.ok_or_else(|| missing("exp"))?,
            not_before: self.date("nbf")?,
        })
    }

    fn audiences(&self) -> Result<Option<Vec<String>>, TokenProblem> {
        const WRONG: TokenProblem =
            TokenProblem::WrongType { claim: "aud", expected: "a string, or an array of at most 32 strings" };
        let Some(Value::Array(several)) = self.claims.get("aud") else {
            return Ok(self.name("aud").map_err(|_| WRONG)?.map(|one| vec![one.to_owned()]));
        };
        let text = |value: &Value| match value {
            Value::String(text) if text.len() <= NAME_BYTES_MAX => Ok(text.clone()),
            _ => Err(WRONG),
        };
        if several.len() > AUDIENCES_MAX {
            Err(WRONG)
        } else {
            several.iter().map(text).collect::<Result<_, _>>().map(Some)
        }
    }

    /// A date in seconds since 1970; fractions are cut off.
    fn date(&self, claim: &'static str) -> Result<Option<u64>, TokenProblem> {
        let Some(value) = self.claims.get(claim) else { return Ok(None) };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range has been compared")]
        let whole = |date: f64| ((0.0..1e15).contains(&date)).then_some(date as u64);
        match value.as_u64().or_else(|| value.as_f64().and_then(whole)).filter(|date| *date < 1 << 50) {
            Some(date) => Ok(Some(date)),
            None => Err(TokenProblem::WrongType { claim, expected: "a date in seconds since 1970" }),
        }
    }
}

/// The algorithm of the header. `none` and those of a shared secret are not accepted whatever the keys are.
fn algorithm(given: Option<&Value>) -> Result<Algorithm, TokenProblem> {
    let Some(Value::String(name)) = given else {
        return Err(TokenProblem::HeaderMember("no alg, or one that is not a string"));
    };
    match Algorithm::from_str(name) {
        Ok(Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) | Err(_) => {
            Err(TokenProblem::Algorithm { algorithm: name.clone(), is_known: false })
        }
        Ok(algorithm) => Ok(algorithm),
    }
}
