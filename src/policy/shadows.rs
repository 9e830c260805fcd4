//! Shadowed rules: rules that have no effect, because another rule already decides everything that they match.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::Action;

use super::commands::CommandSelector;
use super::index::names_system_collection;
use super::pattern::{Pattern, Patterns};
use super::problem::PolicyProblem;
use super::rule::{From, Rule, To};

/// The search ends after this many comparisons of two rules: a few seconds of one core for rules with several entries
/// each.
const COMPARISONS_MAX: usize = 5_000_000;

/// Compares each rule with the rules that can apply to all of its callers.
pub(super) fn find(rules: &[Rule], warnings: &mut Vec<PolicyProblem>) {
    let mut by_principal = HashMap::<&str, Vec<usize>>::new();
    let mut by_anything = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        match rule.exact_principals() {
            None => by_anything.push(at),
            Some(names) => {
                for name in names {
                    by_principal.entry(name).or_default().push(at);
                }
            }
        }
    }
    let mut comparisons = 0;
    for (at, rule) in rules.iter().enumerate() {
        let principal = rule.exact_principals().and_then(|names| names.first().copied());
        let named = principal.and_then(|principal| by_principal.get(principal)).into_iter().flatten();
        for other in named.chain(&by_anything).copied().filter(|other| *other != at) {
            comparisons += 1;
            if comparisons > COMPARISONS_MAX {
                return;
            }
            if let Some(sentence) = shadow(rules, at, other) {
                let key = format!("policy.rule[{}]", at + 1);
                warnings.push(PolicyProblem { key, sentence });
                break;
            }
        }
    }
}

/// The warning, if the rule `other` certainly shadows the rule `at`.
fn shadow(rules: &[Rule], at: usize, other: usize) -> Option<String> {
    let (rule, by) = (rules.get(at)?, rules.get(other)?);
    let name = &rule.name;
    let by_name = || format!("policy.rule[{}], \"{}\"", other + 1, by.name);
    if rule.is_expired || by.is_expired || by.ends_before(rule) {
        return None;
    }
    // A dry run has no effect on a rule that is enforced.
    if by.dry_run && !rule.dry_run {
        return None;
    }
    match (rule.action, by.action) {
        (Action::Deny, Action::Deny) | (Action::Allow, Action::Allow) => {
            let is_first_of_twins = by.dry_run == rule.dry_run && at < other && covers(rule, by);
            let says = if rule.action == Action::Deny { "denies" } else { "allows" };
            (!is_first_of_twins && covers(by, rule))
                .then(|| format!("\"{name}\" has no effect: {} already {says} everything that it matches", by_name()))
        }
        (Action::Allow, Action::Deny) => covers(by, rule)
            .then(|| format!("\"{name}\" allows nothing: {} denies everything that it matches", by_name())),
        _ => None,
    }
}

/// Whether `by` matches everything that `rule` matches. May return false although it does.
fn covers(by: &Rule, rule: &Rule) -> bool {
    let live = |to: &&Arc<To>| !to.never_matches();
    !rule.from.is_empty()
        && rule.to.iter().any(|to| !to.never_matches())
        && rule.from.iter().all(|from| by.from.iter().any(|other| from_covers(other, from)))
        && rule
            .to
            .iter()
            .filter(live)
            .all(|to| by.to.iter().filter(live).any(|other| to_covers(other, by.action, to, rule.action)))
}

fn from_covers(by: &From, from: &From) -> bool {
    let within = |networks: &[IpNet], network: &IpNet| networks.iter().any(|net| net.contains(network));
    let sources = match (&by.sources, &from.sources) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(by), Some(sources)) => sources.iter().all(|source| within(by, source)),
    };
    sources
        && by.not_sources.iter().all(|not| within(&from.not_sources, not))
        && keys_cover(&by.principals, &from.principals)
        && keys_cover(&by.namespaces, &from.namespaces)
        && keys_cover(&by.listeners, &from.listeners)
}

fn to_covers(by: &To, by_action: Action, to: &To, action: Action) -> bool {
    commands_cover(by, to, by_action, action)
        && (by.databases.match_all() || keys_cover_any(&by.databases, &to.databases))
        && not_covers(&by.databases, &to.databases)
        && collections_cover(by, by_action, to, action)
        && not_covers(&by.collections, &to.collections)
        && (by_action != Action::Allow || system_collections_cover(by, to))
}

/// Databases with system collections that expose the whole server.
const DATABASES_EXPOSING_SERVER: [&str; 3] = ["admin", "config", "local"];

/// Whether `by` allows every system collection that `to` allows because it names it.
fn system_collections_cover(by: &To, to: &To) -> bool {
    let has_whole_database = by.collections.match_all() && by.collections.not.is_empty();
    let has_whole_server = has_whole_database && by.databases.match_all() && by.databases.not.is_empty();
    let values = |patterns: &'_ Patterns| patterns.any.iter().flatten().cloned().collect::<Vec<_>>();
    let named = |to: &To| values(&to.collections).into_iter().filter(names_system_collection).collect::<Vec<_>>();
    let named_by = named(by);
    let databases: Vec<Pattern> = values(&to.databases).into_iter().filter(may_expose_server).collect();
    let databases_by: Vec<Pattern> = values(&by.databases).into_iter().filter(|own| *own != Pattern::Any).collect();
    let names_databases = databases.iter().all(|database| databases_by.iter().any(|own| own.covers(database)));

    named(to).iter().all(|collection| {
        let is_named = named_by.iter().any(|own| own.covers(collection));
        let exposing_database = has_whole_database || is_named;
        let exposing_server = has_whole_server || databases.is_empty() || (names_databases && is_named);
        exposing_database && exposing_server
    })
}

fn may_expose_server(database: &Pattern) -> bool {
    *database != Pattern::Any && DATABASES_EXPOSING_SERVER.iter().any(|name| database.matches(name))
}

/// A `deny` with `collections = ["*"]` does not match commands without a collection; an `allow` does.
fn collections_cover(by: &To, by_action: Action, to: &To, action: Action) -> bool {
    match &by.collections.any {
        None => true,
        Some(_) if by_action == Action::Allow && by.collections.match_all() => true,
        Some(_) => {
            let needs_collection = by_action == action || !to.collections.match_all();
            needs_collection && keys_cover_any(&by.collections, &to.collections)
        }
    }
}

fn commands_cover(by: &To, to: &To, by_action: Action, action: Action) -> bool {
    let nothing = CommandSelector::default();
    let (by_selector, selector) = (by.commands.as_ref(), to.commands.as_ref());
    let selected = match by_selector {
        Some(by_selector) if !by_selector.all => {
            selector.is_some_and(|selector| !selector.all && selector.is_within(by_selector))
        }
        _ => true,
    };
    // Essential commands match only if they are named, and never an `allow`.
    let essentials = action == Action::Allow
        || selector.unwrap_or(&nothing).names_no_more_essentials_than(by_selector.unwrap_or(&nothing));
    let not_taken_away = match (&by.not_commands, &to.not_commands) {
        (None, _) => true,
        (Some(by_not), Some(not)) => by_action == action && by_not.is_within(not) && (!by_not.all || not.all),
        (Some(by_not), None) => {
            // Only names, and `not_commands` excludes none of them.
            selector.is_some_and(|selector| {
                let names_only =
                    |selector: &CommandSelector| !selector.all && selector.classes == 0 && !selector.javascript;
                names_only(selector)
                    && names_only(by_not)
                    && !selector.names.meets(&by_not.names)
                    && !by_not.names_explain()
                    && !selector.names_explain()
            })
        }
    };
    selected && essentials && not_taken_away && sessions_cover(by, by_action, to, action)
}

/// Session commands reach no resource. A `deny` that is limited to some resources matches them only if it names them.
fn sessions_cover(by: &To, by_action: Action, to: &To, action: Action) -> bool {
    let names = |to: &To| to.commands.as_ref().is_some_and(CommandSelector::names_sessions);
    let all = |to: &To| to.commands.as_ref().is_none_or(|selector| selector.all);
    let may_match = names(to) || (all(to) && (action == Action::Allow || !to.limits_resources()));
    let by_names = by.commands.as_ref().is_some_and(|selector| !selector.all);
    by_action == Action::Allow || !by.limits_resources() || by_names || !may_match
}

/// For keys whose fact may be missing from a caller.
fn keys_cover(by: &Patterns, keys: &Patterns) -> bool {
    keys_cover_any(by, keys) && not_covers(by, keys)
}

fn keys_cover_any(by: &Patterns, keys: &Patterns) -> bool {
    match (&by.any, &keys.any) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(by), Some(any)) => any.iter().all(|pattern| by.iter().any(|wider| wider.covers(pattern))),
    }
}

/// Whether `keys` excludes, or never contains, everything that `by` excludes.
fn not_covers(by: &Patterns, keys: &Patterns) -> bool {
    by.not.iter().all(|not| {
        let taken = keys.not.iter().any(|other| other.covers(not));
        let absent = keys.any.as_ref().is_some_and(|any| any.iter().all(|pattern| not.is_disjoint(pattern)));
        taken || absent
    })
}
