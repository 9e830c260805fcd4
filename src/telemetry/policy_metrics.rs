//! Policy decisions, counted by rule.

use std::sync::OnceLock;

use metrics::{Counter, Label, counter};

use super::metrics::families::POLICY_DECISIONS;

/// A decision of a policy about one command. One command may be counted for several rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyDecision {
    /// The command is allowed.
    Allow,
    /// The command is denied.
    Deny,
    /// An audit rule matches.
    Audit,
    /// The command is forwarded because of the dry run; with enforcement it would be denied.
    WouldDeny,
}

/// The metric handles of one listener and one policy. A rule that never decides has no series.
pub struct PolicyMetrics {
    listener: String,
    /// The label of each rule, with one counter for each [`PolicyDecision`].
    rules: Vec<(String, [OnceLock<Counter>; 4])>,
}

impl PolicyMetrics {
    /// Prepares the counters. `rules` are the labels of everything that can decide; [`Self::count`] takes an index into
    /// them.
    pub fn new(listener: &str, rules: impl IntoIterator<Item = String>) -> Self {
        let rules = rules.into_iter().map(|rule| (rule, Default::default())).collect();
        Self { listener: listener.to_owned(), rules }
    }

    /// Counts a decision of the rule at `index`; does nothing for an index out of range.
    pub fn count(&self, index: usize, decision: PolicyDecision) {
        let Some((rule, counters)) = self.rules.get(index) else { return };
        let labels = || {
            let (listener, rule) = (self.listener.clone(), rule.clone());
            vec![
                Label::new("listener", listener),
                Label::new("rule", rule),
                Label::from_static_parts("decision", decision.label()),
            ]
        };
        counters[decision as usize].get_or_init(|| counter!(POLICY_DECISIONS, labels())).increment(1);
    }
}

impl PolicyDecision {
    /// The value of the `decision` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
            Self::WouldDeny => "would_deny",
        }
    }
}
