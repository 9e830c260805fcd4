//! The rules of `[policy]`, compiled.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use crate::command::{KnownNames, is_known_stage, is_reserved, table};
use crate::config::{Action, Enforcement, PolicyConfig};

use super::analysis;
use super::caller::CallerFacts;
use super::commands::class_of_known_command;
use super::expiry::RuleExpiry;
use super::fingerprint;
use super::judgement::Grounds;
use super::problem::PolicyProblem;
use super::rule::{Rule, RuleId};
use super::rule_set::{PolicyFlags, RuleSet};
use super::view::View;

/// The compiled rules of `[policy]`.
#[derive(Debug)]
pub struct Policy {
    names: Vec<String>,
    rules: Arc<[Rule]>,
    flags: PolicyFlags,
    /// Commands and stages that the operator declares as known.
    known: Option<Arc<KnownNames>>,
    /// The rules that name every one of their principals in full, by principal; in their order.
    by_principal: HashMap<String, Vec<RuleId>>,
    /// All other rules, in their order.
    by_anything: Vec<RuleId>,
    /// Callers to which the same rules apply share a rule set. It is dropped with the last view that uses it.
    pub(super) rule_sets: Mutex<HashMap<Vec<RuleId>, Weak<RuleSet>>>,
    fingerprint: String,
    /// What the policy was compiled from, if any rule has an expiry.
    config: Option<Box<PolicyConfig>>,
}

impl Policy {
    /// Compiles a configuration that was already checked. Returns all problems that only the table of commands reveals.
    ///
    /// Rules that have expired at `now` match nothing. The policy does not follow the time: see
    /// [`Policy::recompiled`].
    pub fn compile(config: &PolicyConfig, now: SystemTime) -> Result<Self, Vec<PolicyProblem>> {
        let mut problems = Vec::new();
        let path = |at: usize| format!("policy.rule[{}]", at + 1);
        let compile = |(at, rule)| Rule::compile(rule, &path(at), now, &mut problems);
        let rules: Arc<[Rule]> = config.rules.iter().enumerate().map(compile).collect();
        let known = known_names(&config.known_commands, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let (mut by_principal, mut by_anything) = (HashMap::<String, Vec<RuleId>>::new(), Vec::new());
        for (id, rule) in ids().zip(&*rules) {
            match rule.exact_principals() {
                None => by_anything.push(id),
                Some(names) => {
                    for name in names {
                        by_principal.entry(name.to_owned()).or_default().push(id);
                    }
                }
            }
        }
        Ok(Self {
            names: rules.iter().map(|rule| rule.name.clone()).collect(),
            flags: flags(config, &rules),
            fingerprint: fingerprint::of(config, &rules),
            rules,
            known,
            by_principal,
            by_anything,
            rule_sets: Mutex::new(HashMap::new()),
            config: config.rules.iter().any(|rule| rule.expires.is_some()).then(|| Box::new(config.clone())),
        })
    }

    /// The same rules compiled for `now`; `None` if the same rules have expired as in this policy.
    pub fn recompiled(&self, now: SystemTime) -> Option<Self> {
        let config = self.config.as_deref()?;
        // The same configuration has compiled before.
        self.rules.iter().any(|rule| rule.is_outdated(now)).then(|| Self::compile(config, now).ok()).flatten()
    }

    /// The rules with an expiry, in their order.
    pub fn expiries(&self) -> impl Iterator<Item = RuleExpiry<'_>> {
        // Most policies have no such rule.
        let rules = if self.config.is_some() { &self.rules[..] } else { &[] };
        ids().zip(rules).filter_map(|(id, rule)| RuleExpiry::of(id, rule))
    }

    /// When the next rule expires.
    pub fn next_expiry(&self) -> Option<SystemTime> {
        self.expiries().filter(|rule| !rule.is_expired).map(|rule| rule.at).min()
    }

    /// The expiry of one rule.
    pub fn expiry(&self, id: RuleId) -> Option<RuleExpiry<'_>> {
        RuleExpiry::of(id, self.rules.get(id.index())?)
    }

    /// The number of rules that have expired.
    pub fn expired_rules(&self) -> usize {
        self.expiries().filter(|rule| rule.is_expired).count()
    }

    /// The names of the rules, in the order of their [`RuleId`]s.
    pub fn rule_names(&self) -> &[String] {
        &self.names
    }

    /// The action of a rule, and whether the rule is a dry run; `None` for an unknown id.
    pub fn action(&self, id: RuleId) -> Option<(Action, bool)> {
        self.rules.get(id.index()).map(|rule| (rule.action, rule.dry_run))
    }

    /// Whether the policy can deny anything: false in a dry run, and if all rules are dry runs or audits.
    pub fn enforces(&self) -> bool {
        self.flags.enforces
    }

    /// Whether the policy denies every caller of this listener everything except handshake commands: no `allow` rule
    /// can match there although there are some, or a `deny` rule for every caller matches everything. Only certain
    /// cases are reported.
    pub fn denies_everything_at(&self, listener: &str) -> bool {
        let enforced = |action| self.rules.iter().filter(move |rule| rule.action == action && !rule.dry_run);
        let may_allow = |rule: &Rule| rule.may_match_at(listener);
        let denies_all = |rule: &Rule| rule.denies_everything_at(listener);
        let has_allow = enforced(Action::Allow).next().is_some();
        self.enforces()
            && ((has_allow && !enforced(Action::Allow).any(may_allow)) || enforced(Action::Deny).any(denies_all))
    }

    /// Whether any rule depends on the addresses of callers. If not, callers with the same listener and the same
    /// principal have the same view.
    pub fn uses_sources(&self) -> bool {
        self.rules.iter().any(Rule::uses_sources)
    }

    /// A hash of the policy: 64 hexadecimal digits. It is the same on every machine for rules with the same meaning,
    /// order and names.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Rules that can never match, rules that have no effect because of other rules, and rules that do more or less
    /// than they seem to. Only certain cases are reported.
    pub fn warnings(&self) -> Vec<PolicyProblem> {
        analysis::warnings(&self.rules)
    }

    /// The policy for one caller. This compares the caller with the rules that name its principal and with all rules
    /// that name no principals in full; judging a command does not. Views with the same rules share their memory.
    pub fn view(&self, caller: &CallerFacts<'_>) -> View {
        let named = caller.principal.and_then(|principal| self.by_principal.get(principal.as_str()));
        let candidates = self.by_anything.iter().chain(named.into_iter().flatten());
        let applies = |id: &RuleId| self.rules.get(id.index()).is_some_and(|rule| rule.applies_to(caller));
        let mut applicable: Vec<RuleId> = candidates.copied().filter(applies).collect();
        applicable.sort_unstable();

        // A thread that panics while it holds the lock leaves the map consistent; at most its own entry is missing.
        let mut rule_sets = self.rule_sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rule_set) = rule_sets.get(&applicable).and_then(Weak::upgrade) {
            return View { rule_set };
        }
        // A new entry is the occasion to remove the unused ones.
        rule_sets.retain(|_, rule_set| rule_set.strong_count() > 0);
        let rule_set = Arc::new(RuleSet::new(self.flags, &self.rules, applicable.clone(), self.known.clone()));
        rule_sets.insert(applicable, Arc::downgrade(&rule_set));
        View { rule_set }
    }

    /// The label of `grounds` in metrics: the name of the rule, or one of a closed set of labels that no rule can have.
    pub fn label(&self, grounds: Grounds) -> &str {
        match grounds {
            Grounds::Rule(RuleId(id)) => self.names.get(id as usize).map_or("", String::as_str),
            other => other.label(),
        }
    }
}

/// A name that is in the tables is an error: the tables say more exactly what the command reaches.
fn known_names(config: &BTreeMap<String, String>, problems: &mut Vec<PolicyProblem>) -> Option<Arc<KnownNames>> {
    let mut known = KnownNames::default();
    for (name, word) in config {
        let mut note = |sentence: String| {
            problems.push(PolicyProblem { key: format!("policy.known_commands.{name}"), sentence });
        };
        if table::find(name.as_bytes()).is_some() || is_known_stage(name) {
            note("is known already; remove it: rules name it, or its class".to_owned());
        } else if is_reserved(name) {
            note("is a name that MongoDB servers reserve for themselves; remove it".to_owned());
        } else {
            match class_of_known_command(word) {
                Ok(class) => known.insert(name, class),
                Err(sentence) => note(sentence),
            }
        }
    }
    (!config.is_empty()).then(|| Arc::new(known))
}

fn flags(config: &PolicyConfig, rules: &[Rule]) -> PolicyFlags {
    let any = |action: Action, dry_run: bool| rules.iter().any(|rule| rule.action == action && rule.dry_run == dry_run);
    // Expired rules too: the end of the last allow rule must not allow everything.
    let needs_allow = any(Action::Allow, false);
    let denies = rules.iter().any(|rule| rule.action == Action::Deny && !rule.dry_run && !rule.is_expired);
    let can_deny = config.deny_javascript || needs_allow || denies;
    PolicyFlags {
        enforces: config.enforcement == Enforcement::Enforce && can_deny,
        deny_javascript: config.deny_javascript,
        needs_allow,
        would_need_allow: needs_allow || any(Action::Allow, true),
        has_dry_runs: any(Action::Allow, true) || any(Action::Deny, true),
    }
}

/// The ids of rules, in their order. The configuration allows far fewer rules.
fn ids() -> impl Iterator<Item = RuleId> {
    (0..u32::MAX).map(RuleId)
}
