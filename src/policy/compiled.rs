//! The rules of `[policy]`, compiled.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::command::{KnownNames, is_known_stage, is_reserved, table};
use crate::config::{Action, Enforcement, PolicyConfig};

use super::analysis;
use super::caller::CallerFacts;
use super::commands::class_of_word;
use super::fingerprint;
use super::judgement::Grounds;
use super::problem::PolicyProblem;
use super::rule::{Rule, RuleId};
use super::rule_set::{PolicyFlags, RuleSet};
use super::view::View;

/// The compiled rules.
#[derive(Debug)]
pub struct Policy {
    names: Vec<String>,
    rules: Arc<[Rule]>,
    flags: PolicyFlags,
    known: Option<Arc<KnownNames>>,
    /// Rules that are about certain principals only, by these; in their order.
    by_principal: HashMap<String, Vec<RuleId>>,
    /// All others, in their order.
    by_anything: Vec<RuleId>,
    /// What callers share whom the same rules are about, for as long as one of them is there.
    pub(super) rule_sets: Mutex<HashMap<Vec<RuleId>, Weak<RuleSet>>>,
    fingerprint: String,
}

impl Policy {
    /// Compiles checked configuration; finds what only the table of commands can tell, all of it at once.
    pub fn compile(config: &PolicyConfig) -> Result<Self, Vec<PolicyProblem>> {
        let mut problems = Vec::new();
        let path = |at: usize| format!("policy.rule[{}]", at + 1);
        let rules: Arc<[Rule]> =
            config.rules.iter().enumerate().map(|(at, rule)| Rule::compile(rule, &path(at), &mut problems)).collect();
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
        })
    }

    /// The names of the rules, in the order of their [`RuleId`]s.
    pub fn rule_names(&self) -> &[String] {
        &self.names
    }

    /// What a rule does, and whether it is a dry run; `None` for a rule of another policy.
    pub fn action(&self, id: RuleId) -> Option<(Action, bool)> {
        self.rules.get(id.index()).map(|rule| (rule.action, rule.dry_run))
    }

    /// Whether anything is ever refused: not in a dry run, and not where all rules are dry runs or audits.
    pub fn enforces(&self) -> bool {
        self.flags.enforces
    }

    /// Whether any rule looks at the addresses of clients. Where none does, clients of one listener and one principal have
    /// one view.
    pub fn uses_sources(&self) -> bool {
        self.rules.iter().any(Rule::uses_sources)
    }

    /// Tells policies apart: 64 hexadecimal digits, the same on every machine for rules that mean the same in the same
    /// order under the same names.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Rules that can never match, rules that decide nothing beside others, and rules that do more or less than they seem
    /// to; only what is certain.
    pub fn warnings(&self) -> Vec<PolicyProblem> {
        analysis::warnings(&self.rules)
    }

    /// The policy as it looks from `caller`. Costs a look at the rules that are about its principal and at those that are
    /// not about certain principals; judging does not. Views that the same rules make share their memory.
    pub fn view(&self, caller: &CallerFacts<'_>) -> View {
        let named = caller.principal.and_then(|principal| self.by_principal.get(principal.as_str()));
        let candidates = self.by_anything.iter().chain(named.into_iter().flatten());
        let is_about = |id: &RuleId| self.rules.get(id.index()).is_some_and(|rule| rule.is_about(caller));
        let mut about: Vec<RuleId> = candidates.copied().filter(is_about).collect();
        about.sort_unstable();

        // A thread that died with the lock has at most left out its own entry.
        let mut rule_sets = self.rule_sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rule_set) = rule_sets.get(&about).and_then(Weak::upgrade) {
            return View { rule_set };
        }
        // Whenever there is something new, what nobody uses any more makes room for it.
        rule_sets.retain(|_, rule_set| rule_set.strong_count() > 0);
        let rule_set = Arc::new(RuleSet::new(self.flags, &self.rules, about.clone(), self.known.clone()));
        rule_sets.insert(about, Arc::downgrade(&rule_set));
        View { rule_set }
    }

    /// The name of `grounds` in metrics: a rule's own, or one of a closed set that no rule can have.
    pub fn label(&self, grounds: Grounds) -> &str {
        match grounds {
            Grounds::Rule(RuleId(id)) => self.names.get(id as usize).map_or("", String::as_str),
            other => other.label(),
        }
    }
}

/// Names that are in the tables are a mistake: what they reach is known better here.
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
            match class_of_word(word) {
                Ok(class) => known.insert(name, class),
                Err(sentence) => note(sentence),
            }
        }
    }
    (!config.is_empty()).then(|| Arc::new(known))
}

fn flags(config: &PolicyConfig, rules: &[Rule]) -> PolicyFlags {
    let any = |action: Action, dry_run: bool| rules.iter().any(|rule| rule.action == action && rule.dry_run == dry_run);
    let needs_allow = any(Action::Allow, false);
    let refuses = config.deny_javascript || needs_allow || any(Action::Deny, false);
    PolicyFlags {
        enforces: config.enforcement == Enforcement::Enforce && refuses,
        deny_javascript: config.deny_javascript,
        needs_allow,
        would_need_allow: needs_allow || any(Action::Allow, true),
        has_dry_runs: any(Action::Allow, true) || any(Action::Deny, true),
    }
}

/// Of rules in their order; the configuration takes far fewer than there are.
fn ids() -> impl Iterator<Item = RuleId> {
    (0..u32::MAX).map(RuleId)
}
