//! What a policy decides, counted by rule.

use std::sync::OnceLock;

use metrics::{Counter, counter};

use super::metrics::families::POLICY_DECISIONS;

/// What a policy says of one command; several rules may have something to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyDecision {
    /// It passes.
    Allow,
    /// It is refused.
    Deny,
    /// An audit rule matches.
    Audit,
    /// It passes, and would be refused were this no dry run.
    WouldDeny,
}

/// The handles of one listener and one policy; a rule that never decides costs no series.
pub struct PolicyMetrics {
    listener: String,
    /// By the place of the rule, and then [`PolicyDecision`].
    rules: Vec<(String, [OnceLock<Counter>; 4])>,
}

impl PolicyMetrics {
    /// `rules` are the labels of everything that can decide, in an order that the caller knows.
    pub fn new(listener: &str, rules: impl IntoIterator<Item = String>) -> Self {
        let rules = rules.into_iter().map(|rule| (rule, Default::default())).collect();
        Self { listener: listener.to_owned(), rules }
    }

    /// Counts a decision of the rule at `place`.
    pub fn count(&self, place: usize, decision: PolicyDecision) {
        let Some((rule, counters)) = self.rules.get(place) else { return };
        let lookup = || counter!(POLICY_DECISIONS, "listener" => self.listener.clone(), "rule" => rule.clone(), "decision" => decision.label());
        counters[decision as usize].get_or_init(lookup).increment(1);
    }
}

impl PolicyDecision {
    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
            Self::WouldDeny => "would_deny",
        }
    }
}
