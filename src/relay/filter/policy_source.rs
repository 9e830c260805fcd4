//! Where a connection gets its policy from, and what the policy's findings are reported with.

use std::sync::Arc;

use crate::command::{Meaning, Unclear};
use crate::policy::{Effect, ErrorCode, Grounds, Judgement, Policy, RuleId, SessionOwner, View};
use crate::relay::cursors::{CursorBook, CursorCaller, CursorOwnership};
use crate::relay::hold_budget::HoldBudget;
use crate::relay::judged_command::JudgedCommand;
use crate::telemetry::policy_metrics::{PolicyDecision, PolicyMetrics};

/// Where a connection's policy comes from, and where its findings go.
pub trait PolicySource: Send + Sync {
    /// Changes whenever [`PolicySource::effective_policy`] would return something new. Read for every request.
    fn version(&self) -> u64;
    /// The policy in force, specialised for this connection's caller; `None` where every request is allowed.
    fn effective_policy(&self) -> Option<EffectivePolicy>;
    /// How session ids are replaced; `None` before the first policy. The connections of a driver share its sessions, so
    /// that ids are replaced on all connections, old and new, even after the policy was removed.
    fn session_mapping(&self) -> Option<SessionMapping>;
    /// Logs a finding: the first of its kind, or at the end of a connection how many of that kind there were.
    fn log_finding(&self, finding: &Finding<'_>);
}

/// The policy that one connection follows.
#[derive(Clone)]
pub struct EffectivePolicy {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The policy specialised for this connection's caller.
    pub view: Arc<View>,
    /// Counts decisions, by the index that [`counter_index`] returns.
    pub metrics: Arc<PolicyMetrics>,
    /// The owners of cursors.
    pub cursors: Arc<CursorBook>,
    /// The owner of the cursors that this connection opens: different for callers for which the policy may decide
    /// differently.
    pub caller: CursorCaller,
}

/// What a connection needs to replace session ids. It does not change when the policy does.
#[derive(Clone)]
pub struct SessionMapping {
    /// The owner of this connection's sessions.
    pub owner: SessionOwner,
    /// Limits the memory of requests that are held for the policy or for their session ids.
    pub hold_budget: HoldBudget,
    /// Whose share of the budget the connection uses: the listener and the principal, and the source if the policy
    /// distinguishes callers by it.
    pub caller: Arc<str>,
}

/// A decision of the policy, for the log.
#[derive(Debug)]
pub struct Finding<'a> {
    /// The name of the rule, or the label of what else decided.
    pub rule: &'a str,
    /// The decision.
    pub decision: PolicyDecision,
    /// The command, or the unknown command or stage if its name can be shown; else `None`.
    pub command: Option<&'a str>,
    /// The database, or `database.collection`, that the decision is about; empty where it is about none.
    pub namespace: &'a str,
    /// What could not be understood about the command.
    pub unclear: Option<Unclear>,
    /// 1 for the first finding of its kind; at the end of the connection, the number of findings of that kind.
    pub count: u64,
}

/// The labels of a policy's decision counters: its rules in their order, then everything else that can decide.
pub fn counter_labels(policy: &Policy) -> Vec<String> {
    let others = Grounds::WITHOUT_RULE.map(|grounds| policy.label(grounds).to_owned());
    policy.rule_names().iter().cloned().chain(others).collect()
}

/// The index of `grounds` among the [`counter_labels`] of a policy with this number of rules.
pub fn counter_index(grounds: Grounds, rules: usize) -> usize {
    match grounds {
        Grounds::Rule(RuleId(id)) => id as usize,
        other => rules + Grounds::WITHOUT_RULE.iter().position(|beside| *beside == other).unwrap_or_default(),
    }
}

impl EffectivePolicy {
    /// Whether a request that cannot be understood is denied: not in a dry run.
    pub(in crate::relay) fn denies_unclear(&self) -> bool {
        self.view.deny(Grounds::Unclear).effect == Effect::Deny
    }

    /// Counts a decision.
    pub(in crate::relay) fn count(&self, grounds: Grounds, decision: PolicyDecision) {
        self.metrics.count(counter_index(grounds, self.policy.rule_names().len()), decision);
    }

    /// Whether a command may use the cursors that it names. `version` is the version of the policy. Forgets the cursors
    /// that a `killCursors` closes.
    pub(in crate::relay) fn check_cursors(
        &self,
        meaning: &Meaning<'_>,
        version: u64,
    ) -> Result<Option<Judgement>, CursorError> {
        if meaning.command.name == "getMore" {
            // The reply is filtered if the namespace is that of a list. A mongod compares it with that of the cursor.
            let lists = Some(meaning.listing.is_some());
            return meaning.cursors.first().map_or(Ok(None), |id| self.check_cursor(*id, lists, version));
        }
        // Closing an unknown cursor does no harm. Drivers do so with a cursor that has just been exhausted.
        let is_foreign =
            |id: &i64| matches!(self.cursors.ownership(*id, &self.caller, version), CursorOwnership::Foreign);
        if meaning.cursors.iter().any(is_foreign) {
            return Err(CursorError::Unusable(ErrorCode::UNAUTHORIZED));
        }
        meaning.cursors.iter().for_each(|id| self.cursors.forget(*id));
        Ok(None)
    }

    /// Whether the caller may read a cursor. If another version of the policy has allowed it, judges the command that
    /// opened it, and returns that judgement. `lists` says whether it has to be the cursor of a `listCollections`.
    pub(in crate::relay) fn check_cursor(
        &self,
        id: i64,
        lists: Option<bool>,
        version: u64,
    ) -> Result<Option<Judgement>, CursorError> {
        let ownership = self.cursors.ownership(id, &self.caller, version);
        let is_list = match &ownership {
            CursorOwnership::Own { lists_collections } => Some(*lists_collections),
            CursorOwnership::Outdated(command) => Some(command.lists_collections()),
            CursorOwnership::Foreign | CursorOwnership::Unknown => None,
        };
        if is_list.is_some_and(|is_list| lists.is_some_and(|lists| lists != is_list)) {
            return Err(CursorError::Unusable(ErrorCode::UNAUTHORIZED));
        }
        match ownership {
            CursorOwnership::Own { .. } => Ok(None),
            CursorOwnership::Foreign => Err(CursorError::Unusable(ErrorCode::UNAUTHORIZED)),
            CursorOwnership::Unknown => Err(CursorError::Unusable(ErrorCode::CURSOR_NOT_FOUND)),
            CursorOwnership::Outdated(command) => {
                let judgement = match self.judge_again(&command) {
                    Ok(judgement) => judgement,
                    Err(Some(judgement)) => return Err(CursorError::Denied(Box::new(judgement), command)),
                    Err(None) => return Err(CursorError::Unusable(ErrorCode::CURSOR_NOT_FOUND)),
                };
                self.cursors.allow(id, version);
                Ok(Some(judgement))
            }
        }
    }

    /// Judges a command that another version of the policy has allowed, as if this caller had sent it now. The error is
    /// the judgement that denies it; `None` if that version did not search the command for JavaScript and this one
    /// must.
    pub(in crate::relay) fn judge_again(&self, command: &JudgedCommand) -> Result<Judgement, Option<Judgement>> {
        let judgement = self.view.judge(&command.meaning());
        if judgement.effect == Effect::Deny {
            return Err(Some(judgement));
        }
        if self.denies_unclear() && !command.suffices(self.view.read_options()) {
            return Err(None);
        }
        Ok(judgement)
    }
}

/// Why a command may not use a cursor that it names.
pub(in crate::relay) enum CursorError {
    /// The caller does not own it, or the gateway does not know it. With the error for the client.
    Unusable(ErrorCode),
    /// The policy denies the command that opened it.
    Denied(Box<Judgement>, Arc<JudgedCommand>),
}
