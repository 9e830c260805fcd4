//! Warnings about rules without effect: rules that can never match, rules that have expired, and rules that are
//! shadowed by others.
//!
//! Reports only what is certain: a rule without a warning may still have no effect.

use crate::config::Action;
use crate::identity::rfc3339;

use super::commands::CommandSelector;
use super::pattern::{Pattern, Patterns};
use super::pitfalls;
use super::problem::PolicyProblem;
use super::rule::{From, Rule, To};
use super::shadows;

pub(super) fn warnings(rules: &[Rule]) -> Vec<PolicyProblem> {
    let mut warnings = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let path = format!("policy.rule[{}]", at + 1);
        let expiry = rule.expires.and_then(|expires| expiry_warning(rule, &rfc3339(expires)));
        warnings.extend(expiry.map(|sentence| PolicyProblem { key: format!("{path}.expires"), sentence }));
        if !rule.is_expired {
            check_entries(rule, &path, &mut warnings);
        }
    }
    shadows::find(rules, &mut warnings);
    pitfalls::find(rules, &mut warnings);
    warnings
}

fn expiry_warning(rule: &Rule, at: &str) -> Option<String> {
    let name = &rule.name;
    match (rule.is_expired, rule.action) {
        (true, Action::Allow) => Some(format!(
            "is {at}, which has passed: \"{name}\" allows nothing any longer, but still counts as an allow rule; \
             remove it if other rules allow what is needed"
        )),
        (true, _) => Some(format!("is {at}, which has passed: \"{name}\" has no effect; remove it")),
        (false, Action::Deny) if !rule.dry_run => Some(format!(
            "is {at}: from then on \"{name}\" denies nothing, so that what it denies is allowed unless other rules \
             deny it; if that is not intended, remove expires"
        )),
        (false, _) => None,
    }
}

fn check_entries(rule: &Rule, path: &str, warnings: &mut Vec<PolicyProblem>) {
    let mut note = |key: String, sentence: &str| warnings.push(PolicyProblem { key, sentence: sentence.to_owned() });
    if rule.from.is_empty() {
        note(format!("{path}.from"), "is an empty list, so the rule applies to no caller");
    }
    if rule.to.is_empty() {
        note(format!("{path}.to"), "is an empty list, so the rule matches no command");
    }
    for (at, entry) in rule.from.iter().enumerate() {
        if let Some((key, sentence)) = check_from(entry) {
            note(format!("{path}.from[{}].{key}", at + 1), sentence);
        }
    }
    for (at, entry) in rule.to.iter().enumerate() {
        if let Some((key, sentence)) = check_to(entry) {
            note(format!("{path}.to[{}].{key}", at + 1), sentence);
        }
    }
}

const EMPTY: &str = "is an empty list, so this entry never matches";
const EXCLUDED: &str = "has only values that its not_ key excludes, so this entry never matches";

/// Why an entry of `from` never matches, if that is certain.
fn check_from(from: &From) -> Option<(&'static str, &'static str)> {
    let keys = [("principals", &from.principals), ("namespaces", &from.namespaces), ("listeners", &from.listeners)];
    for (key, patterns) in keys {
        if patterns.is_empty() {
            return Some((key, EMPTY));
        }
        if is_excluded(patterns) {
            return Some((key, EXCLUDED));
        }
    }
    if let Some(sources) = &from.sources {
        if sources.is_empty() {
            return Some(("sources", EMPTY));
        }
        if sources.iter().all(|source| from.not_sources.iter().any(|not| not.contains(source))) {
            return Some(("sources", EXCLUDED));
        }
    }
    if from.listeners.exclude_all() {
        return Some(("not_listeners", "excludes every listener, so this entry never matches"));
    }
    if from.principals.exclude_all() && from.namespaces.any.is_some() {
        let sentence = "requires a principal with a namespace, but not_principals excludes every principal, so this \
                        entry never matches";
        return Some(("namespaces", sentence));
    }
    None
}

/// Why an entry of `to` never matches, or has keys without effect, if that is certain.
fn check_to(to: &To) -> Option<(&'static str, &'static str)> {
    if to.commands.as_ref().is_some_and(CommandSelector::is_empty) {
        return Some(("commands", EMPTY));
    }
    if let Some(not) = &to.not_commands {
        if not.all {
            return Some(("not_commands", "excludes every command, so this entry never matches"));
        }
        if to.commands.as_ref().is_some_and(|selector| !selector.all && selector.is_within(not)) {
            return Some(("commands", EXCLUDED));
        }
    }
    for (key, patterns) in [("databases", &to.databases), ("collections", &to.collections)] {
        if patterns.is_empty() {
            return Some((key, EMPTY));
        }
        if is_excluded(patterns) && !may_reach_no_namespace(to) {
            return Some((key, EXCLUDED));
        }
    }
    if to.databases.exclude_all() && !may_reach_no_namespace(to) {
        return Some(("not_databases", "excludes every database, so this entry never matches"));
    }
    if to.commands.as_ref().is_some_and(CommandSelector::names_only_sessions) {
        let unused = "has no effect, because these commands reach no database and no collection";
        let has_keys = |patterns: &Patterns| patterns.any.is_some() || !patterns.not.is_empty();
        let keys = [("databases", &to.databases), ("collections", &to.collections)];
        return keys.into_iter().find(|(_, patterns)| has_keys(patterns)).map(|(key, _)| (key, unused));
    }
    None
}

fn is_excluded(patterns: &Patterns) -> bool {
    let excluded = |pattern: &Pattern| patterns.not.iter().any(|not| not.covers(pattern));
    patterns.any.as_ref().is_some_and(|any| !any.is_empty() && any.iter().all(excluded))
}

/// Whether some of the commands may reach no namespace, so that the keys for namespaces are not compared.
fn may_reach_no_namespace(to: &To) -> bool {
    to.commands.as_ref().is_none_or(|selector| selector.all || selector.javascript || selector.names_sessions())
}
