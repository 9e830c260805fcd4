//! What becomes of each attempt to load the keys of an issuer: keys in use, metrics and log lines.

use std::fmt::Write as _;
use std::sync::Arc;

use super::issuer_keys::IssuerKeys;
use super::load::KeyLoadError;
use super::messages::{TOKEN_KEY_LEFT_OUT, TOKEN_KEYS_FAILED, TOKEN_KEYS_LOADED, TOKEN_KEYS_WITHDRAWN};
use crate::identity::token::KeySet;
use crate::telemetry::log_throttle::{LineBudget, LogDecision, LogSubject, LogThrottle};
use crate::telemetry::metrics::set_jwks_keys;

/// Reports the attempts of one issuer.
pub(super) struct KeyReport {
    keys: Arc<IssuerKeys>,
    repeats: LogThrottle,
    /// The keys that were logged last.
    logged: Vec<String>,
    has_failed: bool,
}

impl KeyReport {
    /// No attempt has ended yet.
    pub(super) fn new(keys: Arc<IssuerKeys>) -> Self {
        Self { keys, repeats: LogThrottle::new(LogSubject::Process), logged: Vec::new(), has_failed: false }
    }

    /// The keys of the issuer.
    pub(super) fn keys(&self) -> &Arc<IssuerKeys> {
        &self.keys
    }

    /// Whether a line about a failure may be logged, and how many were not.
    pub(super) fn note(&self, message: &'static str) -> LogDecision {
        self.repeats.note(message, self.keys.label(), LineBudget::Failures)
    }

    /// Puts keys into use.
    pub(super) fn loaded(&mut self, keys: KeySet) {
        self.log_loaded(&keys);
        set_jwks_keys(self.keys.label(), keys.len());
        self.keys.replace(keys);
    }

    /// There are no new keys. The last ones stay in use.
    pub(super) fn failed(&mut self, error: &KeyLoadError) {
        self.has_failed = true;
        self.keys.fail(problem(error));
        if let LogDecision::Log { suppressed } = self.note(TOKEN_KEYS_FAILED) {
            let in_use = if self.keys.current().is_some() { "the last keys" } else { "none" };
            let (issuer, remedy) = (self.keys.label(), error.remedy());
            tracing::warn!(issuer, %error, %remedy, in_use, suppressed, "{TOKEN_KEYS_FAILED}");
        }
    }

    /// The issuer has taken its keys back: none is in use from now on.
    pub(super) fn withdrawn(&mut self, error: &KeyLoadError) {
        if self.keys.current().is_none() {
            return self.failed(error);
        }
        self.has_failed = true;
        self.keys.withdraw(problem(error));
        set_jwks_keys(self.keys.label(), 0);
        if let LogDecision::Log { suppressed } = self.note(TOKEN_KEYS_WITHDRAWN) {
            let (issuer, remedy) = (self.keys.label(), error.remedy());
            tracing::warn!(issuer, %error, %remedy, suppressed, "{TOKEN_KEYS_WITHDRAWN}");
        }
    }

    /// One line for keys that have changed, and one after a failure.
    fn log_loaded(&mut self, keys: &KeySet) {
        // A bundle has them in an order of chance.
        let mut left_out: Vec<String> = keys.left_out().iter().map(ToString::to_string).collect();
        left_out.sort_unstable();
        let mut now = keys.descriptions();
        now.extend_from_slice(&left_out);
        if !std::mem::take(&mut self.has_failed) && now == self.logged {
            return;
        }
        let issuer = self.keys.label();
        let decision = self.repeats.note(TOKEN_KEYS_LOADED, issuer, LineBudget::Changes);
        if let LogDecision::Log { suppressed } = decision {
            tracing::info!(issuer, keys = shown(&keys.descriptions()), suppressed, "{TOKEN_KEYS_LOADED}");
            if !left_out.is_empty() && now != self.logged {
                tracing::info!(issuer, left_out = shown(&left_out), "{TOKEN_KEY_LEFT_OUT}");
            }
        }
        self.logged = now;
    }
}

fn problem(error: &KeyLoadError) -> String {
    format!("{error}; {}", error.remedy())
}

/// At most eight items.
fn shown(items: &[String]) -> String {
    let mut text = items.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
    if items.len() > 8 {
        let _ = write!(text, " and {} more", items.len() - 8);
    }
    text
}
