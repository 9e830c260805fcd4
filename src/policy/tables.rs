//! The rules that select one kind of command, looked up by resource.

use std::sync::Arc;

use crate::command::Resource;
use crate::config::Action;

use super::index::{Index, Keep, MatchMode};
use super::rule::{Rule, RuleId, To};

/// The rules that select one kind of command, by resource.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) deny: Index,
    pub(super) allow: Index,
    pub(super) dry_deny: Index,
    pub(super) dry_allow: Index,
    pub(super) audit: Index,
}

impl Tables {
    pub(super) fn new<'a>(entries: impl Iterator<Item = (RuleId, &'a Rule, &'a Arc<To>)>, keep: Keep) -> Self {
        let mut tables = Self {
            deny: Index::new(MatchMode::Overlaps, keep),
            allow: Index::new(MatchMode::Covers, keep),
            dry_deny: Index::new(MatchMode::Overlaps, keep),
            dry_allow: Index::new(MatchMode::Covers, keep),
            audit: Index::new(MatchMode::Overlaps, Keep::All),
        };
        for (id, rule, to) in entries {
            let index = match (rule.action, rule.dry_run) {
                (Action::Deny, false) => &mut tables.deny,
                (Action::Deny, true) => &mut tables.dry_deny,
                (Action::Allow, false) => &mut tables.allow,
                (Action::Allow, true) => &mut tables.dry_allow,
                (Action::Audit, _) => &mut tables.audit,
            };
            index.add(id, to);
        }
        tables
    }

    /// The first `deny` rule that matches, including dry runs.
    pub(super) fn denies(&self, resource: &Resource<'_>, enforced: Option<RuleId>) -> Option<RuleId> {
        enforced.into_iter().chain(self.dry_deny.first(resource)).min()
    }

    pub(super) fn allows(&self, resource: &Resource<'_>) -> Option<RuleId> {
        self.allow.first(resource).into_iter().chain(self.dry_allow.first(resource)).min()
    }
}
