//! Rules that do nothing: those that can never match, and those that others leave nothing to decide.
//!
//! Only what is certain is said: a rule without a warning may still do nothing.

use super::commands::CommandSelector;
use super::doubts;
use super::pattern::{Pattern, Patterns};
use super::problem::PolicyProblem;
use super::rule::{From, Rule, To};
use super::shadows;

pub(super) fn warnings(rules: &[Rule]) -> Vec<PolicyProblem> {
    let mut warnings = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        look_at_entries(rule, &format!("policy.rule[{}]", at + 1), &mut warnings);
    }
    shadows::find(rules, &mut warnings);
    doubts::find(rules, &mut warnings);
    warnings
}

fn look_at_entries(rule: &Rule, path: &str, warnings: &mut Vec<PolicyProblem>) {
    let mut note = |key: String, sentence: &str| warnings.push(PolicyProblem { key, sentence: sentence.to_owned() });
    if rule.from.is_empty() {
        note(format!("{path}.from"), "is an empty list, so the rule is about nobody");
    }
    if rule.to.is_empty() {
        note(format!("{path}.to"), "is an empty list, so the rule is about nothing");
    }
    for (at, entry) in rule.from.iter().enumerate() {
        if let Some((key, sentence)) = doubt_from(entry) {
            note(format!("{path}.from[{}].{key}", at + 1), sentence);
        }
    }
    for (at, entry) in rule.to.iter().enumerate() {
        if let Some((key, sentence)) = doubt_to(entry) {
            note(format!("{path}.to[{}].{key}", at + 1), sentence);
        }
    }
}

const EMPTY: &str = "is an empty list, which matches nothing, so this entry does not either";
const TAKEN_AWAY: &str = "has nothing that its not_ does not take away, so this entry matches nothing";

/// Why an entry of `from` never matches, if that is certain.
fn doubt_from(from: &From) -> Option<(&'static str, &'static str)> {
    let keys = [("principals", &from.principals), ("namespaces", &from.namespaces), ("listeners", &from.listeners)];
    for (key, patterns) in keys {
        if patterns.is_empty() {
            return Some((key, EMPTY));
        }
        if is_taken_away(patterns) {
            return Some((key, TAKEN_AWAY));
        }
    }
    if let Some(sources) = &from.sources {
        if sources.is_empty() {
            return Some(("sources", EMPTY));
        }
        if sources.iter().all(|source| from.not_sources.iter().any(|not| not.contains(source))) {
            return Some(("sources", TAKEN_AWAY));
        }
    }
    if from.listeners.leave_nothing() {
        return Some(("not_listeners", "takes every listener away, so this entry matches nothing"));
    }
    if from.principals.leave_nothing() && from.namespaces.any.is_some() {
        return Some(("namespaces", "asks for a namespace of clients that not_principals wants to have no principal"));
    }
    None
}

/// Why an entry of `to` never matches, or has keys that do nothing, if that is certain.
fn doubt_to(to: &To) -> Option<(&'static str, &'static str)> {
    if to.commands.as_ref().is_some_and(CommandSelector::is_empty) {
        return Some(("commands", EMPTY));
    }
    if let Some(not) = &to.not_commands {
        if not.all {
            return Some(("not_commands", "takes every command away, so this entry matches nothing"));
        }
        if to.commands.as_ref().is_some_and(|words| !words.all && words.are_within(not)) {
            return Some(("commands", TAKEN_AWAY));
        }
    }
    for (key, patterns) in [("databases", &to.databases), ("collections", &to.collections)] {
        if patterns.is_empty() {
            return Some((key, EMPTY));
        }
        if is_taken_away(patterns) && !may_reach_nothing(to) {
            return Some((key, TAKEN_AWAY));
        }
    }
    if to.databases.leave_nothing() && !may_reach_nothing(to) {
        return Some(("not_databases", "takes every database away, so this entry matches nothing"));
    }
    if to.commands.as_ref().is_some_and(CommandSelector::name_sessions_only) {
        let unused = "does nothing here: these commands reach no database and no collection";
        let has_keys = |patterns: &Patterns| patterns.any.is_some() || !patterns.not.is_empty();
        let keys = [("databases", &to.databases), ("collections", &to.collections)];
        return keys.into_iter().find(|(_, patterns)| has_keys(patterns)).map(|(key, _)| (key, unused));
    }
    None
}

fn is_taken_away(patterns: &Patterns) -> bool {
    let taken = |pattern: &Pattern| patterns.not.iter().any(|not| not.covers(pattern));
    patterns.any.as_ref().is_some_and(|any| !any.is_empty() && any.iter().all(taken))
}

/// Whether some of its commands may reach no namespace, so that its keys are not asked.
fn may_reach_nothing(to: &To) -> bool {
    to.commands.as_ref().is_none_or(|words| words.all || words.javascript || words.name_sessions())
}
