//! Rules that expire.

use std::time::SystemTime;

use crate::config::Action;

use super::rule::{Rule, RuleId};

/// When a rule expires, or has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleExpiry<'a> {
    /// The rule.
    pub id: RuleId,
    /// Its name.
    pub name: &'a str,
    /// What it does until then.
    pub action: Action,
    /// `expires`.
    pub at: SystemTime,
    /// `reason`.
    pub reason: Option<&'a str>,
    /// Whether the rule had expired when the policy was compiled.
    pub is_expired: bool,
}

impl<'a> RuleExpiry<'a> {
    pub(super) fn of(id: RuleId, rule: &'a Rule) -> Option<Self> {
        Some(Self {
            id,
            name: &rule.name,
            action: rule.action,
            at: rule.expires?,
            reason: rule.reason.as_deref(),
            is_expired: rule.is_expired,
        })
    }
}
