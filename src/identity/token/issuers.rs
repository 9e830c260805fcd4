//! All issuers of the configuration: which of them a token comes from, and whether it is valid.

use std::time::SystemTime;

use super::issuer::{TokenIssuer, TokenStep, ValidToken};
use super::key_set::KeySet;
use super::presented::Presented;
use super::problem::TokenProblem;

/// The issuers whose tokens are accepted, in the order of the configuration.
#[derive(Debug, Clone, Default)]
pub struct TokenIssuers(Vec<TokenIssuer>);

/// The result of a validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validated {
    /// The position of the issuer; `None` if the token names none that is known.
    pub issuer: Option<usize>,
    /// The token, or why it is not accepted.
    pub result: Result<ValidToken, TokenProblem>,
}

impl TokenIssuers {
    /// No two of `issuers` may be recognised by the same `iss` or trust domain; the first would be used.
    pub fn new(issuers: Vec<TokenIssuer>) -> Self {
        Self(issuers)
    }

    /// The issuers.
    pub fn as_slice(&self) -> &[TokenIssuer] {
        &self.0
    }

    /// Validates a token at the time `now` with the keys that `keys` returns for the position of an issuer.
    ///
    /// Takes about 100 µs, most of it for the signature. Pure: nothing is fetched, and the same arguments have the same
    /// result.
    pub fn validate<'a>(
        &self,
        token: &str,
        keys: impl FnOnce(usize) -> Option<&'a KeySet>,
        now: SystemTime,
    ) -> Validated {
        let presented = match Presented::parse(token) {
            Ok(presented) => presented,
            Err(problem) => return Validated { issuer: None, result: Err(problem) },
        };
        let position = match self.position_of(&presented) {
            Ok(position) => position,
            Err(problem) => return Validated { issuer: None, result: Err(problem) },
        };
        let Some(issuer) = self.0.get(position) else {
            return Validated { issuer: None, result: Err(TokenProblem::MissingClaim { claim: "iss".to_owned() }) };
        };
        let result = match keys(position) {
            Some(keys) => issuer.verify(&presented, keys, now),
            None => Err(TokenProblem::NoKeys { issuer: issuer.label() }),
        };
        Validated { issuer: Some(position), result }
    }

    /// Validates a token as [`TokenIssuers::validate`] does, and returns the result of each step for people.
    pub fn examine<'a>(
        &self,
        token: &str,
        keys: impl FnOnce(usize) -> Option<&'a KeySet>,
        now: SystemTime,
    ) -> Vec<TokenStep> {
        let step = |name: &str, result| TokenStep { name: name.to_owned(), result };
        let presented = match Presented::parse(token) {
            Ok(presented) => presented,
            Err(problem) => return vec![step("form", Err(problem))],
        };
        let mut steps = vec![step("form", Ok("a signed JWT".to_owned()))];
        let issuer = self.position_of(&presented).map(|position| (position, self.0.get(position)));
        let (position, issuer) = match issuer {
            Ok((position, Some(issuer))) => (position, issuer),
            Ok((_, None)) => return steps,
            Err(problem) => {
                steps.push(step("issuer", Err(problem)));
                return steps;
            }
        };
        steps.push(step("issuer", Ok(issuer.label())));
        match keys(position) {
            Some(keys) => steps.extend(issuer.examine(&presented, keys, now)),
            None => steps.push(step("key", Err(TokenProblem::NoKeys { issuer: issuer.label() }))),
        }
        steps
    }

    fn position_of(&self, token: &Presented<'_>) -> Result<usize, TokenProblem> {
        for (position, issuer) in self.0.iter().enumerate() {
            if issuer.is_of(token)? {
                return Ok(position);
            }
        }
        let subject = token.name("sub")?.filter(|subject| subject.starts_with("spiffe://"));
        match token.name("iss")?.or(subject) {
            Some(issuer) => Err(TokenProblem::Issuer { issuer: issuer.to_owned() }),
            None => Err(TokenProblem::MissingClaim { claim: "iss".to_owned() }),
        }
    }
}
