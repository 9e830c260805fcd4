//! What one `[[token_issuer]]` says about its tokens, and the verification of a token against it.
//!
//! Spec: RFC 7519 § 4.1, § 7.2; SPIFFE JWT-SVID § 3 to § 5.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, Validation, decode};
use serde::de::IgnoredAny;
use serde_json::Value;

use super::claim::{ClaimPath, Claims, Found};
use super::key_set::{IssuerKey, KeySet};
use super::presented::{Presented, RegisteredClaims};
use super::problem::TokenProblem;
use super::template::PrincipalTemplate;
use crate::identity::certificate::rfc3339;
use crate::identity::principal::Principal;
use crate::identity::refusal::shortened;
use crate::identity::spiffe::SpiffeId;

/// A token that expires sooner is refused: the command that follows the authentication would find it expired, and some
/// drivers authenticate again and again then.
const REMAINING_MIN: Duration = Duration::from_secs(1);

const SPIFFE_SCHEME: &str = "spiffe://";

/// The rules for the tokens of one issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIssuer {
    /// The value of `iss`. `None` for JWT-SVIDs, which are recognised by the trust domain of their SPIFFE ID.
    pub issuer: Option<String>,
    /// A token must be for one of them; not empty.
    pub audiences: Vec<String>,
    /// The trust domain of the principals; required without `issuer`.
    pub trust_domain: Option<String>,
    /// How the principal is made.
    pub principal: PrincipalTemplate,
    /// Claims that must have one of some values.
    pub required_claims: Vec<(ClaimPath, Vec<String>)>,
    /// How much the clocks of issuer and gateway may differ.
    pub clock_skew: Duration,
    /// How long the end of a cursor or a transaction is let through after a token has expired.
    pub expiry_grace: Duration,
}

/// A token that has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidToken {
    /// Who the client is.
    pub principal: Principal,
    /// The label of the issuer, see [`TokenIssuer::label`].
    pub issuer: String,
    /// The claim `sub`. Up to 2048 bytes of any characters.
    pub subject: String,
    /// The key that verified the token. Up to 2048 bytes of any characters.
    pub kid: String,
    /// The claim `exp`.
    pub expires: SystemTime,
    /// When the gateway stops accepting it: `expires` and the clock skew.
    pub valid_until: SystemTime,
    /// `expiry_grace` of the issuer.
    pub expiry_grace: Duration,
}

/// The result of one step of a verification, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenStep {
    /// What was verified: a closed set, and the paths of required claims.
    pub name: String,
    /// What was found, printable and shortened, or what is wrong.
    pub result: Result<String, TokenProblem>,
}

impl TokenIssuer {
    /// The name in metrics and messages: `issuer`, or `spiffe://` and the trust domain.
    pub fn label(&self) -> String {
        match &self.issuer {
            Some(issuer) => issuer.clone(),
            None => format!("{SPIFFE_SCHEME}{}", self.trust_domain.as_deref().unwrap_or_default()),
        }
    }

    /// Whether a token says that it comes from this issuer.
    pub(super) fn is_of(&self, token: &Presented<'_>) -> Result<bool, TokenProblem> {
        if let Some(issuer) = &self.issuer {
            return Ok(token.name("iss")? == Some(issuer));
        }
        let domain = token.name("sub")?.and_then(trust_domain_of);
        Ok(domain.is_some() && domain == self.trust_domain.as_deref())
    }

    /// Verifies a token of this issuer at the time `now`.
    pub(super) fn verify(
        &self,
        token: &Presented<'_>,
        keys: &KeySet,
        now: SystemTime,
    ) -> Result<ValidToken, TokenProblem> {
        let key = keys
            .get(&token.kid)
            .ok_or_else(|| TokenProblem::UnknownKey { kid: token.kid.clone(), issuer: self.label() })?;
        self.verify_signature(token, key)?;
        let registered = token.registered()?;
        self.check_audiences(&registered.audiences)?;
        let valid_until = self.check_dates(&registered, now)?;
        for (path, values) in &self.required_claims {
            check_required(&token.claims, path, values)?;
        }
        Ok(ValidToken {
            principal: self.principal_of(token, &registered.subject)?,
            issuer: self.label(),
            subject: registered.subject,
            kid: token.kid.clone(),
            expires: UNIX_EPOCH + Duration::from_secs(registered.expires),
            valid_until,
            expiry_grace: self.expiry_grace,
        })
    }

    /// Verifies a token as [`TokenIssuer::verify`] does, and returns the result of each step for people.
    pub(super) fn examine(&self, token: &Presented<'_>, keys: &KeySet, now: SystemTime) -> Vec<TokenStep> {
        let mut steps = Vec::new();
        let mut step = |name: &str, result: Result<String, TokenProblem>| {
            steps.push(TokenStep { name: name.to_owned(), result });
        };
        let key = keys.get(&token.kid);
        let unknown = || TokenProblem::UnknownKey { kid: token.kid.clone(), issuer: self.label() };
        step("key", key.ok_or_else(unknown).map(|_| format!("kid {}", shortened(&token.kid))));
        if let Some(key) = key {
            let signed = self.verify_signature(token, key).map(|()| format!("valid, {:?}", token.algorithm));
            step("signature", signed);
        }
        match token.registered() {
            Err(problem) => step("claims", Err(problem)),
            Ok(registered) => {
                step("subject", Ok(shortened(&registered.subject)));
                let audiences: Vec<String> = registered.audiences.iter().map(|one| shortened(one)).collect();
                step("audience", self.check_audiences(&registered.audiences).map(|()| audiences.join(", ")));
                let expires = rfc3339(UNIX_EPOCH + Duration::from_secs(registered.expires));
                step("dates", self.check_dates(&registered, now).map(|_| format!("expires {expires}")));
                for (path, values) in &self.required_claims {
                    step(
                        path.as_str(),
                        check_required(&token.claims, path, values).map(|()| "has a required value".to_owned()),
                    );
                }
                step("principal", self.principal_of(token, &registered.subject).map(|principal| principal.to_string()));
            }
        }
        steps
    }

    fn principal_of(&self, token: &Presented<'_>, subject: &str) -> Result<Principal, TokenProblem> {
        if self.takes_spiffe_id(subject) {
            return self.spiffe_id(token, subject).map(Principal::Spiffe);
        }
        self.principal.fill(&token.claims)
    }

    /// The algorithm must be one of the key; what the header says cannot choose another kind of key. Issuer and
    /// audience are compared here as well as below: each of two readers must find them.
    fn verify_signature(&self, token: &Presented<'_>, key: &IssuerKey) -> Result<(), TokenProblem> {
        if !key.algorithms.contains(&token.algorithm) {
            let algorithm = format!("{:?}", token.algorithm);
            return Err(TokenProblem::Algorithm { algorithm, is_known: true });
        }
        let mut validation = Validation::new(token.algorithm);
        // The dates are compared below, with the time that the caller gives and a sentence that says how much is wrong.
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            validation.set_required_spec_claims(&["exp", "aud", "sub", "iss"]);
        }
        match decode::<IgnoredAny>(token.text, &key.decoding, &validation) {
            Ok(_) => Ok(()),
            Err(error) => Err(match error.kind() {
                jsonwebtoken::errors::ErrorKind::MissingRequiredClaim(claim) => {
                    TokenProblem::MissingClaim { claim: claim.clone() }
                }
                _ => TokenProblem::Signature { kid: token.kid.clone() },
            }),
        }
    }

    fn check_audiences(&self, found: &[String]) -> Result<(), TokenProblem> {
        let is_expected = |audience: &String| self.audiences.contains(audience);
        // Such a token is also a credential for the Kubernetes API, which only the API server should see.
        if let Some(audience) = found.iter().find(|audience| self.is_api_server(audience) && !is_expected(audience)) {
            let (audience, expected) = (audience.clone(), self.audiences.clone());
            return Err(TokenProblem::ApiServerAudience { audience, expected });
        }
        if found.iter().any(is_expected) {
            return Ok(());
        }
        Err(TokenProblem::Audience { found: found.to_vec(), expected: self.audiences.clone() })
    }

    /// Whether an audience is that of the Kubernetes API server: by default the issuer itself, or its service.
    fn is_api_server(&self, audience: &str) -> bool {
        let is_service = |rest: &str| matches!(rest.as_bytes().first(), None | Some(b'.' | b'/' | b':'));
        self.principal.is_default()
            && (self.issuer.as_deref() == Some(audience)
                || audience.strip_prefix("https://kubernetes.default").is_some_and(is_service))
    }

    /// Returns until when the token is accepted.
    fn check_dates(&self, claims: &RegisteredClaims, now: SystemTime) -> Result<SystemTime, TokenProblem> {
        let expires = UNIX_EPOCH + Duration::from_secs(claims.expires);
        let valid_until = expires + self.clock_skew;
        match valid_until.duration_since(now) {
            Ok(left) if left >= REMAINING_MIN => {}
            _ => {
                return Err(match now.duration_since(expires) {
                    Ok(ago) => TokenProblem::Expired { ago },
                    Err(_) => TokenProblem::AboutToExpire,
                });
            }
        }
        let is_of_kubernetes = self.principal.is_default() && !self.takes_spiffe_id(&claims.subject);
        if claims.not_before.is_none() && is_of_kubernetes {
            // Kubernetes always sets it. Other issuers, such as Google, do not have it.
            return Err(TokenProblem::MissingClaim { claim: "nbf".to_owned() });
        }
        let not_before = UNIX_EPOCH + Duration::from_secs(claims.not_before.unwrap_or_default());
        match not_before.duration_since(now + self.clock_skew) {
            Ok(left) if !left.is_zero() => Err(TokenProblem::NotYetValid { left: left + self.clock_skew }),
            _ => Ok(valid_until),
        }
    }

    /// Whether the SPIFFE ID in `sub` is the principal.
    fn takes_spiffe_id(&self, subject: &str) -> bool {
        self.issuer.is_none() || (self.principal.is_default() && subject.starts_with(SPIFFE_SCHEME))
    }

    /// The rules of JWT-SVID that go beyond those of every token.
    fn spiffe_id(&self, token: &Presented<'_>, subject: &str) -> Result<SpiffeId, TokenProblem> {
        if token.has_other_header_members {
            return Err(TokenProblem::HeaderMember(
                "other members than alg, kid and typ, which a JWT-SVID may not have",
            ));
        }
        if !matches!(token.typ.as_deref(), None | Some("JWT" | "JOSE")) {
            return Err(TokenProblem::HeaderMember("a typ other than JWT or JOSE, which a JWT-SVID may not have"));
        }
        if token.algorithm == Algorithm::EdDSA {
            return Err(TokenProblem::Algorithm { algorithm: "EdDSA".to_owned(), is_known: true });
        }
        let id = SpiffeId::from_uri(subject)
            .map_err(|cause| TokenProblem::NoPrincipal { claim: "sub".to_owned(), cause: cause.to_string() })?;
        let expected = self.trust_domain.clone().unwrap_or_default();
        if id.trust_domain() == expected {
            return Ok(id);
        }
        Err(TokenProblem::TrustDomain { found: id.trust_domain().to_owned(), expected })
    }
}

/// The trust domain that a SPIFFE ID begins with. The ID may be malformed otherwise.
fn trust_domain_of(subject: &str) -> Option<&str> {
    subject.strip_prefix(SPIFFE_SCHEME)?.split('/').next()
}

/// A string, a number or a boolean must be one of the values; of an array, one item.
fn check_required(claims: &Claims, path: &ClaimPath, values: &[String]) -> Result<(), TokenProblem> {
    let is_one = |value: &Value| match value {
        Value::String(text) => values.contains(text),
        Value::Bool(value) => values.contains(&value.to_string()),
        Value::Number(number) => values.contains(&number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    };
    let holds = match path.find(claims) {
        Found::Value(Value::Array(items)) => items.iter().any(is_one),
        Found::Value(value) => is_one(value),
        Found::Nothing => return Err(TokenProblem::MissingClaim { claim: path.to_string() }),
        Found::Several => false,
    };
    if holds { Ok(()) } else { Err(TokenProblem::RequiredClaim { claim: path.to_string() }) }
}
