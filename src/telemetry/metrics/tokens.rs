//! The metrics of tokens: their validations, and the keys of their issuers.

use metrics::{Counter, counter, gauge};

use super::families::{JWKS_KEYS, TOKEN_VALIDATIONS};

/// The outcome of a token that is accepted.
const OK: &str = "ok";

/// The issuer of tokens that name none that is configured.
const UNKNOWN: &str = "unknown";

/// Counts validations by issuer and outcome.
pub struct TokenMetrics {
    /// Of each issuer, and of `unknown` at the end.
    issuers: Vec<Vec<(&'static str, Counter)>>,
}

impl TokenMetrics {
    /// Looks up the handles in the recorder that is installed now. `problems` are the outcomes in addition to `ok`.
    pub fn new(issuers: &[&str], problems: &[&'static str]) -> Self {
        let outcomes = || std::iter::once(OK).chain(problems.iter().copied());
        let of_issuer = |issuer: &str| {
            let handle = |outcome: &'static str| {
                (outcome, counter!(TOKEN_VALIDATIONS, "issuer" => issuer.to_owned(), "outcome" => outcome))
            };
            outcomes().map(handle).collect()
        };
        Self { issuers: issuers.iter().copied().chain([UNKNOWN]).map(of_issuer).collect() }
    }

    /// Counts one validation. `issuer` is the position of the issuer; `None` counts as `unknown`.
    pub fn count(&self, issuer: Option<usize>, outcome: &str) {
        let unknown = self.issuers.len() - 1;
        let counters = self.issuers.get(issuer.unwrap_or(unknown).min(unknown)).into_iter().flatten();
        if let Some((_, counter)) = counters.into_iter().find(|(label, _)| *label == outcome) {
            counter.increment(1);
        }
    }
}

impl std::fmt::Debug for TokenMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenMetrics").finish_non_exhaustive()
    }
}

/// Sets the number of keys of an issuer that can verify tokens.
pub fn set_jwks_keys(issuer: &str, keys: usize) {
    gauge!(JWKS_KEYS, "issuer" => issuer.to_owned()).set(u32::try_from(keys).unwrap_or(u32::MAX));
}
