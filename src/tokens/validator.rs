//! Validates tokens with the current keys, and waits for newer ones where a key is unknown.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use super::issuer_keys::IssuerKeys;
use crate::identity::token::{
    TokenIssuers, TokenProblem, TokenResult, ValidToken, ValidateToken, Validated, Validation,
};
use crate::telemetry::metrics::TokenMetrics;

/// How long a client waits for newer keys. The driver may have a timeout of its own, and asks again after an error.
const WAIT: Duration = Duration::from_secs(2);

/// Validates the tokens of all issuers.
#[derive(Debug)]
pub struct TokenValidator(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rules: TokenIssuers,
    /// In the order of `rules`.
    keys: Arc<[Arc<IssuerKeys>]>,
    metrics: TokenMetrics,
}

impl TokenValidator {
    pub(super) fn new(rules: TokenIssuers, keys: Arc<[Arc<IssuerKeys>]>) -> Self {
        let labels: Vec<&str> = keys.iter().map(|keys| keys.label()).collect();
        let metrics = TokenMetrics::new(&labels, &TokenProblem::LABELS);
        Self(Arc::new(Shared { rules, keys, metrics }))
    }
}

impl ValidateToken for TokenValidator {
    /// Must be called inside a runtime: a pending validation has a timer.
    fn validate(&self, token: &str, now: SystemTime) -> Validation {
        let first = self.0.validate(token, now);
        let (Some(position), Err(problem)) = (first.issuer, &first.result) else {
            return Validation::Ended(self.0.count(first));
        };
        // At the start the first keys are still being loaded, which is no reason to turn a client away.
        let is_curable = matches!(problem, TokenProblem::UnknownKey { .. } | TokenProblem::NoKeys { .. });
        let Some(keys) = self.0.keys.get(position).filter(|_| is_curable) else {
            return Validation::Ended(self.0.count(first));
        };
        let Some(before) = keys.request() else { return Validation::Ended(self.0.count(first)) };
        let (shared, keys, token) = (Arc::clone(&self.0), Arc::clone(keys), token.to_owned());
        Validation::Pending(Box::pin(async move {
            let _ = timeout(WAIT, keys.attempted(before)).await;
            // The token may have expired meanwhile.
            let again = shared.validate(&token, SystemTime::now().max(now));
            shared.count(again)
        }))
    }

    fn count_valid(&self, token: &ValidToken, refusal: Option<&TokenProblem>) {
        let position = self.0.keys.iter().position(|keys| keys.label() == token.issuer);
        self.0.metrics.count(position, refusal.map_or("ok", TokenProblem::label));
    }
}

impl Shared {
    fn validate(&self, token: &str, now: SystemTime) -> Validated {
        let current: Vec<_> = self.keys.iter().map(|keys| keys.current()).collect();
        self.rules.validate(token, |position| current.get(position)?.as_deref(), now)
    }

    /// Counts a token that is not valid.
    fn count(&self, validated: Validated) -> TokenResult {
        if let Err(problem) = &validated.result {
            self.metrics.count(validated.issuer, problem.label());
        }
        validated.result
    }
}
